"""What events make true of SRs, PBDs, VDIs and VBDs, and of the operations that hosts carry out on them."""

from typing import Final, TypeVar, assert_never

from pool_master.core import storage_events as ev
from pool_master.core.changed import changed
from pool_master.core.datamodel import EMPTY_MAP
from pool_master.core.disks import device_names, vbds_of_vdi, vbds_of_vm
from pool_master.core.events import Recorded
from pool_master.core.pool import Pool
from pool_master.core.storage import (
    Pbd,
    Sr,
    StorageOperationRecord,
    StorageTask,
    Vbd,
    Vdi,
)
from pool_master.core.task import Task
from shared.codec import EPOCH, moment_from_us
from shared.enums import StorageOperation, VbdMode, VbdType, VdiOperation, VmOperation
from shared.refs import NULL_VDI, PbdRef, SrRef, TaskRef, VbdRef, VdiRef, VmRef

Touched = list[tuple[str, str]]
Mark = TypeVar("Mark")

SR_MARKS: Final = {
    StorageTask.ATTACH: StorageOperation.PLUG,
    StorageTask.DETACH: StorageOperation.UNPLUG,
    StorageTask.FORGET: StorageOperation.DESTROY,
    StorageTask.SCAN: StorageOperation.SCAN,
    StorageTask.CREATE: StorageOperation.VDI_CREATE,
    StorageTask.CLONE: StorageOperation.VDI_CLONE,
    StorageTask.SNAPSHOT: StorageOperation.VDI_SNAPSHOT,
    StorageTask.COPY: StorageOperation.VDI_CREATE,
    StorageTask.RESIZE: StorageOperation.VDI_RESIZE,
    StorageTask.DESTROY: StorageOperation.VDI_DESTROY,
}
VDI_MARKS: Final = {
    StorageTask.CLONE: VdiOperation.CLONE,
    StorageTask.SNAPSHOT: VdiOperation.SNAPSHOT,
    StorageTask.COPY: VdiOperation.COPY,
    StorageTask.RESIZE: VdiOperation.RESIZE,
    StorageTask.DESTROY: VdiOperation.DESTROY,
}


def evolve_sr(
    pool: Pool, event: ev.SrCreated | ev.SrForgotten | ev.SrMeasured, _recorded: Recorded
) -> Touched:
    """An SR joins, leaves, or is measured."""
    match event:
        case ev.SrCreated():
            pool.srs[event.sr] = Sr(
                ref=event.sr,
                uuid=event.uuid,
                name_label=event.name_label,
                name_description=event.name_description,
                type=event.type,
                content_type=event.content_type,
                shared=event.shared,
                sm_config=event.sm_config,
            )
            pool.uuids["SR", event.uuid] = event.sr
        case ev.SrMeasured():
            sr = pool.srs.get(event.sr)
            if sr is not None:
                size, used = event.physical_size, event.physical_utilisation
                pool.srs[sr.ref] = changed(sr, physical_size=size, physical_utilisation=used)
        case ev.SrForgotten():
            return _forget(pool, event.sr)
    return [("SR", event.sr)]


def _forget(pool: Pool, ref: SrRef) -> Touched:
    gone = pool.srs.pop(ref, None)
    if gone is None:
        return []
    del pool.uuids["SR", gone.uuid]
    touched: Touched = [("SR", ref)]
    for pbd in pool.linked("SR.PBDs", ref):
        touched += _drop_pbd(pool, PbdRef(pbd))
    for vdi in pool.linked("SR.VDIs", ref):
        touched += _drop_vdi(pool, VdiRef(vdi))
    return touched


def evolve_pbd(
    pool: Pool,
    event: ev.PbdCreated | ev.PbdDestroyed | ev.PbdAttached | ev.PbdDetached,
    _recorded: Recorded,
) -> Touched:
    """A host reaches an SR, or no longer."""
    match event:
        case ev.PbdCreated():
            pool.pbds[event.pbd] = Pbd(
                ref=event.pbd,
                uuid=event.uuid,
                host=event.host,
                SR=event.sr,
                device_config=event.device_config,
                other_config=event.other_config,
            )
            pool.uuids["PBD", event.uuid] = event.pbd
            pool.link("SR.PBDs", event.sr, event.pbd)
            pool.link("host.PBDs", event.host, event.pbd)
            return [("PBD", event.pbd), ("SR", event.sr), ("host", event.host)]
        case ev.PbdDestroyed():
            return _drop_pbd(pool, event.pbd)
        case ev.PbdAttached() | ev.PbdDetached():
            pbd = pool.pbds.get(event.pbd)
            if pbd is None:
                return []
            is_attached = isinstance(event, ev.PbdAttached)
            pool.pbds[pbd.ref] = changed(pbd, currently_attached=is_attached)
            return [("PBD", pbd.ref)]
    assert_never(event)


def _drop_pbd(pool: Pool, ref: PbdRef) -> Touched:
    gone = pool.pbds.pop(ref, None)
    if gone is None:
        return []
    del pool.uuids["PBD", gone.uuid]
    pool.unlink("SR.PBDs", gone.SR, ref)
    pool.unlink("host.PBDs", gone.host, ref)
    return [("PBD", ref), ("SR", gone.SR), ("host", gone.host)]


def drop_pbds_of_host(pool: Pool, host: str) -> Touched:
    """A host left the pool: nobody reaches an SR by it any more."""
    touched: Touched = []
    for ref in pool.linked("host.PBDs", host):
        touched += _drop_pbd(pool, PbdRef(ref))
    return touched


def evolve_vdi(
    pool: Pool,
    event: ev.VdiCreated | ev.VdiRebased | ev.VdiMeasured | ev.VdiDestroyed,
    recorded: Recorded,
) -> Touched:
    """A disk is made, goes on from another, is measured, or is gone."""
    match event:
        case ev.VdiCreated():
            return _add_vdi(pool, event, recorded)
        case ev.VdiDestroyed():
            return _drop_vdi(pool, event.vdi)
        case ev.VdiRebased():
            vdi = pool.vdis.get(event.vdi)
            if vdi is None:
                return []
            pool.unlink("VDI.children", vdi.parent, vdi.ref)
            pool.link("VDI.children", event.parent, vdi.ref)
            pool.vdis[vdi.ref] = changed(vdi, parent=event.parent, is_pristine=True)
        case ev.VdiMeasured():
            vdi = pool.vdis.get(event.vdi)
            if vdi is None:
                return []
            is_same = vdi.config.virtual_size == event.virtual_size
            pool.vdis[vdi.ref] = changed(
                vdi,
                config=changed(vdi.config, virtual_size=event.virtual_size),
                physical_utilisation=event.physical_utilisation,
                missing=event.missing,
                is_pristine=vdi.is_pristine and is_same,
            )
    return [("VDI", event.vdi)]


def _add_vdi(pool: Pool, event: ev.VdiCreated, recorded: Recorded) -> Touched:
    is_a_snapshot = event.snapshot_of != NULL_VDI
    pool.vdis[event.vdi] = Vdi(
        ref=event.vdi,
        uuid=event.uuid,
        config=event.config,
        location=event.location,
        format=event.format,
        physical_utilisation=event.physical_utilisation,
        parent=event.parent,
        managed=event.managed,
        is_pristine=event.parent != NULL_VDI and event.managed,
        is_a_snapshot=is_a_snapshot,
        snapshot_of=event.snapshot_of,
        snapshot_time=moment_from_us(recorded.time_us) if is_a_snapshot else EPOCH,
    )
    pool.uuids["VDI", event.uuid] = event.vdi
    pool.link("SR.VDIs", event.config.SR, event.vdi)
    touched: Touched = [("VDI", event.vdi), ("SR", event.config.SR)]
    if event.parent != NULL_VDI:
        pool.link("VDI.children", event.parent, event.vdi)
    if is_a_snapshot:
        pool.link("VDI.snapshots", event.snapshot_of, event.vdi)
        touched.append(("VDI", event.snapshot_of))
    return touched


def _drop_vdi(pool: Pool, ref: VdiRef) -> Touched:
    gone = pool.vdis.pop(ref, None)
    if gone is None:
        return []
    del pool.uuids["VDI", gone.uuid]
    pool.unlink("SR.VDIs", gone.config.SR, ref)
    pool.unlink("VDI.children", gone.parent, ref)
    pool.unlink("VDI.snapshots", gone.snapshot_of, ref)
    touched: Touched = [("VDI", ref), ("SR", gone.config.SR)]
    for vbd in vbds_of_vdi(pool, ref):
        if vbd.config.type is VbdType.CD:
            pool.unlink("VDI.VBDs", ref, vbd.ref)
            pool.vbds[vbd.ref] = changed(vbd, config=changed(vbd.config, VDI=NULL_VDI, empty=True))
            touched.append(("VBD", vbd.ref))
        else:
            touched += drop_vbd(pool, vbd.ref)
    return touched


def evolve_vbd(pool: Pool, event: ev.VbdCreated | ev.VbdDestroyed, _recorded: Recorded) -> Touched:
    """A VM gets a disk or drive, or loses it."""
    match event:
        case ev.VbdCreated():
            vbd = Vbd(ref=event.vbd, uuid=event.uuid, config=event.config)
            pool.vbds[vbd.ref] = vbd
            pool.uuids["VBD", event.uuid] = vbd.ref
            pool.link("VM.VBDs", vbd.config.VM, vbd.ref)
            touched: Touched = [("VBD", vbd.ref), ("VM", vbd.config.VM)]
            if vbd.config.VDI != NULL_VDI:
                pool.link("VDI.VBDs", vbd.config.VDI, vbd.ref)
                touched.append(("VDI", vbd.config.VDI))
            return touched
        case ev.VbdDestroyed():
            return drop_vbd(pool, event.vbd)
    assert_never(event)


def drop_vbd(pool: Pool, ref: VbdRef) -> Touched:
    """A VBD is gone; its disk stays."""
    gone = pool.vbds.pop(ref, None)
    if gone is None:
        return []
    del pool.uuids["VBD", gone.uuid]
    pool.unlink("VM.VBDs", gone.config.VM, ref)
    touched: Touched = [("VBD", ref), ("VM", gone.config.VM)]
    if gone.config.VDI != NULL_VDI:
        pool.unlink("VDI.VBDs", gone.config.VDI, ref)
        touched.append(("VDI", gone.config.VDI))
    return touched


def drop_vbds_of(pool: Pool, vm: VmRef) -> Touched:
    """A VM is gone, and all its VBDs with it."""
    touched: Touched = []
    for ref in pool.linked("VM.VBDs", vm):
        touched += drop_vbd(pool, VbdRef(ref))
    return touched


def attach_disks(pool: Pool, vm: VmRef) -> Touched:
    """The VM's domain is there, with all its disks: who may write to one has from now on written to it."""
    names = device_names(pool, vm)
    touched: Touched = []
    for vbd in vbds_of_vm(pool, vm):
        pool.vbds[vbd.ref] = changed(vbd, currently_attached=True, device=names[vbd.ref])
        touched.append(("VBD", vbd.ref))
        vdi = pool.vdis.get(vbd.config.VDI)
        if vdi is not None:
            if vdi.is_pristine and vbd.config.mode is VbdMode.RW:
                pool.vdis[vdi.ref] = changed(vdi, is_pristine=False)
            touched.append(("VDI", vdi.ref))
    return touched


def detach_disks(pool: Pool, vm: VmRef) -> Touched:
    """No domain of the VM is left, so it holds no disk."""
    touched: Touched = []
    for ref in pool.linked("VM.VBDs", vm):
        vbd = pool.vbds[VbdRef(ref)]
        if vbd.currently_attached:
            pool.vbds[vbd.ref] = changed(vbd, currently_attached=False, device="")
            touched.append(("VBD", vbd.ref))
            if vbd.config.VDI != NULL_VDI:
                touched.append(("VDI", vbd.config.VDI))
    return touched


def evolve_storage_operation(
    pool: Pool,
    event: ev.StorageOperationAccepted | ev.StorageOperationAdvanced,
    recorded: Recorded,
) -> Touched:
    """An operation on storage is accepted, or goes on with its next step."""
    if isinstance(event, ev.StorageOperationAdvanced):
        operation = pool.storage_operations.get(event.task)
        if operation is not None:
            touched = _unmark(pool, operation)
            operation = changed(operation, step=event.step, vdi=event.vdi)
            pool.storage_operations[event.task] = operation
            return touched + _mark(pool, operation)
        return []
    now = moment_from_us(recorded.time_us)
    old = pool.tasks.get(event.task)
    task = old or Task(ref=event.task, uuid=event.task_uuid, created=now)
    pool.uuids["task", event.task_uuid] = event.task
    pool.tasks[event.task] = changed(
        task,
        name_label=event.name_label,
        owner=recorded.actor.name,
        resident_on=event.host,
        is_cancellable=bool(event.wishes),
    )
    operation = StorageOperationRecord(
        task=event.task,
        kind=event.kind,
        host=event.host,
        sr=event.sr,
        vdi=event.vdi,
        vm=event.vm,
        identity=event.identity,
        wishes=event.wishes,
        arguments=event.arguments,
        accepted_at=now,
    )
    pool.storage_operations[event.task] = operation
    return [("task", event.task), *_mark(pool, operation)]


def _srs_of(operation: StorageOperationRecord) -> list[SrRef]:
    return list(dict.fromkeys((operation.sr, *(wish.config.SR for wish in operation.wishes))))


def _vdis_of(operation: StorageOperationRecord) -> list[VdiRef]:
    return list(dict.fromkeys((operation.vdi, *(wish.source for wish in operation.wishes))))


def _mark(pool: Pool, operation: StorageOperationRecord) -> Touched:
    """Show the operation on all that it works on."""
    task, touched = operation.task, []
    for ref in _srs_of(operation):
        if (sr := pool.srs.get(ref)) is not None:
            marks = {**sr.current_operations, task: SR_MARKS[operation.kind]}
            pool.srs[ref] = changed(sr, current_operations=marks)
            touched.append(("SR", str(ref)))
    for disk in _vdis_of(operation):
        if (vdi := pool.vdis.get(disk)) is not None and operation.kind in VDI_MARKS:
            on_disk = {**vdi.current_operations, task: VDI_MARKS[operation.kind]}
            pool.vdis[disk] = changed(vdi, current_operations=on_disk)
            touched.append(("VDI", str(disk)))
    if (vm := pool.vms.get(operation.vm)) is not None:
        kind = VmOperation(operation.arguments["vm_operation"])
        pool.vms[vm.ref] = changed(vm, current_operations={**vm.current_operations, task: kind})
        touched.append(("VM", vm.ref))
    return touched


def _unmark(pool: Pool, operation: StorageOperationRecord) -> Touched:
    task, touched = operation.task, []
    for ref in _srs_of(operation):
        if (sr := pool.srs.get(ref)) is not None:
            pool.srs[ref] = changed(sr, current_operations=without(sr.current_operations, task))
            touched.append(("SR", str(ref)))
    for disk in _vdis_of(operation):
        if (vdi := pool.vdis.get(disk)) is not None:
            left = without(vdi.current_operations, task)
            pool.vdis[disk] = changed(vdi, current_operations=left)
            touched.append(("VDI", str(disk)))
    if (vm := pool.vms.get(operation.vm)) is not None:
        marks = without(vm.current_operations, task)
        pool.vms[vm.ref] = changed(vm, current_operations=marks)
        touched.append(("VM", vm.ref))
    return touched


def without(marks: dict[TaskRef, Mark], task: TaskRef) -> dict[TaskRef, Mark]:
    """Give the marks of all other tasks."""
    return {key: kind for key, kind in marks.items() if key != task} or EMPTY_MAP


def end_storage_operation(pool: Pool, task: TaskRef) -> Touched:
    """An operation on storage is over, whatever became of it."""
    operation = pool.storage_operations.pop(task, None)
    return [] if operation is None else _unmark(pool, operation)
