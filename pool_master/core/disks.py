"""Which disks a VM boots with, who holds a disk, and which hosts reach an SR.

Rules: pure questions over the Pool, asked by deciders, by plan and by evolve alike, so that what a host is told, what the
log then calls attached and what is refused can never differ.
"""

from typing import Final

from pool_master.core.pool import Pool
from pool_master.core.storage import Pbd, Sr, Vbd, Vdi
from pool_master.core.vm import Vm
from shared.enums import VbdMode, VbdType, VmOperation
from shared.errors import OtherOperationInProgress, XenApiError
from shared.refs import NULL_VDI, HostRef, PbdRef, SrRef, VbdRef, VdiRef, VmRef
from shared.storage_errors import VdiInUse, VdiMissing, VdiReadonly

# A VM under one of these may at any moment have a domain with all its disks.
BUILDING: Final = (
    VmOperation.START,
    VmOperation.START_ON,
    VmOperation.CLEAN_REBOOT,
    VmOperation.HARD_REBOOT,
)
DISKS_MAX: Final = 16


def vbds_of_vm(pool: Pool, vm: VmRef) -> list[Vbd]:
    """Give a VM's VBDs in the order of their devices: the order in which the guest counts its disks."""
    vbds = [pool.vbds[VbdRef(ref)] for ref in pool.linked("VM.VBDs", vm)]
    return sorted(vbds, key=lambda vbd: int(vbd.config.userdevice))


def vbds_of_vdi(pool: Pool, vdi: VdiRef) -> list[Vbd]:
    """Give the VBDs that name a disk."""
    return [pool.vbds[VbdRef(ref)] for ref in pool.linked("VDI.VBDs", vdi)]


def device_names(pool: Pool, vm: VmRef) -> dict[VbdRef, str]:
    """Give what the guest calls each of the VM's disks: vda, vdb… as they are put into the domain; drives hdc, hdd."""
    names, disks, drives = {}, 0, 0
    for vbd in vbds_of_vm(pool, vm):
        if vbd.config.type is VbdType.CD:
            names[vbd.ref] = f"hd{chr(ord('c') + drives)}"
            drives += 1
        else:
            names[vbd.ref] = f"vd{chr(ord('a') + disks)}"
            disks += 1
    return names


def is_held(pool: Pool, vbd: Vbd) -> bool:
    """Whether a guest has the disk by this VBD, or may have it at any moment."""
    if vbd.currently_attached:
        return True
    vm = pool.vms.get(vbd.config.VM)
    return vm is not None and any(kind in BUILDING for kind in vm.current_operations.values())


def is_held_against(pool: Pool, vdi: Vdi, *, for_vm: VmRef, writes: bool) -> bool:
    """Whether another VM's hold on the disk forbids this one: only readers share a disk, unless it is sharable."""
    if vdi.config.sharable:
        return False
    for vbd in vbds_of_vdi(pool, vdi.ref):
        if for_vm == vbd.config.VM or not is_held(pool, vbd):
            continue
        if writes or vbd.config.mode is VbdMode.RW:
            return True
    return False


def children_of(pool: Pool, vdi: VdiRef) -> tuple[str, ...]:
    """Give the disks that are built on this one."""
    return pool.linked("VDI.children", vdi)


def pbd_of(pool: Pool, sr: SrRef, host: HostRef) -> Pbd | None:
    """Give how the host reaches the SR."""
    for ref in pool.linked("SR.PBDs", sr):
        pbd = pool.pbds[PbdRef(ref)]
        if pbd.host == host:
            return pbd
    return None


def reaches(pool: Pool, host: HostRef, sr: SrRef) -> bool:
    """Whether the host has the SR plugged: the whole definition of "sees"."""
    pbd = pbd_of(pool, sr, host)
    return pbd is not None and pbd.currently_attached


def srs_of_vm(pool: Pool, vm: VmRef) -> list[SrRef]:
    """Give the SRs that hold a VM's disks, each once."""
    found: dict[SrRef, None] = {}
    for vbd in vbds_of_vm(pool, vm):
        vdi = pool.vdis.get(vbd.config.VDI)
        if vdi is not None:
            found[vdi.config.SR] = None
    return list(found)


def missing_sr(pool: Pool, vm: Vm, host: HostRef) -> SrRef | None:
    """Give an SR that the VM needs and the host does not reach."""
    return next((sr for sr in srs_of_vm(pool, vm.ref) if not reaches(pool, host, sr)), None)


def hosts_reaching(pool: Pool, srs: list[SrRef]) -> list[HostRef]:
    """Give the live hosts that reach all these SRs."""
    return [
        host
        for host in pool.hosts
        if pool.is_live(host) and all(reaches(pool, host, sr) for sr in srs)
    ]


def virtual_allocation(pool: Pool, sr: Sr) -> int:
    """Give the sizes of all disks of an SR together (bytes)."""
    return sum(pool.vdis[VdiRef(ref)].config.virtual_size for ref in pool.linked("SR.VDIs", sr.ref))


def has_no_disk(vbd: Vbd) -> bool:
    """Whether there is nothing in the drive."""
    return vbd.config.empty or vbd.config.VDI == NULL_VDI


def attach_error(pool: Pool, vm: Vm) -> XenApiError | None:
    """Say why a domain of the VM could not have all its disks now; None where it could."""
    for vbd in vbds_of_vm(pool, vm.ref):
        if has_no_disk(vbd):
            continue
        vdi = pool.vdis[vbd.config.VDI]
        writes = vbd.config.mode is VbdMode.RW
        if vdi.missing:
            return VdiMissing(vdi.config.SR, vdi.ref)
        if writes and vdi.config.read_only:
            return VdiReadonly(vdi.ref)
        if vdi.current_operations:
            marks = vdi.current_operations
            return OtherOperationInProgress(
                "VDI", vdi.ref, operations=marks.values(), tasks=marks.keys()
            )
        if is_held_against(pool, vdi, for_vm=vm.ref, writes=writes):
            return VdiInUse(vdi.ref, "attach")
    return None
