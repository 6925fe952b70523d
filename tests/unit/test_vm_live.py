"""What is done to a running guest: the wish, what its host is told, and what is true once it is done, or was not."""

from typing import Any, Final

import pytest

from pool_master.core import events as ev
from pool_master.core.placement import memory_available, memory_overhead
from pool_master.core.plan import SHUTDOWN_TIMEOUT_S, plan_all
from shared.enums import PowerState, VmOperation, VmTrigger
from shared.errors import VmBadPowerState
from shared.protocol import (
    DestroyDomain,
    DomainState,
    SendSysrq,
    SendTrigger,
    SetDomainMemory,
    SetDomainScheduler,
    SetDomainVcpus,
    ShutdownDomain,
)
from tests.support.facts import (
    GIB,
    HOST,
    MIB,
    VM,
    a_pool,
    paused,
    running,
    seen,
    task,
    vm_created,
)
from tests.support.spec import Scenario, given

DONE: Final = ev.TaskSucceeded(task=task(1))
SIZES: Final = {
    "memory_static_min": 64 * MIB,
    "memory_dynamic_min": 128 * MIB,
    "memory_dynamic_max": 512 * MIB,
    "memory_static_max": GIB,
    "VCPUs_max": 4,
}


def a_guest(**changes: Any) -> Scenario:
    return given(*a_pool(1), *running(**{**SIZES, **changes}))


def a_halted_vm(**changes: Any) -> Scenario:
    return given(*a_pool(1), vm_created(**{**SIZES, **changes}))


def told(scenario: Scenario) -> object:
    ((host, command),) = plan_all(scenario.pool)
    assert host == HOST
    return command.action


def field(name: str, value: Any) -> ev.FieldSet:
    return ev.FieldSet(object_class="VM", ref=VM, field=name, value=value)


def range_set(minimum: int, maximum: int) -> tuple[ev.FieldSet, ...]:
    return (field("memory_dynamic_min", minimum), field("memory_dynamic_max", maximum))


# --- VCPUs


def test_vcpus_are_plugged_in_before_the_settings_and_metrics_say_so() -> None:
    scenario = a_guest().when_called("VM.set_VCPUs_number_live", VM, "3").then_so()
    assert told(scenario) == SetDomainVcpus(vcpus=3)
    assert scenario.vm().config.VCPUs_at_startup == 1
    scenario.when_done(1, seen(vcpus=3)).then(
        field("VCPUs_at_startup", 3),
        ev.VmTuned(vm=VM, memory_actual=512 * MIB, vcpus=3),
        DONE,
    )
    assert scenario.vm().config.VCPUs_at_startup == 3
    assert scenario.answer("VM_metrics.get_VCPUs_number", scenario.vm().metrics) == 3


@pytest.mark.parametrize("wanted", [0, -1, 5])
def test_vcpus_that_the_machine_has_no_place_for_are_refused(wanted: int) -> None:
    rule = "VCPU values must satisfy: 0 < VCPUs ≤ VCPUs_max"
    a_guest().when_called("VM.set_VCPUs_number_live", VM, str(wanted)).then_refused(
        "INVALID_VALUE", rule, str(wanted)
    )


def test_what_the_host_could_not_change_stays_as_it_was() -> None:
    scenario = a_guest().when_called("VM.set_VCPUs_number_live", VM, "3").then_so()
    error = ("OPERATION_NOT_ALLOWED", "the guest kept it")
    scenario.when_failed(1, *error, observation=seen()).then(
        ev.TaskFailed(task=task(1), error_info=error)
    )
    assert scenario.vm().config.VCPUs_at_startup == 1


def test_a_change_whose_guest_has_ended_meanwhile_is_a_setting_all_the_same() -> None:
    scenario = a_guest().when_called("VM.set_VCPUs_number_live", VM, "3").then_so()
    scenario.and_given(ev.VmHalted(vm=VM, reason="stopped"))
    scenario.when_done(1, seen(vcpus=3)).then(field("VCPUs_at_startup", 3), DONE)


@pytest.mark.parametrize(("key", "value"), [("weight", "512"), ("cap", "150"), ("mask", "0,2-3")])
def test_scheduler_parameters_are_applied_and_then_stored(key: str, value: str) -> None:
    scenario = a_guest().when_called("VM.add_to_VCPUs_params_live", VM, key, value).then_so()
    assert told(scenario) == SetDomainScheduler(params={key: value})
    assert scenario.vm().config.VCPUs_params == {}
    scenario.when_done(1, seen()).then_so()
    assert scenario.vm().config.VCPUs_params == {key: value}


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("weight", "heavy", ("INVALID_VALUE", "VCPUs_params:weight", "heavy")),
        ("mask", "0-", ("INVALID_VALUE", "VCPUs_params:mask", "0-")),
        ("colour", "1", ("INVALID_VALUE", "VCPUs_params", "colour")),
        ("cap", "1", ("MAP_DUPLICATE_KEY", "VM", "VCPUs_params", VM, "cap")),
    ],
)
def test_scheduler_parameters_that_nobody_could_apply_are_refused(
    key: str, value: str, error: tuple[str, ...]
) -> None:
    scenario = a_guest(VCPUs_params={"cap": "50"})
    scenario.when_called("VM.add_to_VCPUs_params_live", VM, key, value).then_refused(*error)


# --- memory


@pytest.mark.parametrize(
    ("method", "values", "bounds"),
    [
        ("set_memory_dynamic_range", (256 * MIB, 768 * MIB), (256 * MIB, 768 * MIB)),
        ("set_memory_dynamic_max", (768 * MIB,), (128 * MIB, 768 * MIB)),
        ("set_memory_dynamic_min", (256 * MIB,), (256 * MIB, 512 * MIB)),
        ("set_memory_dynamic_max_live", (768 * MIB,), (128 * MIB, 768 * MIB)),
        ("set_memory_dynamic_min_live", (256 * MIB,), (256 * MIB, 512 * MIB)),
    ],
)
def test_the_balloon_follows_and_then_the_settings(
    method: str, values: tuple[int, ...], bounds: tuple[int, int]
) -> None:
    scenario = a_guest().when_called(f"VM.{method}", VM, *map(str, values)).then_so()
    assert told(scenario) == SetDomainMemory(target=bounds[1])
    scenario.when_done(1, seen(memory_actual=bounds[1])).then(
        *range_set(*bounds),
        ev.VmTuned(vm=VM, memory_actual=bounds[1], vcpus=1, memory_target=bounds[1]),
        DONE,
    )
    vm = scenario.vm()
    assert (vm.config.memory_dynamic_min, vm.config.memory_dynamic_max) == bounds
    assert vm.memory_target == bounds[1]
    assert scenario.answer("VM_metrics.get_memory_actual", vm.metrics) == bounds[1]


def test_a_guest_that_gave_back_less_than_asked_is_told_as_it_is() -> None:
    scenario = a_guest().when_called("VM.set_memory_dynamic_max_live", VM, 256 * MIB).then_so()
    scenario.when_done(1, seen(memory_actual=300 * MIB)).then_so()
    assert scenario.vm().memory_target == 256 * MIB
    assert scenario.answer("VM_metrics.get_memory_actual", scenario.vm().metrics) == 300 * MIB


def test_of_a_halted_vm_only_the_settings_change_and_at_once() -> None:
    scenario = a_halted_vm()
    scenario.when_called("VM.set_memory_dynamic_range", VM, 64 * MIB, GIB).then(
        *range_set(64 * MIB, GIB)
    )
    assert plan_all(scenario.pool) == []


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("set_memory_dynamic_range", (256 * MIB, 128 * MIB)),
        ("set_memory_dynamic_range", (32 * MIB, 128 * MIB)),
        ("set_memory_dynamic_max_live", (2 * GIB,)),
        ("set_memory_dynamic_min_live", (768 * MIB,)),
    ],
)
def test_a_range_out_of_order_is_refused(method: str, values: tuple[int, ...]) -> None:
    a_guest().when_called(f"VM.{method}", VM, *values).then_refused(
        "MEMORY_CONSTRAINT_VIOLATION_ORDER"
    )


def free(scenario: Scenario) -> int:
    return memory_available(scenario.pool, HOST)


def test_a_higher_minimum_is_reserved_from_the_promise_on_and_given_back_if_it_fails() -> None:
    scenario = a_guest()
    before = free(scenario)
    scenario.when_called("VM.set_memory_dynamic_min_live", VM, 512 * MIB).then_so()
    assert free(scenario) == before - 384 * MIB
    scenario.when_failed(1, "OPERATION_NOT_ALLOWED", "no", observation=seen()).then_so()
    assert free(scenario) == before


def test_a_lower_minimum_is_free_only_once_it_is_done() -> None:
    scenario = a_guest()
    before = free(scenario)
    scenario.when_called("VM.set_memory_dynamic_min_live", VM, 64 * MIB).then_so()
    assert free(scenario) == before
    scenario.when_done(1, seen()).then_so()
    assert free(scenario) == before + 64 * MIB


def test_a_minimum_that_the_host_has_no_memory_for_is_refused_in_kib() -> None:
    sizes = {"memory_static_max": 16 * GIB, "memory_dynamic_max": 16 * GIB}
    scenario = a_guest(**sizes)
    overhead = memory_overhead(scenario.vm())
    needed, available = (9 * GIB + overhead) // 1024, 8 * GIB // 1024
    scenario.when_called("VM.set_memory_dynamic_min_live", VM, 9 * GIB).then_refused(
        "HOST_NOT_ENOUGH_FREE_MEMORY", str(needed), str(available)
    )


@pytest.mark.parametrize(
    ("method", "values", "changed"),
    [
        ("set_memory_static_max", (2 * GIB,), {"memory_static_max": 2 * GIB}),
        ("set_memory_static_min", (MIB,), {"memory_static_min": MIB}),
        (
            "set_memory_static_range",
            (MIB, 2 * GIB),
            {"memory_static_min": MIB, "memory_static_max": 2 * GIB},
        ),
        (
            "set_memory_limits",
            (MIB, 4 * MIB, 2 * MIB, 3 * MIB),
            {
                "memory_static_min": MIB,
                "memory_static_max": 4 * MIB,
                "memory_dynamic_min": 2 * MIB,
                "memory_dynamic_max": 3 * MIB,
            },
        ),
        (
            "set_memory",
            (GIB,),
            dict.fromkeys(("memory_static_max", "memory_dynamic_min", "memory_dynamic_max"), GIB),
        ),
    ],
)
def test_static_bounds_change_while_halted_and_only_then(
    method: str, values: tuple[int, ...], changed: dict[str, int]
) -> None:
    events = [field(name, value) for name, value in changed.items()]
    a_halted_vm().when_called(f"VM.{method}", VM, *values).then(*events)
    a_guest().when_called(f"VM.{method}", VM, *values).then_refused(
        "VM_BAD_POWER_STATE", VM, "halted", "running"
    )
    a_halted_vm().when_called(f"VM.{method}", VM, *[-1 for _ in values]).then_refused(
        "MEMORY_CONSTRAINT_VIOLATION_ORDER"
    )


# --- keys and triggers


@pytest.mark.parametrize("key", ["h", "H", "9"])
def test_a_sysrq_key_reaches_the_host_and_changes_nothing_in_the_log(key: str) -> None:
    scenario = a_guest().when_called("VM.send_sysrq", VM, key).then_so()
    assert told(scenario) == SendSysrq(key=key.lower())
    scenario.when_done(1, seen()).then(DONE)


@pytest.mark.parametrize("key", ["", "hh", "!", "ä"])
def test_what_is_no_key_is_refused(key: str) -> None:
    a_guest().when_called("VM.send_sysrq", VM, key).then_refused("INVALID_VALUE", "key", key)


@pytest.mark.parametrize("trigger", VmTrigger)
def test_a_trigger_reaches_the_host(trigger: str) -> None:
    scenario = a_guest().when_called("VM.send_trigger", VM, trigger).then_so()
    assert told(scenario) == SendTrigger(trigger=VmTrigger(trigger))


def test_an_unknown_trigger_is_refused() -> None:
    a_guest().when_called("VM.send_trigger", VM, "kick").then_refused(
        "INVALID_VALUE", "trigger", "kick"
    )


def test_a_reset_is_a_reboot_or_the_guests_end_as_its_host_shows() -> None:
    scenario = a_guest().when_called("VM.send_trigger", VM, "reset").then_so()
    scenario.when_done(1, seen()).then(ev.VmRebooted(vm=VM), DONE)
    scenario = a_guest().when_called("VM.send_trigger", VM, "reset").then_so()
    scenario.when_done(1, seen(DomainState.SHUTOFF)).then(
        ev.VmHalted(vm=VM, reason="send_trigger: the guest has stopped"), DONE
    )


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("set_VCPUs_number_live", ("1",)),
        ("add_to_VCPUs_params_live", ("weight", "1")),
        ("set_memory_dynamic_max_live", (512 * MIB,)),
        ("set_memory_dynamic_min_live", (512 * MIB,)),
        ("send_sysrq", ("h",)),
        ("send_trigger", ("nmi",)),
    ],
)
def test_only_a_running_guest_can_be_changed(method: str, arguments: tuple[Any, ...]) -> None:
    a_halted_vm().when_called(f"VM.{method}", VM, *arguments).then_refused(
        "VM_BAD_POWER_STATE", VM, "running", "halted"
    )
    given(*a_pool(1), *paused()).when_called(f"VM.{method}", VM, *arguments).then_refused(
        "VM_BAD_POWER_STATE", VM, "running", "paused"
    )
    lost = a_guest().and_given(ev.HostLost(host=HOST, evidence="dead"))
    lost.when_called(f"VM.{method}", VM, *arguments).then_refused("HOST_OFFLINE", HOST)


@pytest.mark.parametrize(
    ("operation", "method", "arguments"),
    [
        ("changing_VCPUs_live", "set_VCPUs_number_live", ("1",)),
        ("changing_dynamic_range", "set_memory_dynamic_range", (MIB, MIB)),
        ("send_sysrq", "send_sysrq", ("h",)),
        ("shutdown", "shutdown", ()),
    ],
)
def test_what_somebody_has_blocked_is_refused_with_the_reason(
    operation: str, method: str, arguments: tuple[Any, ...]
) -> None:
    scenario = a_guest(blocked_operations={VmOperation(operation): "not today"})
    scenario.when_called(f"VM.{method}", VM, *arguments).then_refused(
        "OPERATION_BLOCKED", VM, "not today"
    )


# --- shutdown


def test_shutdown_asks_first_and_then_does_not_ask() -> None:
    scenario = a_guest().when_called("VM.shutdown", VM).then_so()
    assert told(scenario) == ShutdownDomain(timeout_s=SHUTDOWN_TIMEOUT_S)
    scenario.when_failed(1, "VM_SHUTDOWN_TIMEOUT", "x", "1200", observation=seen()).then(
        ev.OperationAdvanced(task=task(1), step=1, host=HOST)
    )
    assert told(scenario) == DestroyDomain()
    scenario.when_done(1).then(ev.VmHalted(vm=VM, reason="shutdown"), DONE)


def test_shutdown_of_a_guest_that_listens_is_done_after_asking() -> None:
    scenario = a_guest().when_called("VM.shutdown", VM).then_so()
    scenario.when_done(1).then(ev.VmHalted(vm=VM, reason="shutdown"), DONE)


def test_shutdown_of_a_paused_guest_does_not_ask() -> None:
    scenario = given(*a_pool(1), *paused()).when_called("VM.shutdown", VM).then_so()
    assert told(scenario) == DestroyDomain()


def test_a_shutdown_ends_the_wish_that_high_availability_fulfils() -> None:
    scenario = a_guest(ha_restart_priority="restart", ha_always_run=True)
    scenario.when_called("VM.shutdown", VM).then_so()
    assert not scenario.vm().config.ha_always_run


def test_a_cancelled_shutdown_ends_there() -> None:
    scenario = a_guest().when_called("VM.shutdown", VM).then_so()
    scenario.when_failed(1, "TASK_CANCELLED", task(1), observation=seen()).then(
        ev.TaskFailed(task=task(1), error_info=("TASK_CANCELLED", task(1)))
    )
    assert scenario.vm().power_state is PowerState.RUNNING


def test_a_hard_shutdown_takes_the_place_of_a_shutdown() -> None:
    scenario = a_guest().when_called("VM.shutdown", VM).then_so()
    scenario.when_called("VM.hard_shutdown", VM).then_so()
    assert scenario.operation(1).is_cancelling


# --- the boot record


def test_the_boot_record_has_the_settings_of_the_last_boot() -> None:
    scenario = a_guest(PV_args="first")
    scenario.when_called("VM.set_PV_args", VM, "second").then_so()
    assert scenario.answer("VM.get_record", VM)["PV_args"] == "second"
    booted = scenario.answer("VM.get_boot_record", VM)
    assert (booted["PV_args"], booted["power_state"]) == ("first", "Running")
    assert booted.keys() == scenario.answer("VM.get_record", VM).keys()


def test_a_halted_vm_has_no_boot_record() -> None:
    scenario = a_guest().and_given(ev.VmHalted(vm=VM, reason="x"))
    with pytest.raises(VmBadPowerState):
        scenario.answer("VM.get_boot_record", VM)
    assert scenario.vm().booted_config is None
