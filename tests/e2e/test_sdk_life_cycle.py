"""XenAPI's official SDK leads VMs through their whole life, on real processes: master, agents, nats-server."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import XenAPI

from tests.e2e.conftest import MakeVm
from tests.support.pool import RunningPool, refusal, until, vm_record

NULL = "OpaqueRef:NULL"
GIB = 1 << 30
# A guest that does not react to its power button: what asks it to stop is stuck.
DEAF = {"vmpool-ignores-shutdown": "true"}
# The fields of the VM class as XenServer 4.0 published it.
SEED_FIELDS = """
    uuid allowed_operations current_operations power_state name_label name_description user_version is_a_template
    suspend_VDI resident_on affinity memory_static_max memory_dynamic_max memory_dynamic_min memory_static_min
    VCPUs_params VCPUs_max VCPUs_at_startup actions_after_shutdown actions_after_reboot actions_after_crash consoles
    VIFs VBDs crash_dumps VTPMs PV_bootloader PV_kernel PV_ramdisk PV_args PV_bootloader_args PV_legacy_args
    HVM_boot_policy HVM_boot_params platform PCI_bus other_config domid domarch last_boot_CPU_flags is_control_domain
    metrics guest_metrics recommendations
"""


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run a blocking call beside the test; its value, or its failure's details, will be in the list."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(call())
        except XenAPI.Failure as failure:
            answers.append(failure.details)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, answers


# --- made, and gone


def test_a_created_vm_has_every_field_of_the_class_and_keeps_what_it_was_given(
    any_xenapi: Any, any_make_vm: MakeVm
) -> None:
    given = vm_record(
        "web-1", name_description="serves", user_version="7", other_config={"owner": "alice"}
    )
    vm = any_make_vm("web-1", **given)

    record = any_xenapi.VM.get_record(vm)

    assert set(SEED_FIELDS.split()) <= set(record)
    assert record.pop("other_config").items() >= {"owner": "alice"}.items()
    del given["other_config"]
    assert {key: record[key] for key in given} == given
    assert (record["power_state"], record["domid"], record["resident_on"]) == ("Halted", "-1", NULL)
    assert record["current_operations"] == {}
    assert any_xenapi.VM.get_by_uuid(record["uuid"]) == vm
    assert vm in any_xenapi.VM.get_by_name_label("web-1")
    assert any_xenapi.VM_metrics.get_record(record["metrics"])["VCPUs_number"] == "0"


def test_a_destroyed_vm_is_gone_with_all_that_was_its(any_xenapi: Any, any_make_vm: MakeVm) -> None:
    vm = any_make_vm()
    metrics = any_xenapi.VM.get_metrics(vm)

    any_xenapi.VM.destroy(vm)

    assert refusal(any_xenapi.VM.get_record, vm) == ["HANDLE_INVALID", "VM", vm]
    assert refusal(any_xenapi.VM.start, vm, False, False) == ["HANDLE_INVALID", "VM", vm]
    assert vm not in any_xenapi.VM.get_all()
    assert vm not in any_xenapi.VM.get_all_records()
    assert metrics not in any_xenapi.VM_metrics.get_all()


def test_a_running_vm_is_not_destroyed(any_xenapi: Any, any_make_vm: MakeVm) -> None:
    vm = any_make_vm()
    any_xenapi.VM.start(vm, False, False)
    refused = ["VM_BAD_POWER_STATE", vm, "halted, suspended", "running"]
    assert refusal(any_xenapi.VM.destroy, vm) == refused
    assert any_xenapi.VM.get_power_state(vm) == "Running"


# --- started and stopped


def test_a_started_vm_runs_on_a_host_and_its_record_says_so(
    any_xenapi: Any, any_make_vm: MakeVm
) -> None:
    vm = any_make_vm()

    assert any_xenapi.VM.start(vm, False, False) == ""

    record = any_xenapi.VM.get_record(vm)
    assert record["power_state"] == "Running"
    assert int(record["domid"]) > 0
    assert vm in any_xenapi.host.get_resident_VMs(record["resident_on"])
    assert record["scheduled_to_be_resident_on"] == NULL
    metrics = any_xenapi.VM_metrics.get_record(record["metrics"])
    assert metrics["VCPUs_number"] == "1"
    assert metrics["start_time"].value > "20240101"


@pytest.mark.parametrize("stop", ["clean_shutdown", "hard_shutdown"])
def test_a_stopped_vm_is_halted_and_nowhere(
    any_xenapi: Any, any_make_vm: MakeVm, stop: str
) -> None:
    vm = any_make_vm()
    any_xenapi.VM.start(vm, False, False)
    host = any_xenapi.VM.get_resident_on(vm)

    getattr(any_xenapi.VM, stop)(vm)

    record = any_xenapi.VM.get_record(vm)
    state = (record["power_state"], record["domid"], record["resident_on"], record["guest_metrics"])
    assert state == ("Halted", "-1", NULL, NULL)
    assert record["consoles"] == []
    assert vm not in any_xenapi.host.get_resident_VMs(host)
    any_xenapi.VM.start(vm, False, False)
    assert any_xenapi.VM.get_power_state(vm) == "Running"


@pytest.mark.parametrize("reboot", ["clean_reboot", "hard_reboot"])
def test_a_rebooted_vm_runs_in_a_new_domain_on_the_same_host(
    any_xenapi: Any, any_make_vm: MakeVm, reboot: str
) -> None:
    vm = any_make_vm()
    any_xenapi.VM.start(vm, False, False)
    before = any_xenapi.VM.get_record(vm)

    getattr(any_xenapi.VM, reboot)(vm)

    after = any_xenapi.VM.get_record(vm)
    assert after["power_state"] == "Running"
    assert after["domid"] != before["domid"]
    assert after["resident_on"] == before["resident_on"]


def test_a_paused_vm_stands_still_until_it_is_unpaused(
    any_xenapi: Any, any_make_vm: MakeVm
) -> None:
    vm = any_make_vm()
    any_xenapi.VM.start(vm, False, False)
    domid = any_xenapi.VM.get_domid(vm)

    any_xenapi.VM.pause(vm)
    assert any_xenapi.VM.get_power_state(vm) == "Paused"
    bad_state = ["VM_BAD_POWER_STATE", vm, "running", "paused"]
    assert refusal(any_xenapi.VM.clean_shutdown, vm) == bad_state
    assert refusal(any_xenapi.VM.pause, vm) == bad_state

    any_xenapi.VM.unpause(vm)
    assert any_xenapi.VM.get_power_state(vm) == "Running"
    assert any_xenapi.VM.get_domid(vm) == domid


def test_a_vm_started_paused_waits_to_be_unpaused(any_xenapi: Any, any_make_vm: MakeVm) -> None:
    vm = any_make_vm()
    any_xenapi.VM.start(vm, True, False)
    assert any_xenapi.VM.get_power_state(vm) == "Paused"
    assert any_xenapi.VM.get_resident_on(vm) != NULL
    any_xenapi.VM.unpause(vm)
    assert any_xenapi.VM.get_power_state(vm) == "Running"
    any_xenapi.VM.pause(vm)
    any_xenapi.VM.hard_shutdown(vm)
    assert any_xenapi.VM.get_power_state(vm) == "Halted"


# --- where


def test_start_on_starts_on_that_host(xenapi: Any, make_vm: MakeVm, hosts: dict[str, str]) -> None:
    for host in hosts.values():
        vm = make_vm()
        xenapi.VM.start_on(vm, host, False, False)
        assert xenapi.VM.get_resident_on(vm) == host
        assert vm in xenapi.host.get_resident_VMs(host)


def test_start_on_a_disabled_host_is_refused(
    xenapi: Any, make_vm: MakeVm, hosts: dict[str, str]
) -> None:
    vm, host = make_vm(), hosts["host3"]
    xenapi.host.disable(host)
    try:
        refused = ["HOST_DISABLED", host]
        assert refusal(xenapi.VM.start_on, vm, host, False, False) == refused
        assert refusal(xenapi.VM.assert_can_boot_here, vm, host) == refused
        assert set(xenapi.VM.get_possible_hosts(vm)) == set(hosts.values()) - {host}
    finally:
        xenapi.host.enable(host)
    xenapi.VM.start_on(vm, host, False, False)


def test_a_migrated_vm_goes_on_elsewhere_as_the_same_run(
    xenapi: Any, make_vm: MakeVm, hosts: dict[str, str]
) -> None:
    vm = make_vm()
    xenapi.VM.start_on(vm, hosts["host1"], False, False)
    metrics = xenapi.VM.get_metrics(vm)
    started = xenapi.VM_metrics.get_start_time(metrics)

    xenapi.VM.pool_migrate(vm, hosts["host2"], {"live": "true"})

    assert xenapi.VM.get_power_state(vm) == "Running"
    assert xenapi.VM.get_resident_on(vm) == hosts["host2"]
    assert xenapi.VM_metrics.get_start_time(metrics) == started
    assert vm not in xenapi.host.get_resident_VMs(hosts["host1"])


def test_a_halted_vm_is_not_migrated(xenapi: Any, make_vm: MakeVm, hosts: dict[str, str]) -> None:
    vm = make_vm()
    refused = ["VM_BAD_POWER_STATE", vm, "running", "halted"]
    assert refusal(xenapi.VM.pool_migrate, vm, hosts["host1"], {}) == refused


def test_the_state_of_a_vm_on_a_living_host_is_not_reset(
    any_xenapi: Any, any_make_vm: MakeVm
) -> None:
    vm = any_make_vm()
    any_xenapi.VM.start(vm, False, False)
    host = any_xenapi.VM.get_resident_on(vm)
    assert refusal(any_xenapi.VM.power_state_reset, vm) == ["HOST_IS_LIVE", host]
    assert any_xenapi.VM.get_power_state(vm) == "Running"


def test_a_host_promises_no_more_memory_than_it_has(
    xenapi: Any, make_vm: MakeVm, hosts: dict[str, str]
) -> None:
    metrics = xenapi.host.get_metrics(hosts["host1"])
    half = str(int(xenapi.host_metrics.get_memory_total(metrics)) // 2 - GIB)
    sizes = dict.fromkeys(
        ("memory_static_max", "memory_dynamic_max", "memory_dynamic_min", "memory_static_min"), half
    )
    first, second, third = (make_vm(**sizes) for _ in range(3))
    xenapi.VM.start_on(first, hosts["host1"], False, False)
    xenapi.VM.start_on(second, hosts["host1"], False, False)

    code, needed, free = refusal(xenapi.VM.start_on, third, hosts["host1"], False, False)

    assert code == "HOST_NOT_ENOUGH_FREE_MEMORY"
    assert int(needed) > int(half) > int(free)
    assert xenapi.VM.get_power_state(third) == "Halted"
    assert hosts["host1"] not in xenapi.VM.get_possible_hosts(third)
    assert refusal(xenapi.VM.assert_can_boot_here, third, hosts["host1"])[0] == code
    xenapi.VM.hard_shutdown(first)
    xenapi.VM.start_on(third, hosts["host1"], False, False)


def test_a_vm_for_no_host_has_no_possible_hosts(xenapi: Any, make_vm: MakeVm) -> None:
    size = str(1_000 * GIB)
    vm = make_vm(memory_static_max=size, memory_dynamic_max=size, memory_dynamic_min=size)
    assert xenapi.VM.get_possible_hosts(vm) == []
    assert refusal(xenapi.VM.start, vm, False, False)[0] == "HOST_NOT_ENOUGH_FREE_MEMORY"


# --- what may be done, and what waits


@pytest.mark.parametrize("state", ["Halted", "Running", "Paused"])
def test_what_is_advertised_is_what_is_valid(
    any_xenapi: Any, any_make_vm: MakeVm, state: str
) -> None:
    vm = any_make_vm()
    if state != "Halted":
        any_xenapi.VM.start(vm, state == "Paused", False)
    allowed = any_xenapi.VM.get_allowed_operations(vm)
    known = {"start", "start_on", "pause", "unpause", "clean_shutdown", "hard_shutdown"}
    known |= {"clean_reboot", "hard_reboot", "pool_migrate", "destroy"}

    def error_of(operation: str) -> list[str]:
        try:
            any_xenapi.VM.assert_operation_valid(vm, operation)
        except XenAPI.Failure as failure:
            return [str(word) for word in failure.details]
        return []

    errors = {operation: error_of(operation) for operation in known}
    valid = {operation for operation, error in errors.items() if not error}
    assert valid == known & set(allowed)
    assert valid
    assert all(error[:2] == ["VM_BAD_POWER_STATE", vm] for error in errors.values() if error)


def test_an_operation_under_way_is_shown_and_leaves_only_what_is_stronger(
    xenapi: Any, make_vm: MakeVm
) -> None:
    vm = make_vm(platform=DEAF)
    xenapi.VM.start(vm, False, False)

    task = xenapi.Async.VM.clean_shutdown(vm)

    record = xenapi.VM.get_record(vm)
    assert record["current_operations"] == {task: "clean_shutdown"}
    assert record["allowed_operations"] == ["hard_reboot", "hard_shutdown"]
    assert record["power_state"] == "Running"
    busy = ["OTHER_OPERATION_IN_PROGRESS", "VM", vm, "clean_shutdown", task]
    assert refusal(xenapi.VM.assert_operation_valid, vm, "pause") == busy

    xenapi.task.cancel(task)
    until(lambda: xenapi.task.get_status(task) == "cancelled", what="the task is cancelled")
    record = xenapi.VM.get_record(vm)
    assert record["current_operations"] == {}
    assert "pause" in record["allowed_operations"]


def test_of_two_simultaneous_starts_one_succeeds_and_the_other_finds_it_running(
    any_pool: RunningPool, any_xenapi: Any, any_make_vm: MakeVm
) -> None:
    vm = any_make_vm()
    with any_pool.session() as one, any_pool.session() as two:
        calls = [in_thread(partial(x.VM.start, vm, False, False)) for x in (one, two)]
        for thread, _ in calls:
            thread.join(30)
        answers = [answer for _, found in calls for answer in found]

    assert len(answers) == 2
    assert "" in answers
    answers.remove("")
    assert answers == [["VM_BAD_POWER_STATE", vm, "halted", "running"]]
    assert any_xenapi.VM.get_power_state(vm) == "Running"


def test_a_call_behind_another_operation_waits_for_its_turn(
    pool: RunningPool, xenapi: Any, make_vm: MakeVm
) -> None:
    vm = make_vm(platform=DEAF)
    xenapi.VM.start(vm, False, False)
    stuck = xenapi.Async.VM.clean_shutdown(vm)
    with pool.session() as other:
        thread, answers = in_thread(lambda: other.VM.pause(vm))
        # A wait cannot be seen from outside; a call that does not wait would have answered by now.
        thread.join(0.5)
        assert answers == []
        assert xenapi.VM.get_power_state(vm) == "Running"

        xenapi.task.cancel(stuck)
        thread.join(30)

    assert answers == [""]
    assert xenapi.VM.get_power_state(vm) == "Paused"


def test_hard_shutdown_goes_over_a_clean_shutdown_that_is_stuck(
    xenapi: Any, make_vm: MakeVm
) -> None:
    vm = make_vm(platform=DEAF)
    xenapi.VM.start(vm, False, False)
    stuck = xenapi.Async.VM.clean_shutdown(vm)
    until(lambda: xenapi.VM.get_current_operations(vm), what="the clean shutdown is under way")

    xenapi.VM.hard_shutdown(vm)

    assert xenapi.VM.get_power_state(vm) == "Halted"
    # Cancelled, or done after all: the guest was off before the host heard of the cancellation.
    ended = until(
        lambda: (
            (status := xenapi.task.get_status(stuck)) not in {"pending", "cancelling"} and status
        ),
        what="the overtaken task ends",
    )
    assert ended in {"cancelled", "success"}
    assert xenapi.VM.get_current_operations(vm) == {}
    xenapi.VM.start(vm, False, False)
    assert xenapi.VM.get_power_state(vm) == "Running"


def test_a_hundred_vms_at_once_all_get_where_they_were_sent(
    pool: RunningPool, xenapi: Any, make_vm: MakeVm, hosts: dict[str, str]
) -> None:
    names = sorted(hosts)
    vms = [make_vm(f"many-{number}") for number in range(100)]
    wanted = {vm: hosts[names[place % 3]] for place, vm in enumerate(vms)}

    tasks = [xenapi.Async.VM.start_on(vm, host, False, False) for vm, host in wanted.items()]
    until(
        lambda: all(xenapi.task.get_status(task) == "success" for task in tasks),
        what="all have started",
        seconds_max=60,
    )

    assert {vm: xenapi.VM.get_resident_on(vm) for vm in vms} == wanted
    assert len({xenapi.VM.get_uuid(vm) for vm in vms}) == 100
