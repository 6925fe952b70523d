"""What may be done to a VIF now: one predicate that refuses and advertises, as allowed.py does for VMs."""

from typing import Final

from pool_master.core.network import Vif
from pool_master.core.pool import Pool
from pool_master.core.vifs import lacking_network
from shared.enums import PowerState, VifOperation, VmOperation
from shared.errors import (
    HostOffline,
    OperationNotAllowed,
    OtherOperationInProgress,
    VmBadPowerState,
    XenApiError,
)
from shared.network_errors import DeviceAlreadyDetached
from shared.storage_errors import DeviceAlreadyAttached

# In the order in which allowed_operations lists them.
VIF_OPERATIONS: Final = (VifOperation.PLUG, VifOperation.UNPLUG)
# While these go on, the domain is about to be another one, elsewhere or none.
_ENDING: Final = (
    VmOperation.CLEAN_SHUTDOWN,
    VmOperation.HARD_SHUTDOWN,
    VmOperation.SHUTDOWN,
    VmOperation.CLEAN_REBOOT,
    VmOperation.HARD_REBOOT,
    VmOperation.SUSPEND,
    VmOperation.CHECKPOINT,
    VmOperation.PAUSE,
    VmOperation.POOL_MIGRATE,
    VmOperation.MIGRATE_SEND,
)


def vif_operation_error(pool: Pool, vif: Vif, operation: VifOperation) -> XenApiError | None:
    """Say why `operation` may not be done to `vif` now; None where it may."""
    vm = pool.vms[vif.config.VM]
    if current := current_vif_operations(pool, vif):
        return OtherOperationInProgress(
            "VIF", vif.ref, operations=current.values(), tasks=current.keys()
        )
    if vm.power_state is not PowerState.RUNNING:
        return VmBadPowerState(vm.ref, expected=(PowerState.RUNNING,), actual=vm.power_state)
    is_plug = operation is VifOperation.PLUG
    if is_plug == vif.currently_attached:
        return DeviceAlreadyAttached(vif.ref) if is_plug else DeviceAlreadyDetached(vif.ref)
    for under_way in vm.current_operations.values():
        if under_way in _ENDING:
            return OperationNotAllowed(f"Current operation on VM:{vm.ref} is {under_way}")
    if pool.is_stranded(vm):
        return HostOffline(vm.resident_on)
    return lacking_network(pool, vm, vif, vm.resident_on) if is_plug else None


def current_vif_operations(pool: Pool, vif: Vif) -> dict[str, VifOperation]:
    """Give what is being done to a VIF, by task."""
    found = (pool.device_operations[task] for task in pool.tasks_on(vif.ref))
    return {operation.task: VifOperation(operation.operation) for operation in found}


def allowed_vif_operations(pool: Pool, vif: Vif) -> tuple[VifOperation, ...]:
    """Give what may be done to a VIF now."""
    return tuple(
        operation
        for operation in VIF_OPERATIONS
        if vif_operation_error(pool, vif, operation) is None
    )
