"""What high availability owes once faults have stopped: every protected VM runs, unless there is a reason why not."""

from datetime import timedelta

from pool_master.core.ha_plan import ALIVE, is_protected
from pool_master.core.ha_restart import RETRY_S
from pool_master.core.placement import possible_hosts
from pool_master.core.pool import Pool
from pool_master.core.vm import Vm
from shared.codec import moment_from_us


def unprotected(pool: Pool) -> list[str]:
    """Give the protected VMs that do not run, though there is room, and nothing says that they have to wait."""
    if not pool.pools or not pool.record.ha_enabled:
        return []
    return [
        f"{vm.uuid} is protected, and {vm.power_state}"
        for vm in pool.vms.values()
        if is_protected(vm) and vm.power_state not in ALIVE and not _may_wait(pool, vm)
    ]


def _may_wait(pool: Pool, vm: Vm) -> bool:
    """Whether it was given up, has failed on every host a while ago, crashed just after its boot, or has no room."""
    owed = pool.restarts.get(vm.ref)
    if owed is None:
        return False
    now, pause = moment_from_us(pool.time_us), timedelta(seconds=RETRY_S)
    possible = possible_hosts(pool, vm)
    is_pausing = now < owed.not_before or (
        now < owed.tried_at + pause and all(host in owed.tried for host in possible)
    )
    return owed.is_given_up or is_pausing or not possible
