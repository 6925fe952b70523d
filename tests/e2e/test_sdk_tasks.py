"""Async calls through XenAPI's SDK: the task is there at once, and says truly how the call ended."""

from typing import Any

import pytest

from tests.e2e.conftest import MakeVm
from tests.e2e.test_sdk_life_cycle import DEAF
from tests.support.pool import RunningPool, refusal, until

EPOCH = "19700101T00:00:00Z"


def ended(xenapi: Any, task: str) -> dict[str, Any]:
    """Wait for the end of a task and give its record."""

    def finished() -> dict[str, Any] | None:
        record: dict[str, Any] = xenapi.task.get_record(task)
        return None if record["status"] in {"pending", "cancelling"} else record

    record = until(finished, what="the task ends")
    assert record is not None
    return record


def test_the_result_of_a_call_is_in_its_task(xenapi: Any, make_vm: MakeVm) -> None:
    record = xenapi.VM.get_record(make_vm("made-first"))
    given = {key: record[key] for key in record if key not in {"uuid", "name_label"}}

    task = ended(xenapi, xenapi.Async.VM.create({**given, "name_label": "made-by-a-task"}))

    (vm,) = xenapi.VM.get_by_name_label("made-by-a-task")
    assert task["status"] == "success"
    assert task["result"] == f"<value>{vm}</value>"
    assert (task["progress"], task["error_info"]) == (1.0, [])
    assert task["finished"].value >= task["created"].value > EPOCH
    xenapi.VM.destroy(vm)


def test_a_call_without_a_value_leaves_an_empty_result(xenapi: Any, make_vm: MakeVm) -> None:
    vm = make_vm()
    task = ended(xenapi, xenapi.Async.VM.start(vm, False, False))
    assert (task["status"], task["result"], task["progress"]) == ("success", "", 1.0)
    assert xenapi.VM.get_power_state(vm) == "Running"


def test_a_refusal_is_in_the_task_with_its_code(xenapi: Any, make_vm: MakeVm) -> None:
    vm = make_vm()
    task = ended(xenapi, xenapi.Async.VM.pause(vm))
    assert task["status"] == "failure"
    assert task["error_info"] == ["VM_BAD_POWER_STATE", vm, "running", "halted"]
    assert task["result"] == ""


def test_wrong_parameters_are_refused_before_there_is_a_task(xenapi: Any, make_vm: MakeVm) -> None:
    vm, tasks = make_vm(), set(xenapi.task.get_all())
    assert refusal(xenapi.Async.VM.start, vm)[0] == "MESSAGE_PARAMETER_COUNT_MISMATCH"
    assert refusal(xenapi.Async.VM.get_power_state, vm)[0] == "MESSAGE_METHOD_UNKNOWN"
    assert set(xenapi.task.get_all()) == tasks


def test_a_task_under_way_can_be_cancelled_and_leaves_the_vm_as_it_was(
    xenapi: Any, make_vm: MakeVm
) -> None:
    vm = make_vm(platform=DEAF)
    xenapi.VM.start(vm, False, False)
    task = xenapi.Async.VM.clean_shutdown(vm)
    record = xenapi.task.get_record(task)
    assert (record["status"], record["allowed_operations"]) == ("pending", ["cancel"])
    assert 0.0 <= record["progress"] < 1.0
    assert record["finished"].value == EPOCH
    assert record["resident_on"] == xenapi.VM.get_resident_on(vm)

    xenapi.task.cancel(task)

    record = ended(xenapi, task)
    assert record["status"] == "cancelled"
    assert record["error_info"] == ["TASK_CANCELLED", task]
    assert xenapi.VM.get_power_state(vm) == "Running"
    assert xenapi.VM.get_current_operations(vm) == {}


def test_a_call_that_waits_for_its_turn_can_be_cancelled(xenapi: Any, make_vm: MakeVm) -> None:
    vm = make_vm(platform=DEAF)
    xenapi.VM.start(vm, False, False)
    stuck = xenapi.Async.VM.clean_shutdown(vm)
    waiting = xenapi.Async.VM.pause(vm)
    assert xenapi.task.get_status(waiting) == "pending"

    xenapi.task.cancel(waiting)

    assert ended(xenapi, waiting)["error_info"] == ["TASK_CANCELLED", waiting]
    xenapi.task.cancel(stuck)
    assert ended(xenapi, stuck)["status"] == "cancelled"
    assert xenapi.VM.get_power_state(vm) == "Running"


def test_a_finished_task_can_be_destroyed_and_a_running_one_not_cancelled_twice(
    xenapi: Any, make_vm: MakeVm
) -> None:
    vm = make_vm()
    task = xenapi.Async.VM.start(vm, False, False)
    ended(xenapi, task)
    xenapi.task.destroy(task)
    assert refusal(xenapi.task.get_record, task) == ["HANDLE_INVALID", "task", task]
    assert xenapi.VM.get_power_state(vm) == "Running"


def test_a_clients_own_task_is_its_to_fill(xenapi: Any) -> None:
    task = xenapi.task.create("import", "of something")
    assert xenapi.task.get_status(task) == "pending"
    xenapi.task.set_status(task, "success")
    assert xenapi.task.get_record(task)["status"] == "success"
    xenapi.task.destroy(task)
    assert task not in xenapi.task.get_all()


@pytest.mark.nats
def test_a_task_outlives_the_master_and_ends_truly(
    pool: RunningPool, xenapi: Any, make_vm: MakeVm
) -> None:
    vm = make_vm(platform=DEAF)
    xenapi.VM.start(vm, False, False)
    task = xenapi.Async.VM.clean_shutdown(vm)
    waiting = xenapi.Async.VM.pause(vm)

    pool.kill("master")

    with pool.session_after_restart() as later:
        assert later.task.get_status(task) == "pending"
        assert later.VM.get_current_operations(vm) == {task: "clean_shutdown"}
        later.task.cancel(task)
        assert ended(later, task)["status"] == "cancelled"
        # The call that waited goes on under the new leader.
        assert ended(later, waiting)["status"] == "success"
        assert later.VM.get_power_state(vm) == "Paused"
        later.VM.hard_shutdown(vm)
        later.VM.destroy(vm)
