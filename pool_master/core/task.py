"""Tasks, and the operations on VMs that hosts carry out under them."""

from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import Struct, field

from pool_master.core.datamodel import EMPTY_MAP, inert, runtime, rw
from shared.codec import EPOCH
from shared.enums import TaskStatus, VmOperation
from shared.refs import NULL_HOST, NULL_TASK, HostRef, TaskRef, VmRef

StringMap = dict[str, str]


FINISHED: Final = frozenset({TaskStatus.SUCCESS, TaskStatus.FAILURE, TaskStatus.CANCELLED})


def _empty() -> StringMap:
    return EMPTY_MAP


class Task(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """task: something long that somebody asked for; in the log like everything else.

    `owner` is the user that made it; `command_id`, `method` and `parameters` are the call that waits for its turn under
    it, if any.
    """

    ref: TaskRef
    owner: str = ""
    command_id: str = ""
    method: str = ""
    parameters: tuple[Any, ...] = ()
    is_cancellable: bool = False
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    name_label: Annotated[str, runtime("a human-readable name")] = ""
    name_description: Annotated[str, runtime("a notes field")] = ""
    created: Annotated[datetime, runtime("time task was created")] = EPOCH
    finished: Annotated[datetime, runtime("time task finished; 1970 while it has not")] = EPOCH
    status: Annotated[TaskStatus, runtime("current status of the task")] = TaskStatus.PENDING
    resident_on: Annotated[HostRef, runtime("the host on which the task is running")] = NULL_HOST
    progress: Annotated[float, runtime("0 to 1")] = 0.0
    type: Annotated[str, runtime("the type of the result")] = "<none/>"
    result: Annotated[str, runtime("the result, as an XML-RPC value")] = ""
    error_info: Annotated[tuple[str, ...], runtime("why it failed")] = ()
    other_config: Annotated[StringMap, rw("additional configuration")] = field(
        default_factory=_empty
    )
    subtask_of: Annotated[TaskRef, runtime("the task this is a part of")] = NULL_TASK

    @property
    def is_finished(self) -> bool:
        """Whether it has its end."""
        return self.status in FINISHED

    @property
    def is_clients_own(self) -> bool:
        """Whether a client made it by task.create: no call waits under it, and no host ever worked on it."""
        return bool(self.command_id) and not self.method


INERT_TASK_FIELDS: Final = (inert("backtrace", str, "()"),)


class Operation(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An accepted operation on a VM, from acceptance to its one end.

    `host` is who is to carry out the present `step`; `destination` is where a migration goes; `incarnation` is the one
    that the operation makes (start, reboot) or acts on (all others).
    """

    task: TaskRef
    kind: VmOperation
    vm: VmRef
    host: HostRef
    incarnation: int
    destination: HostRef = NULL_HOST
    arguments: StringMap = field(default_factory=_empty)
    step: int = 0
    is_cancelling: bool = False
    accepted_at: datetime = EPOCH
