"""Several masters on three nats-servers, real processes: whoever dies, nothing acknowledged is lost, one history is left.

Rules: a test that takes a part away looks at the end at every master's copy against the stream, and at the hypervisors.
"""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import XenAPI

from host_agent.shell.fabric_store import FolderStore
from host_agent.shell.simulated_fabric import SimulatedFabric
from pool_master.shell.event_log import JetStreamLog
from pool_master.shell.log_verify import verify
from pool_master.shell.mirror import Mirror
from shared.nats_bus import connect
from shared.protocol import DomainState
from shared.subjects import Subjects
from tests.support.cluster import RunningCluster, running_cluster
from tests.support.pool import refusal, until, vm_record

pytestmark = pytest.mark.nats

# A follower's copy may lag by this.
COPIED_S_MAX = 10.0
ELECTION_S_MAX = 30.0


def create(cluster: RunningCluster, name: str) -> str:
    return str(cluster.calling(lambda xenapi: xenapi.VM.create(vm_record(name))))


def guests(cluster: RunningCluster) -> Counter[str]:
    """How often each VM runs, by the hypervisors."""
    running = SimulatedFabric(FolderStore(cluster.data / "fabric")).running()
    return Counter(guest.vm_uuid for guest in running if guest.state is DomainState.RUNNING)


def assert_one_history(cluster: RunningCluster) -> None:
    """The stream joins, and every master's copy is what it says, to its end where the master runs."""

    async def check(copy: Path) -> bool:
        bus = await connect(cluster.nats_urls, name="checker")
        mirror = await Mirror.open(copy)
        try:
            report = await verify(JetStreamLog(bus, Subjects("pool")), mirror)
        finally:
            await mirror.close()
            await bus.close()
        assert report.is_sound, report.findings
        assert report.copy is not None
        runs = cluster.parts[copy.parent.name].is_running
        return not runs or report.copy.position == report.stream.position

    for copy in sorted(cluster.data.glob("master*/log.sqlite")):
        until(
            lambda copy=copy: asyncio.run(check(copy)),  # type: ignore[misc]
            what=f"{copy.parent.name}'s copy is complete",
            seconds_max=COPIED_S_MAX,
        )


def test_a_standby_names_the_leader_and_takes_over_all_that_is_in_flight(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", masters=3) as cluster:
        vm = create(cluster, "patient")
        first = cluster.leader()
        address = cluster.addresses[first]
        for standby in cluster.standbys():
            assert cluster.refusal_of(standby) == ["HOST_IS_SLAVE", address]

        with cluster.session() as xenapi:
            host = xenapi.host.get_all()[0]
            # Its agent is away: the start is promised, and nobody can carry it out yet.
            name = xenapi.host.get_name_label(host)
            cluster.parts[name].kill()
            task = xenapi.Async.VM.start_on(vm, host, False, False)
            token = getattr(xenapi.event, "from")(["vm"], "", 5.0)["token"]
        cluster.parts[first].kill()
        cluster.parts[name].start()

        ended = until(
            lambda: cluster.calling(lambda x: ended_status(x, task)), what="the task ends"
        )
        assert ended == "success"
        assert cluster.leader() not in {"", first}
        # References and tokens are those of the log, not of a master.
        changes = cluster.calling(lambda x: getattr(x.event, "from")(["vm"], token, 5.0)["events"])
        assert [change["ref"] for change in changes] == [vm]
        assert cluster.calling(lambda x: x.VM.get_power_state(vm)) == "Running"
        uuid = cluster.calling(lambda x: x.VM.get_uuid(vm))
        assert guests(cluster) == {uuid: 1}
        cluster.parts[first].start()
        until(lambda: first in cluster.standbys(), what="the old leader follows")
        assert_one_history(cluster)


def ended_status(xenapi: Any, task: str) -> str:
    status = xenapi.task.get_status(task)
    return "" if status in {"pending", "cancelling"} else str(status)


def test_a_clean_stop_hands_over_at_once(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", hosts=1) as cluster:
        first = cluster.leader()
        began = time.monotonic()
        assert cluster.parts[first].stop() == 0
        second = until(cluster.leader, what="the standby leads")
        # Far below the silence after which a dead leader's key may be taken.
        assert time.monotonic() - began < 2.5
        assert second != first
        assert_one_history(cluster)


def test_a_leader_that_stood_still_has_nothing_to_say_when_it_wakes(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", hosts=1) as cluster:
        first = cluster.leader()
        with cluster.parts[first].frozen():
            second = until(cluster.leader, what="another leads", seconds_max=ELECTION_S_MAX)
            vm = create(cluster, "of the second term")
        until(lambda: first in cluster.standbys(), what="the old leader follows")
        assert cluster.leader() == second
        assert cluster.calling(lambda x: x.VM.get_name_label(vm)) == "of the second term"
        assert_one_history(cluster)


def test_the_death_of_one_nats_server_fails_no_call_and_fences_nobody(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", hosts=2) as cluster:
        vm = create(cluster, "steady")
        host = cluster.calling(lambda x: x.host.get_all()[0])
        cluster.calling(lambda x: x.VM.start_on(vm, host, False, False))
        for name in ("nats1", "nats2", "nats3"):
            cluster.parts[name].kill()
            # One call, by one client, without another try.
            with cluster.session() as xenapi:
                xenapi.VM.pause(vm)
                xenapi.VM.unpause(vm)
                assert all(r["live"] for r in xenapi.host_metrics.get_all_records().values())
            cluster.parts[name].start()
            until(lambda: cluster.quorum() == 3, what="three servers hold the log again")
        uuid = cluster.calling(lambda x: x.VM.get_uuid(vm))
        assert guests(cluster) == {uuid: 1}
        assert_one_history(cluster)


def test_the_loss_of_the_majority_stops_writes_harms_no_guest_and_needs_no_hand(
    tmp_path: Path,
) -> None:
    with running_cluster(tmp_path / "c", hosts=2) as cluster:
        vm = create(cluster, "survivor")
        host = cluster.calling(lambda x: x.host.get_all()[0])
        cluster.calling(lambda x: x.VM.start_on(vm, host, False, False))
        uuid = cluster.calling(lambda x: x.VM.get_uuid(vm))
        with cluster.session() as xenapi:
            for name in ("nats1", "nats2"):
                cluster.parts[name].kill()
            code, *_ = refusal(xenapi.VM.pause, vm)
            assert code in {"HOST_STILL_BOOTING", "HOST_IS_SLAVE"}, code
        # Longer than a lease and its fence: the hosts see each other, and hold still.
        time.sleep(12.0)
        assert guests(cluster) == {uuid: 1}

        for name in ("nats1", "nats2"):
            cluster.parts[name].start()
        until(cluster.leader, what="somebody leads again", seconds_max=60.0)
        until(
            lambda: cluster.calling(can_be_unpaused, seconds_max=60.0),
            what="the pool works again",
            seconds_max=60.0,
        )
        assert guests(cluster) in ({uuid: 1}, {})
        assert_one_history(cluster)


def can_be_unpaused(xenapi: Any) -> bool:
    (vm,) = xenapi.VM.get_by_name_label("survivor")
    try:
        if xenapi.VM.get_power_state(vm) == "Running":
            xenapi.VM.pause(vm)
        xenapi.VM.unpause(vm)
    except XenAPI.Failure:
        return False
    return True
