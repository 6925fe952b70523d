"""Drift: guests that act by themselves, inventories, hosts that are lost."""

from typing import Any, Final

import pytest

from pool_master.core import events as ev
from pool_master.core.plan import plan_stale
from shared.enums import OnCrashBehaviour, OnNormalExit, PowerState, VmOperation
from shared.protocol import DomainChange, DomainState, ForgetDomain
from shared.refs import HostRef, TaskRef, VmRef, derive, derive_ref
from tests.support.facts import (
    GIB,
    HOST,
    HOST_2,
    OTHER_VM,
    OTHER_VM_UUID,
    VM,
    VM_UUID,
    a_pool,
    accepted,
    changed,
    host_described,
    inventory,
    paused,
    running,
    seen,
    task,
    vm_created,
    vm_started,
)
from tests.support.spec import Outcome, Scenario, given, halted_after

RESTART: Final = OnNormalExit.RESTART
DESTROY: Final = OnNormalExit.DESTROY
OFF: Final = DomainChange.POWERED_OFF
LATER_S: Final = 121.0


def restart_of(
    vm: VmRef = VM, uuid: str = VM_UUID, command: int = 1, incarnation: int = 2
) -> ev.OperationAccepted:
    """The restart of a VM that a report makes: with a task of the report and the VM."""
    wish = f"c{command}/{uuid}"
    return ev.OperationAccepted(
        task=TaskRef(derive_ref(wish, "task")),
        task_uuid=derive(wish, "task"),
        name_label="report",
        operation=VmOperation.START_ON,
        vm=vm,
        host=HOST,
        incarnation=incarnation,
        arguments={"start_paused": "false"},
    )


def when_labelled(scenario: Scenario, outcome: Outcome) -> list[ev.Event]:
    """The events, with the label of their tasks made the same."""
    told = outcome.told()
    outcome.then_so()
    return [
        event
        if not isinstance(event, ev.OperationAccepted)
        else ev.OperationAccepted(
            task=event.task,
            task_uuid=event.task_uuid,
            name_label="report",
            operation=event.operation,
            vm=event.vm,
            host=event.host,
            incarnation=event.incarnation,
            arguments=event.arguments,
        )
        for event in told
    ]


def halted(reason: str) -> ev.VmHalted:
    return ev.VmHalted(vm=VM, reason=reason)


BY_ITSELF: Final = halted("the guest powered itself off")


def living(**changes: Any) -> Scenario:
    return given(*a_pool(), *running(**changes)).after(LATER_S)


# --- guests that act by themselves


def test_a_guest_that_powers_itself_off_is_halted() -> None:
    scenario = living(actions_after_shutdown=DESTROY)
    scenario.when_host_says(changed(OFF)).then(BY_ITSELF)
    halted_after(scenario)


def test_a_guest_that_is_to_restart_after_shutdown_starts_on_its_host() -> None:
    scenario = living(actions_after_shutdown=RESTART)
    told = when_labelled(scenario, scenario.when_host_says(changed(OFF)))
    assert told == [BY_ITSELF, restart_of()]
    assert scenario.pool.residents_of(HOST) == (VM,)


def test_a_guest_that_rebooted_has_a_new_start_time_and_the_same_domain() -> None:
    scenario = living()
    scenario.when_host_says(changed(DomainChange.REBOOTED, seen())).then(ev.VmRebooted(vm=VM))
    vm = scenario.vm()
    assert (vm.incarnation, vm.domid) == (1, 7)
    assert scenario.pool.vm_metrics[vm.metrics].start_time == vm.booted_at


def test_a_guest_that_is_to_end_at_reboot_is_halted() -> None:
    scenario = living(actions_after_reboot=DESTROY)
    scenario.when_host_says(changed(DomainChange.REBOOTED)).then(
        halted("the guest rebooted, to be destroyed then")
    )


CRASH: Final = changed(DomainChange.CRASHED, seen(DomainState.CRASHED))
CRASHED: Final = halted("the guest crashed")


@pytest.mark.parametrize(
    ("action", "is_restarted"),
    [
        (OnCrashBehaviour.DESTROY, False),
        (OnCrashBehaviour.COREDUMP_AND_DESTROY, False),
        (OnCrashBehaviour.RESTART, True),
        (OnCrashBehaviour.COREDUMP_AND_RESTART, True),
        (OnCrashBehaviour.RENAME_RESTART, True),
    ],
)
def test_a_crash_does_what_the_vm_is_to_do_after_crashes(
    action: OnCrashBehaviour, is_restarted: bool
) -> None:
    scenario = living(actions_after_crash=action)
    told = when_labelled(scenario, scenario.when_host_says(CRASH))
    assert told == ([CRASHED, restart_of()] if is_restarted else [CRASHED])


def test_a_crashed_guest_that_is_to_be_preserved_is_kept() -> None:
    scenario = living(actions_after_crash=OnCrashBehaviour.PRESERVE)
    scenario.when_host_says(CRASH).then(ev.VmPaused(vm=VM))
    scenario.when_host_says(CRASH).then_nothing_new()
    scenario.when_host_says(inventory(1, seen(DomainState.CRASHED))).then_nothing_new()
    assert scenario.vm().resident_on == HOST


@pytest.mark.parametrize(("seconds", "is_restarted"), [(119.0, False), (120.0, True)])
def test_a_guest_that_crashes_within_two_minutes_is_not_restarted(
    seconds: float, is_restarted: bool
) -> None:
    scenario = given(*a_pool(), *running(actions_after_crash=OnCrashBehaviour.RESTART))
    scenario.after(seconds)
    told = scenario.when_host_says(CRASH).told()
    reason = "the guest crashed within 120 s of its boot, so it is not restarted"
    assert (told == [halted(reason)]) == (not is_restarted)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (DomainChange.DESTROYED, "stopped outside the pool"),
        (DomainChange.FENCED, "its host had lost its lease and killed it"),
    ],
)
def test_a_guest_that_was_killed_is_halted_and_not_restarted(
    change: DomainChange, reason: str
) -> None:
    scenario = living(actions_after_shutdown=RESTART)
    scenario.when_host_says(changed(change)).then(halted(reason))


def test_a_guest_that_was_paused_or_resumed_by_hand_is_shown_so() -> None:
    scenario = living()
    by_hand = changed(DomainChange.PAUSED, seen(DomainState.PAUSED))
    scenario.when_host_says(by_hand).then(ev.VmPaused(vm=VM))
    scenario.when_host_says(by_hand).then_nothing_new()
    scenario.when_host_says(changed(DomainChange.RESUMED, seen())).then(ev.VmUnpaused(vm=VM))
    scenario.when_host_says(changed(DomainChange.STARTED, seen())).then_nothing_new()


def test_a_guest_that_acts_during_an_operation_is_left_to_the_operation() -> None:
    scenario = living(actions_after_shutdown=RESTART)
    scenario.and_given(accepted(VmOperation.CLEAN_SHUTDOWN))
    scenario.when_host_says(changed(OFF)).then()
    assert scenario.vm().power_state is PowerState.RUNNING


def test_the_word_of_a_lost_host_restarts_nothing() -> None:
    scenario = living(actions_after_shutdown=RESTART)
    scenario.and_given(ev.HostLost(host=HOST, evidence=""))
    scenario.when_host_says(changed(OFF)).then(BY_ITSELF)


def test_a_change_of_an_incarnation_that_is_past_changes_nothing() -> None:
    scenario = given(*a_pool(), vm_created(), vm_started(incarnation=2))
    scenario.when_host_says(changed(OFF, seen(DomainState.SHUTOFF, incarnation=1))).then()


def test_a_change_at_another_host_is_not_the_vms() -> None:
    scenario = given(*a_pool(), *running())
    scenario.when_host_says(changed(OFF), number=2).then()
    assert scenario.vm().power_state is PowerState.RUNNING


# --- inventories

STALE: Final = ev.StaleDomainFound(host=HOST, vm_uuid=VM_UUID, incarnation=1)


def test_an_inventory_that_agrees_says_nothing_new() -> None:
    scenario = given(*a_pool(), *running())
    scenario.when_host_says(inventory(1, seen())).then()


def test_a_guest_that_is_missing_from_its_host_is_halted() -> None:
    scenario = given(*a_pool(), *running())
    scenario.when_host_says(inventory(1)).then(halted("its host does not run it any more"))
    halted_after(scenario)


def test_a_guest_of_another_incarnation_is_not_the_vms_and_is_dropped() -> None:
    scenario = given(*a_pool(), vm_created(), vm_started(incarnation=2))
    scenario.when_host_says(inventory(1, seen(incarnation=1))).then(
        halted("its host does not run it any more"), STALE
    )
    ((host, command),) = plan_stale(scenario.pool)
    assert (host, command.incarnation) == (HOST, 1)
    assert isinstance(command.action, ForgetDomain)


def test_a_guest_whose_vm_lives_elsewhere_is_dropped_once() -> None:
    scenario = given(*a_pool(), *running(host=HOST_2))
    scenario.when_host_says(inventory(1, seen())).then(STALE)
    scenario.when_host_says(inventory(1, seen())).then_nothing_new()
    assert scenario.vm().resident_on == HOST_2


def test_a_guest_of_a_halted_vm_is_dropped() -> None:
    scenario = given(*a_pool(), *running(), halted(""))
    scenario.when_host_says(inventory(1, seen())).then(STALE)


@pytest.mark.parametrize("state", [DomainState.SHUTOFF, DomainState.CRASHED])
def test_a_stale_domain_that_does_not_run_is_left_alone(state: DomainState) -> None:
    scenario = given(*a_pool(), *running(), halted(""))
    scenario.when_host_says(inventory(1, seen(state))).then()


def test_a_guest_of_a_vm_that_was_destroyed_meanwhile_is_shown_and_never_touched() -> None:
    scenario = given(*a_pool(), *running(), halted(""), ev.VmDestroyed(vm=VM))
    scenario.when_host_says(inventory(1, seen())).then_so()
    assert scenario.host().unknown_domains == (VM_UUID,)
    assert list(scenario.pool.stale_domains) == []


def test_a_guest_that_the_pool_did_not_make_is_shown_and_never_touched() -> None:
    scenario = given(*a_pool())
    scenario.when_host_says(inventory(1, unknown_domains=("somebody's",))).then_so()
    assert scenario.host().unknown_domains == ("somebody's",)
    assert list(scenario.pool.stale_domains) == []


def test_an_incarnation_that_the_log_has_not_reached_is_shown_and_never_touched() -> None:
    """A log that was restored from an older copy knows less than the hosts."""
    scenario = given(*a_pool(), vm_created())
    scenario.when_host_says(inventory(1, seen(incarnation=5))).then_so()
    assert scenario.host().unknown_domains == (VM_UUID,)
    assert list(scenario.pool.stale_domains) == []


def test_a_guest_in_an_operation_is_left_to_the_operation() -> None:
    scenario = given(*a_pool(), *running(), accepted(VmOperation.POOL_MIGRATE, destination=HOST_2))
    scenario.when_host_says(inventory(1)).then()
    scenario.when_host_says(inventory(2, seen()), number=2).then()
    starting = given(*a_pool(), vm_created(), accepted(VmOperation.START))
    starting.when_host_says(inventory(1, seen())).then()
    starting.when_host_says(inventory(2, seen()), number=2).then(
        ev.StaleDomainFound(host=HOST_2, vm_uuid=VM_UUID, incarnation=1)
    )


def test_an_inventory_shows_what_a_guest_did_while_nobody_listened() -> None:
    for state, action, reason in (
        (DomainState.SHUTOFF, DESTROY, "the guest powered itself off"),
        (DomainState.CRASHED, DESTROY, "the guest crashed"),
    ):
        scenario = living(
            actions_after_shutdown=action, actions_after_crash=OnCrashBehaviour.DESTROY
        )
        scenario.when_host_says(inventory(1, seen(state))).then(halted(reason))
    living().when_host_says(inventory(1, seen(DomainState.PAUSED))).then(ev.VmPaused(vm=VM))
    given(*a_pool(), *paused()).when_host_says(inventory(1, seen())).then(ev.VmUnpaused(vm=VM))


def test_several_guests_that_one_inventory_restarts_have_a_task_each() -> None:
    scenario = given(
        *a_pool(),
        *running(actions_after_shutdown=RESTART),
        *running(OTHER_VM, actions_after_shutdown=RESTART),
    )
    off = DomainState.SHUTOFF
    both = inventory(1, seen(off), seen(off, uuid=OTHER_VM_UUID))
    told = when_labelled(scenario, scenario.when_host_says(both))
    assert told == [
        BY_ITSELF,
        restart_of(),
        ev.VmHalted(vm=OTHER_VM, reason=BY_ITSELF.reason),
        restart_of(OTHER_VM, OTHER_VM_UUID),
    ]
    assert len(scenario.pool.operations) == 2


def test_a_host_that_speaks_for_the_first_time_is_described_and_lives() -> None:
    scenario = given(
        *a_pool(1), ev.HostJoined(host=HOST_2, uuid=derive("host-2", "host"), name_label="h")
    )
    scenario.when_host_says(inventory(2), number=2).then(
        host_described(2), ev.HostCameAlive(host=HOST_2)
    )
    assert scenario.pool.is_live(HOST_2)


def test_what_a_host_is_is_told_only_when_it_changed() -> None:
    scenario = given(*a_pool())
    scenario.when_host_says(inventory(1, memory_total=4 * GIB)).then(
        host_described(1, memory_total=4 * GIB)
    )
    scenario.when_host_says(inventory(1, memory_total=4 * GIB)).then_nothing_new()


# --- lost hosts


def test_a_host_is_lost_once() -> None:
    scenario = given(*a_pool())
    scenario.when_lost(HOST).then(ev.HostLost(host=HOST, evidence="lease expired"))
    scenario.when_lost(HOST).then_nothing_new()


def test_vms_of_a_lost_host_stay_as_they_are() -> None:
    scenario = given(*a_pool(), *running())
    scenario.when_lost(HOST).then_so()
    assert (scenario.vm().power_state, scenario.vm().resident_on) == (PowerState.RUNNING, HOST)


@pytest.mark.parametrize(
    ("facts", "operation"),
    [
        ([vm_created()], VmOperation.START),
        (running(), VmOperation.PAUSE),
        (running(), VmOperation.CLEAN_SHUTDOWN),
        (running(), VmOperation.HARD_REBOOT),
    ],
)
def test_what_a_lost_host_was_to_do_has_failed(
    facts: list[ev.Event], operation: VmOperation
) -> None:
    scenario = given(*a_pool(), *facts, accepted(operation))
    scenario.when_lost(HOST).then(
        ev.HostLost(host=HOST, evidence="lease expired"),
        ev.TaskFailed(task=task(1), error_info=("HOST_OFFLINE", HOST)),
    )
    assert scenario.vm().scheduled_to_be_resident_on == HostRef("OpaqueRef:NULL")
    assert list(scenario.pool.operations) == []


def test_what_another_host_does_goes_on() -> None:
    scenario = given(*a_pool(), *running(host=HOST_2), accepted(VmOperation.PAUSE, host=HOST_2))
    scenario.when_lost(HOST).then(ev.HostLost(host=HOST, evidence="lease expired"))


def test_a_lost_host_that_returns_lives_again() -> None:
    scenario = given(*a_pool(), *running()).when_lost(HOST).then_so()
    scenario.when_host_says(inventory(1)).then(
        halted("its host does not run it any more"), ev.HostCameAlive(host=HOST)
    )
