"""Suspend and resume: at every moment a domain or an image, whoever dies between any two steps."""

from typing import Any, Final

import pytest

from pool_master.core import events as ev
from pool_master.core.plan import plan_all
from pool_master.core.vm_suspend import STEP_LET_RUN
from shared.enums import PowerState
from shared.protocol import (
    DestroyDomain,
    DiscardImage,
    DomainState,
    ResumeDomain,
    SettleResume,
    SuspendDomain,
)
from shared.refs import NULL_HOST
from tests.support.facts import (
    HOST,
    HOST_2,
    VM,
    VM_UUID,
    a_pool,
    host_ref,
    inventory,
    running,
    seen,
    task,
)
from tests.support.spec import Scenario, given

IMAGE: Final = f"{VM_UUID}.1"
DONE: Final = ev.TaskSucceeded(task=task(1))
SUSPENDED: Final = ev.VmSuspended(vm=VM, image=IMAGE)
RESUMED: Final = ev.VmResumed(
    vm=VM,
    host=HOST_2,
    incarnation=2,
    domid=9,
    power_state=PowerState.PAUSED,
    memory_actual=seen().memory_actual,
    vcpus=1,
)
STANDING: Final = seen(DomainState.PAUSED, incarnation=2, domid=9)


def a_guest(**changes: Any) -> Scenario:
    return given(*a_pool(2), *running(**changes))


def a_suspended_vm(**changes: Any) -> Scenario:
    flags = {"vendor": "GenuineIntel"}
    begun = ev.VmStarted(vm=VM, host=HOST, incarnation=1, domid=7, cpu_flags=flags)
    return given(*a_pool(2), *running(**changes), begun, SUSPENDED)


def told(scenario: Scenario) -> tuple[str, object]:
    ((host, command),) = plan_all(scenario.pool)
    return host, command.action


def test_a_suspend_is_true_once_the_host_has_saved_the_guest_and_ended_it() -> None:
    scenario = a_guest().when_called("VM.suspend", VM).then_so()
    assert told(scenario) == (HOST, SuspendDomain(image=IMAGE))
    scenario.when_done(1).then(SUSPENDED, DONE)
    vm = scenario.vm()
    assert (vm.power_state, vm.resident_on, vm.domid, vm.incarnation) == (
        PowerState.SUSPENDED,
        NULL_HOST,
        -1,
        0,
    )
    assert scenario.pool.residents_of(HOST) == ()
    assert scenario.answer("VM.get_boot_record", VM)["power_state"] == "Suspended"


def test_a_suspend_that_failed_leaves_the_guest_running() -> None:
    scenario = a_guest().when_called("VM.suspend", VM).then_so()
    scenario.when_failed(1, "INTERNAL_ERROR", "no space", observation=seen()).then(
        ev.TaskFailed(task=task(1), error_info=("INTERNAL_ERROR", "no space"))
    )
    assert scenario.vm().power_state is PowerState.RUNNING


def test_a_suspend_that_lost_the_guest_says_halted_and_not_suspended() -> None:
    scenario = a_guest().when_called("VM.suspend", VM).then_so()
    scenario.when_failed(1, "INTERNAL_ERROR", "killed").then_so()
    assert scenario.vm().power_state is PowerState.HALTED


def test_a_host_that_dies_while_it_suspends_has_no_image_that_counts() -> None:
    scenario = a_guest().when_called("VM.suspend", VM).then_so()
    scenario.when_lost().then_so()
    vm = scenario.vm()
    assert (vm.power_state, vm.suspend_image) == (PowerState.RUNNING, "")
    scenario.when_called("VM.power_state_reset", VM).then_so()
    assert scenario.vm().power_state is PowerState.HALTED


def test_a_resume_runs_only_after_the_log_has_its_domain() -> None:
    scenario = a_suspended_vm()
    scenario.when_called("VM.resume_on", VM, HOST_2, False, False).then_so()
    assert told(scenario) == (HOST_2, ResumeDomain(image=IMAGE))
    assert scenario.pool.residents_of(HOST_2) == (VM,)
    scenario.when_done(1, STANDING, number=2).then(
        RESUMED, ev.OperationAdvanced(task=task(1), step=STEP_LET_RUN, host=HOST_2)
    )
    assert (scenario.vm().power_state, scenario.vm().suspend_image) == (PowerState.PAUSED, "")
    assert told(scenario) == (HOST_2, SettleResume(image=IMAGE, start_paused=False))
    scenario.when_done(1, seen(incarnation=2, domid=9), number=2).then(ev.VmUnpaused(vm=VM), DONE)
    assert scenario.vm().resident_on == HOST_2


def test_a_resume_that_is_to_stay_paused_does() -> None:
    scenario = a_suspended_vm()
    scenario.when_called("VM.resume_on", VM, HOST_2, True, False).then_so()
    scenario.when_done(1, STANDING, number=2).then_so()
    assert told(scenario) == (HOST_2, SettleResume(image=IMAGE, start_paused=True))
    scenario.when_done(1, STANDING, number=2).then(DONE)
    assert scenario.vm().power_state is PowerState.PAUSED


def test_a_resume_that_failed_leaves_the_image_and_can_be_tried_elsewhere() -> None:
    scenario = a_suspended_vm()
    scenario.when_called("VM.resume_on", VM, HOST_2, False, False).then_so()
    scenario.when_failed(1, "INTERNAL_ERROR", "x").then(
        ev.TaskFailed(task=task(1), error_info=("INTERNAL_ERROR", "x"))
    )
    vm = scenario.vm()
    assert (vm.power_state, vm.suspend_image) == (PowerState.SUSPENDED, IMAGE)
    assert scenario.pool.residents_of(HOST_2) == ()
    scenario.when_called("VM.resume_on", VM, HOST, False, False).then_so()
    (again,) = scenario.pool.operations.values()
    assert again.incarnation == 3


def test_a_host_that_dies_before_the_log_has_the_domain_leaves_the_image() -> None:
    scenario = a_suspended_vm()
    scenario.when_called("VM.resume_on", VM, HOST_2, False, False).then_so()
    scenario.when_lost(host_ref(2)).then_so()
    vm = scenario.vm()
    assert (vm.power_state, vm.suspend_image) == (PowerState.SUSPENDED, IMAGE)
    scenario.when_called("VM.resume", VM, False, False).then_so()
    assert told(scenario) == (HOST, ResumeDomain(image=IMAGE))


def test_a_copy_that_a_former_try_left_is_dropped_when_its_host_shows_it() -> None:
    scenario = a_suspended_vm()
    scenario.when_called("VM.resume_on", VM, HOST_2, False, False).then_so()
    scenario.when_failed(1, "HOST_NOT_LIVE").then_so()
    scenario.when_host_says(inventory(2, STANDING), number=2).then_so()
    ((host, command),) = plan_all(scenario.pool)
    assert (host, command.incarnation) == (HOST_2, 2)
    assert scenario.vm().power_state is PowerState.SUSPENDED


def test_a_cpu_that_lacks_what_the_guest_was_booted_with_is_refused_unless_forced() -> None:
    flags = {"vendor": "AuthenticAMD"}
    begun = ev.VmStarted(vm=VM, host=HOST, incarnation=1, domid=7, cpu_flags=flags)
    scenario = given(*a_pool(2), *running(), begun, SUSPENDED)
    scenario.when_called("VM.resume_on", VM, HOST_2, False, False).then_refused(
        "VM_INCOMPATIBLE_WITH_THIS_HOST", VM, HOST_2, "CPUs of different vendors"
    )
    scenario.when_called("VM.resume", VM, False, False).then_refused("NO_HOSTS_AVAILABLE")
    scenario.when_called("VM.resume_on", VM, HOST_2, False, True).then_so()


def test_a_missing_feature_is_named() -> None:
    flags = {"vendor": "GenuineIntel", "features": "avx sse"}
    begun = ev.VmStarted(vm=VM, host=HOST, incarnation=1, domid=7, cpu_flags=flags)
    scenario = given(*a_pool(2), *running(), begun, SUSPENDED)
    scenario.when_called("VM.resume_on", VM, HOST_2, False, False).then_refused(
        "VM_INCOMPATIBLE_WITH_THIS_HOST", VM, HOST_2, "the CPU lacks avx sse"
    )


@pytest.mark.parametrize("method", ["hard_shutdown", "shutdown"])
def test_the_end_of_a_suspended_vm_is_the_end_of_its_image(method: str) -> None:
    scenario = a_suspended_vm().when_called(f"VM.{method}", VM).then_so()
    assert told(scenario) == (HOST, DiscardImage(image=IMAGE))
    scenario.when_done(1).then(ev.VmHalted(vm=VM, reason=f"{method} of a suspended VM"), DONE)
    assert scenario.vm().suspend_image == ""


def test_a_host_that_cannot_remove_the_image_leaves_the_vm_suspended() -> None:
    scenario = a_suspended_vm().when_called("VM.hard_shutdown", VM).then_so()
    scenario.when_failed(1, "INTERNAL_ERROR", "x").then_so()
    assert scenario.vm().power_state is PowerState.SUSPENDED


def test_a_suspended_vm_takes_no_memory_and_can_be_reset() -> None:
    scenario = a_suspended_vm()
    assert scenario.pool.residents_of(HOST) == ()
    scenario.when_called("VM.power_state_reset", VM).then_so()
    assert (scenario.vm().power_state, scenario.vm().suspend_image) == (PowerState.HALTED, "")


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("start", (False, False)), ("suspend", ()), ("pool_migrate", (HOST_2, {})), ("pause", ())],
)
def test_a_suspended_vm_is_refused_what_needs_a_domain_or_none(
    method: str, arguments: tuple[Any, ...]
) -> None:
    outcome = a_suspended_vm().when_called(f"VM.{method}", VM, *arguments)
    assert outcome.refusal is not None
    assert outcome.refusal.code == "VM_BAD_POWER_STATE"


def test_a_vm_that_must_not_move_is_not_suspended() -> None:
    a_guest(platform={"nomigrate": "true"}).when_called("VM.suspend", VM).then_refused(
        "VM_IS_IMMOBILE", VM
    )


def test_a_hard_shutdown_waits_until_it_is_known_what_there_is() -> None:
    scenario = a_guest().when_called("VM.suspend", VM).then_so()
    scenario.when_called("VM.hard_shutdown", VM).then_refused(
        "OTHER_OPERATION_IN_PROGRESS", "VM", VM, "suspend", task(1)
    )
    scenario.when_done(1).then_so()
    scenario.when_called("VM.hard_shutdown", VM).then_so()
    assert told(scenario) == (HOST, DiscardImage(image=IMAGE))


def test_what_was_resumed_is_shut_down_as_any_other() -> None:
    scenario = a_suspended_vm()
    scenario.when_called("VM.resume_on", VM, HOST_2, False, False).then_so()
    scenario.when_done(1, STANDING, number=2).then_so()
    scenario.when_done(1, seen(incarnation=2, domid=9), number=2).then_so()
    scenario.when_called("VM.hard_shutdown", VM).then_so()
    assert told(scenario) == (HOST_2, DestroyDomain())
