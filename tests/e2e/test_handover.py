"""The leadership handed over on purpose, and a rolling upgrade, on a cluster of real processes."""

import http.client
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_masters import assert_one_history, create
from tests.support.cluster import PASSWORD, RunningCluster, running_cluster
from tests.support.pool import refusal, until

pytestmark = pytest.mark.nats

# Far below the silence after which a dead leader's key may be taken.
HAND_OVER_S_MAX = 2.5
COMMAND_S_MAX = 60.0
EXIT_BROKEN_HISTORY = 3
# The program of a later release, as far as masters see it: it reads and writes another format.
NEXT_RELEASE = (
    "import pool_master.core.records as records;"
    "records.LOG_FORMAT = 2;"
    "records.UnsealedRecord.__init__.__kwdefaults__['schema_version'] = 2;"
    "from pool_master.__main__ import main; main()"
)


def vmpool(cluster: RunningCluster, *words: str, code: int = 0) -> str:
    password = cluster.data / "password"
    password.write_text(PASSWORD)
    servers = ",".join(f"http://{address}" for address in cluster.addresses.values())
    first = ("--server", servers, "--password-file", str(password))
    argv = [sys.executable, "-c", "from pool_master.cli.app import main; main()", *first, *words]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=COMMAND_S_MAX)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_a_leader_that_steps_down_is_followed_at_once_by_whom_it_names(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", masters=3, hosts=1) as cluster:
        first = cluster.leader()
        until(lambda: vmpool(cluster, "master", "list").count("follows") == 2, what="all are known")
        for name in sorted(cluster.addresses):
            if name == first:
                continue
            told = json.loads(vmpool(cluster, "master", "step-down", "--to", name, "--json"))
            assert told["leader"] == name
            assert told["seconds"] < HAND_OVER_S_MAX
        last = cluster.leader()
        told = json.loads(vmpool(cluster, "master", "step-down", "--json"))
        assert told["leader"] not in {"", last}
        assert told["seconds"] < HAND_OVER_S_MAX
        assert "HA_ABORT_NEW_MASTER" in vmpool(
            cluster, "master", "step-down", "--to", "nobody", code=1
        )
        with cluster.session() as xenapi:
            # Every master of this cluster runs at this host's address: the leader does, too.
            (host,) = xenapi.host.get_all()
            xenapi.pool.designate_new_master(host)
            assert xenapi.pool.recover_slaves() == []
            xenapi.pool.emergency_transition_to_master()
            xenapi.pool.enable_ha([], {})
            assert refusal(xenapi.pool.designate_new_master, host) == ["HA_IS_ENABLED"]
        assert_one_history(cluster)


def health(cluster: RunningCluster, name: str) -> tuple[int, dict[str, Any]]:
    host, _, port = cluster.addresses[name].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5.0)
    connection.request("GET", "/health")
    answer = connection.getresponse()
    told = answer.status, json.loads(answer.read())
    connection.close()
    return told


def test_load_balancers_are_told_who_leads(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", masters=2, hosts=1) as cluster:
        first = cluster.leader()
        (second,) = (name for name in cluster.addresses if name != first)
        assert health(cluster, first)[0] == 200
        told = (503, {"is_leader": False, "leader": cluster.addresses[first]})
        until(lambda: health(cluster, second) == told, what="the standby knows the leader")
        vmpool(cluster, "master", "step-down")
        until(lambda: health(cluster, second)[0] == 200, what="the standby leads")
        assert health(cluster, first)[0] == 503


def test_a_master_alone_does_not_step_down(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", masters=1, hosts=1) as cluster:
        assert "no other master" in vmpool(cluster, "master", "step-down", code=1)
        assert cluster.leader() == "master1"


def upgrade(cluster: RunningCluster, name: str) -> None:
    part = cluster.parts[name]
    if part.is_running:
        assert part.stop() == 0
    part.argv = [sys.executable, "-c", NEXT_RELEASE, *part.argv[3:]]
    part.start()
    until(lambda: name in cluster.standbys(), what=f"{name} follows")


def test_a_newer_master_writes_only_once_every_living_one_reads_it(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", masters=3, hosts=1) as cluster:
        vm = create(cluster, "of the old release")
        first = cluster.leader()
        second, third = (name for name in sorted(cluster.addresses) if name != first)
        upgrade(cluster, second)
        cluster.parts[first].kill()
        # Whoever is quicker: of the two that are left it is the old one.
        assert until(cluster.leader, what="the old standby leads") == third
        upgrade(cluster, first)
        time.sleep(1.0)
        assert "no other master" in vmpool(cluster, "master", "step-down", code=1)
        began = time.monotonic()
        assert cluster.parts[third].stop() == 0
        assert until(cluster.leader, what="a new one leads") in {first, second}
        assert time.monotonic() - began < HAND_OVER_S_MAX + 1.0
        assert cluster.calling(lambda x: x.VM.get_name_label(vm)) == "of the old release"

        cluster.parts[third].start()
        code = until(lambda: cluster.parts[third].exit_code, what="the old release ends")
        assert code == EXIT_BROKEN_HISTORY
        assert "upgrade it" in cluster.parts[third].log.read_text()
        upgrade(cluster, third)
