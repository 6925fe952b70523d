"""VM.pool_migrate: who is asked, in which order, and where the guest is when something goes wrong."""

from typing import Final

import pytest

from pool_master.core import events as ev
from pool_master.core.plan import plan, plan_all, plan_stale
from pool_master.core.vm_lifecycle import HardReboot, HardShutdown
from pool_master.core.vm_migration import PoolMigrate
from shared.enums import PowerState, VmOperation
from shared.protocol import CancelCommand, DomainState, MigrateDomain, SettleMigration
from shared.refs import NULL_HOST, HostRef
from tests.support.facts import (
    GIB,
    HOST,
    HOST_2,
    HOST_3,
    MIB,
    VM,
    VM_UUID,
    a_pool,
    accepted,
    host_described,
    live_host,
    running,
    seen,
    task,
    vm_created,
)
from tests.support.spec import Scenario, given, halted_after

MIGRATE: Final = PoolMigrate(vm=VM, host=HOST_2)
NOWHERE: Final = ("VM_MIGRATE_FAILED", VM, HOST, HOST_2, "the guest did not arrive")


def migrating(hosts: int = 3) -> Scenario:
    return given(*a_pool(hosts), *running()).when(MIGRATE).then_so()


def settling() -> Scenario:
    return migrating().when_done(1).then_so()


def test_migration_is_promised_from_here_to_there() -> None:
    given(*a_pool(), *running()).when(MIGRATE).then(
        accepted(VmOperation.POOL_MIGRATE, destination=HOST_2)
    )


def test_memory_is_reserved_on_both_sides_until_the_end() -> None:
    scenario = migrating()
    assert scenario.pool.residents_of(HOST) == (VM,)
    assert scenario.pool.residents_of(HOST_2) == (VM,)
    scenario.when_done(1).then_so()
    assert scenario.pool.residents_of(HOST_2) == (VM,)
    scenario.when_done(1, seen()).then_so()
    assert scenario.pool.residents_of(HOST) == ()
    assert scenario.pool.residents_of(HOST_2) == (VM,)
    assert scenario.vm().scheduled_to_be_resident_on == NULL_HOST


def test_the_source_moves_and_the_destination_settles() -> None:
    scenario = migrating()
    ((host, command),) = plan(scenario.pool, [task(1)])
    assert host == HOST
    assert isinstance(command.action, MigrateDomain)
    assert command.action.destination_uri == "test://h2/"
    scenario.when_done(1).then(ev.OperationAdvanced(task=task(1), step=1, host=HOST_2))
    ((host, settle),) = plan(scenario.pool, [task(1)])
    assert host == HOST_2
    assert isinstance(settle.action, SettleMigration)
    assert settle.command_id != command.command_id
    scenario.when_done(1, seen(domid=9, console_rfb="there")).then(
        ev.VmMigrated(vm=VM, host=HOST_2, domid=9, console_rfb="there"),
        ev.TaskSucceeded(task=task(1)),
    )
    vm = scenario.vm()
    assert (vm.resident_on, vm.power_state, vm.incarnation) == (HOST_2, PowerState.RUNNING, 1)
    assert len(vm.consoles) == 1


def test_a_guest_that_arrived_paused_is_paused() -> None:
    settling().when_done(1, seen(DomainState.PAUSED)).then(
        ev.VmMigrated(vm=VM, host=HOST_2, domid=7),
        ev.VmPaused(vm=VM),
        ev.TaskSucceeded(task=task(1)),
    )


def test_a_migration_that_failed_at_the_source_leaves_the_guest_there() -> None:
    scenario = migrating()
    scenario.when_failed(1, "INTERNAL_ERROR", "x", observation=seen()).then(
        ev.TaskFailed(task=task(1), error_info=("INTERNAL_ERROR", "x"))
    )
    assert scenario.vm().resident_on == HOST
    assert scenario.pool.residents_of(HOST_2) == ()


@pytest.mark.parametrize("said", [(), ("a", "b", "c", "no route")])
def test_a_hosts_word_of_a_failed_migration_names_the_pools_objects(said: tuple[str, ...]) -> None:
    migrating().when_failed(1, "VM_MIGRATE_FAILED", *said, observation=seen()).then(
        ev.TaskFailed(
            task=task(1),
            error_info=("VM_MIGRATE_FAILED", VM, HOST, HOST_2, said[-1] if said else ""),
        )
    )


def test_a_guest_that_powered_off_during_its_migration_is_halted() -> None:
    scenario = migrating()
    scenario.when_failed(1, "INTERNAL_ERROR", observation=seen(DomainState.SHUTOFF)).then_so()
    halted_after(scenario)


def test_a_source_that_failed_but_lost_the_guest_leaves_it_to_the_destination() -> None:
    scenario = migrating()
    remains = ev.StaleDomainFound(host=HOST, vm_uuid=VM_UUID, incarnation=1)
    scenario.when_failed(1, "INTERNAL_ERROR").then(
        ev.OperationAdvanced(task=task(1), step=1, host=HOST_2), remains
    )
    # What may be left at the source is dropped once it is nobody's, not while only it may have the guest.
    assert plan_stale(scenario.pool) == []
    scenario.when_done(1, seen()).then_so()
    assert scenario.vm().resident_on == HOST_2
    assert [host for host, _ in plan_stale(scenario.pool)] == [HOST]


def test_a_lost_source_leaves_it_to_the_destination() -> None:
    scenario = migrating()
    scenario.when_lost(HOST).then(
        ev.HostLost(host=HOST, evidence="lease expired"),
        ev.OperationAdvanced(task=task(1), step=1, host=HOST_2),
    )
    scenario.when_done(1, seen()).then_so()
    assert (scenario.vm().resident_on, scenario.vm().power_state) == (HOST_2, PowerState.RUNNING)


def test_a_guest_that_is_at_neither_side_is_halted() -> None:
    scenario = settling()
    scenario.when_done(1).then(
        ev.VmHalted(vm=VM, reason="lost in migration"),
        ev.TaskFailed(task=task(1), error_info=NOWHERE),
    )
    halted_after(scenario)


@pytest.mark.parametrize("state", [DomainState.SHUTOFF, DomainState.CRASHED])
def test_a_guest_that_stopped_at_the_destination_is_halted(state: DomainState) -> None:
    scenario = settling()
    scenario.when_done(1, seen(state)).then_so()
    halted_after(scenario)


def test_a_guest_of_a_lost_source_that_did_not_arrive_is_not_guessed_about() -> None:
    scenario = migrating().when_lost(HOST).then_so()
    scenario.when_done(1).then(ev.TaskFailed(task=task(1), error_info=NOWHERE))
    assert scenario.vm().resident_on == HOST


def test_a_migration_to_a_destination_that_is_lost_meanwhile_ends() -> None:
    scenario = (
        migrating()
        .when_lost(HOST_2)
        .then(
            ev.HostLost(host=HOST_2, evidence="lease expired"),
            # Its guests count as dead from now on: nobody may arrive there any more.
            ev.CancelRequested(task=task(1)),
        )
    )
    scenario.when_done(1).then(
        ev.VmHalted(vm=VM, reason="lost in migration"),
        ev.TaskFailed(task=task(1), error_info=NOWHERE),
    )


def test_a_destination_that_is_lost_while_it_settles_ends_the_migration() -> None:
    settling().when_lost(HOST_2).then(
        ev.HostLost(host=HOST_2, evidence="lease expired"),
        ev.TaskFailed(task=task(1), error_info=("HOST_OFFLINE", HOST_2)),
    )


def test_a_destination_that_cannot_settle_is_asked_again_under_a_new_id() -> None:
    scenario = settling()
    first = plan_all(scenario.pool)[0][1].command_id
    scenario.when_failed(1, "INTERNAL_ERROR").then(
        ev.OperationAdvanced(task=task(1), step=2, host=HOST_2)
    )
    ((host, again),) = plan_all(scenario.pool)
    assert (host, isinstance(again.action, SettleMigration)) == (HOST_2, True)
    assert again.command_id != first
    scenario.when_failed(1, "INTERNAL_ERROR", observation=seen()).then(
        ev.VmMigrated(vm=VM, host=HOST_2, domid=7), ev.TaskSucceeded(task=task(1))
    )


def test_the_source_speaking_again_after_its_step_says_nothing_new() -> None:
    scenario = migrating()
    moved = scenario.operation()
    scenario.when_done(1).then_so()
    scenario.when_done(1, command_id=f"{moved.task}/0", number=1).then()


def test_a_cancel_goes_to_the_source_and_never_to_the_destination() -> None:
    scenario = migrating().and_given(ev.CancelRequested(task=task(1)))
    told = [command.action for _, command in plan(scenario.pool, [task(1)])]
    assert [type(action) for action in told] == [MigrateDomain, CancelCommand]
    scenario.when_done(1).then_so()
    told = [command.action for _, command in plan(scenario.pool, [task(1)])]
    assert [type(action) for action in told] == [SettleMigration]


# --- hard operations over a migration


def test_hard_shutdown_follows_the_guest_to_the_destination() -> None:
    scenario = (
        migrating()
        .when(HardShutdown(vm=VM))
        .then(ev.CancelRequested(task=task(1)), accepted(VmOperation.HARD_SHUTDOWN, 2))
    )
    assert [command.task for _, command in plan_all(scenario.pool)] == [task(1), task(1)]
    scenario.when_done(1).then_so()
    assert [command.task for _, command in plan_all(scenario.pool)] == [task(1)]
    scenario.when_done(1, seen()).then(
        ev.VmMigrated(vm=VM, host=HOST_2, domid=7),
        ev.TaskSucceeded(task=task(1)),
        ev.OperationAdvanced(task=task(2), step=1, host=HOST_2),
    )
    assert [(host, command.task) for host, command in plan_all(scenario.pool)] == [
        (HOST_2, task(2))
    ]
    scenario.when_done(2).then(
        ev.VmHalted(vm=VM, reason="hard_shutdown"), ev.TaskSucceeded(task=task(2))
    )


def test_hard_reboot_never_starts_beside_a_guest_that_has_moved_away() -> None:
    scenario = migrating().when(HardReboot(vm=VM)).then_so()
    scenario.when_done(1).then_so()
    scenario.when_done(1, seen()).then_so()
    ((host, command),) = plan_all(scenario.pool)
    assert (host, command.incarnation) == (HOST_2, 2)


def test_hard_reboot_stays_where_a_cancelled_migration_left_the_guest() -> None:
    scenario = migrating().when(HardReboot(vm=VM)).then_so()
    scenario.when_failed(1, "TASK_CANCELLED", observation=seen()).then(
        ev.TaskFailed(task=task(1), error_info=("TASK_CANCELLED",)),
        ev.OperationAdvanced(task=task(2), step=1, host=HOST),
    )
    assert scenario.vm().scheduled_to_be_resident_on == NULL_HOST


def test_hard_reboot_starts_a_guest_that_was_lost_on_the_way() -> None:
    scenario = migrating().when(HardReboot(vm=VM)).then_so()
    scenario.when_done(1).then_so()
    scenario.when_done(1).then_so()
    assert scenario.vm().scheduled_to_be_resident_on == HOST
    scenario.when_done(2, seen(incarnation=2)).then_so()
    assert (scenario.vm().resident_on, scenario.vm().incarnation) == (HOST, 2)


def test_hard_shutdown_of_a_guest_that_was_lost_on_the_way_has_what_it_wanted() -> None:
    scenario = migrating().when(HardShutdown(vm=VM)).then_so()
    scenario.when_done(1).then_so()
    scenario.when_done(1).then(
        ev.VmHalted(vm=VM, reason="lost in migration"),
        ev.TaskFailed(task=task(1), error_info=NOWHERE),
        ev.TaskSucceeded(task=task(2)),
    )


def test_what_waited_for_a_migration_ends_with_a_lost_source_that_the_guest_never_left() -> None:
    scenario = migrating().when(HardShutdown(vm=VM)).then_so()
    scenario.when_lost(HOST).then(
        ev.HostLost(host=HOST, evidence="lease expired"),
        ev.OperationAdvanced(task=task(1), step=1, host=HOST_2),
        ev.TaskFailed(task=task(2), error_info=("HOST_OFFLINE", HOST)),
    )


def test_what_waited_goes_back_to_the_source_when_the_destination_is_lost() -> None:
    scenario = migrating().when(HardShutdown(vm=VM)).then_so()
    scenario.when_done(1).then_so()
    scenario.when_lost(HOST_2).then(
        ev.HostLost(host=HOST_2, evidence="lease expired"),
        ev.TaskFailed(task=task(1), error_info=("HOST_OFFLINE", HOST_2)),
        ev.OperationAdvanced(task=task(2), step=1, host=HOST),
    )


def test_what_waited_for_a_guest_that_only_a_lost_source_has_ends() -> None:
    """The log is from before a loss ended what waited: whoever reads it must end it all the same."""
    scenario = migrating().when(HardShutdown(vm=VM)).then_so()
    scenario.and_given(
        ev.HostLost(host=HOST, evidence=""), ev.OperationAdvanced(task=task(1), step=1, host=HOST_2)
    )
    scenario.when_done(1).then(
        ev.TaskFailed(task=task(1), error_info=NOWHERE),
        ev.TaskFailed(task=task(2), error_info=("HOST_OFFLINE", HOST)),
    )


# --- refusals


def test_migration_to_where_it_is_is_refused() -> None:
    given(*a_pool(), *running()).when(PoolMigrate(vm=VM, host=HOST)).then_refused(
        "OPERATION_NOT_ALLOWED", "the VM is already resident on that host"
    )


def test_migration_of_a_halted_vm_is_refused() -> None:
    given(*a_pool(), vm_created()).when(MIGRATE).then_refused(
        "VM_BAD_POWER_STATE", VM, "running", "halted"
    )


def test_migration_to_an_unknown_host_is_refused() -> None:
    nowhere = HostRef("OpaqueRef:nowhere")
    given(*a_pool(), *running()).when(PoolMigrate(vm=VM, host=nowhere)).then_refused(
        "HANDLE_INVALID", "host", nowhere
    )


def test_migration_from_a_lost_host_is_refused() -> None:
    given(*a_pool(), *running(), ev.HostLost(host=HOST, evidence="")).when(MIGRATE).then_refused(
        "HOST_OFFLINE", HOST
    )


def test_migration_to_a_lost_host_is_refused() -> None:
    given(*a_pool(), *running(), ev.HostLost(host=HOST_2, evidence="")).when(MIGRATE).then_refused(
        "HOST_NOT_LIVE"
    )


def test_migration_to_a_full_host_is_refused() -> None:
    size = 5 * GIB
    scenario = given(
        *a_pool(2),
        *running(memory_static_max=size, memory_dynamic_max=size, memory_dynamic_min=size),
    )
    scenario.and_given(host_described(2, memory_total=4 * GIB))
    needed = size + 16 * MIB + size // 128
    scenario.when(MIGRATE).then_refused("HOST_NOT_ENOUGH_FREE_MEMORY", str(needed), str(4 * GIB))


def test_migration_to_a_cpu_of_another_vendor_needs_force() -> None:
    scenario = given(*a_pool(1), *live_host(2, vendor="AuthenticAMD"), *running())
    scenario.when(MIGRATE).then_refused(
        "VM_INCOMPATIBLE_WITH_THIS_HOST", VM, HOST_2, "CPUs of different vendors"
    )
    scenario.skip_commands(1).when(PoolMigrate(vm=VM, host=HOST_2, options={"force": "true"})).then(
        accepted(VmOperation.POOL_MIGRATE, 2, destination=HOST_2, force="true")
    )


def test_a_clients_options_never_meet_our_own_parameters() -> None:
    options = {"host": "x", "incarnation": "9", "kind": "y", "context": "z"}
    scenario = given(*a_pool(), *running())
    scenario.when(PoolMigrate(vm=VM, host=HOST_2, options=options)).then_so()
    operation = scenario.operation()
    assert (operation.host, operation.incarnation) == (HOST, 1)
    assert operation.arguments == options


def test_a_host_that_has_yet_to_drop_an_older_copy_takes_no_new_one() -> None:
    """Its order to drop names VM and incarnation, which a migrated guest keeps: it would be the one that is dropped."""
    stale = ev.StaleDomainFound(host=HOST_2, vm_uuid=VM_UUID, incarnation=1)
    scenario = given(*a_pool(3), *running(), stale)
    scenario.when(MIGRATE).then_refused(
        "OPERATION_NOT_ALLOWED", "that host has yet to drop an older copy of the VM"
    )
    scenario.skip_commands(1).when(PoolMigrate(vm=VM, host=HOST_3)).then(
        accepted(VmOperation.POOL_MIGRATE, 2, destination=HOST_3)
    )
