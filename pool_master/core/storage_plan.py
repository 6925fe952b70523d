"""What hosts must still be told of storage, and which disks a domain is built with."""

from typing import Final

from pool_master.core.disks import device_names, has_no_disk, pbd_of, vbds_of_vm
from pool_master.core.pool import Pool
from pool_master.core.sr_messages import CONFIG_PREFIX, LOCATION
from pool_master.core.storage import DiskWish, StorageOperationRecord, StorageTask, Vdi
from pool_master.core.storage_reports import storage_command_id
from shared.enums import VbdMode, VbdType
from shared.protocol import (
    CancelCommand,
    HostAction,
    HostCommand,
)
from shared.refs import HostRef, SrRef, VmRef, derive
from shared.storage_protocol import (
    AttachStorage,
    DeleteDisk,
    DetachStorage,
    DiskConfig,
    DiskOrder,
    MakeDisks,
    ResizeDisk,
    ScanStorage,
    StorageConfig,
)

NO_INCARNATION: Final = 0


def plan_storage(
    pool: Pool, operation: StorageOperationRecord
) -> list[tuple[HostRef, HostCommand]]:
    """Give the commands for the operation's present step, with the host that must be told."""
    action = _action(pool, operation)
    if action is None:
        return []
    command_id = storage_command_id(operation)
    planned = [(operation.host, _command(pool, operation, command_id, action))]
    if operation.is_cancelling:
        cancel = CancelCommand(cancelled_command_id=command_id)
        planned.append((operation.host, _command(pool, operation, f"{command_id}/cancel", cancel)))
    return planned


def _command(
    pool: Pool, operation: StorageOperationRecord, command_id: str, action: HostAction
) -> HostCommand:
    return HostCommand(
        command_id=command_id,
        task=operation.task,
        term=pool.term,
        vm_uuid=_subject(pool, operation),
        incarnation=NO_INCARNATION,
        host_epoch=pool.hosts[operation.host].lost_count,
        action=action,
    )


def _subject(pool: Pool, operation: StorageOperationRecord) -> str:
    """Name what the command is about: commands about one thing run one after another."""
    vdi = pool.vdis.get(operation.vdi)
    if vdi is not None:
        return vdi.uuid
    return operation.wishes[0].uuid if operation.wishes else _sr_uuid(pool, operation)


def _sr_uuid(pool: Pool, operation: StorageOperationRecord) -> str:
    sr = pool.srs.get(operation.sr)
    return derive(operation.identity, "SR") if sr is None else sr.uuid


def _action(pool: Pool, operation: StorageOperationRecord) -> HostAction | None:
    storage = _new_storage(operation)
    is_new = storage is not None and operation.sr not in pool.srs
    if not is_new:
        storage = storage_config(pool, operation.sr, operation.host)
    if storage is None:
        return None
    match operation.kind:
        case StorageTask.ATTACH:
            return AttachStorage(storage=storage, is_new=is_new)
        case StorageTask.DETACH | StorageTask.FORGET:
            return DetachStorage(storage=storage, is_final=operation.kind is StorageTask.FORGET)
        case StorageTask.SCAN:
            return ScanStorage(storage=storage)
        case StorageTask.DESTROY | StorageTask.RESIZE:
            return _on_disk(pool, operation, storage)
        case _:
            orders = tuple(order(pool, operation.host, wish) for wish in operation.wishes)
            return MakeDisks(orders=orders)


def _on_disk(
    pool: Pool, operation: StorageOperationRecord, storage: StorageConfig
) -> HostAction | None:
    vdi = pool.vdis.get(operation.vdi)
    if vdi is None:
        return None
    if operation.kind is StorageTask.DESTROY:
        return DeleteDisk(storage=storage, location=vdi.location)
    return ResizeDisk(
        storage=storage,
        location=vdi.location,
        format=vdi.format,
        size=int(operation.arguments["size"]),
    )


def _new_storage(operation: StorageOperationRecord) -> StorageConfig | None:
    said = operation.arguments
    if operation.kind is not StorageTask.ATTACH or "type" not in said:
        return None
    return StorageConfig(
        sr_uuid=derive(operation.identity, "SR"),
        type=said["type"],
        shared=said["shared"] == "true",
        device_config={
            key.removeprefix(CONFIG_PREFIX): value
            for key, value in said.items()
            if key.startswith(CONFIG_PREFIX)
        },
    )


def storage_config(pool: Pool, ref: SrRef, host: HostRef) -> StorageConfig | None:
    """Give the SR as the host reaches it; None where it has no PBD."""
    sr, pbd = pool.srs.get(ref), pbd_of(pool, ref, host)
    if sr is None or pbd is None:
        return None
    return StorageConfig(
        sr_uuid=sr.uuid, type=sr.type, shared=sr.shared, device_config=pbd.device_config
    )


def order(pool: Pool, host: HostRef, wish: DiskWish) -> DiskOrder:
    """Give what makes the disk, on a host that reaches all SRs concerned."""
    storage = storage_config(pool, wish.config.SR, host)
    assert storage is not None
    source = pool.vdis.get(wish.source)
    if source is None:
        made_as = wish.config.sm_config.get("type", "qcow2")
        return DiskOrder(
            storage=storage,
            name=f"{wish.uuid}.{made_as}",
            size=wish.config.virtual_size,
            format=made_as,
        )
    shared = _base_of(pool, wish, source)
    parent = pool.vdis.get(wish.base_ref)
    return DiskOrder(
        storage=storage,
        name=f"{wish.uuid}.{source.format}",
        size=source.config.virtual_size,
        format=source.format,
        source=source.location if parent is None or wish.base else parent.location,
        source_format=source.format,
        source_storage=storage_config(pool, source.config.SR, host),
        base=shared,
    )


def _base_of(pool: Pool, wish: DiskWish, source: Vdi) -> str:
    if wish.base:
        return f"{wish.base}.{source.format}"
    parent = pool.vdis.get(wish.base_ref)
    return "" if parent is None else parent.location


def disk_configs(pool: Pool, vm: VmRef, host: HostRef) -> tuple[DiskConfig, ...]:
    """Give the VM's disks as its domain on that host has them, in the order of their devices."""
    names = device_names(pool, vm)
    disks = []
    for vbd in vbds_of_vm(pool, vm):
        vdi = None if has_no_disk(vbd) else pool.vdis.get(vbd.config.VDI)
        pbd = None if vdi is None else pbd_of(pool, vdi.config.SR, host)
        sr = None if vdi is None else pool.srs.get(vdi.config.SR)
        source = f"{pbd.device_config[LOCATION]}/{vdi.location}" if vdi and pbd else ""
        disks.append(
            DiskConfig(
                device=names[vbd.ref],
                source=source,
                format=vdi.format if vdi else "raw",
                read_only=vbd.config.mode is VbdMode.RO,
                is_cdrom=vbd.config.type is VbdType.CD,
                is_shared=sr is not None and sr.shared,
                is_sharable=vdi is not None and vdi.config.sharable,
            )
        )
    return tuple(disks)
