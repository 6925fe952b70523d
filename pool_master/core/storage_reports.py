"""What a host's word about storage means: its reports in, events out; and what becomes of operations of a lost host.

Rules: a disk is in the log when it is whole; the host's failure means that nothing of what it was to make is left. A
report counts only for the operation, and the step of it, that it answers.
"""

from pool_master.core import events as ev
from pool_master.core import storage_events as sev
from pool_master.core.changed import changed
from pool_master.core.context import Context
from pool_master.core.disks import children_of, pbd_of
from pool_master.core.pool import Pool
from pool_master.core.sr_messages import CONFIG_PREFIX, SM_PREFIX
from pool_master.core.storage import DiskWish, StorageOperationRecord, StorageTask, Vdi
from pool_master.core.vm_cloning import vm_made
from shared.errors import HostOffline
from shared.protocol import (
    CommandFailed,
    CommandSucceeded,
)
from shared.refs import NULL_VDI, HostRef, PbdRef, TaskRef, VdiRef, derive, derive_ref
from shared.storage_protocol import (
    DiskObservation,
    StorageObservation,
)

MAKING = (StorageTask.CREATE, StorageTask.CLONE, StorageTask.SNAPSHOT, StorageTask.COPY)


def storage_command_id(operation: StorageOperationRecord) -> str:
    """Give the id of the command for the operation's present step: the same under every leader."""
    return f"{operation.task}/{operation.step}"


def is_storage_answer(operation: StorageOperationRecord, host: HostRef, command_id: str) -> bool:
    """Whether a report is about the operation's present step."""
    return operation.host == host and command_id == storage_command_id(operation)


def decide_storage_outcome(  # noqa: PLR0911 - one return a case
    pool: Pool,
    operation: StorageOperationRecord,
    body: CommandSucceeded | CommandFailed,
    context: Context,
) -> list[ev.Event]:
    """Give the events of a host's answer."""
    if isinstance(body, CommandFailed):
        return storage_failed(pool, operation, (body.code, *body.parameters))
    seen = body.storage or StorageObservation(physical_size=0, physical_utilisation=0)
    measured = _measured(pool, operation, seen)
    done: ev.Event = ev.TaskSucceeded(task=operation.task, result=_result(operation))
    match operation.kind:
        case StorageTask.ATTACH:
            return [*_attached(pool, operation, seen), done, *_spread(pool, operation, context)]
        case StorageTask.DETACH:
            return [done]
        case StorageTask.FORGET:
            return [sev.SrForgotten(sr=operation.sr), done]
        case StorageTask.SCAN:
            return [*measured, *_scanned(pool, operation, seen), done]
        case StorageTask.RESIZE:
            return [*measured, *_resized(pool, operation, seen), done]
        case StorageTask.DESTROY:
            return [*measured, *_destroyed(pool, operation, done)]
        case _:
            made = [
                event for wish in operation.wishes for event in _made(pool, operation, wish, seen)
            ]
            return [*measured, *made, *vm_made(pool, operation), done]


def storage_failed(
    pool: Pool, operation: StorageOperationRecord, error_info: tuple[str, ...]
) -> list[ev.Event]:
    """Give the events of an operation that came to nothing."""
    known: dict[str, str] = {}
    if (vdi := pool.vdis.get(operation.vdi)) is not None:
        known[vdi.uuid] = vdi.ref
    sr = pool.srs.get(operation.sr)
    if sr is not None:
        known[sr.uuid] = sr.ref
    info = tuple(known.get(word, word) for word in error_info)
    failed = ev.TaskFailed(task=operation.task, error_info=info)
    pbd = pbd_of(pool, operation.sr, operation.host)
    if operation.kind is StorageTask.DETACH and pbd is not None:
        return [sev.PbdAttached(pbd=pbd.ref), failed]
    return [failed]


def storage_abandoned(pool: Pool, host: HostRef) -> list[ev.Event]:
    """Give the ends of what a lost host was to do with storage."""
    error = tuple(HostOffline(host).description)
    return [
        ev.TaskFailed(task=operation.task, error_info=error)
        for operation in pool.storage_operations.values()
        if operation.host == host
    ]


def _result(operation: StorageOperationRecord) -> str:
    """Give what the call returns, as a task keeps it: the reference of the one thing that was made."""
    ref = operation.arguments.get("new_vm", "")
    if operation.kind is StorageTask.ATTACH and "name_label" in operation.arguments:
        ref = operation.sr
    elif not ref and len(operation.wishes) == 1 and not operation.arguments.get("vm_operation"):
        ref = operation.wishes[0].vdi
    return f"<value>{ref}</value>" if ref else ""


def _measured(
    pool: Pool, operation: StorageOperationRecord, seen: StorageObservation
) -> list[ev.Event]:
    sr = pool.srs.get(operation.sr)
    said = (seen.physical_size, seen.physical_utilisation)
    if sr is None or said in {(0, 0), (sr.physical_size, sr.physical_utilisation)}:
        return []
    return [sev.SrMeasured(sr=sr.ref, physical_size=said[0], physical_utilisation=said[1])]


def _attached(
    pool: Pool, operation: StorageOperationRecord, seen: StorageObservation
) -> list[ev.Event]:
    known = pbd_of(pool, operation.sr, operation.host)
    if known is not None:
        return [sev.PbdAttached(pbd=known.ref), *_measured(pool, operation, seen)]
    if operation.sr in pool.srs:
        return []  # Its PBD was destroyed meanwhile.
    said = operation.arguments
    created = sev.SrCreated(
        sr=operation.sr,
        uuid=derive(operation.identity, "SR"),
        name_label=said["name_label"],
        name_description=said["name_description"],
        type=said["type"],
        content_type=said["content_type"],
        shared=said["shared"] == "true",
        sm_config=_under(said, SM_PREFIX),
    )
    size, used = seen.physical_size, seen.physical_utilisation
    pbd = _pbd(operation, operation.host)
    return [
        created,
        sev.SrMeasured(sr=operation.sr, physical_size=size, physical_utilisation=used),
        pbd,
        sev.PbdAttached(pbd=pbd.pbd),
    ]


def _pbd(operation: StorageOperationRecord, host: HostRef) -> sev.PbdCreated:
    purpose = f"PBD/{host}"
    return sev.PbdCreated(
        pbd=PbdRef(derive_ref(operation.identity, purpose)),
        uuid=derive(operation.identity, purpose),
        host=host,
        sr=operation.sr,
        device_config=_under(operation.arguments, CONFIG_PREFIX),
    )


def _under(arguments: dict[str, str], prefix: str) -> dict[str, str]:
    return {
        key.removeprefix(prefix): value
        for key, value in arguments.items()
        if key.startswith(prefix)
    }


def _spread(pool: Pool, operation: StorageOperationRecord, context: Context) -> list[ev.Event]:
    """A new shared SR is plugged on every live host: each has a PBD and a task of its own."""
    is_new = operation.sr not in pool.srs
    if not is_new or operation.arguments.get("shared") != "true":
        return []
    events: list[ev.Event] = []
    for host in pool.hosts:
        if host == operation.host:
            continue
        events.append(_pbd(operation, host))
        if pool.is_live(host):
            identity = f"{context.command_id}/{host}"
            events.append(
                sev.StorageOperationAccepted(
                    task=TaskRef(derive_ref(identity, "task")),
                    task_uuid=derive(identity, "task"),
                    name_label="PBD.plug",
                    kind=StorageTask.ATTACH,
                    host=host,
                    sr=operation.sr,
                    identity=identity,
                )
            )
    return events


def _made(
    pool: Pool, operation: StorageOperationRecord, wish: DiskWish, seen: StorageObservation
) -> list[ev.Event]:
    disks = {disk.location.rpartition(".")[0]: disk for disk in seen.disks}
    disk = disks.get(wish.uuid)
    source = pool.vdis.get(wish.source)
    events: list[ev.Event] = []
    if wish.base and source is not None:
        events = _based(wish, source, disks.get(wish.base))
    made_as = source.format if source is not None else wish.config.sm_config.get("type", "qcow2")
    events.append(
        sev.VdiCreated(
            vdi=wish.vdi,
            uuid=wish.uuid,
            config=changed(
                wish.config, virtual_size=disk.virtual_size if disk else wish.config.virtual_size
            ),
            location=f"{wish.uuid}.{made_as}",
            format=made_as,
            physical_utilisation=disk.physical_utilisation if disk else 0,
            parent=wish.base_ref,
            snapshot_of=wish.source if wish.is_a_snapshot else NULL_VDI,
        )
    )
    return events


def _based(wish: DiskWish, source: Vdi, disk: DiskObservation | None) -> list[ev.Event]:
    """What the source held is the base's now."""
    return [
        sev.VdiCreated(
            vdi=wish.base_ref,
            uuid=wish.base,
            config=changed(source.config, name_label="base copy", read_only=True),
            location=f"{wish.base}.{source.format}",
            format=source.format,
            physical_utilisation=disk.physical_utilisation if disk else source.physical_utilisation,
            parent=source.parent,
            managed=False,
        ),
        sev.VdiRebased(vdi=source.ref, parent=wish.base_ref),
    ]


def _resized(
    pool: Pool, operation: StorageOperationRecord, seen: StorageObservation
) -> list[ev.Event]:
    vdi = pool.vdis.get(operation.vdi)
    if vdi is None or not seen.disks:
        return []
    disk = seen.disks[0]
    return [
        sev.VdiMeasured(
            vdi=vdi.ref,
            virtual_size=disk.virtual_size,
            physical_utilisation=disk.physical_utilisation,
        )
    ]


def _scanned(
    pool: Pool, operation: StorageOperationRecord, seen: StorageObservation
) -> list[ev.Event]:
    disks = {disk.location: disk for disk in seen.disks}
    events: list[ev.Event] = []
    for ref in pool.linked("SR.VDIs", operation.sr):
        vdi = pool.vdis[VdiRef(ref)]
        disk = disks.get(vdi.location)
        size = vdi.config.virtual_size if disk is None else disk.virtual_size
        used = vdi.physical_utilisation if disk is None else disk.physical_utilisation
        is_missing = disk is None
        if (size, used, is_missing) != (
            vdi.config.virtual_size,
            vdi.physical_utilisation,
            vdi.missing,
        ):
            events.append(
                sev.VdiMeasured(
                    vdi=vdi.ref, virtual_size=size, physical_utilisation=used, missing=is_missing
                )
            )
    return events


def _destroyed(pool: Pool, operation: StorageOperationRecord, done: ev.Event) -> list[ev.Event]:
    """The disk is gone; what was only there for it goes next, from the last to the first of its line."""
    vdi = pool.vdis.get(operation.vdi)
    if vdi is None:
        return [done]
    gone = sev.VdiDestroyed(vdi=vdi.ref)
    parent = pool.vdis.get(vdi.parent)
    if parent is None or parent.managed or children_of(pool, parent.ref) != (vdi.ref,):
        return [gone, done]
    step = operation.step + 1
    return [gone, sev.StorageOperationAdvanced(task=operation.task, step=step, vdi=parent.ref)]
