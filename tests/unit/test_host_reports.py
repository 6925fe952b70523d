"""What a host's word means: each outcome of each operation; what comes twice, late or from elsewhere changes nothing."""

from typing import Final

import pytest

from pool_master.core import events as ev
from pool_master.core.host_reports import UnknownHost, command_id_of
from pool_master.core.plan import plan_stale
from shared import protocol as says
from shared.enums import PowerState, TaskStatus, VmOperation
from shared.protocol import DomainState, HostReport
from tests.support.facts import (
    HOST,
    HOST_2,
    VM,
    VM_UUID,
    a_pool,
    accepted,
    changed,
    inventory,
    paused,
    running,
    seen,
    task,
    vm_created,
    vm_started,
)
from tests.support.spec import Scenario, given, halted_after

DONE: Final = ev.TaskSucceeded(task=task(1))
FAILED: Final = ev.TaskFailed(task=task(1), error_info=("INTERNAL_ERROR", "x"))
RUNNING_AGAIN: Final = vm_started(incarnation=2, domid=8)


def in_flight(operation: VmOperation, facts: list[ev.Event], incarnation: int = 1) -> Scenario:
    return given(*a_pool(), *facts, accepted(operation, incarnation=incarnation))


STARTS: Final = (VmOperation.START, VmOperation.START_ON)
REBOOTS: Final = (VmOperation.CLEAN_REBOOT, VmOperation.HARD_REBOOT)
SHUTDOWNS: Final = (VmOperation.CLEAN_SHUTDOWN, VmOperation.HARD_SHUTDOWN)


@pytest.mark.parametrize("operation", STARTS)
@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.PAUSED])
def test_a_start_that_succeeded_shows_the_domain(
    operation: VmOperation, state: DomainState
) -> None:
    scenario = in_flight(operation, [vm_created()])
    power_state = PowerState(state.capitalize())
    scenario.when_done(1, seen(state)).then(vm_started(power_state=power_state), DONE)


@pytest.mark.parametrize("operation", STARTS)
@pytest.mark.parametrize("state", [DomainState.SHUTOFF, DomainState.CRASHED])
def test_a_guest_that_stopped_before_the_host_looked_does_not_run(
    operation: VmOperation, state: DomainState
) -> None:
    scenario = in_flight(operation, [vm_created()])
    scenario.when_done(1, seen(state)).then(DONE)
    halted_after(scenario)


@pytest.mark.parametrize("operation", STARTS)
def test_a_start_that_failed_leaves_the_vm_halted(operation: VmOperation) -> None:
    scenario = in_flight(operation, [vm_created()])
    scenario.when_failed(1, "INTERNAL_ERROR", "x").then(FAILED)
    halted_after(scenario)
    assert scenario.pool.residents_of(HOST) == ()


@pytest.mark.parametrize("operation", STARTS)
def test_a_start_that_failed_but_left_a_domain_shows_it(operation: VmOperation) -> None:
    scenario = in_flight(operation, [vm_created()])
    scenario.when_failed(1, "INTERNAL_ERROR", "x", observation=seen()).then(vm_started(), FAILED)


def test_pause_succeeds_fails_or_finds_the_guest_gone() -> None:
    in_flight(VmOperation.PAUSE, running()).when_done(1, seen(DomainState.PAUSED)).then(
        ev.VmPaused(vm=VM), DONE
    )
    in_flight(VmOperation.PAUSE, paused()).when_done(1, seen(DomainState.PAUSED)).then(DONE)
    in_flight(VmOperation.PAUSE, running()).when_failed(
        1, "INTERNAL_ERROR", "x", observation=seen()
    ).then(FAILED)
    gone = in_flight(VmOperation.PAUSE, running()).when_failed(1, "INTERNAL_ERROR", "x")
    gone.then(ev.VmHalted(vm=VM, reason="pause failed, no domain is left"), FAILED)


def test_a_pause_that_failed_and_yet_paused_is_told_as_it_is() -> None:
    in_flight(VmOperation.PAUSE, running()).when_failed(
        1, "INTERNAL_ERROR", "x", observation=seen(DomainState.PAUSED)
    ).then(ev.VmPaused(vm=VM), FAILED)


def test_unpause_succeeds_fails_or_finds_the_guest_gone() -> None:
    in_flight(VmOperation.UNPAUSE, paused()).when_done(1, seen()).then(ev.VmUnpaused(vm=VM), DONE)
    in_flight(VmOperation.UNPAUSE, running()).when_done(1, seen()).then(DONE)
    in_flight(VmOperation.UNPAUSE, paused()).when_failed(
        1, "INTERNAL_ERROR", "x", observation=seen(DomainState.PAUSED)
    ).then(FAILED)
    in_flight(VmOperation.UNPAUSE, paused()).when_failed(
        1, "INTERNAL_ERROR", "x", observation=seen()
    ).then(ev.VmUnpaused(vm=VM), FAILED)
    gone = in_flight(VmOperation.UNPAUSE, paused()).when_failed(
        1, "INTERNAL_ERROR", "x", observation=seen(DomainState.CRASHED)
    )
    gone.then(ev.VmHalted(vm=VM, reason="unpause failed, no domain is left"), FAILED)


@pytest.mark.parametrize("operation", SHUTDOWNS)
def test_a_shutdown_that_succeeded_halts_the_vm(operation: VmOperation) -> None:
    scenario = in_flight(operation, running())
    scenario.when_done(1).then(ev.VmHalted(vm=VM, reason=operation.value), DONE)
    halted_after(scenario)


@pytest.mark.parametrize("operation", SHUTDOWNS)
def test_a_shutdown_that_failed_leaves_the_guest_running(operation: VmOperation) -> None:
    scenario = in_flight(operation, running())
    scenario.when_failed(1, "INTERNAL_ERROR", "x", observation=seen()).then(FAILED)
    assert scenario.vm().power_state is PowerState.RUNNING


@pytest.mark.parametrize("operation", REBOOTS)
def test_a_reboot_that_succeeded_shows_the_next_incarnation(operation: VmOperation) -> None:
    scenario = in_flight(operation, running(), 2)
    scenario.when_done(1, seen(incarnation=2, domid=8)).then(RUNNING_AGAIN, DONE)


@pytest.mark.parametrize("operation", REBOOTS)
def test_a_reboot_leaves_what_it_left(operation: VmOperation) -> None:
    in_flight(operation, running(), 2).when_failed(
        1, "INTERNAL_ERROR", "x", observation=seen()
    ).then(FAILED)
    in_flight(operation, running(), 2).when_failed(
        1, "INTERNAL_ERROR", "x", observation=seen(incarnation=2, domid=8)
    ).then(RUNNING_AGAIN, FAILED)
    in_flight(operation, running(), 2).when_failed(1, "INTERNAL_ERROR", "x").then(
        ev.VmHalted(vm=VM, reason=f"{operation} failed, no domain is left"), FAILED
    )
    in_flight(operation, running(), 2).when_done(1, seen(DomainState.SHUTOFF, incarnation=2)).then(
        ev.VmHalted(vm=VM, reason=f"{operation}: the guest has stopped"), DONE
    )


def test_a_cancelled_operation_ends_as_cancelled() -> None:
    scenario = in_flight(VmOperation.CLEAN_SHUTDOWN, running())
    scenario.and_given(ev.CancelRequested(task=task(1)))
    scenario.when_failed(1, "TASK_CANCELLED", task(1), observation=seen()).then_so()
    assert scenario.pool.tasks[task(1)].status is TaskStatus.CANCELLED
    assert scenario.vm().current_operations == {}


def test_a_failure_names_objects_by_reference() -> None:
    scenario = in_flight(VmOperation.CLEAN_SHUTDOWN, running())
    scenario.when_failed(1, "VM_SHUTDOWN_TIMEOUT", VM_UUID, "1200", observation=seen()).then(
        ev.TaskFailed(task=task(1), error_info=("VM_SHUTDOWN_TIMEOUT", VM, "1200"))
    )


# --- what does not count


def test_a_report_that_comes_again_changes_nothing() -> None:
    scenario = in_flight(VmOperation.START, [vm_created()])
    body = succeeded(scenario, seen())
    scenario.when_host_says(body, sequence=5).then_so()
    scenario.when_host_says(body, sequence=5).then_nothing_new()
    scenario.when_host_says(inventory(1), sequence=4).then_nothing_new()


def test_a_change_that_is_told_again_does_not_undo_what_came_after_it() -> None:
    scenario = given(*a_pool(), *running())
    by_hand = changed(says.DomainChange.PAUSED, seen(DomainState.PAUSED))
    scenario.when_host_says(by_hand, sequence=5).then_so()
    scenario.and_given(ev.VmUnpaused(vm=VM))
    scenario.when_host_says(by_hand, sequence=5).then_nothing_new()
    scenario.when_host_says(by_hand, sequence=6).then(ev.VmPaused(vm=VM))


def test_the_same_outcome_in_a_new_report_changes_nothing() -> None:
    scenario = in_flight(VmOperation.START, [vm_created()])
    body = succeeded(scenario, seen())
    scenario.when_host_says(body).then_so()
    scenario.when_host_says(body).then_nothing_new()


def test_a_report_of_an_older_epoch_is_ignored() -> None:
    scenario = in_flight(VmOperation.START, [vm_created()])
    body = succeeded(scenario, seen())
    scenario.when_host_says(inventory(1), sequence=1, epoch=2).then_so()
    scenario.when_host_says(body, sequence=9, epoch=1).then_nothing_new()
    assert scenario.host().epoch == 2


def test_an_agent_that_starts_again_on_its_journal_goes_on_in_it() -> None:
    scenario = given(*a_pool())
    scenario.when_host_says(inventory(1), sequence=7).then_so()
    outcome = scenario.when_host_says(inventory(1), sequence=8, epoch=2)
    assert outcome.events == [
        ev.HostAgentStarted(host=HOST, journal="j1", epoch=2),
        ev.HostReportsSeen(host=HOST, journal="j1", sequence=8),
    ]
    scenario = outcome.then_so()
    assert (scenario.host().epoch, scenario.host().report_sequence) == (2, 8)


def test_an_agent_with_a_new_journal_counts_from_its_beginning() -> None:
    scenario = given(*a_pool())
    scenario.when_host_says(inventory(1), sequence=7).then_so()
    scenario.when_host_says(inventory(1), sequence=1, journal="j2").then_so()
    assert (scenario.host().journal, scenario.host().report_sequence) == ("j2", 1)


def test_a_report_of_a_replaced_journal_is_a_redelivery() -> None:
    scenario = in_flight(VmOperation.START, [vm_created()])
    body = succeeded(scenario, seen())
    scenario.when_host_says(inventory(1), sequence=7).then_so()
    scenario.when_host_says(inventory(1), sequence=1, journal="j2").then_so()
    scenario.when_host_says(body, sequence=8, journal="j1", epoch=9).then_nothing_new()
    assert scenario.host().journal == "j2"


def test_a_report_that_says_nothing_new_leaves_no_trace() -> None:
    scenario = given(*a_pool(), *running())
    scenario.when_host_says(inventory(1, seen()), sequence=1).then_so()
    scenario.when_host_says(inventory(1, seen()), sequence=2).then_nothing_new()


def test_an_outcome_counts_only_from_the_host_that_was_asked() -> None:
    scenario = in_flight(VmOperation.START, [vm_created()])
    scenario.when_host_says(succeeded(scenario, seen()), number=2).then()
    assert scenario.vm().power_state is PowerState.HALTED


def test_an_outcome_counts_only_for_the_present_step() -> None:
    scenario = in_flight(VmOperation.START, [vm_created()])
    scenario.when_done(1, seen(), command_id=f"{task(1)}/1").then()


def test_a_host_that_nobody_asked_is_refused() -> None:
    report = HostReport(
        host="nobody", journal="j", epoch=1, sequence=1, time_us=0, body=inventory(1)
    )
    with pytest.raises(UnknownHost):
        given(*a_pool()).when(report)


def test_an_observation_of_an_older_incarnation_is_no_news() -> None:
    scenario = in_flight(VmOperation.PAUSE, [vm_created(), vm_started(incarnation=4)], 4)
    scenario.when_failed(1, "INTERNAL_ERROR", "x", observation=seen(incarnation=3)).then(FAILED)


def succeeded(
    scenario: Scenario, observation: says.DomainObservation | None
) -> says.CommandSucceeded:
    operation = scenario.operation(1)
    return says.CommandSucceeded(
        command_id=command_id_of(operation),
        task=operation.task,
        vm_uuid=VM_UUID,
        incarnation=operation.incarnation,
        observation=observation,
    )


# --- progress


def progressed(progress: float, number: int = 1, command_id: str = "") -> says.CommandProgressed:
    return says.CommandProgressed(
        command_id=command_id or f"{task(number)}/0", task=task(number), progress=progress
    )


def test_progress_only_grows_and_ends_at_one() -> None:
    scenario = given(*a_pool(), *running(), accepted(VmOperation.POOL_MIGRATE, destination=HOST_2))
    scenario.when_host_says(progressed(0.5)).then(
        ev.OperationProgressed(task=task(1), progress=0.5)
    )
    scenario.when_host_says(progressed(0.4)).then_nothing_new()
    scenario.when_host_says(progressed(float("nan"))).then_nothing_new()
    scenario.when_host_says(progressed(7.0)).then(
        ev.OperationProgressed(task=task(1), progress=1.0)
    )
    assert scenario.pool.tasks[task(1)].progress == 1.0


def test_progress_counts_only_for_the_operation_that_the_host_carries_out() -> None:
    scenario = given(
        *a_pool(),
        *running(),
        accepted(VmOperation.POOL_MIGRATE, destination=HOST_2),
        ev.TaskCreated(task=task(2), uuid="u", name_label="a client's own"),
    )
    scenario.when_host_says(progressed(0.5), number=2).then()
    scenario.when_host_says(progressed(0.5, command_id=f"{task(1)}/1")).then()
    scenario.when_host_says(progressed(0.5, 2)).then()
    assert [each.progress for each in scenario.pool.tasks.values()] == [0.0, 0.0]


# --- dropped domains


def dropped(found: int, incarnation: int = 1) -> says.CommandSucceeded:
    return says.CommandSucceeded(
        command_id=f"drop/{found}/{VM_UUID}/{incarnation}",
        task="",
        vm_uuid=VM_UUID,
        incarnation=incarnation,
    )


STALE_FOUND = ev.StaleDomainFound(host=HOST, vm_uuid=VM_UUID, incarnation=1)


def test_a_stale_domain_is_forgotten_once_its_host_has_dropped_it() -> None:
    scenario = given(*a_pool(), vm_created(), STALE_FOUND)
    found = scenario.pool.sequence
    scenario.when_host_says(dropped(found, incarnation=2)).then()
    scenario.when_host_says(dropped(found), number=2).then()
    scenario.when_host_says(dropped(found)).then(
        ev.StaleDomainDropped(host=HOST, vm_uuid=VM_UUID, incarnation=1)
    )
    assert list(scenario.pool.stale_domains) == []
    scenario.when_host_says(dropped(found)).then_nothing_new()


def test_an_incarnation_that_is_stale_again_is_dropped_by_another_command() -> None:
    scenario = given(*a_pool(), vm_created(), STALE_FOUND)
    first = dropped(scenario.pool.sequence)
    scenario.when_host_says(first).then_so()

    scenario.and_given(STALE_FOUND)

    ((_, again),) = plan_stale(scenario.pool)
    assert again.command_id != first.command_id
    scenario.when_host_says(first).then_nothing_new()
    assert len(plan_stale(scenario.pool)) == 1


def test_a_stale_domain_that_its_host_could_not_drop_is_asked_for_anew_where_it_still_runs() -> (
    None
):
    scenario = given(*a_pool(), vm_created(), vm_started(incarnation=2), STALE_FOUND)
    ((_, first),) = plan_stale(scenario.pool)
    failed = says.CommandFailed(
        command_id=first.command_id,
        task="",
        vm_uuid=VM_UUID,
        incarnation=1,
        code="INTERNAL_ERROR",
        parameters=("busy",),
    )
    scenario.when_host_says(failed).then(
        ev.StaleDomainKept(
            host=HOST, vm_uuid=VM_UUID, incarnation=1, error_info=("INTERNAL_ERROR", "busy")
        )
    )
    assert plan_stale(scenario.pool) == []


# --- commands that nobody has begun


@pytest.mark.parametrize("method", ["VM.pause", "VM.hard_reboot", "VM.hard_shutdown"])
def test_a_command_that_nobody_has_begun_fails_and_leaves_the_guest_where_it_is(
    method: str,
) -> None:
    scenario = given(*a_pool(), *running())
    scenario.when_called(method, VM).then_so()

    scenario.when_failed(1, "NOT_IMPLEMENTED", was_begun=False).then(
        ev.TaskFailed(task=task(1), error_info=("NOT_IMPLEMENTED",))
    )

    assert scenario.vm().power_state is PowerState.RUNNING


def test_a_migration_that_nobody_has_begun_leaves_the_guest_on_its_source() -> None:
    scenario = given(*a_pool(2), *running())
    scenario.when_called("VM.pool_migrate", VM, HOST_2, {}).then_so()

    scenario.when_failed(1, "NOT_IMPLEMENTED", was_begun=False).then(
        ev.TaskFailed(task=task(1), error_info=("NOT_IMPLEMENTED",))
    )

    assert (scenario.vm().power_state, scenario.vm().resident_on) == (PowerState.RUNNING, HOST)
