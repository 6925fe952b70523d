"""Start, pause, shut down, reboot: what is promised, what is refused, what becomes true."""

from dataclasses import replace

import pytest

from pool_master.core import events as ev
from pool_master.core.plan import plan
from pool_master.core.vm_lifecycle import (
    CleanReboot,
    CleanShutdown,
    HardReboot,
    HardShutdown,
    Pause,
    Start,
    StartOn,
    Unpause,
)
from shared.enums import PowerState, TaskStatus, VmOperation
from shared.refs import NULL_HOST, HostRef, VmRef
from tests.support.facts import (
    GIB,
    HOST,
    HOST_2,
    MIB,
    OTHER_VM,
    OTHER_VM_UUID,
    VM,
    a_pool,
    accepted,
    host_joined,
    paused,
    pool_created,
    running,
    seen,
    task,
    vm_created,
    vm_started,
)
from tests.support.spec import given, halted_after

START_ON = StartOn(vm=VM, host=HOST, start_paused=False, force=False)
START = Start(vm=VM, start_paused=False, force=False)


def test_start_on_promises_the_next_incarnation_on_that_host() -> None:
    given(*a_pool(), vm_created()).when(START_ON).then(
        accepted(VmOperation.START_ON, start_paused="false")
    )


def test_a_second_life_has_a_new_incarnation() -> None:
    given(*a_pool(), *running(), ev.VmHalted(vm=VM, reason="")).when(START_ON).then(
        accepted(VmOperation.START_ON, incarnation=2, start_paused="false")
    )


def test_an_incarnation_is_never_given_twice_even_when_its_start_failed() -> None:
    scenario = given(*a_pool(), vm_created()).when(START_ON).then_so()
    scenario.when_failed(1, "INTERNAL_ERROR", "x").then(
        ev.TaskFailed(task=task(1), error_info=("INTERNAL_ERROR", "x"))
    )
    scenario.skip_commands(9).when(START_ON).then(
        accepted(VmOperation.START_ON, 10, incarnation=2, start_paused="false")
    )


def test_start_paused_is_promised_to_the_host() -> None:
    given(*a_pool(), vm_created()).when(replace(START_ON, start_paused=True)).then(
        accepted(VmOperation.START_ON, start_paused="true")
    )


def test_start_chooses_the_host_that_has_most_room() -> None:
    scenario = given(*a_pool(), *running(), vm_created(OTHER_VM, OTHER_VM_UUID))
    # The second command's chance is on the side of the best host.
    scenario.skip_commands(1).when(replace(START, vm=OTHER_VM)).then(
        accepted(VmOperation.START, 2, vm=OTHER_VM, host=HOST_2, start_paused="false")
    )


def test_a_start_reserves_its_memory_at_once() -> None:
    big = 5 * GIB
    scenario = given(
        *a_pool(1),
        vm_created(memory_static_max=big, memory_dynamic_max=big, memory_dynamic_min=big),
        vm_created(
            VmRef("OpaqueRef:b"),
            "b",
            memory_static_max=big,
            memory_dynamic_max=big,
            memory_dynamic_min=big,
        ),
    )
    scenario.when(START_ON).then_so()
    overhead = 16 * MIB + big // 128
    scenario.when(replace(START_ON, vm=VmRef("OpaqueRef:b"))).then_refused(
        "HOST_NOT_ENOUGH_FREE_MEMORY", str(big + overhead), str(3 * GIB - overhead)
    )


def test_a_started_vm_runs_where_the_host_shows_it() -> None:
    scenario = given(*a_pool(), vm_created()).when(START_ON).then_so()
    assert scenario.vm().scheduled_to_be_resident_on == HOST
    scenario.when_done(1, seen(console_rfb="192.0.2.11:5900")).then(
        vm_started(console_rfb="192.0.2.11:5900"), ev.TaskSucceeded(task=task(1))
    )
    vm = scenario.vm()
    assert (vm.power_state, vm.resident_on, vm.domid) == (PowerState.RUNNING, HOST, 7)
    assert vm.scheduled_to_be_resident_on == NULL_HOST
    assert vm.current_operations == {}
    assert len(vm.consoles) == 1
    assert scenario.pool.vm_metrics[vm.metrics].memory_actual == 512 * MIB
    assert scenario.pool.tasks[task(1)].status is TaskStatus.SUCCESS


def test_a_failed_start_leaves_no_reservation_and_no_mark() -> None:
    scenario = given(*a_pool(), vm_created()).when(START_ON).then_so()
    scenario.when_failed(1, "BOOTLOADER_FAILED", VM, "no kernel").then(
        ev.TaskFailed(task=task(1), error_info=("BOOTLOADER_FAILED", VM, "no kernel"))
    )
    assert scenario.vm().scheduled_to_be_resident_on == NULL_HOST
    assert scenario.vm().current_operations == {}
    assert scenario.pool.residents_of(HOST) == ()
    assert scenario.pool.tasks[task(1)].status is TaskStatus.FAILURE


def test_start_on_a_host_that_does_not_live_is_refused() -> None:
    given(pool_created(), host_joined(1), vm_created()).when(START_ON).then_refused("HOST_NOT_LIVE")


def test_start_on_a_disabled_host_is_refused() -> None:
    given(*a_pool(), ev.HostDisabled(host=HOST), vm_created()).when(START_ON).then_refused(
        "HOST_DISABLED", HOST
    )


def test_start_on_an_unknown_host_is_refused() -> None:
    nowhere = HostRef("OpaqueRef:nowhere")
    given(*a_pool(), vm_created()).when(replace(START_ON, host=nowhere)).then_refused(
        "HANDLE_INVALID", "host", nowhere
    )


def test_start_without_a_live_host_is_refused() -> None:
    given(pool_created(), host_joined(1), vm_created()).when(START).then_refused(
        "NO_HOSTS_AVAILABLE"
    )


@pytest.mark.parametrize(
    "request_",
    [START, START_ON, Pause(vm=VM), Unpause(vm=VM), CleanShutdown(vm=VM), HardReboot(vm=VM)],
)
def test_a_vm_that_does_not_exist_is_named_in_the_refusal(request_: object) -> None:
    given(*a_pool()).when(request_).then_refused("HANDLE_INVALID", "VM", VM)


@pytest.mark.parametrize(
    ("request_", "operation", "incarnation"),
    [
        (Pause(vm=VM), VmOperation.PAUSE, 1),
        (CleanShutdown(vm=VM), VmOperation.CLEAN_SHUTDOWN, 1),
        (HardShutdown(vm=VM), VmOperation.HARD_SHUTDOWN, 1),
        (CleanReboot(vm=VM), VmOperation.CLEAN_REBOOT, 2),
        (HardReboot(vm=VM), VmOperation.HARD_REBOOT, 2),
    ],
)
def test_an_operation_on_a_running_vm_goes_to_its_host(
    request_: object, operation: VmOperation, incarnation: int
) -> None:
    given(*a_pool(), *running(host=HOST_2)).when(request_).then(
        accepted(operation, host=HOST_2, incarnation=incarnation)
    )


@pytest.mark.parametrize(
    "request_", [Pause(vm=VM), CleanShutdown(vm=VM), CleanReboot(vm=VM), HardShutdown(vm=VM)]
)
def test_an_operation_on_a_vm_whose_host_is_lost_is_refused(request_: object) -> None:
    lost = ev.HostLost(host=HOST, evidence="")
    given(*a_pool(), *running(), lost).when(request_).then_refused("HOST_OFFLINE", HOST)


def test_pause_and_unpause_there_and_back() -> None:
    scenario = given(*a_pool(), *running()).when(Pause(vm=VM)).then_so()
    scenario.when_done(1).then(ev.VmPaused(vm=VM), ev.TaskSucceeded(task=task(1)))
    assert scenario.vm().power_state is PowerState.PAUSED
    scenario.skip_commands(2).when(Unpause(vm=VM)).then(accepted(VmOperation.UNPAUSE, 3))
    scenario.when_done(3).then(ev.VmUnpaused(vm=VM), ev.TaskSucceeded(task=task(3)))
    assert scenario.vm().power_state is PowerState.RUNNING


@pytest.mark.parametrize("request_", [CleanShutdown(vm=VM), HardShutdown(vm=VM)])
def test_a_shut_down_vm_has_nothing_of_its_domain_left(request_: object) -> None:
    scenario = given(*a_pool(), *running()).when(request_).then_so()
    scenario.when_done(1).then_so()
    halted_after(scenario)
    assert scenario.pool.residents_of(HOST) == ()


def test_a_rebooted_vm_is_a_new_incarnation_on_its_host() -> None:
    scenario = given(*a_pool(), *running()).when(CleanReboot(vm=VM)).then_so()
    scenario.when_done(1, seen(incarnation=2, domid=8)).then(
        vm_started(incarnation=2, domid=8), ev.TaskSucceeded(task=task(1))
    )
    assert (scenario.vm().incarnation, scenario.vm().resident_on) == (2, HOST)


def test_a_reboot_that_failed_before_the_guest_stopped_leaves_it_running() -> None:
    scenario = given(*a_pool(), *running()).when(CleanReboot(vm=VM)).then_so()
    scenario.when_failed(1, "VM_SHUTDOWN_TIMEOUT", VM, "1200", observation=seen()).then(
        ev.TaskFailed(task=task(1), error_info=("VM_SHUTDOWN_TIMEOUT", VM, "1200"))
    )
    assert scenario.vm().power_state is PowerState.RUNNING


def test_a_reboot_that_failed_after_the_guest_stopped_leaves_it_halted() -> None:
    scenario = given(*a_pool(), *running()).when(HardReboot(vm=VM)).then_so()
    scenario.when_failed(1, "INTERNAL_ERROR").then_so()
    halted_after(scenario)


# --- what goes over what


def test_hard_shutdown_cancels_a_clean_shutdown_that_waits_for_the_guest() -> None:
    scenario = given(*a_pool(), *running()).when(CleanShutdown(vm=VM)).then_so()
    scenario.when(HardShutdown(vm=VM)).then(
        ev.CancelRequested(task=task(1)), accepted(VmOperation.HARD_SHUTDOWN, 2)
    )
    assert scenario.operation(1).is_cancelling
    assert scenario.pool.tasks[task(1)].status is TaskStatus.CANCELLING


def test_what_is_being_cancelled_is_not_cancelled_again() -> None:
    scenario = given(*a_pool(), *running()).when(CleanShutdown(vm=VM)).then_so()
    scenario.and_given(ev.CancelRequested(task=task(1)))
    scenario.when(HardShutdown(vm=VM)).then(accepted(VmOperation.HARD_SHUTDOWN, 2))


def test_a_late_clean_shutdown_does_not_halt_the_incarnation_that_hard_reboot_made() -> None:
    scenario = given(*a_pool(), *running()).when(CleanShutdown(vm=VM)).then_so()
    scenario.when(HardReboot(vm=VM)).then_so()
    scenario.when_done(2, seen(incarnation=2, domid=8)).then_so()
    scenario.when_done(1).then(ev.TaskSucceeded(task=task(1)))
    assert scenario.vm().power_state is PowerState.RUNNING
    assert scenario.vm().incarnation == 2


def test_hard_reboot_starts_what_a_clean_shutdown_had_halted() -> None:
    scenario = given(*a_pool(), *running()).when(CleanShutdown(vm=VM)).then_so()
    scenario.when(HardReboot(vm=VM)).then_so()
    scenario.when_done(1).then_so()
    halted_after(scenario)
    scenario.when_done(2, seen(incarnation=2, domid=8)).then_so()
    assert scenario.vm().power_state is PowerState.RUNNING


def test_what_hard_reboot_will_start_keeps_its_memory_while_halted() -> None:
    scenario = given(*a_pool(), *running()).when(CleanShutdown(vm=VM)).then_so()
    scenario.when(HardReboot(vm=VM)).then_so()
    scenario.when_done(1).then_so()
    assert scenario.pool.residents_of(HOST) == (VM,)
    scenario.when_failed(2).then_so()
    assert scenario.pool.residents_of(HOST) == ()


def test_hard_shutdown_over_a_reboot_waits_and_halts_what_the_reboot_has_started() -> None:
    scenario = given(*a_pool(), *running()).when(HardReboot(vm=VM)).then_so()
    scenario.when(HardShutdown(vm=VM)).then(
        ev.CancelRequested(task=task(1)), accepted(VmOperation.HARD_SHUTDOWN, 2)
    )
    assert [command.task for _, command in plan(scenario.pool, [task(2)])] == []
    scenario.when_done(1, seen(incarnation=2, domid=8)).then(
        vm_started(incarnation=2, domid=8),
        ev.TaskSucceeded(task=task(1)),
        ev.OperationAdvanced(task=task(2), step=1, host=HOST),
    )
    assert [command.incarnation for _, command in plan(scenario.pool, [task(2)])] == [2]
    scenario.when_done(2).then_so()
    halted_after(scenario)


def test_hard_shutdown_over_a_reboot_that_left_nothing_has_what_it_wanted() -> None:
    scenario = given(*a_pool(), *running()).when(CleanReboot(vm=VM)).then_so()
    scenario.when(HardShutdown(vm=VM)).then_so()
    scenario.when_failed(1, "TASK_CANCELLED", task(1)).then(
        ev.VmHalted(vm=VM, reason="clean_reboot failed, no domain is left"),
        ev.TaskFailed(task=task(1), error_info=("TASK_CANCELLED", task(1))),
        ev.TaskSucceeded(task=task(2)),
    )
    assert scenario.pool.tasks[task(1)].status is TaskStatus.CANCELLED


def test_each_waits_for_the_one_before_it() -> None:
    scenario = given(*a_pool(), *running()).when(CleanReboot(vm=VM)).then_so()
    scenario.when(HardReboot(vm=VM)).then_so()
    scenario.when(HardShutdown(vm=VM)).then_so()
    tasks = [task(number) for number in (1, 2, 3)]
    assert dict.fromkeys(command.task for _, command in plan(scenario.pool, tasks)) == {
        task(1): None
    }
    scenario.when_failed(1, "TASK_CANCELLED", task(1), observation=seen()).then(
        ev.TaskFailed(task=task(1), error_info=("TASK_CANCELLED", task(1))),
        ev.OperationAdvanced(task=task(2), step=1, host=HOST),
    )
    scenario.when_done(2, seen(incarnation=3, domid=9)).then_so()
    assert scenario.operation(3).incarnation == 3


@pytest.mark.parametrize("first", [Pause(vm=VM), CleanShutdown(vm=VM)])
def test_an_observation_from_before_a_hard_shutdown_does_not_revive_the_vm(first: object) -> None:
    scenario = given(*a_pool(), *running()).when(first).then_so()
    scenario.when(HardShutdown(vm=VM)).then_so()
    scenario.when_done(2).then_so()
    halted_after(scenario)
    scenario.when_failed(1, "TASK_CANCELLED", task(1), observation=seen()).then_so()
    halted_after(scenario)


def test_a_late_pause_says_nothing_of_a_vm_that_was_halted_since() -> None:
    scenario = given(*a_pool(), *running()).when(Pause(vm=VM)).then_so()
    scenario.when(HardShutdown(vm=VM)).then_so()
    scenario.when_done(2).then_so()
    scenario.when_done(1).then(ev.TaskSucceeded(task=task(1)))
    halted_after(scenario)


def test_a_late_pause_does_not_pause_the_next_incarnation() -> None:
    scenario = given(*a_pool(), *running()).when(Pause(vm=VM)).then_so()
    scenario.when(HardReboot(vm=VM)).then_so()
    scenario.when_done(2, seen(incarnation=2, domid=8)).then_so()
    scenario.when_done(1).then(ev.TaskSucceeded(task=task(1)))
    assert scenario.vm().power_state is PowerState.RUNNING


def test_hard_shutdown_of_a_paused_vm() -> None:
    scenario = given(*a_pool(), *paused()).when(HardShutdown(vm=VM)).then_so()
    scenario.when_done(1).then_so()
    halted_after(scenario)
