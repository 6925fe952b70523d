"""A host dies with its guests, real processes: protected VMs run again elsewhere, soon, exactly once, whoever leads.

Rules: what runs is read from the hypervisors. Times are counted from the host's death, by this machine's clock.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from host_agent.shell.fabric_store import FolderStore
from host_agent.shell.simulated_fabric import SimulatedFabric
from shared.protocol import DomainState
from tests.support.cluster import RunningCluster, running_cluster
from tests.support.pool import processes_naming, until, vm_record

pytestmark = pytest.mark.nats

# A lease of 6 s, 3 s to fence and 1 s of margin after the last one; then the leader may begin.
BEGUN_S_MAX: Final = 12.0
# Where the leader dies too, its successor counts 12 s of the old one's authority and 10 s for every host.
SUCCESSOR_S_MAX: Final = 45.0
VMS: Final = 3


def fabric(cluster: RunningCluster) -> SimulatedFabric:
    return SimulatedFabric(FolderStore(cluster.data / "fabric"))


def homes(cluster: RunningCluster) -> dict[str, list[str]]:
    """Which hosts run each VM."""
    found: dict[str, list[str]] = {}
    for guest in fabric(cluster).running():
        if guest.state is DomainState.RUNNING:
            found.setdefault(guest.vm_uuid, []).append(guest.host)
    return found


def cut_power(cluster: RunningCluster, name: str) -> None:
    """The host is gone at once: its agent, its watchdog, its guests."""
    cluster.parts[name].kill()
    for pid in processes_naming(cluster.data / name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    fabric(cluster).kill_host(name)


def protected_guests(cluster: RunningCluster, host_name: str) -> list[str]:
    """Protected VMs that run on that host; their uuids."""

    def make(xenapi: Any) -> list[str]:
        host = xenapi.host.get_by_uuid(cluster.host_uuids[host_name])
        uuids = []
        for number in range(VMS):
            vm = xenapi.VM.create(vm_record(f"vm{number}"))
            xenapi.VM.set_ha_restart_priority(vm, "restart")
            xenapi.VM.start_on(vm, host, False, False)
            uuids.append(xenapi.VM.get_uuid(vm))
        xenapi.pool.enable_ha([], {})
        return uuids

    uuids: list[str] = cluster.calling(make)
    return uuids


def seconds_until(
    condition: Callable[[], object], since: float, *, what: str, most: float
) -> float:
    until(condition, what=what, seconds_max=most + 10.0)
    return time.monotonic() - since


def all_run_elsewhere(cluster: RunningCluster, uuids: list[str], dead: str) -> bool:
    where = homes(cluster)
    return all(len(where.get(uuid, [])) == 1 and dead not in where[uuid] for uuid in uuids)


def test_protected_vms_run_elsewhere_within_seconds_of_their_hosts_death(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", masters=2) as cluster:
        uuids = protected_guests(cluster, "host1")
        cut_power(cluster, "host1")
        died = time.monotonic()
        begun = seconds_until(
            lambda: any(uuid in homes(cluster) for uuid in uuids),
            died,
            what="the first VM runs again",
            most=BEGUN_S_MAX,
        )
        until(
            lambda: all_run_elsewhere(cluster, uuids, "host1"),
            what="all protected VMs run again",
        )
        assert begun <= BEGUN_S_MAX
        until(
            lambda: cluster.calling(
                lambda x: all(
                    r["power_state"] == "Running" for r in x.VM.get_all_records().values()
                )
            ),
            what="the pool says so too",
        )


def test_a_new_leader_restarts_them_where_the_old_one_dies_with_the_host(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", masters=2) as cluster:
        uuids = protected_guests(cluster, "host1")
        cluster.parts[cluster.leader()].kill()
        cut_power(cluster, "host1")
        died = time.monotonic()
        done = seconds_until(
            lambda: all_run_elsewhere(cluster, uuids, "host1"),
            died,
            what="all protected VMs run again",
            most=SUCCESSOR_S_MAX,
        )
        assert done <= SUCCESSOR_S_MAX


def test_a_host_that_returns_keeps_no_copy_of_what_runs_elsewhere(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", masters=1) as cluster:
        uuids = protected_guests(cluster, "host1")
        # Frozen, its guests run on until its watchdog kills them; then it comes back and must not start them again.
        with cluster.parts["host1"].frozen():
            until(
                lambda: all_run_elsewhere(cluster, uuids, "host1"),
                what="all protected VMs run elsewhere alone",
                seconds_max=60.0,
            )
        until(
            lambda: cluster.calling(
                lambda x: all(r["live"] for r in x.host_metrics.get_all_records().values())
            ),
            what="the host has come back",
            seconds_max=60.0,
        )
        time.sleep(2.0)
        assert all_run_elsewhere(cluster, uuids, "host1")
