"""Messages of the classes SR and PBD.

Rules: a host shows that it can use an SR before the log says so; an SR is let go of in the log before the host is told
to: nothing new can begin on it meanwhile.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pool_master.core import events as ev
from pool_master.core import storage_events as sev
from pool_master.core.allowed_storage import sr_operation_error
from pool_master.core.context import Context
from pool_master.core.datamodel import (
    STRING,
    Message,
    command,
    operation,
    query,
    record_of,
    ref_to,
    set_of,
)
from pool_master.core.disks import hosts_reaching, pbd_of, srs_of_vm
from pool_master.core.lookup import host_of, pbd_of_ref, sr_of
from pool_master.core.pool import Pool
from pool_master.core.storage import PbdConfig, Sr, StorageTask
from shared.enums import Role, StorageOperation
from shared.errors import HostOffline, InvalidValue, OtherOperationInProgress
from shared.refs import HostRef, PbdRef, SrRef, derive, derive_ref
from shared.storage_errors import PbdExists, SrUnknownDriver, VdiInUse

StringMap = dict[str, str]
# A directory; a directory that all hosts see at the same path, whoever mounts it.
SR_TYPES: Final = ("file", "nfs")
LOCATION: Final = "location"
CONFIG_PREFIX: Final = "device_config:"
SM_PREFIX: Final = "sm_config:"


def accept_storage(
    context: Context, kind: StorageTask, *, host: HostRef, sr: SrRef, **more: Any
) -> sev.StorageOperationAccepted:
    """Promise an operation on storage: from here on it has exactly one end."""
    return sev.StorageOperationAccepted(
        task=context.task,
        task_uuid=context.task_uuid,
        name_label=context.label,
        kind=kind,
        host=host,
        sr=sr,
        identity=context.command_id,
        **more,
    )


def guard_sr(pool: Pool, sr: Sr, kind: StorageOperation) -> None:
    """Refuse what may not be done to the SR now."""
    if error := sr_operation_error(pool, sr, kind):
        raise error


def choose_storage_host(pool: Pool, sr: SrRef, context: Context) -> HostRef:
    """Give one of the live hosts that reach the SR; its predicate has said that there is one."""
    hosts = hosts_reaching(pool, [sr])
    return hosts[int(len(hosts) * context.chance)]


def created_sr(context: Context) -> SrRef:
    """Give the reference of the SR that this command makes."""
    return SrRef(derive_ref(context.command_id, "SR"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SrCreate:
    """Create an SR, backed by a directory of a host (device_config: location), and plug it.

    Type "file": a directory of one host, made where it is missing. Type "nfs": a directory that all hosts see under
    the same path, mounted by whom it concerns; it is plugged on every live host. Either may be shared.
    """

    host: HostRef
    device_config: StringMap
    physical_size: int
    name_label: str
    name_description: str
    type: str
    content_type: str
    shared: bool
    sm_config: StringMap


def decide_sr_create(pool: Pool, request: SrCreate, context: Context) -> list[ev.Event]:
    """XenAPI reference 5; physical_size is what the host says it is."""
    host = host_of(pool, request.host)
    if request.type not in SR_TYPES:
        raise SrUnknownDriver(request.type)
    _check_location(request.device_config)
    if not pool.is_live(host.ref):
        raise HostOffline(host.ref)
    arguments = {
        "name_label": request.name_label,
        "name_description": request.name_description,
        "type": request.type,
        "content_type": request.content_type,
        "shared": str(request.shared or request.type == "nfs").lower(),
        **{CONFIG_PREFIX + key: value for key, value in request.device_config.items()},
        **{SM_PREFIX + key: value for key, value in request.sm_config.items()},
    }
    sr = created_sr(context)
    return [accept_storage(context, StorageTask.ATTACH, host=host.ref, sr=sr, arguments=arguments)]


def _check_location(device_config: StringMap) -> None:
    location = device_config.get(LOCATION, "")
    is_plain = location.isprintable() and ".." not in location.split("/")
    if not location.startswith("/") or location.strip("/") == "" or not is_plain:
        raise InvalidValue("device_config:location", location)


@dataclass(frozen=True, slots=True, kw_only=True)
class SrRequest:
    """The parameter of messages that only name the SR."""

    sr: SrRef


@dataclass(frozen=True, slots=True, kw_only=True)
class SrForget(SrRequest):
    """Remove the SR's record, and those of its disks; their content stays where it is. Only when no PBD is plugged."""


def decide_sr_forget(pool: Pool, request: SrForget, _context: Context) -> list[ev.Event]:
    """XenAPI reference 5."""
    sr = sr_of(pool, request.sr)
    guard_sr(pool, sr, StorageOperation.FORGET)
    return [sev.SrForgotten(sr=sr.ref)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SrDestroy(SrRequest):
    """Destroy the SR, in the log and on the storage. Only when no PBD is plugged and it has no disks."""


def decide_sr_destroy(pool: Pool, request: SrDestroy, context: Context) -> list[ev.Event]:
    """XenAPI reference 5: a host that has a PBD for it does it."""
    sr = sr_of(pool, request.sr)
    guard_sr(pool, sr, StorageOperation.DESTROY)
    pbds = [pool.pbds[PbdRef(ref)] for ref in pool.linked("SR.PBDs", sr.ref)]
    host = next(pbd.host for pbd in pbds if pool.is_live(pbd.host))
    return [accept_storage(context, StorageTask.FORGET, host=host, sr=sr.ref)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SrScan(SrRequest):
    """Look at what is in the SR: sizes are brought up to date, disks that are not there any more are marked missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SrUpdate(SrRequest):
    """Refresh the fields on the SR object."""


def decide_sr_scan(pool: Pool, request: SrRequest, context: Context) -> list[ev.Event]:
    """XenAPI reference 5."""
    sr = sr_of(pool, request.sr)
    guard_sr(pool, sr, StorageOperation.SCAN)
    host = choose_storage_host(pool, sr.ref, context)
    return [accept_storage(context, StorageTask.SCAN, host=host, sr=sr.ref)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSupportedTypes:
    """Return a set of all the SR types supported by the system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SrSetName:
    """Set the SR's name or description."""

    sr: SrRef
    value: str


def decide_sr_name_label(pool: Pool, request: SrSetName, _context: Context) -> list[ev.Event]:
    """XenAPI class reference, SR.set_name_label."""
    return [_set_sr(pool, request.sr, "name_label", request.value)]


def decide_sr_name_description(pool: Pool, request: SrSetName, _context: Context) -> list[ev.Event]:
    """XenAPI class reference, SR.set_name_description."""
    return [_set_sr(pool, request.sr, "name_description", request.value)]


def _set_sr(pool: Pool, ref: SrRef, name: str, value: str) -> ev.FieldSet:
    return ev.FieldSet(object_class="SR", ref=sr_of(pool, ref).ref, field=name, value=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class PbdCreate:
    """Say how a host reaches an SR. It is used after plug."""

    args: Annotated[PbdConfig, record_of("PBD")]


def created_pbd(context: Context) -> PbdRef:
    """Give the reference of the PBD that this command makes."""
    return PbdRef(derive_ref(context.command_id, "PBD"))


def decide_pbd_create(pool: Pool, request: PbdCreate, context: Context) -> list[ev.Event]:
    """XenAPI reference 5."""
    ref, wish = created_pbd(context), request.args
    if ref in pool.pbds:
        return []
    host, sr = host_of(pool, wish.host), sr_of(pool, wish.SR)
    _check_location(wish.device_config)
    if (known := pbd_of(pool, sr.ref, host.ref)) is not None:
        raise PbdExists(sr.ref, host.ref, known.ref)
    location = wish.device_config[LOCATION]
    others = [pool.pbds[PbdRef(x)] for x in pool.linked("SR.PBDs", sr.ref)]
    if others and not sr.shared:
        raise PbdExists(sr.ref, others[0].host, others[0].ref)
    if any(other.device_config.get(LOCATION) != location for other in others):
        # A guest that migrates finds its disks under the path that it came with.
        raise InvalidValue("device_config:location", location)
    return [
        sev.PbdCreated(
            pbd=ref,
            uuid=derive(context.command_id, "PBD"),
            host=host.ref,
            sr=sr.ref,
            device_config=wish.device_config,
            other_config=wish.other_config,
        )
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PbdRequest:
    """The parameter of messages that only name the PBD."""

    self: PbdRef


@dataclass(frozen=True, slots=True, kw_only=True)
class PbdDestroy(PbdRequest):
    """Destroy the PBD; only when it is not plugged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PbdPlug(PbdRequest):
    """Let the host use the SR."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PbdUnplug(PbdRequest):
    """Let the host use the SR no more; not while a VM there has a disk in it."""


def _unbusy(sr: Sr) -> None:
    if sr.current_operations:
        marks = sr.current_operations
        raise OtherOperationInProgress("SR", sr.ref, operations=marks.values(), tasks=marks.keys())


def decide_pbd_destroy(pool: Pool, request: PbdDestroy, _context: Context) -> list[ev.Event]:
    """XenAPI reference 5."""
    pbd = pbd_of_ref(pool, request.self)
    _unbusy(pool.srs[pbd.SR])
    if pbd.currently_attached:
        raise InvalidValue("currently_attached", "true")
    return [sev.PbdDestroyed(pbd=pbd.ref)]


def decide_pbd_plug(pool: Pool, request: PbdPlug, context: Context) -> list[ev.Event]:
    """XenAPI reference 5; where it is plugged already all is well."""
    pbd = pbd_of_ref(pool, request.self)
    if pbd.currently_attached:
        return []
    guard_sr(pool, pool.srs[pbd.SR], StorageOperation.PLUG)
    if not pool.is_live(pbd.host):
        raise HostOffline(pbd.host)
    return [accept_storage(context, StorageTask.ATTACH, host=pbd.host, sr=pbd.SR)]


def decide_pbd_unplug(pool: Pool, request: PbdUnplug, context: Context) -> list[ev.Event]:
    """XenAPI reference 5: from now on nothing begins there."""
    pbd = pbd_of_ref(pool, request.self)
    if not pbd.currently_attached:
        return []
    guard_sr(pool, pool.srs[pbd.SR], StorageOperation.UNPLUG)
    for vm in pool.residents_of(pbd.host):
        if pbd.SR in srs_of_vm(pool, vm):
            vdis = pool.linked("SR.VDIs", pbd.SR)
            used = next(x for x in vdis if any(_is_of(pool, y, vm) for y in _vbds(pool, x)))
            raise VdiInUse(used, "unplug")
    detached = sev.PbdDetached(pbd=pbd.ref)
    if not pool.is_live(pbd.host):
        return [detached, ev.TaskSucceeded(task=context.task)]
    accepted = accept_storage(context, StorageTask.DETACH, host=pbd.host, sr=pbd.SR)
    return [detached, accepted]


def _vbds(pool: Pool, vdi: str) -> tuple[str, ...]:
    return pool.linked("VDI.VBDs", vdi)


def _is_of(pool: Pool, vbd: str, vm: str) -> bool:
    return vbd in pool.linked("VM.VBDs", vm)


_OTHER: Final = "OTHER_OPERATION_IN_PROGRESS"

SR_MESSAGES: Final[tuple[Message, ...]] = (
    operation(
        SrCreate,
        decide_sr_create,
        name="create",
        role=Role.POOL_OPERATOR,
        returns=ref_to("SR"),
        result=lambda _request, context: created_sr(context),
        errors=("SR_UNKNOWN_DRIVER", "HOST_OFFLINE", "INVALID_VALUE", "SR_BACKEND_FAILURE"),
    ),
    command(
        SrForget,
        decide_sr_forget,
        name="forget",
        role=Role.POOL_OPERATOR,
        waits=True,
        errors=("SR_HAS_PBD", _OTHER),
    ),
    operation(
        SrDestroy,
        decide_sr_destroy,
        name="destroy",
        role=Role.POOL_OPERATOR,
        errors=("SR_HAS_PBD", "SR_HAS_NO_PBDS", "SR_NOT_EMPTY", _OTHER),
    ),
    operation(
        SrScan,
        decide_sr_scan,
        name="scan",
        role=Role.VM_POWER_ADMIN,
        errors=("SR_HAS_NO_PBDS", _OTHER),
    ),
    operation(
        SrUpdate,
        decide_sr_scan,
        name="update",
        role=Role.POOL_OPERATOR,
        errors=("SR_HAS_NO_PBDS", _OTHER),
    ),
    query(
        GetSupportedTypes,
        lambda _pool, _request: list(SR_TYPES),
        name="get_supported_types",
        returns=set_of(STRING),
    ),
    command(SrSetName, decide_sr_name_label, name="set_name_label", role=Role.POOL_OPERATOR),
    command(
        SrSetName,
        decide_sr_name_description,
        name="set_name_description",
        role=Role.POOL_OPERATOR,
    ),
)

PBD_MESSAGES: Final[tuple[Message, ...]] = (
    command(
        PbdCreate,
        decide_pbd_create,
        name="create",
        role=Role.POOL_OPERATOR,
        returns=ref_to("PBD"),
        result=lambda _request, context: created_pbd(context),
        errors=("PBD_EXISTS", "INVALID_VALUE"),
    ),
    command(PbdDestroy, decide_pbd_destroy, name="destroy", role=Role.POOL_OPERATOR, waits=True),
    operation(
        PbdPlug,
        decide_pbd_plug,
        name="plug",
        role=Role.POOL_OPERATOR,
        errors=("HOST_OFFLINE", "SR_BACKEND_FAILURE", _OTHER),
    ),
    operation(
        PbdUnplug,
        decide_pbd_unplug,
        name="unplug",
        role=Role.POOL_OPERATOR,
        errors=("VDI_IN_USE", _OTHER),
    ),
)
