"""What may be done to an SR or a VDI now: one predicate for each, which refuses and advertises."""

from typing import Final

from pool_master.core.disks import children_of, hosts_reaching, is_held, vbds_of_vdi
from pool_master.core.pool import Pool
from pool_master.core.storage import Sr, Vdi
from shared.enums import StorageOperation, VbdMode, VdiOperation
from shared.errors import OperationNotAllowed, OtherOperationInProgress, XenApiError
from shared.refs import PbdRef, VdiRef
from shared.storage_errors import (
    SrHasNoPbds,
    SrHasPbd,
    SrNotEmpty,
    VdiInUse,
    VdiMissing,
    VdiReadonly,
)

_Op, _Sr = VdiOperation, StorageOperation

# In the order in which allowed_operations lists them: those that have a message.
VDI_OPERATIONS: Final = (_Op.CLONE, _Op.COPY, _Op.RESIZE, _Op.SNAPSHOT, _Op.DESTROY)
SR_OPERATIONS: Final = (
    _Sr.SCAN,
    _Sr.DESTROY,
    _Sr.FORGET,
    _Sr.PLUG,
    _Sr.UNPLUG,
    _Sr.UPDATE,
    _Sr.VDI_CREATE,
    _Sr.VDI_DESTROY,
    _Sr.VDI_RESIZE,
    _Sr.VDI_CLONE,
    _Sr.VDI_SNAPSHOT,
    _Sr.PBD_CREATE,
    _Sr.PBD_DESTROY,
)
_ALONE: Final = (_Sr.DESTROY, _Sr.FORGET, _Sr.UNPLUG, _Sr.SCAN)
_DETACHED: Final = (_Sr.DESTROY, _Sr.FORGET)
# Done by a host that has the SR plugged.
_PLUGGED: Final = (
    _Sr.SCAN,
    _Sr.UPDATE,
    _Sr.VDI_CREATE,
    _Sr.VDI_DESTROY,
    _Sr.VDI_RESIZE,
    _Sr.VDI_CLONE,
    _Sr.VDI_SNAPSHOT,
)


def vdi_operation_error(  # noqa: PLR0911 - one return a case
    pool: Pool, vdi: Vdi, operation: VdiOperation
) -> XenApiError | None:
    """Say why `operation` may not be done to `vdi` now; None where it may."""
    if vdi.current_operations:
        return OtherOperationInProgress(
            "VDI",
            vdi.ref,
            operations=vdi.current_operations.values(),
            tasks=vdi.current_operations.keys(),
        )
    if operation is not _Op.DESTROY:
        if not vdi.managed:
            return OperationNotAllowed(
                "other disks are built on this one: it has no life of its own"
            )
        if vdi.missing:
            return VdiMissing(vdi.config.SR, vdi.ref)
    if children_of(pool, vdi.ref):
        return VdiInUse(vdi.ref, operation)
    held = [vbd for vbd in vbds_of_vdi(pool, vdi.ref) if is_held(pool, vbd)]
    if operation is _Op.COPY:
        held = [vbd for vbd in held if vbd.config.mode is VbdMode.RW]
    if held:
        return VdiInUse(vdi.ref, operation)
    if operation is _Op.RESIZE and vdi.config.read_only:
        return VdiReadonly(vdi.ref)
    return None if hosts_reaching(pool, [vdi.config.SR]) else SrHasNoPbds(vdi.config.SR)


def allowed_vdi_operations(pool: Pool, vdi: Vdi) -> tuple[VdiOperation, ...]:
    """Give what may be done to `vdi` now."""
    return tuple(op for op in VDI_OPERATIONS if vdi_operation_error(pool, vdi, op) is None)


def sr_operation_error(pool: Pool, sr: Sr, operation: StorageOperation) -> XenApiError | None:
    """Say why `operation` may not be done to `sr` now; None where it may."""
    running = sr.current_operations
    is_apart = operation in _ALONE or any(mark in _ALONE for mark in running.values())
    if running and is_apart:
        return OtherOperationInProgress(
            "SR", sr.ref, operations=running.values(), tasks=running.keys()
        )
    pbds = [pool.pbds[PbdRef(ref)] for ref in pool.linked("SR.PBDs", sr.ref)]
    if operation in _DETACHED and any(pbd.currently_attached for pbd in pbds):
        return SrHasPbd(sr.ref)
    if operation is _Sr.DESTROY:
        if not any(pool.is_live(pbd.host) for pbd in pbds):
            return SrHasNoPbds(sr.ref)
        disks = [pool.vdis[VdiRef(ref)] for ref in pool.linked("SR.VDIs", sr.ref)]
        return SrNotEmpty() if disks else None
    if operation in _PLUGGED and not hosts_reaching(pool, [sr.ref]):
        return SrHasNoPbds(sr.ref)
    return None


def allowed_sr_operations(pool: Pool, sr: Sr) -> tuple[StorageOperation, ...]:
    """Give what may be done to `sr` now."""
    return tuple(op for op in SR_OPERATIONS if sr_operation_error(pool, sr, op) is None)
