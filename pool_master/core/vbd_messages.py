"""Messages of the class VBD: which disks and drives a VM has from its next start on."""

from dataclasses import dataclass
from typing import Annotated, Final

from pool_master.core import events as ev
from pool_master.core import storage_events as sev
from pool_master.core.changed import changed
from pool_master.core.context import Context
from pool_master.core.datamodel import (
    STRING,
    Message,
    command,
    query,
    record_of,
    ref_to,
    set_of,
)
from pool_master.core.disks import BUILDING, DISKS_MAX, has_no_disk, is_held_against, vbds_of_vm
from pool_master.core.lookup import vbd_of, vdi_of, vm_of
from pool_master.core.pool import Pool
from pool_master.core.storage import Vbd, VbdConfig
from pool_master.core.vm import Vm
from shared.enums import Role, VbdMode, VbdType
from shared.errors import (
    InvalidValue,
    OperationNotAllowed,
    OtherOperationInProgress,
    ValueNotSupported,
)
from shared.network_errors import DeviceAlreadyExists, InvalidDevice
from shared.refs import NULL_VDI, VbdRef, VmRef, derive, derive_ref
from shared.storage_errors import (
    DeviceAlreadyAttached,
    VbdCdsMustBeReadonly,
    VdiInUse,
    VdiReadonly,
)

AUTODETECT: Final = "autodetect"


def created_vbd(context: Context) -> VbdRef:
    """Give the reference of the VBD that this command makes."""
    return VbdRef(derive_ref(context.command_id, "VBD"))


@dataclass(frozen=True, slots=True, kw_only=True)
class VbdCreate:
    """Create a new VBD instance, and return its handle. The VM has the disk from its next start on."""

    args: Annotated[VbdConfig, record_of("VBD")]


def decide_vbd_create(pool: Pool, request: VbdCreate, context: Context) -> list[ev.Event]:
    """XenAPI reference 5."""
    config, ref = request.args, created_vbd(context)
    if ref in pool.vbds:
        return []
    vm = vm_of(pool, config.VM)
    guard_devices(vm)
    config = changed(config, userdevice=free_device(pool, vm.ref, config.userdevice))
    if config.type is VbdType.FLOPPY:
        raise ValueNotSupported("type", config.type, "only Disk and CD")
    if config.type is VbdType.CD and config.mode is not VbdMode.RO:
        raise VbdCdsMustBeReadonly
    config = _checked_disk(pool, config)
    uuid = derive(context.command_id, "VBD")
    return [sev.VbdCreated(vbd=ref, uuid=uuid, config=config)]


def _checked_disk(pool: Pool, config: VbdConfig) -> VbdConfig:
    if config.empty:
        if config.type is not VbdType.CD:
            raise InvalidValue("empty", "true")
        return changed(config, VDI=NULL_VDI)
    vdi = vdi_of(pool, config.VDI)
    if not vdi.managed:
        raise OperationNotAllowed("other disks are built on this one: it has no life of its own")
    writes = config.mode is VbdMode.RW
    if writes and vdi.config.read_only:
        raise VdiReadonly(vdi.ref)
    if is_held_against(pool, vdi, for_vm=config.VM, writes=writes):
        raise VdiInUse(vdi.ref, "attach")
    if any(vdi.ref == vbd.config.VDI for vbd in vbds_of_vm(pool, config.VM)):
        # Two devices of one guest on one image: the second could not be opened.
        raise VdiInUse(vdi.ref, "attach")
    return config


def guard_devices(vm: Vm) -> None:
    """Refuse to change a VM's devices while a domain with them may be on its way."""
    if any(kind in BUILDING for kind in vm.current_operations.values()):
        marks = vm.current_operations
        raise OtherOperationInProgress("VM", vm.ref, operations=marks.values(), tasks=marks.keys())


def allowed_devices(pool: Pool, vm: VmRef) -> tuple[str, ...]:
    """Give the device numbers that a VM has free."""
    taken = [vbd.config.userdevice for vbd in vbds_of_vm(pool, vm)]
    return tuple(str(n) for n in range(DISKS_MAX) if str(n) not in taken)


def free_device(pool: Pool, vm: VmRef, wanted: str) -> str:
    """Give the device number that is wanted, or the lowest free one.

    Raises:
        InvalidDevice: not a number that a VM has.
        DeviceAlreadyExists: taken.
    """
    free = allowed_devices(pool, vm)
    if wanted in {AUTODETECT, ""}:
        if not free:
            raise InvalidDevice(wanted)
        return free[0]
    number = _number_of(wanted)
    if number not in free:
        raise DeviceAlreadyExists(wanted)
    return number


def _number_of(device: str) -> str:
    """Read "0", "xvda", "vda", "sda" or "hda" alike, as xapi's clients write them."""
    for prefix in ("xvd", "vd", "sd", "hd"):
        letter = device.removeprefix(prefix)
        if letter != device and len(letter) == 1 and "a" <= letter <= "p":
            return str(ord(letter) - ord("a"))
    is_number = device.isascii() and device.isdigit() and len(device) <= 2
    if not is_number or int(device) >= DISKS_MAX:
        raise InvalidDevice(device)
    return str(int(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class VbdDestroy:
    """Destroy the specified VBD instance; the disk stays. Not while the guest has it."""

    self: VbdRef


def decide_vbd_destroy(pool: Pool, request: VbdDestroy, _context: Context) -> list[ev.Event]:
    """XenAPI reference 5."""
    return [sev.VbdDestroyed(vbd=_detached(pool, request.self, "destroy").ref)]


def _detached(pool: Pool, ref: VbdRef, what: str) -> Vbd:
    vbd = vbd_of(pool, ref)
    guard_devices(pool.vms[vbd.config.VM])
    if vbd.currently_attached:
        if what == "destroy":
            raise OperationNotAllowed("the guest has it: it can be destroyed when the VM is halted")
        raise DeviceAlreadyAttached(vbd.ref)
    return vbd


@dataclass(frozen=True, slots=True, kw_only=True)
class VbdSetMode:
    """Set the mode, RO or RW; not while the guest has it."""

    self: VbdRef
    value: VbdMode


def decide_vbd_set_mode(pool: Pool, request: VbdSetMode, _context: Context) -> list[ev.Event]:
    """XenAPI class reference, VBD.set_mode."""
    vbd = _detached(pool, request.self, "set_mode")
    if request.value is VbdMode.RW:
        if vbd.config.type is VbdType.CD:
            raise VbdCdsMustBeReadonly
        if not has_no_disk(vbd) and pool.vdis[vbd.config.VDI].config.read_only:
            raise VdiReadonly(vbd.config.VDI)
    return [_set(vbd, "mode", request.value.value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class VbdSetType:
    """Set how the guest sees it, as CD or Disk; not while it has it."""

    self: VbdRef
    value: VbdType


def decide_vbd_set_type(pool: Pool, request: VbdSetType, _context: Context) -> list[ev.Event]:
    """XenAPI class reference, VBD.type."""
    vbd = _detached(pool, request.self, "set_type")
    if request.value is VbdType.FLOPPY:
        raise ValueNotSupported("type", request.value, "only Disk and CD")
    if request.value is VbdType.CD and vbd.config.mode is not VbdMode.RO:
        raise VbdCdsMustBeReadonly
    if request.value is VbdType.DISK and has_no_disk(vbd):
        raise InvalidValue("empty", "true")
    return [_set(vbd, "type", request.value.value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class VbdSetUserdevice:
    """Set the device number; not while the guest has it."""

    self: VbdRef
    value: str


def decide_vbd_set_userdevice(
    pool: Pool, request: VbdSetUserdevice, _context: Context
) -> list[ev.Event]:
    """XenAPI reference 5."""
    vbd = _detached(pool, request.self, "set_userdevice")
    if request.value == vbd.config.userdevice:
        return []
    return [_set(vbd, "userdevice", free_device(pool, vbd.config.VM, request.value))]


@dataclass(frozen=True, slots=True, kw_only=True)
class VbdSetBootable:
    """Set whether the firmware may boot from it; from the VM's next start on."""

    self: VbdRef
    value: bool


def decide_vbd_set_bootable(
    pool: Pool, request: VbdSetBootable, _context: Context
) -> list[ev.Event]:
    """XenAPI class reference, VBD.bootable."""
    vbd = vbd_of(pool, request.self)
    guard_devices(pool.vms[vbd.config.VM])
    return [_set(vbd, "bootable", request.value)]


def _set(vbd: Vbd, name: str, value: str | bool) -> ev.FieldSet:
    return ev.FieldSet(object_class="VBD", ref=vbd.ref, field=name, value=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class GetAllowedVbdDevices:
    """Returns a list of the allowed values that a VBD device field can take."""

    vm: VmRef


def answer_allowed_vbd_devices(pool: Pool, request: GetAllowedVbdDevices) -> tuple[str, ...]:
    """XenAPI reference 1.1."""
    return allowed_devices(pool, vm_of(pool, request.vm).ref)


_OTHER: Final = "OTHER_OPERATION_IN_PROGRESS"

VM_MESSAGES: Final[tuple[Message, ...]] = (
    query(
        GetAllowedVbdDevices,
        answer_allowed_vbd_devices,
        name="get_allowed_VBD_devices",
        returns=set_of(STRING),
    ),
)

MESSAGES: Final[tuple[Message, ...]] = (
    command(
        VbdCreate,
        decide_vbd_create,
        name="create",
        role=Role.VM_ADMIN,
        returns=ref_to("VBD"),
        result=lambda _request, context: created_vbd(context),
        waits=True,
        errors=(
            "DEVICE_ALREADY_EXISTS",
            "INVALID_DEVICE",
            "VBD_CDS_MUST_BE_READONLY",
            "VDI_IN_USE",
            "VDI_READONLY",
            _OTHER,
        ),
    ),
    command(
        VbdDestroy,
        decide_vbd_destroy,
        name="destroy",
        role=Role.VM_ADMIN,
        waits=True,
        errors=("OPERATION_NOT_ALLOWED", _OTHER),
    ),
    command(
        VbdSetMode,
        decide_vbd_set_mode,
        name="set_mode",
        role=Role.VM_ADMIN,
        waits=True,
        errors=("DEVICE_ALREADY_ATTACHED", "VBD_CDS_MUST_BE_READONLY", "VDI_READONLY", _OTHER),
    ),
    command(VbdSetType, decide_vbd_set_type, name="set_type", role=Role.VM_ADMIN, waits=True),
    command(
        VbdSetUserdevice,
        decide_vbd_set_userdevice,
        name="set_userdevice",
        role=Role.VM_ADMIN,
        waits=True,
        errors=("DEVICE_ALREADY_EXISTS", "INVALID_DEVICE"),
    ),
    command(
        VbdSetBootable,
        decide_vbd_set_bootable,
        name="set_bootable",
        role=Role.VM_ADMIN,
        waits=True,
    ),
)
