"""Messages of the class VDI: what is done to disks is done by a host that has the SR plugged."""

from dataclasses import dataclass, field
from typing import Annotated, Final

from pool_master.core import events as ev
from pool_master.core import storage_events as sev
from pool_master.core.allowed_storage import vdi_operation_error
from pool_master.core.changed import changed
from pool_master.core.context import Context
from pool_master.core.datamodel import Message, command, operation, record_of, ref_to
from pool_master.core.disks import hosts_reaching
from pool_master.core.lookup import sr_of, vdi_of
from pool_master.core.pool import Pool
from pool_master.core.sr_messages import accept_storage, choose_storage_host, guard_sr
from pool_master.core.storage import DiskWish, Sr, StorageTask, Vdi, VdiConfig
from shared.enums import Role, StorageOperation, VdiOperation
from shared.errors import InvalidValue, ValueNotSupported
from shared.refs import NULL_VDI, SrRef, VdiRef, derive, derive_ref, is_null
from shared.storage_errors import SrFull, SrHasNoPbds

StringMap = dict[str, str]
SECTOR: Final = 512
FORMATS: Final = ("qcow2", "raw")
# What an image's own name for itself is in sm_config, as xe's users know it.
FORMAT_KEY: Final = "type"


def created_vdi(context: Context, number: int = 0) -> VdiRef:
    """Give the reference of the VDI with that number that this command makes."""
    return VdiRef(derive_ref(context.command_id, f"VDI/{number}"))


def format_of(config: VdiConfig) -> str:
    """Give the format that sm_config asks for.

    Raises:
        ValueNotSupported: neither qcow2 nor raw.
    """
    wanted = config.sm_config.get(FORMAT_KEY, FORMATS[0])
    if wanted not in FORMATS:
        raise ValueNotSupported("sm_config:type", wanted, "qcow2 or raw")
    return wanted


def wish(context: Context, config: VdiConfig, number: int = 0) -> DiskWish:
    """Wish for an empty disk."""
    uuid = derive(context.command_id, f"VDI/{number}")
    return DiskWish(vdi=created_vdi(context, number), uuid=uuid, config=config)


def copy_wish(context: Context, vdi: Vdi, sr: SrRef, number: int = 0) -> DiskWish:
    """Wish for a full copy."""
    return changed(wish(context, changed(vdi.config, SR=sr), number), source=vdi.ref)


def clone_wish(context: Context, vdi: Vdi, number: int = 0) -> DiskWish:
    """Wish for a clone: by a base that both are built on, or, of a raw disk, a full copy."""
    made = copy_wish(context, vdi, vdi.config.SR, number)
    if vdi.format != FORMATS[0]:
        return made
    if vdi.is_pristine and vdi.parent != NULL_VDI:
        return changed(made, base_ref=vdi.parent)
    purpose = f"base/{number}"
    base = VdiRef(derive_ref(context.command_id, purpose))
    return changed(made, base_ref=base, base=derive(context.command_id, purpose))


def checked_size(sr: Sr, size: int) -> int:
    """Give the size (bytes), rounded up to whole sectors.

    Raises:
        InvalidValue: not a size.
        SrFull: no such disk could ever be filled.
    """
    if size < 1:
        raise InvalidValue("virtual_size", size)
    if size > sr.physical_size:
        raise SrFull(str(size), str(sr.physical_size))
    return -(-size // SECTOR) * SECTOR


@dataclass(frozen=True, slots=True, kw_only=True)
class VdiCreate:
    """Create a new VDI instance, an empty disk, and return its handle."""

    args: Annotated[VdiConfig, record_of("VDI")]


def decide_vdi_create(pool: Pool, request: VdiCreate, context: Context) -> list[ev.Event]:
    """XenAPI reference 5; the disk is there when the task has ended."""
    config = request.args
    sr = sr_of(pool, config.SR)
    format_of(config)
    guard_sr(pool, sr, StorageOperation.VDI_CREATE)
    config = changed(config, virtual_size=checked_size(sr, config.virtual_size))
    host = choose_storage_host(pool, sr.ref, context)
    wishes = (wish(context, config),)
    return [accept_storage(context, StorageTask.CREATE, host=host, sr=sr.ref, wishes=wishes)]


def guard_vdi(pool: Pool, ref: VdiRef, kind: VdiOperation) -> Vdi:
    """Give the disk, where this may be done to it now."""
    vdi = vdi_of(pool, ref)
    if error := vdi_operation_error(pool, vdi, kind):
        raise error
    return vdi


@dataclass(frozen=True, slots=True, kw_only=True)
class VdiDestroy:
    """Destroy the specified VDI instance, and its content."""

    self: VdiRef


def decide_vdi_destroy(pool: Pool, request: VdiDestroy, context: Context) -> list[ev.Event]:
    """XenAPI reference 5; not while a guest has it."""
    vdi = guard_vdi(pool, request.self, VdiOperation.DESTROY)
    return [_on_disk(pool, vdi, StorageTask.DESTROY, context)]


def _on_disk(
    pool: Pool, vdi: Vdi, kind: StorageTask, context: Context, **arguments: str
) -> sev.StorageOperationAccepted:
    sr = vdi.config.SR
    host = choose_storage_host(pool, sr, context)
    return accept_storage(context, kind, host=host, sr=sr, vdi=vdi.ref, arguments=arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class VdiResize:
    """Resize the VDI: it can only grow, and not while a guest has it."""

    vdi: VdiRef
    size: int


def decide_vdi_resize(pool: Pool, request: VdiResize, context: Context) -> list[ev.Event]:
    """XenAPI reference 5."""
    vdi = guard_vdi(pool, request.vdi, VdiOperation.RESIZE)
    size = checked_size(pool.srs[vdi.config.SR], request.size)
    if size < vdi.config.virtual_size:
        raise InvalidValue("size", request.size)
    if size == vdi.config.virtual_size:
        return []
    return [_on_disk(pool, vdi, StorageTask.RESIZE, context, size=str(size))]


@dataclass(frozen=True, slots=True, kw_only=True)
class VdiClone:
    """Take an exact copy of the VDI and return a reference to the new disk, in no time: both share what they held."""

    vdi: VdiRef
    driver_params: StringMap = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VdiSnapshot:
    """Take a read-only snapshot of the VDI, returning a reference to the snapshot."""

    vdi: VdiRef
    driver_params: StringMap = field(default_factory=dict)


def decide_vdi_clone(pool: Pool, request: VdiClone, context: Context) -> list[ev.Event]:
    """XenAPI reference 5."""
    vdi = guard_vdi(pool, request.vdi, VdiOperation.CLONE)
    wishes = (clone_wish(context, vdi),)
    return [_making(pool, vdi, StorageTask.CLONE, wishes, context)]


def decide_vdi_snapshot(pool: Pool, request: VdiSnapshot, context: Context) -> list[ev.Event]:
    """XenAPI reference 5."""
    vdi = guard_vdi(pool, request.vdi, VdiOperation.SNAPSHOT)
    made = clone_wish(context, vdi)
    made = changed(made, is_a_snapshot=True, config=changed(made.config, read_only=True))
    return [_making(pool, vdi, StorageTask.SNAPSHOT, (made,), context)]


def _making(
    pool: Pool, vdi: Vdi, kind: StorageTask, wishes: tuple[DiskWish, ...], context: Context
) -> sev.StorageOperationAccepted:
    sr = vdi.config.SR
    host = choose_storage_host(pool, sr, context)
    return accept_storage(context, kind, host=host, sr=sr, vdi=vdi.ref, wishes=wishes)


@dataclass(frozen=True, slots=True, kw_only=True)
class VdiCopy:
    """Copy the VDI into an SR, whole; its own where none is named. Copying into another disk is not supported."""

    vdi: VdiRef
    sr: SrRef
    base_vdi: VdiRef = NULL_VDI
    into_vdi: VdiRef = NULL_VDI


def decide_vdi_copy(pool: Pool, request: VdiCopy, context: Context) -> list[ev.Event]:
    """XenAPI reference 5; a host that sees both SRs copies."""
    vdi = guard_vdi(pool, request.vdi, VdiOperation.COPY)
    for name, ref in (("base_vdi", request.base_vdi), ("into_vdi", request.into_vdi)):
        if not is_null(ref):
            raise ValueNotSupported(name, ref, "only whole new copies are made")
    sr = sr_of(pool, vdi.config.SR if is_null(request.sr) else request.sr)
    guard_sr(pool, sr, StorageOperation.VDI_CREATE)
    hosts = hosts_reaching(pool, [vdi.config.SR, sr.ref])
    if not hosts:
        raise SrHasNoPbds(sr.ref)
    host = hosts[int(len(hosts) * context.chance)]
    wishes = (copy_wish(context, vdi, sr.ref),)
    return [
        accept_storage(context, StorageTask.COPY, host=host, sr=sr.ref, vdi=vdi.ref, wishes=wishes)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class VdiSetText:
    """Set the VDI's name or description."""

    self: VdiRef
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VdiSetFlag:
    """Set whether the VDI is sharable, or read-only; what guests have already is not touched."""

    self: VdiRef
    value: bool


def _setter(name: str, request: type) -> Message:
    def decide(pool: Pool, asked: VdiSetText | VdiSetFlag, _context: Context) -> list[ev.Event]:
        vdi = vdi_of(pool, asked.self)
        return [ev.FieldSet(object_class="VDI", ref=vdi.ref, field=name, value=asked.value)]

    return command(request, decide, name=f"set_{name}", role=Role.VM_ADMIN)


_ERRORS: Final = ("OTHER_OPERATION_IN_PROGRESS", "VDI_IN_USE", "VDI_MISSING", "SR_HAS_NO_PBDS")

MESSAGES: Final[tuple[Message, ...]] = (
    operation(
        VdiCreate,
        decide_vdi_create,
        name="create",
        role=Role.VM_ADMIN,
        returns=ref_to("VDI"),
        result=lambda _request, context: created_vdi(context),
        errors=("SR_FULL", "SR_HAS_NO_PBDS", "INVALID_VALUE", "VALUE_NOT_SUPPORTED"),
    ),
    operation(VdiDestroy, decide_vdi_destroy, name="destroy", role=Role.VM_ADMIN, errors=_ERRORS),
    operation(
        VdiResize,
        decide_vdi_resize,
        name="resize",
        role=Role.VM_ADMIN,
        errors=(*_ERRORS, "VDI_READONLY", "SR_FULL"),
    ),
    operation(
        VdiClone,
        decide_vdi_clone,
        name="clone",
        role=Role.VM_ADMIN,
        returns=ref_to("VDI"),
        result=lambda _request, context: created_vdi(context),
        errors=_ERRORS,
    ),
    operation(
        VdiSnapshot,
        decide_vdi_snapshot,
        name="snapshot",
        role=Role.VM_ADMIN,
        returns=ref_to("VDI"),
        result=lambda _request, context: created_vdi(context),
        errors=_ERRORS,
    ),
    operation(
        VdiCopy,
        decide_vdi_copy,
        name="copy",
        role=Role.VM_ADMIN,
        returns=ref_to("VDI"),
        result=lambda _request, context: created_vdi(context),
        errors=(*_ERRORS, "SR_FULL"),
    ),
    _setter("name_label", VdiSetText),
    _setter("name_description", VdiSetText),
    _setter("read_only", VdiSetFlag),
    _setter("sharable", VdiSetFlag),
)
