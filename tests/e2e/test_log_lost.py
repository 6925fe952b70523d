"""All nats-servers have lost their disks: the masters refuse to go on, say what to do, and that brings the pool back."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import XenAPI

from pool_master.shell.follower import RESTORE
from pool_master.shell.mirror import Mirror
from tests.e2e.test_masters import assert_one_history, create, guests
from tests.support.cluster import RunningCluster, running_cluster
from tests.support.pool import until

pytestmark = pytest.mark.nats

EXIT_BROKEN_HISTORY = 3
COMMAND_S_MAX = 60.0


def vmpool(*words: str, code: int = 0) -> str:
    argv = [sys.executable, "-c", "from pool_master.cli.app import main; main()", *words]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=COMMAND_S_MAX)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def restore(cluster: RunningCluster, *words: str, code: int = 0) -> str:
    config = str(cluster.data / "master1" / "master.toml")
    return vmpool("log", "restore", "--config", config, "--from-copy", *words, code=code)


def last_term(cluster: RunningCluster) -> int:
    """The term of the last record in the first master's copy."""

    async def read() -> int:
        mirror = await Mirror.open(cluster.data / "master1" / "log.sqlite")
        try:
            last = await mirror.tail()
        finally:
            await mirror.close()
        assert last is not None
        return last.term

    return asyncio.run(read())


def starts(xenapi: Any, vm: str, host: str) -> bool:
    try:
        xenapi.VM.start_on(vm, host, False, False)
    except XenAPI.Failure as error:
        if error.details[0] != "HOST_NOT_LIVE":
            raise
        return False
    return True


def is_at_work(xenapi: Any) -> bool:
    return all(r["live"] for r in xenapi.host_metrics.get_all_records().values())


def test_a_log_that_every_server_has_lost_comes_back_from_the_masters_copies(
    tmp_path: Path,
) -> None:
    with running_cluster(tmp_path / "c", masters=2, hosts=2) as cluster:
        vm = create(cluster, "kept")
        host = cluster.calling(lambda x: x.host.get_all()[0])
        cluster.calling(lambda x: x.VM.start_on(vm, host, False, False))
        uuid = cluster.calling(lambda x: x.VM.get_uuid(vm))
        assert "leads: stop it first" in restore(cluster, "--dry-run", code=1)

        for name in ("master1", "master2"):
            cluster.parts[name].stop()
        term = last_term(cluster)
        wipe_servers(cluster)
        cluster.parts["master1"].start()
        code = until(lambda: cluster.parts["master1"].exit_code, what="the master refuses")
        assert code == EXIT_BROKEN_HISTORY
        assert RESTORE in cluster.parts["master1"].log.read_text()

        other = str(cluster.data / "master2" / "log.sqlite")
        told = json.loads(restore(cluster, "--dry-run", "--json", other))
        assert (told["stream_records"], told["restored"]) == (0, 0)
        told = json.loads(restore(cluster, "--json", other))
        assert told["restored"] == told["missing"] == told["copy_records"] > 0
        assert "nothing to restore" in restore(cluster, other)

        for name in ("master1", "master2"):
            cluster.parts[name].start()
        until(lambda: cluster.calling(is_at_work), what="the hosts are back")
        assert cluster.calling(lambda x: x.VM.get_power_state(vm)) in {"Running", "Halted"}
        second = create(cluster, "after")
        # A host that was without a lease for too long is given up first, and comes back then.
        until(lambda: cluster.calling(lambda x: starts(x, second, host)), what="its host works")
        assert guests(cluster)[cluster.calling(lambda x: x.VM.get_uuid(second))] == 1
        assert guests(cluster)[uuid] <= 1
        assert_one_history(cluster)
        # The bucket's revisions began anew: a term made of them alone would go back.
        assert last_term(cluster) > term


def wipe_servers(cluster: RunningCluster) -> None:
    servers = ("nats1", "nats2", "nats3")
    for name in servers:
        cluster.parts[name].kill()
        shutil.rmtree(cluster.data / name)
    for name in servers:
        cluster.parts[name].start()


def forget_copy(cluster: RunningCluster, master: str) -> None:
    for path in (cluster.data / master).glob("log.sqlite*"):
        path.unlink()


def test_a_second_history_is_noticed_and_the_first_one_can_be_chosen(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", masters=2, hosts=1) as cluster:
        vm = create(cluster, "of the first history")
        for name in ("master1", "master2"):
            cluster.parts[name].stop()
        wipe_servers(cluster)
        # given: a master without a copy has begun a new pool on empty servers
        forget_copy(cluster, "master2")
        cluster.parts["master2"].start()
        until(lambda: cluster.leader() == "master2", what="it leads a new pool")
        assert cluster.calling(lambda x: x.VM.get_all()) == []
        for number in range(4):
            create(cluster, f"of the second {number}")
        cluster.parts["master1"].start()
        code = until(lambda: cluster.parts["master1"].exit_code, what="the first refuses")
        assert code == EXIT_BROKEN_HISTORY
        assert "the copy's record is sound" in cluster.parts["master1"].log.read_text()
        # when: as the runbook has it
        cluster.parts["master2"].stop()
        assert "not one history" in restore(cluster, "--dry-run", code=1)
        wipe_servers(cluster)
        restore(cluster, "--yes")
        forget_copy(cluster, "master2")
        for name in ("master1", "master2"):
            cluster.parts[name].start()
        # then
        until(cluster.leader, what="somebody leads")
        assert cluster.calling(lambda x: x.VM.get_name_label(vm)) == "of the first history"
        assert_one_history(cluster)
