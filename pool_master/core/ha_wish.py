"""Whether its user wants a VM to run: ha_always_run, the wish that high availability fulfils.

One job: say how the wish changes with what users and guests do (XenAPI reference 6.4).

Rules: a start of a VM with priority "restart" makes the wish, a shutdown ends it, and so does a guest that powers itself
off. A crash, a lost host and a stop behind the pool's back leave it: those are what it is for.
"""

from typing import Final

from pool_master.core import events as ev
from pool_master.core.ha_plan import ALIVE, RESTART
from pool_master.core.pool import Pool
from pool_master.core.task import Operation
from pool_master.core.vm import Vm
from shared.enums import VmOperation

STARTING: Final = (
    VmOperation.START,
    VmOperation.START_ON,
    VmOperation.RESUME,
    VmOperation.RESUME_ON,
)
STOPPING: Final = (
    VmOperation.CLEAN_SHUTDOWN,
    VmOperation.HARD_SHUTDOWN,
    VmOperation.SHUTDOWN,
    VmOperation.SUSPEND,
)


def wished(vm: Vm, *, is_to_run: bool) -> list[ev.Event]:
    """Give what makes the wish so; nothing where it is, or where the VM is not to be restarted at all."""
    is_wish = is_to_run and vm.config.ha_restart_priority == RESTART
    if is_wish == vm.config.ha_always_run or (is_to_run and not is_wish):
        return []
    return [ev.FieldSet(object_class="VM", ref=vm.ref, field="ha_always_run", value=is_wish)]


def wished_by(vm: Vm, kind: VmOperation) -> list[ev.Event]:
    """Give what a user's operation does to the wish."""
    return wished(vm, is_to_run=kind in STARTING) if kind in (*STARTING, *STOPPING) else []


def wished_after_failure(pool: Pool, failed: Operation, vm: Vm, *, is_gone: bool) -> list[ev.Event]:
    """A shutdown that came to nothing, a cancelled one for instance: the VM runs on, as protected as before."""
    others = (x for x in pool.operations_of(vm) if x.task != failed.task)
    is_over = failed.kind in STOPPING and not any(x.kind in STOPPING for x in others)
    runs_on = vm.power_state in ALIVE and not is_gone
    return wished(vm, is_to_run=True) if is_over and runs_on else []
