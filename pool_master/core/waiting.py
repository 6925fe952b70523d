"""Operations that wait for those that they have overtaken.

One job: say which operations no host may be told of yet, and what becomes of them when what they waited for ends.

Rules: a hard shutdown or reboot cancels what is in its way and waits for it to end (XenAPI reference 1.3); only then is
it known which host has the guest, and in which incarnation. Told earlier, the source of a migration could start the next
incarnation beside the guest that has just moved away, or destroy nothing and call that a shutdown.
"""

from typing import Final

from pool_master.core import events as ev
from pool_master.core.pool import Pool
from pool_master.core.task import Operation
from pool_master.core.vm import Vm
from shared.enums import VmOperation
from shared.errors import HostOffline
from shared.refs import HostRef

OVERTAKING: Final = (VmOperation.HARD_SHUTDOWN, VmOperation.HARD_REBOOT)
# Until these end, the guest's host or incarnation is not known.
MOVING: Final = (VmOperation.POOL_MIGRATE, VmOperation.CLEAN_REBOOT, VmOperation.HARD_REBOOT)


def is_waiting(pool: Pool, operation: Operation, vm: Vm) -> bool:
    """Whether an operation must not go to a host yet."""
    return bool(_waits_for(pool, operation, vm))


def _waits_for(pool: Pool, operation: Operation, vm: Vm) -> list[Operation]:
    if operation.kind not in OVERTAKING:
        return []
    in_flight = pool.operations_of(vm)  # In the order in which they were accepted.
    return [other for other in in_flight[: in_flight.index(operation)] if other.kind in MOVING]


def release_waiting(
    pool: Pool, ended: Operation, vm: Vm, home: HostRef, *, is_gone: bool = False
) -> list[ev.Event]:
    """Send what waited for this operation's end alone to the host that has the guest, or had it last.

    `is_gone`: no guest is left, so a hard shutdown has what it wanted; a hard reboot still starts one.
    """
    released: list[ev.Event] = []
    for waiting in pool.operations_of(vm):
        if _waits_for(pool, waiting, vm) != [ended]:
            continue
        if is_gone and waiting.kind is VmOperation.HARD_SHUTDOWN:
            released.append(ev.TaskSucceeded(task=waiting.task))
        elif not pool.is_live(home):
            error = tuple(HostOffline(home).description)
            released.append(ev.TaskFailed(task=waiting.task, error_info=error))
        else:
            released.append(
                ev.OperationAdvanced(task=waiting.task, step=waiting.step + 1, host=home)
            )
    return released
