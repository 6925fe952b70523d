"""Messages of tasks and hosts, and the fields that are computed of them."""

from typing import Final

import pytest

from pool_master.core import events as ev
from pool_master.core.host_messages import host_ref_of
from shared.enums import TaskStatus, VmOperation
from shared.refs import derive
from tests.support.facts import (
    HOST,
    HOST_2,
    VM,
    a_pool,
    accepted,
    host_joined,
    pool_created,
    running,
    seen,
    task,
    task_uuid,
    vm_created,
)
from tests.support.spec import Scenario, given

OWN: Final = task(1)


def own_task() -> Scenario:
    """A client's own task."""
    return given(*a_pool(2)).when_called("task.create", "build", "a long one").then_so()


def status_of(scenario: Scenario) -> TaskStatus:
    return scenario.pool.tasks[OWN].status


# --- a client's own tasks


def test_a_task_of_a_client_is_pending_until_the_client_says_so() -> None:
    scenario = own_task()
    record = scenario.answer("task.get_record", OWN)
    assert (record["name_label"], record["name_description"]) == ("build", "a long one")
    assert (record["status"], record["progress"], record["allowed_operations"]) == (
        "pending",
        0.0,
        ["cancel"],
    )
    assert scenario.pool.tasks[OWN].owner == "alice"


def test_the_same_wish_for_a_task_makes_nothing_new() -> None:
    scenario = own_task().skip_commands(0)
    scenario.when_called("task.create", "build", "").then_nothing_new()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("success", TaskStatus.SUCCESS),
        ("failure", TaskStatus.FAILURE),
        ("cancelled", TaskStatus.CANCELLED),
        ("cancelling", TaskStatus.CANCELLING),
        ("pending", TaskStatus.PENDING),
    ],
)
def test_a_client_sets_its_tasks_status(status: str, expected: TaskStatus) -> None:
    scenario = own_task().when_called("task.set_status", OWN, status).then_so()
    assert status_of(scenario) is expected
    is_finished = expected in {TaskStatus.SUCCESS, TaskStatus.FAILURE, TaskStatus.CANCELLED}
    allowed = ["destroy"] if is_finished else []
    if expected is not TaskStatus.PENDING:
        assert scenario.answer("task.get_allowed_operations", OWN) == allowed


def test_a_finished_task_stays_finished() -> None:
    scenario = own_task().when_called("task.set_status", OWN, "failure").then_so()
    scenario.when_called("task.set_status", OWN, "success").then_nothing_new()
    scenario.when_called("task.cancel", OWN).then_nothing_new()
    for event in (
        ev.TaskSucceeded(task=OWN),
        ev.TaskFailed(task=OWN, error_info=("X",)),
        ev.CancelRequested(task=OWN),
        ev.OperationProgressed(task=OWN, progress=0.5),
    ):
        scenario.and_given(event)
    assert status_of(scenario) is TaskStatus.FAILURE
    assert scenario.pool.tasks[OWN].progress == 0.0


def test_a_client_sets_progress_within_bounds_and_result_and_error() -> None:
    scenario = own_task()
    for given_, kept in ((0.5, 0.5), (7, 1.0), ("-1", 0.0)):
        scenario.when_called("task.set_progress", OWN, given_).then_so()
        assert scenario.pool.tasks[OWN].progress == kept
    scenario.when_called("task.set_progress", OWN, "nan").then_refused(
        "INVALID_VALUE", "value", "nan"
    )
    scenario.when_called("task.set_result", OWN, "<value/>").then_so()
    scenario.when_called("task.set_error_info", OWN, ["CODE", "x"]).then_so()
    record = scenario.answer("task.get_record", OWN)
    assert (record["result"], record["error_info"]) == ("<value/>", ["CODE", "x"])


def test_a_cancelled_task_of_a_client_ends() -> None:
    scenario = (
        own_task()
        .when_called("task.cancel", OWN)
        .then(ev.TaskFailed(task=OWN, error_info=("TASK_CANCELLED", OWN)))
    )
    assert status_of(scenario) is TaskStatus.CANCELLED


def test_a_destroyed_task_is_gone() -> None:
    scenario = own_task().when_called("task.destroy", OWN).then(ev.TaskDestroyed(task=OWN))
    assert list(scenario.pool.tasks) == []
    assert ("task", task_uuid(1)) not in scenario.pool.uuids
    scenario.when_called("task.destroy", OWN).then_refused("HANDLE_INVALID", "task", OWN)
    scenario.and_given(ev.TaskDestroyed(task=OWN), ev.TaskUpdated(task=OWN, progress=0.5))


# --- the pool's tasks


def operating(kind: VmOperation = VmOperation.CLEAN_SHUTDOWN) -> Scenario:
    return given(*a_pool(2), *running(), accepted(kind)).skip_commands(1)


def test_what_waits_for_a_guest_can_be_cancelled_once() -> None:
    scenario = operating().when_called("task.cancel", OWN).then(ev.CancelRequested(task=OWN))
    assert scenario.answer("task.get_current_operations", OWN) == {OWN: "cancel"}
    scenario.when_called("task.cancel", OWN).then_nothing_new()
    assert status_of(scenario) is TaskStatus.CANCELLING


def test_what_a_host_does_at_once_cannot_be_cancelled() -> None:
    operating(VmOperation.PAUSE).when_called("task.cancel", OWN).then_refused(
        "OPERATION_NOT_ALLOWED", "this task cannot be cancelled in its present phase"
    )


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("task.set_status", ("success",)),
        ("task.set_progress", (0.5,)),
        ("task.set_result", ("x",)),
        ("task.set_error_info", (["x"],)),
        ("task.destroy", ()),
    ],
)
def test_a_client_does_not_touch_the_task_of_an_operation(
    method: str, arguments: tuple[object, ...]
) -> None:
    outcome = operating().when_called(method, OWN, *arguments)
    assert outcome.refusal is not None
    assert outcome.refusal.code == "OPERATION_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("method", "value"), [("task.set_result", "x"), ("task.set_error_info", ["x"])]
)
def test_a_client_does_not_rewrite_how_an_operation_has_ended(method: str, value: object) -> None:
    scenario = operating().when_done(1, seen()).then_so()
    outcome = scenario.when_called(method, OWN, value)
    assert outcome.refusal is not None
    assert outcome.refusal.code == "OPERATION_NOT_ALLOWED"


def test_an_operation_whose_task_was_ended_by_others_still_ends() -> None:
    """A call that waited for its turn, and was cancelled in the moment in which its turn came."""
    scenario = given(
        *a_pool(1),
        vm_created(),
        ev.TaskCreated(task=OWN, uuid=task_uuid(1), name_label="Async.VM.start"),
        ev.TaskFailed(task=OWN, error_info=("TASK_CANCELLED", OWN)),
        accepted(VmOperation.START),
    )
    scenario.when_done(1, seen()).then_so()
    assert scenario.vm().current_operations == {}
    assert list(scenario.pool.operations) == []
    assert status_of(scenario) is TaskStatus.CANCELLED


def test_the_task_of_a_waiting_call_becomes_its_operations() -> None:
    scenario = given(
        *a_pool(1),
        vm_created(),
        ev.TaskCreated(task=OWN, uuid=task_uuid(1), name_label="Async.VM.start"),
        accepted(VmOperation.START, label="Async.VM.start"),
    )
    assert scenario.pool.tasks[OWN].name_label == "Async.VM.start"
    assert scenario.pool.tasks[OWN].resident_on == HOST
    scenario.when_done(1, seen()).then_so()
    assert (status_of(scenario), scenario.pool.tasks[OWN].progress) == (TaskStatus.SUCCESS, 1.0)


# --- hosts


def test_a_host_joins_once_under_the_same_reference() -> None:
    scenario = given(pool_created())
    uuid = derive("new", "host")
    arguments = (uuid, "new", "", "h9", "192.0.2.9")
    scenario.when_called("host.create", *arguments).then(
        ev.HostJoined(
            host=host_ref_of(uuid),
            uuid=uuid,
            name_label="new",
            hostname="h9",
            address="192.0.2.9",
        )
    )
    scenario.when_called("host.create", *arguments).then_nothing_new()
    assert scenario.answer("host.get_by_uuid", uuid) == host_ref_of(uuid)
    assert scenario.pool.record.master == host_ref_of(uuid)


@pytest.mark.parametrize("uuid", ["", "a b", "a.b", "a>b", "ü", "x" * 64])
def test_a_host_whose_uuid_could_not_be_a_subject_does_not_join(uuid: str) -> None:
    given(pool_created()).when_called("host.create", uuid, "n", "", "", "").then_refused(
        "INVALID_VALUE", "uuid", uuid
    )


def test_a_host_is_enabled_and_disabled_once() -> None:
    scenario = given(*a_pool(1))
    scenario.when_called("host.enable", HOST).then_nothing_new()
    scenario.when_called("host.disable", HOST).then(ev.HostDisabled(host=HOST))
    scenario.when_called("host.disable", HOST).then_nothing_new()
    assert scenario.answer("host.get_allowed_operations", HOST) == ["enable"]
    scenario.when_called("host.enable", HOST).then(ev.HostEnabled(host=HOST))
    assert "vm_start" in scenario.answer("host.get_allowed_operations", HOST)


def test_a_host_that_lives_is_not_destroyed() -> None:
    given(*a_pool(1)).when_called("host.destroy", HOST).then_refused("HOST_IS_LIVE", HOST)


def test_a_host_that_has_vms_is_not_destroyed() -> None:
    lost = ev.HostLost(host=HOST, evidence="")
    given(*a_pool(1), *running(), lost).when_called("host.destroy", HOST).then_refused(
        "HOST_HAS_RESIDENT_VMS", HOST
    )


def test_a_host_that_an_operation_names_is_not_destroyed() -> None:
    scenario = given(
        *a_pool(2),
        *running(),
        accepted(VmOperation.POOL_MIGRATE, destination=HOST_2),
        ev.VmHalted(vm=VM, reason=""),
        ev.HostLost(host=HOST, evidence=""),
    ).skip_commands(1)
    scenario.when_called("host.destroy", HOST).then_refused("HOST_HAS_RESIDENT_VMS", HOST)


def test_a_destroyed_host_leaves_nothing_and_the_pool_another_master() -> None:
    scenario = given(*a_pool(2), ev.HostLost(host=HOST, evidence=""))
    assert scenario.pool.record.master == HOST
    scenario.when_called("host.destroy", HOST).then(ev.HostForgotten(host=HOST))
    assert list(scenario.pool.hosts) == [HOST_2]
    assert len(scenario.pool.host_metrics) == 1
    assert scenario.pool.record.master == HOST_2
    # What the log may still hold of it changes nothing.
    for event in (
        ev.HostForgotten(host=HOST),
        ev.HostEnabled(host=HOST),
        ev.HostCameAlive(host=HOST),
        ev.HostReportsSeen(host=HOST, journal="j", sequence=1),
    ):
        scenario.and_given(event)
    assert list(scenario.pool.hosts) == [HOST_2]


def test_a_pool_without_hosts_has_no_master() -> None:
    scenario = given(pool_created(), host_joined(1), ev.HostForgotten(host=HOST))
    assert scenario.pool.record.master == "OpaqueRef:NULL"


def test_a_host_shows_who_is_coming() -> None:
    scenario = given(*a_pool(2), *running(), accepted(VmOperation.POOL_MIGRATE, destination=HOST_2))
    assert scenario.answer("host.get_current_operations", HOST_2) == {OWN: "vm_migrate"}
    assert scenario.answer("host.get_current_operations", HOST) == {}
    assert scenario.answer("host.get_resident_VMs", HOST_2) == []
    starting = given(*a_pool(1), vm_created(), accepted(VmOperation.START))
    assert starting.answer("host.get_current_operations", HOST) == {OWN: "vm_start"}


def test_a_lost_host_allows_nothing() -> None:
    scenario = given(*a_pool(1), ev.HostLost(host=HOST, evidence=""))
    assert scenario.answer("host.get_allowed_operations", HOST) == []


def test_events_of_vms_that_are_gone_change_nothing() -> None:
    scenario = given(*a_pool(1))
    for event in (
        ev.VmPaused(vm=VM),
        ev.VmUnpaused(vm=VM),
        ev.VmRebooted(vm=VM),
        ev.VmHalted(vm=VM, reason=""),
        ev.VmStarted(vm=VM, host=HOST, incarnation=1, domid=1),
        ev.VmMigrated(vm=VM, host=HOST, domid=1),
        ev.VmDestroyed(vm=VM),
        ev.OperationAdvanced(task=OWN, step=1, host=HOST),
        ev.OperationProgressed(task=OWN, progress=0.5),
        ev.TaskSucceeded(task=OWN),
    ):
        scenario.and_given(event)
    assert list(scenario.pool.vms) == []


def test_an_operation_on_a_vm_that_is_gone_stays_in_the_log_and_ends() -> None:
    scenario = given(*a_pool(1), accepted(VmOperation.START), ev.TaskSucceeded(task=OWN))
    assert list(scenario.pool.operations) == []
    assert status_of(scenario) is TaskStatus.SUCCESS


def test_the_log_begins_with_a_pool() -> None:
    with pytest.raises(LookupError):
        given().pool.record  # noqa: B018 - asking is what fails
