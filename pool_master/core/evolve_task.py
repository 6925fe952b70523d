"""What events make true of tasks, and of the operations that hosts carry out under them."""

from typing import assert_never

from pool_master.core import events as ev
from pool_master.core.changed import changed
from pool_master.core.datamodel import EMPTY_MAP
from pool_master.core.evolve_device import end_device_operation
from pool_master.core.evolve_storage import end_storage_operation
from pool_master.core.evolve_vm import (
    Touched,
    promised_memory,
    put_vm,
    reservation,
    reserving,
)
from pool_master.core.pool import Pool
from pool_master.core.task import Operation, Task
from shared.codec import moment_from_us
from shared.enums import TaskStatus, VmOperation
from shared.errors import TaskCancelled
from shared.refs import (
    NULL_HOST,
    NULL_TASK,
    TaskRef,
    VmRef,
)

CANCELLABLE = (
    VmOperation.CLEAN_SHUTDOWN,
    VmOperation.SHUTDOWN,
    VmOperation.CLEAN_REBOOT,
    VmOperation.POOL_MIGRATE,
)


def evolve_operation(
    pool: Pool,
    event: ev.OperationAccepted | ev.OperationAdvanced | ev.OperationProgressed,
    recorded: ev.Recorded,
) -> Touched:
    """An operation is accepted, goes on, or is further on its way."""
    match event:
        case ev.OperationAccepted():
            return _accept(pool, event, recorded)
        case ev.OperationAdvanced():
            old = pool.operations.get(event.task)
            if old is None:
                return []
            return _advance(pool, old, event)
        case ev.OperationProgressed():
            running = pool.tasks.get(event.task)
            if running is None or running.is_finished:
                return []
            pool.tasks[event.task] = changed(running, progress=event.progress)
            return [("task", event.task)]
    assert_never(event)


def _advance(pool: Pool, old: Operation, event: ev.OperationAdvanced) -> Touched:
    vm = pool.vms.get(old.vm)
    operation = changed(old, step=event.step, host=event.host)
    if vm is not None and old.kind is VmOperation.HARD_SHUTDOWN:
        # It waited for a reboot or a migration: it ends whatever that has left.
        operation = changed(operation, incarnation=vm.incarnation)
    pool.operations[event.task] = operation
    pool.tasks[event.task] = changed(pool.tasks[event.task], resident_on=event.host)
    touched: Touched = [("task", event.task)]
    return touched if vm is None else touched + put_vm(pool, reserving(pool, vm))


# Operations that leave the domain where it is reserve nothing elsewhere.
# What new ones are copied from: the copy is the hot path.
_NEW_TASK = Task(ref=NULL_TASK, uuid="")
_NEW_OPERATION = Operation(
    task=NULL_TASK, kind=VmOperation.START, vm=VmRef(""), host=NULL_HOST, incarnation=0
)


def _accept(pool: Pool, event: ev.OperationAccepted, recorded: ev.Recorded) -> Touched:
    now = moment_from_us(recorded.time_us)
    task = pool.tasks.get(event.task) or _NEW_TASK
    pool.uuids["task", event.task_uuid] = event.task
    pool.tasks[event.task] = changed(
        task,
        ref=event.task,
        uuid=event.task_uuid,
        name_label=event.name_label,
        owner=recorded.actor.name,
        created=now if task is _NEW_TASK else task.created,
        resident_on=event.host,
        is_cancellable=event.operation in CANCELLABLE,
    )
    pool.operations[event.task] = changed(
        _NEW_OPERATION,
        task=event.task,
        kind=event.operation,
        vm=event.vm,
        host=event.host,
        incarnation=event.incarnation,
        destination=event.destination,
        arguments=event.arguments,
        accepted_at=now,
    )
    vm = pool.vms.get(event.vm)
    if vm is None:
        return [("task", event.task)]
    operations = {**vm.current_operations, event.task: event.operation}
    vm = changed(
        vm,
        current_operations=operations,
        last_incarnation=max(vm.last_incarnation, event.incarnation),
        scheduled_to_be_resident_on=reservation(pool, vm, operations),
        memory_promised=promised_memory(pool, operations),
    )
    return [("task", event.task), *put_vm(pool, vm)]


def evolve_end(
    pool: Pool, event: ev.TaskSucceeded | ev.TaskFailed | ev.CancelRequested, recorded: ev.Recorded
) -> Touched:
    """A task has its one end, and its operation with it; or somebody wants it to end."""
    task = pool.tasks.get(event.task)
    if task is None or task.is_finished:
        # Whatever became of its task: an operation that is over is over.
        return [] if isinstance(event, ev.CancelRequested) else _end_operation(pool, event.task)
    if isinstance(event, ev.CancelRequested):
        pool.tasks[task.ref] = changed(task, status=TaskStatus.CANCELLING, is_cancellable=False)
        running = pool.operations.get(task.ref)
        if running is not None:
            pool.operations[task.ref] = changed(running, is_cancelling=True)
        on_storage = pool.storage_operations.get(task.ref)
        if on_storage is not None:
            pool.storage_operations[task.ref] = changed(on_storage, is_cancelling=True)
        return [("task", task.ref)]
    status, progress, result, error_info = TaskStatus.SUCCESS, 1.0, "", task.error_info
    if isinstance(event, ev.TaskSucceeded):
        result = event.result
    else:
        is_cancelled = event.error_info[:1] == (TaskCancelled.code,)
        status = TaskStatus.CANCELLED if is_cancelled else TaskStatus.FAILURE
        progress, result, error_info = task.progress, task.result, event.error_info
    pool.tasks[task.ref] = changed(
        task,
        finished=moment_from_us(recorded.time_us),
        status=status,
        progress=progress,
        result=result,
        error_info=error_info,
        is_cancellable=False,
        resident_on=NULL_HOST,
    )
    touched = _end_operation(pool, task.ref)
    touched.append(("task", task.ref))
    return touched


def _end_operation(pool: Pool, task: TaskRef) -> Touched:
    """An operation is over: its mark and its reservation go with it, whatever became of it (invariant 8)."""
    if task in pool.storage_operations:
        return end_storage_operation(pool, task)
    if task in pool.device_operations:
        return end_device_operation(pool, task)
    operation = pool.operations.pop(task, None)
    vm = None if operation is None else pool.vms.get(operation.vm)
    if operation is None or vm is None:
        return []
    others = EMPTY_MAP
    if len(vm.current_operations) > 1 or task not in vm.current_operations:
        others = {key: value for key, value in vm.current_operations.items() if key != task}
    scheduled = reservation(pool, vm, others)
    promised = promised_memory(pool, others)
    return put_vm(
        pool,
        changed(
            vm,
            current_operations=others,
            scheduled_to_be_resident_on=scheduled,
            memory_promised=promised,
        ),
    )


def evolve_task(
    pool: Pool, event: ev.TaskCreated | ev.TaskUpdated | ev.TaskDestroyed, recorded: ev.Recorded
) -> Touched:
    """A client's own task, or that of a call that waits its turn."""
    match event:
        case ev.TaskCreated():
            pool.tasks[event.task] = Task(
                ref=event.task,
                uuid=event.uuid,
                name_label=event.name_label,
                name_description=event.name_description,
                owner=recorded.actor.name,
                command_id=recorded.command_id,
                method=event.method,
                parameters=event.parameters,
                is_cancellable=True,
                created=moment_from_us(recorded.time_us),
            )
            pool.uuids["task", event.uuid] = event.task
        case ev.TaskUpdated():
            task = pool.tasks.get(event.task)
            if task is None:
                return []
            pool.tasks[event.task] = changed(
                task,
                progress=task.progress if event.progress is None else event.progress,
                result=task.result if event.result is None else event.result,
                error_info=task.error_info if event.error_info is None else event.error_info,
            )
        case ev.TaskDestroyed():
            gone = pool.tasks.pop(event.task, None)
            if gone is not None:
                pool.uuids.pop(("task", gone.uuid), None)
    return [("task", event.task)]
