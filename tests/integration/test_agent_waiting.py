"""Commands that wait for the guest: shutdown, clean restart, migration; overtaking and cancelling."""

from dataclasses import replace

import anyio

from host_agent.shell.simulated_hypervisor import HOLDS_ON_TO_DEVICES, SimulatedTimings
from shared.protocol import (
    AttachNic,
    CancelCommand,
    CommandFailed,
    CommandProgressed,
    CommandSucceeded,
    DestroyDomain,
    DetachNic,
    DomainState,
    NicConfig,
    RestartDomain,
    SettleMigration,
    ShutdownDomain,
    StartDomain,
)
from simulator.virtual_time import virtual
from tests.support.agents import (
    HOST,
    START,
    STUBBORN,
    VM,
    bodies,
    command,
    domain,
    host_uuid,
    migrate,
    one_host,
    stage,
    two_hosts,
)


@virtual
async def test_a_guest_that_ignores_shutdown_times_out_and_runs_on() -> None:
    async with one_host() as pool:
        await pool.leader.send(
            HOST,
            command("start", StartDomain(config=STUBBORN)),
            command("shutdown", ShutdownDomain(timeout_s=30.0)),
        )
        outcome = await pool.leader.outcome("shutdown", within_s=60.0)
        assert isinstance(outcome, CommandFailed)
        assert (outcome.code, outcome.parameters) == ("VM_SHUTDOWN_TIMEOUT", (VM, "30"))
        assert pool.running() == [VM]


@virtual
async def test_destroy_overtakes_a_shutdown_that_waits_and_both_succeed() -> None:
    async with one_host() as pool:
        await pool.leader.send(
            HOST,
            command("start", StartDomain(config=STUBBORN)),
            command("shutdown", ShutdownDomain(timeout_s=1_000.0)),
        )
        await anyio.sleep(3.0)
        await pool.leader.send(HOST, command("destroy", DestroyDomain()))
        assert isinstance(await pool.leader.outcome("destroy", within_s=2.0), CommandSucceeded)
        assert isinstance(await pool.leader.outcome("shutdown", within_s=2.0), CommandSucceeded)
        assert pool.running() == []


@virtual
async def test_destroy_overtakes_a_clean_restart_which_then_starts_nothing() -> None:
    async with one_host() as pool:
        restart = RestartDomain(config=domain(incarnation=2), clean=True, timeout_s=1_000.0)
        await pool.leader.send(
            HOST,
            command("start", StartDomain(config=STUBBORN)),
            command("restart", restart, incarnation=2),
        )
        await anyio.sleep(3.0)
        await pool.leader.send(HOST, command("destroy", DestroyDomain()))
        assert isinstance(await pool.leader.outcome("destroy", within_s=2.0), CommandSucceeded)
        outcome = await pool.leader.outcome("restart", within_s=2.0)
        assert isinstance(outcome, CommandFailed)
        assert outcome.code == "TASK_CANCELLED"
        assert pool.running() == []


@virtual
async def test_a_start_that_came_before_a_destroy_happens_before_it() -> None:
    async with one_host() as pool:
        await pool.leader.send(HOST, START, command("destroy", DestroyDomain()))
        await pool.leader.outcome("destroy")
        assert pool.running() == []


@virtual
async def test_a_cancelled_shutdown_ends_as_cancelled_with_the_guest_as_it_is() -> None:
    async with one_host() as pool:
        await pool.leader.send(
            HOST,
            command("start", StartDomain(config=STUBBORN)),
            command("shutdown", ShutdownDomain(timeout_s=1_000.0)),
        )
        await anyio.sleep(3.0)
        cancel = CancelCommand(cancelled_command_id="shutdown")
        await pool.leader.send(HOST, command("cancel", cancel))
        outcome = await pool.leader.outcome("shutdown", within_s=2.0)
        assert isinstance(outcome, CommandFailed)
        assert (outcome.code, outcome.parameters) == ("TASK_CANCELLED", ("task of shutdown",))
        assert outcome.observation is not None
        assert outcome.observation.state is DomainState.RUNNING
        assert isinstance(await pool.leader.outcome("cancel"), CommandSucceeded)


@virtual
async def test_cancelling_what_is_done_changes_nothing() -> None:
    async with one_host() as pool:
        cancel = CancelCommand(cancelled_command_id="start")
        await pool.leader.send(HOST, START)
        await pool.leader.outcome("start")
        await pool.leader.send(HOST, command("cancel", cancel))
        assert isinstance(await pool.leader.outcome("cancel"), CommandSucceeded)
        assert isinstance(await pool.leader.outcome("start"), CommandSucceeded)
        assert pool.running() == [VM]


@virtual
async def test_a_clean_restart_brings_up_the_new_incarnation() -> None:
    async with one_host() as pool:
        restart = RestartDomain(config=domain(incarnation=2), clean=True, timeout_s=60.0)
        await pool.leader.send(HOST, START, command("restart", restart, incarnation=2))
        assert isinstance(await pool.leader.outcome("restart"), CommandSucceeded)
        assert [guest.incarnation for guest in pool.fabric.running()] == [2]


@virtual
async def test_a_migration_moves_the_guest_and_tells_its_progress() -> None:
    async with two_hosts(migrate_s=20.0) as pool:
        await pool.leader.send(HOST, command("migrate", migrate(2)))
        outcome = await pool.leader.outcome("migrate")
        # Whatever the source makes of it, it shows no guest: so the destination is asked.
        assert outcome.observation is None
        await pool.leader.send(host_uuid(2), command("settle", SettleMigration()))
        settled = await pool.leader.outcome("settle")
        assert isinstance(settled, CommandSucceeded)
        assert settled.observation is not None
        assert [guest.host for guest in pool.fabric.running()] == ["host2"]
        progress = bodies(await pool.leader.reports(), CommandProgressed)
        assert 1 < len(progress) <= 21
        assert [each.progress for each in progress] == sorted(each.progress for each in progress)


@virtual
async def test_a_cancelled_migration_leaves_the_guest_where_it_was() -> None:
    async with two_hosts(migrate_s=60.0) as pool:
        await pool.leader.send(HOST, command("migrate", migrate(2)))
        await anyio.sleep(5.0)
        cancel = CancelCommand(cancelled_command_id="migrate")
        await pool.leader.send(HOST, command("cancel", cancel))
        outcome = await pool.leader.outcome("migrate", within_s=10.0)
        assert isinstance(outcome, CommandFailed)
        assert outcome.code == "TASK_CANCELLED"
        assert outcome.observation is not None
        assert [guest.host for guest in pool.fabric.running()] == ["host1"]


@virtual
async def test_a_migration_whose_agent_died_is_not_begun_again_and_ends_truly() -> None:
    async with stage() as pool:
        pool.timings = SimulatedTimings(migrate_s=3.0)
        begun: list[str] = []
        async with pool.agent(2):
            async with pool.agent(1):
                await pool.leader.send(HOST, START)
                await pool.leader.outcome("start")
                pool.faults = lambda point: begun.append(point) if point == "migrate" else None
                await pool.leader.send(HOST, command("migrate", migrate(2)))
                await anyio.sleep(1.0)
            async with pool.agent(1):
                outcome = await pool.leader.outcome("migrate")
                assert isinstance(outcome, CommandSucceeded)
        assert begun == ["migrate"]
        assert [guest.host for guest in pool.fabric.running()] == ["host2"]


@virtual
async def test_an_undecided_migration_is_left_to_the_destination() -> None:
    async with two_hosts(migrate_s=2.0) as pool:
        cut = VmHandOverCut("the network went away")
        pool.faults = lambda point: cut if point == "migrate.hand_over.arrived" else None
        await pool.leader.send(HOST, command("migrate", migrate(2)))
        outcome = await pool.leader.outcome("migrate")
        assert isinstance(outcome, CommandFailed)
        assert outcome.observation is None


class VmHandOverCut(Exception):
    """A migration that is cut where only the destination knows."""


NIC = NicConfig(device="0", mac="02:00:00:00:00:0a", bridge="xenbr0")
CLINGING = replace(domain(platform={HOLDS_ON_TO_DEVICES: "true"}), nics=(NIC,))


@virtual
async def test_an_interface_is_attached_and_let_go_of() -> None:
    async with one_host() as pool:
        await pool.leader.send(
            HOST,
            START,
            command("attach", AttachNic(nic=NIC)),
            command("detach", DetachNic(mac=NIC.mac, timeout_s=20.0)),
        )
        attached = await pool.leader.outcome("attach", within_s=5.0)
        detached = await pool.leader.outcome("detach", within_s=5.0)
        assert attached.observation is not None
        assert attached.observation.nics == (NIC.mac,)
        assert detached.observation is not None
        assert detached.observation.nics == ()


@virtual
async def test_a_guest_that_does_not_let_go_of_an_interface_keeps_it() -> None:
    async with one_host() as pool:
        await pool.leader.send(
            HOST,
            command("start", StartDomain(config=CLINGING)),
            command("detach", DetachNic(mac=NIC.mac, timeout_s=20.0)),
        )
        outcome = await pool.leader.outcome("detach", within_s=40.0)
        assert isinstance(outcome, CommandFailed)
        assert (outcome.code, outcome.parameters) == ("DEVICE_DETACH_TIMEOUT", ("VIF", NIC.mac))
        assert outcome.observation is not None
        assert outcome.observation.nics == (NIC.mac,)


@virtual
async def test_destroy_does_not_wait_for_a_guest_to_let_go_of_an_interface() -> None:
    async with one_host() as pool:
        await pool.leader.send(
            HOST,
            command("start", StartDomain(config=CLINGING)),
            command("detach", DetachNic(mac=NIC.mac, timeout_s=1_000.0)),
        )
        await anyio.sleep(3.0)
        await pool.leader.send(HOST, command("destroy", DestroyDomain()))
        assert isinstance(await pool.leader.outcome("destroy", within_s=2.0), CommandSucceeded)
        assert isinstance(await pool.leader.outcome("detach", within_s=2.0), CommandSucceeded)
        assert pool.running() == []
