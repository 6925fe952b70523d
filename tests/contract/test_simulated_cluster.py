"""What a simulated cluster does to its guests: a guest runs exactly once, whatever fails, whoever dies."""

import asyncio
from pathlib import Path

import pytest

from host_agent.shell.fabric_store import FolderStore
from host_agent.shell.hypervisor import HypervisorUnavailable, MigrationStatus
from host_agent.shell.simulated_fabric import SimulatedFabric
from host_agent.shell.simulated_hypervisor import SimulatedHypervisor
from shared.enums import OnCrashBehaviour, OnNormalExit
from shared.errors import InternalError, VmBadPowerState, VmMigrateFailed
from shared.protocol import DomainChange, DomainConfig, DomainState, MigrateDomain
from tests.contract.hypervisors import SIMULATED, Cluster, config, listening, running_cluster

in_every_fabric = pytest.mark.parametrize("kind", SIMULATED)

TO_B = MigrateDomain(destination_host="b", destination_uri="simulated://b", migrate_uri="127.0.0.1")


async def migrate(cluster: Cluster, guest: DomainConfig) -> None:
    await cluster.a.migrate(guest.vm_uuid, guest.incarnation, TO_B, lambda _: None)


async def begin_migration(cluster: Cluster, guest: DomainConfig) -> "asyncio.Task[None]":
    moving = asyncio.create_task(migrate(cluster, guest))
    async with asyncio.timeout(5):
        while True:
            status = await cluster.a.migration_status(guest.vm_uuid, guest.incarnation)
            if status is MigrationStatus.UNDER_WAY:
                return moving


@in_every_fabric
async def test_a_migrated_guest_runs_at_the_destination_alone_and_both_hosts_tell(
    kind: str,
) -> None:
    async with (
        running_cluster(kind) as cluster,
        listening(cluster.a) as at_a,
        listening(cluster.b) as at_b,
    ):
        guest = config(3)
        before = await cluster.a.start(guest, paused=False)
        progress: list[float] = []

        await cluster.a.migrate(guest.vm_uuid, 3, TO_B, progress.append)

        assert cluster.whereabouts == [("b", "running")]
        assert progress == sorted(progress)
        assert progress[-1] == 1.0
        assert await cluster.a.observe(guest.vm_uuid) is None
        arrived = await at_b.wait_for(DomainChange.MIGRATED_IN)
        assert arrived == await cluster.b.observe(guest.vm_uuid)
        assert arrived.domid != before.domid
        assert (await at_a.wait_for(DomainChange.MIGRATED_OUT)).domid == -1


@in_every_fabric
async def test_an_incoming_copy_is_not_a_domain_yet(kind: str) -> None:
    async with running_cluster(kind, migrate_s=0.4) as cluster:
        guest = config()
        await cluster.a.start(guest, paused=False)

        moving = await begin_migration(cluster, guest)

        assert cluster.whereabouts == [("a", "running")]
        assert await cluster.b.inventory() == ()
        assert await cluster.b.observe(guest.vm_uuid) is None
        assert await cluster.b.migration_status(guest.vm_uuid, 1) == "not_here"
        with pytest.raises(VmBadPowerState):
            await cluster.b.unpause(guest.vm_uuid, 1)
        await moving


@in_every_fabric
@pytest.mark.parametrize("point", ["migrate", "migrate.copy"])
async def test_a_migration_that_fails_leaves_the_guest_running_at_the_source(
    kind: str, point: str
) -> None:
    async with running_cluster(kind) as cluster:
        guest = config()
        await cluster.a.start(guest, paused=False)
        cluster.faults[point] = InternalError("wanted")

        with pytest.raises(InternalError):
            await migrate(cluster, guest)

        assert cluster.whereabouts == [("a", "running")]
        assert await cluster.a.migration_status(guest.vm_uuid, 1) == "here"
        cluster.faults.clear()
        await migrate(cluster, guest)
        assert cluster.whereabouts == [("b", "running")]


@in_every_fabric
async def test_a_migration_whose_answer_is_lost_has_happened(kind: str) -> None:
    async with running_cluster(kind) as cluster:
        guest = config()
        await cluster.a.start(guest, paused=False)
        cluster.faults["migrate.answer"] = HypervisorUnavailable("wanted")

        with pytest.raises(HypervisorUnavailable):
            await migrate(cluster, guest)

        assert cluster.whereabouts == [("b", "running")]
        assert await cluster.a.migration_status(guest.vm_uuid, 1) == "not_here"
        assert await cluster.b.settle_incoming(guest.vm_uuid, 1) is not None


@in_every_fabric
async def test_a_hand_over_that_was_cut_after_the_arrival_is_decided_by_the_destination(
    kind: str,
) -> None:
    async with running_cluster(kind) as cluster:
        guest = config()
        await cluster.a.start(guest, paused=False)
        cluster.faults["migrate.hand_over.arrived"] = InternalError("wanted")

        with pytest.raises(VmMigrateFailed):
            await migrate(cluster, guest)

        assert await cluster.a.migration_status(guest.vm_uuid, 1) == "undecided"
        arrived = await cluster.b.settle_incoming(guest.vm_uuid, 1)
        assert arrived is not None
        assert arrived.state is DomainState.RUNNING
        await cluster.a.destroy(guest.vm_uuid, 1)
        assert cluster.whereabouts == [("b", "running")]


@in_every_fabric
async def test_a_hand_over_that_was_cut_before_the_arrival_goes_back_to_the_source(
    kind: str,
) -> None:
    async with running_cluster(kind) as cluster:
        guest = config()
        await cluster.a.start(guest, paused=False)
        cluster.faults["migrate.hand_over.lost"] = InternalError("wanted")

        with pytest.raises(VmMigrateFailed):
            await migrate(cluster, guest)

        assert await cluster.a.migration_status(guest.vm_uuid, 1) == "undecided"
        assert await cluster.b.settle_incoming(guest.vm_uuid, 1) is None
        await cluster.a.unpause(guest.vm_uuid, 1)
        assert cluster.whereabouts == [("a", "running")]
        assert await cluster.a.migration_status(guest.vm_uuid, 1) == "here"


@in_every_fabric
async def test_a_cancelled_migration_leaves_the_guest_at_the_source(kind: str) -> None:
    async with running_cluster(kind, migrate_s=10.0) as cluster:
        guest = config()
        await cluster.a.start(guest, paused=False)
        moving = await begin_migration(cluster, guest)

        await cluster.a.cancel_migration(guest.vm_uuid)

        with pytest.raises(VmMigrateFailed):
            await moving
        assert cluster.whereabouts == [("a", "running")]
        assert await cluster.b.settle_incoming(guest.vm_uuid, 1) is None


@in_every_fabric
async def test_a_destination_that_settled_early_never_gets_the_guest(kind: str) -> None:
    async with running_cluster(kind) as cluster:
        guest = config()
        await cluster.a.start(guest, paused=False)
        moving = await begin_migration(cluster, guest)

        assert await cluster.b.settle_incoming(guest.vm_uuid, 1) is None

        with pytest.raises(VmMigrateFailed):
            await moving
        assert cluster.whereabouts == [("a", "running")]


@in_every_fabric
async def test_a_migration_goes_on_without_the_agent_that_began_it(kind: str) -> None:
    async with running_cluster(kind) as cluster, listening(cluster.b) as at_b:
        guest = config()
        await cluster.a.start(guest, paused=False)
        moving = await begin_migration(cluster, guest)

        moving.cancel()
        await cluster.a.close()

        await at_b.wait_for(DomainChange.MIGRATED_IN)
        assert cluster.whereabouts == [("b", "running")]
        again = cluster.reopen("a")
        await again.open()
        assert await again.migration_status(guest.vm_uuid, 1) == "not_here"


@in_every_fabric
async def test_an_arrival_is_told_by_a_destination_whose_agent_came_back_meanwhile(
    kind: str,
) -> None:
    async with running_cluster(kind, migrate_s=0.3) as cluster:
        guest = config()
        await cluster.a.start(guest, paused=False)
        moving = await begin_migration(cluster, guest)

        moving.cancel()
        await cluster.a.close()
        await cluster.b.close()
        again = cluster.reopen("b")
        await again.open()

        async with listening(again) as at_b:
            await at_b.wait_for(DomainChange.MIGRATED_IN)


@in_every_fabric
async def test_a_source_that_dies_takes_its_guest_along_and_no_copy_ever_runs(kind: str) -> None:
    async with running_cluster(kind) as cluster:
        guest = config()
        await cluster.a.start(guest, paused=False)
        moving = await begin_migration(cluster, guest)

        cluster.fabric.kill_host("a")

        with pytest.raises(VmMigrateFailed):
            await moving
        assert cluster.whereabouts == []
        assert await cluster.b.settle_incoming(guest.vm_uuid, 1) is None


@in_every_fabric
async def test_a_destination_that_dies_leaves_the_guest_at_the_source(kind: str) -> None:
    async with running_cluster(kind) as cluster:
        guest = config()
        await cluster.a.start(guest, paused=False)
        moving = await begin_migration(cluster, guest)

        cluster.fabric.kill_host("b")

        with pytest.raises(VmMigrateFailed):
            await moving
        assert cluster.whereabouts == [("a", "running")]
        with pytest.raises(VmMigrateFailed):
            await migrate(cluster, guest)


@in_every_fabric
async def test_a_guest_that_powers_off_while_it_moves_runs_nowhere(kind: str) -> None:
    async with running_cluster(kind, migrate_s=0.3) as cluster, listening(cluster.a) as at_a:
        guest = config()
        await cluster.a.start(guest, paused=False)
        moving = await begin_migration(cluster, guest)

        cluster.fabric.guest_power_off(guest.vm_uuid)

        with pytest.raises(VmMigrateFailed):
            await moving
        assert cluster.whereabouts == []
        await at_a.wait_for(DomainChange.POWERED_OFF)
        assert await cluster.b.settle_incoming(guest.vm_uuid, 1) is None


@in_every_fabric
async def test_guests_live_on_while_their_agent_is_away(kind: str) -> None:
    async with running_cluster(kind) as cluster:
        guest, other = config(), config()
        for each in (guest, other):
            await cluster.a.start(each, paused=False)

        await cluster.a.close()
        cluster.fabric.guest_power_off(other.vm_uuid)
        again = cluster.reopen("a")
        await again.open()

        states = {seen.vm_uuid: seen.state for seen in await again.inventory()}
        assert states == {guest.vm_uuid: "running", other.vm_uuid: "shutoff"}


@in_every_fabric
async def test_a_dead_host_runs_nothing_and_answers_nothing_until_it_has_power(kind: str) -> None:
    async with running_cluster(kind) as cluster:
        guest = config()
        await cluster.a.start(guest, paused=False)

        cluster.fabric.kill_host("a")

        assert cluster.whereabouts == []
        with pytest.raises(HypervisorUnavailable):
            await cluster.a.inventory()
        assert await cluster.a.destroy_all_fast() == ()
        cluster.fabric.revive_host("a")
        (left,) = await cluster.a.inventory()
        assert (left.state, left.domid) == (DomainState.SHUTOFF, -1)


@in_every_fabric
async def test_a_reboot_is_told_and_keeps_the_domain_unless_the_vm_says_otherwise(
    kind: str,
) -> None:
    async with running_cluster(kind) as cluster, listening(cluster.a) as at_a:
        stays, ends = config(), config(actions_after_reboot=OnNormalExit.DESTROY)
        before = await cluster.a.start(stays, paused=False)
        await cluster.a.start(ends, paused=False)

        cluster.fabric.guest_reboot(stays.vm_uuid)
        cluster.fabric.guest_reboot(ends.vm_uuid)

        assert await at_a.wait_for(DomainChange.REBOOTED) == before
        assert (await at_a.wait_for(DomainChange.POWERED_OFF)).vm_uuid == ends.vm_uuid


@in_every_fabric
@pytest.mark.parametrize(
    ("action", "is_kept"), [(OnCrashBehaviour.DESTROY, False), (OnCrashBehaviour.PRESERVE, True)]
)
async def test_a_crash_is_told_and_only_a_preserved_domain_stays(
    kind: str, action: OnCrashBehaviour, is_kept: bool
) -> None:
    async with running_cluster(kind) as cluster, listening(cluster.a) as at_a:
        guest = config(actions_after_crash=action)
        await cluster.a.start(guest, paused=False)

        cluster.fabric.guest_crash(guest.vm_uuid)

        seen = await at_a.wait_for(DomainChange.CRASHED)
        assert seen.state is DomainState.CRASHED
        assert (seen.domid >= 0) is is_kept
        assert cluster.whereabouts == []


@in_every_fabric
async def test_a_guest_may_ignore_a_shutdown_request(kind: str) -> None:
    async with running_cluster(kind) as cluster:
        deaf = config(platform={"vmpool-ignores-shutdown": "true"})
        await cluster.a.start(deaf, paused=False)

        await cluster.a.request_shutdown(deaf.vm_uuid, 1)
        await asyncio.sleep(0.2)

        assert cluster.whereabouts == [("a", "running")]


@in_every_fabric
async def test_an_effect_whose_answer_is_lost_is_there_and_may_be_asked_for_again(
    kind: str,
) -> None:
    async with running_cluster(kind) as cluster:
        guest = config()
        cluster.faults["start.answer"] = HypervisorUnavailable("wanted")

        with pytest.raises(HypervisorUnavailable):
            await cluster.a.start(guest, paused=False)
        cluster.faults.clear()

        assert (await cluster.a.start(guest, paused=False)).state is DomainState.RUNNING
        assert cluster.whereabouts == [("a", "running")]


async def test_a_move_that_was_cut_by_a_crash_has_arrived(tmp_path: Path) -> None:
    # Given a process that died right after the rename that hands the guest over.
    fabric = SimulatedFabric(FolderStore(tmp_path))
    a, b = (SimulatedHypervisor(fabric, name) for name in "ab")
    guest = config()
    await a.start(guest, paused=False)
    assert fabric.begin_migration("a", guest.vm_uuid, "b", ends_at=fabric.now() + 3_600)
    fabric.store.move("a", "b", guest.vm_uuid)

    # Then the guest is at its destination, as if that process had gone on.
    (running,) = fabric.running()
    assert (running.host, running.state) == ("b", DomainState.RUNNING)
    assert await b.migration_status(guest.vm_uuid, 1) == "here"
    assert await a.migration_status(guest.vm_uuid, 1) == "not_here"
