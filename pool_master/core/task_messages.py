"""Messages of the task class."""

from dataclasses import dataclass
from typing import Final

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.datamodel import Message, command, ref_to
from pool_master.core.lookup import task_of
from pool_master.core.pool import Pool
from pool_master.core.task import Task
from shared.enums import TaskStatus
from shared.errors import OperationNotAllowed, TaskCancelled
from shared.refs import TaskRef


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCreate:
    """Create a new task object which must be manually destroyed."""

    label: str
    description: str


def decide_task_create(pool: Pool, request: TaskCreate, context: Context) -> list[ev.Event]:
    """XenAPI reference 4.5; the same wish again makes nothing new."""
    if context.task in pool.tasks:
        return []
    return [
        ev.TaskCreated(
            task=context.task,
            uuid=context.task_uuid,
            name_label=request.label,
            name_description=request.description,
        )
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDestroy:
    """Destroy the task object. One that has not finished is cancelled first, and goes when it ends."""

    self: TaskRef


def decide_task_destroy(pool: Pool, request: TaskDestroy, _context: Context) -> list[ev.Event]:
    """XenAPI reference 4.5; a task that an operation still needs stays until its end."""
    task = task_of(pool, request.self)
    if pool.is_busy(task.ref):
        raise OperationNotAllowed("the task's operation is still in progress: cancel it, or wait")
    return [ev.TaskDestroyed(task=task.ref)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCancel:
    """Request that a task be cancelled. It ends with what is true when it does."""

    task: TaskRef


def decide_task_cancel(pool: Pool, request: TaskCancel, _context: Context) -> list[ev.Event]:
    """XenAPI reference 4.5."""
    task = task_of(pool, request.task)
    if task.is_finished or task.status is TaskStatus.CANCELLING:
        return []
    if not task.is_cancellable:
        raise OperationNotAllowed("this task cannot be cancelled in its present phase")
    if pool.is_busy(task.ref):
        return [ev.CancelRequested(task=task.ref)]
    # Nobody works on it: a call that waits its turn, or a client's own task.
    return [ev.TaskFailed(task=task.ref, error_info=tuple(TaskCancelled(task.ref).description))]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetProgress:
    """Set the task progress."""

    self: TaskRef
    value: float


def decide_set_progress(pool: Pool, request: SetProgress, _context: Context) -> list[ev.Event]:
    """XenAPI reference 4.5: for a client's own task."""
    task = _own(pool, request.self)
    return [ev.TaskUpdated(task=task.ref, progress=min(max(request.value, 0.0), 1.0))]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetResult:
    """Set the task result."""

    self: TaskRef
    value: str


def decide_set_result(pool: Pool, request: SetResult, _context: Context) -> list[ev.Event]:
    """XenAPI reference 4.5."""
    return [ev.TaskUpdated(task=_own(pool, request.self).ref, result=request.value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetErrorInfo:
    """Set the task error info."""

    self: TaskRef
    value: tuple[str, ...]


def decide_set_error_info(pool: Pool, request: SetErrorInfo, _context: Context) -> list[ev.Event]:
    """XenAPI reference 4.5."""
    return [ev.TaskUpdated(task=_own(pool, request.self).ref, error_info=request.value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetStatus:
    """Set the task status."""

    self: TaskRef
    value: TaskStatus


def decide_set_status(pool: Pool, request: SetStatus, _context: Context) -> list[ev.Event]:
    """XenAPI reference 4.5: a finished task stays finished."""
    task = _own(pool, request.self)
    if task.is_finished:
        return []
    match request.value:
        case TaskStatus.SUCCESS:
            return [ev.TaskSucceeded(task=task.ref, result=task.result)]
        case TaskStatus.FAILURE:
            return [ev.TaskFailed(task=task.ref, error_info=task.error_info)]
        case TaskStatus.CANCELLED:
            error = tuple(TaskCancelled(task.ref).description)
            return [ev.TaskFailed(task=task.ref, error_info=error)]
        case TaskStatus.CANCELLING:
            return [ev.CancelRequested(task=task.ref)]
        case TaskStatus.PENDING:
            return []


def _own(pool: Pool, ref: TaskRef) -> Task:
    task = task_of(pool, ref)
    if not task.is_clients_own:
        raise OperationNotAllowed("the pool itself keeps this task")
    return task


MESSAGES: Final[tuple[Message, ...]] = (
    command(
        TaskCreate,
        decide_task_create,
        name="create",
        returns=ref_to("task"),
        result=lambda _request, context: context.task,
        has_async=False,
    ),
    command(TaskDestroy, decide_task_destroy, name="destroy", has_async=False),
    command(
        TaskCancel,
        decide_task_cancel,
        name="cancel",
        has_async=False,
        errors=("OPERATION_NOT_ALLOWED",),
    ),
    command(SetProgress, decide_set_progress, name="set_progress", has_async=False),
    command(SetResult, decide_set_result, name="set_result", has_async=False),
    command(SetErrorInfo, decide_set_error_info, name="set_error_info", has_async=False),
    command(SetStatus, decide_set_status, name="set_status", has_async=False),
)
