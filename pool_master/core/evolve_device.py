"""What events make true of operations on devices."""

from pool_master.core.changed import changed
from pool_master.core.devices import DeviceOperation
from pool_master.core.events import DeviceOperationAccepted, Recorded
from pool_master.core.pool import Pool
from pool_master.core.task import Task
from shared.codec import moment_from_us
from shared.refs import TaskRef

Touched = list[tuple[str, str]]

UNDER_WAY = "device.operations"


def evolve_device(pool: Pool, event: DeviceOperationAccepted, recorded: Recorded) -> Touched:
    """An operation on a device is accepted."""
    now = moment_from_us(recorded.time_us)
    task = pool.tasks.get(event.task) or Task(ref=event.task, uuid=event.task_uuid, created=now)
    pool.uuids["task", event.task_uuid] = event.task
    pool.tasks[event.task] = changed(
        task,
        name_label=event.name_label,
        owner=recorded.actor.name,
        resident_on=event.host,
        is_cancellable=False,
    )
    pool.device_operations[event.task] = DeviceOperation(
        task=event.task,
        object_class=event.object_class,
        device=event.device,
        name=event.name,
        operation=event.operation,
        vm=event.vm,
        host=event.host,
        incarnation=event.incarnation,
    )
    pool.link(UNDER_WAY, event.device, event.task)
    return [("task", event.task), (event.object_class, event.device)]


def end_device_operation(pool: Pool, task: TaskRef) -> Touched:
    """It is over, whatever became of it."""
    operation = pool.device_operations.pop(task, None)
    if operation is None:
        return []
    pool.unlink(UNDER_WAY, operation.device, task)
    return [(operation.object_class, operation.device)]
