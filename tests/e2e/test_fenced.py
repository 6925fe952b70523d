"""A host's machine dies: its fence agent is called, and its success takes the place of the wait for the fence time."""

import json
import time
from pathlib import Path

import pytest

from tests.e2e.test_handover import vmpool
from tests.e2e.test_masters import create
from tests.support.cluster import RunningCluster, running_cluster
from tests.support.pool import until

pytestmark = pytest.mark.nats

LEASE_S = 6.0
DEAD_AFTER_S = 10.0


def with_fencing(cluster: RunningCluster) -> None:
    """Start the master again, with a fence agent for every host."""
    agent = cluster.data / "fence_fake"
    agent.write_text(f"#!/bin/sh\ncat >> {cluster.data}/fenced\n")
    agent.chmod(0o755)
    devices = cluster.data / "fence.toml"
    devices.write_text(
        "".join(
            f'["{uuid}"]\nagent = "{agent}"\nplug = "{name}"\n'
            for name, uuid in cluster.host_uuids.items()
        )
    )
    devices.chmod(0o600)
    part = cluster.parts["master1"]
    assert part.stop() == 0
    config = cluster.data / "master1" / "master.toml"
    config.write_text(config.read_text() + f"fence_file = {json.dumps(str(devices))}\n")
    part.start()
    until(cluster.leader, what="it leads again")


def lost(cluster: RunningCluster) -> list[str]:
    """The evidence of every HostLost in the log."""
    found = cluster.calling(lambda x: x.event.get_log({"type": "HostLost"}))
    return [json.loads(each["detail"])["evidence"] for each in found]


def test_a_dead_hosts_power_is_cut_and_its_vms_are_free_before_the_fence_time_is_over(
    tmp_path: Path,
) -> None:
    with running_cluster(tmp_path / "c", masters=1, hosts=2) as cluster:
        with_fencing(cluster)
        vm = create(cluster, "bereaved")
        hosts = cluster.calling(lambda x: {x.host.get_name_label(h): h for h in x.host.get_all()})
        cluster.calling(lambda x: x.VM.start_on(vm, hosts["host1"], False, False))
        time.sleep(LEASE_S)  # the master's own election is past
        cluster.parts["host1"].kill()
        began = time.monotonic()
        told = ["vmpool", "host", "declare-dead", "host1", "--reason", "smoke", "--json"][1:]
        assert "HOST_IS_LIVE" in vmpool(cluster, *told, code=1)
        (evidence,) = until(lambda: lost(cluster), what="the host is given up")
        assert time.monotonic() - began < DEAD_AFTER_S - 1.0
        assert evidence.startswith("fence_fake has switched its power off")
        assert (cluster.data / "fenced").read_text().splitlines() == ["plug=host1", "action=off"]
        vmpool(cluster, *told)
        assert cluster.calling(lambda x: x.VM.get_power_state(vm)) == "Halted"
        assert cluster.calling(lambda x: x.host.get_enabled(hosts["host1"])) is False
