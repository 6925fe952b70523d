"""VM.clone, VM.copy and VM.provision: new VMs and disks from those that are there.

Rules: the new VM comes into the log with all its disks, when all of them are whole, or not at all.
"""

from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree

from pool_master.core import events as ev
from pool_master.core import storage_events as sev
from pool_master.core.allowed import operation_error
from pool_master.core.allowed_storage import vdi_operation_error
from pool_master.core.changed import changed
from pool_master.core.context import Context
from pool_master.core.datamodel import EMPTY_MAP, Message, operation, ref_to
from pool_master.core.disks import has_no_disk, hosts_reaching, vbds_of_vm
from pool_master.core.lookup import sr_of, vm_of
from pool_master.core.pool import Pool
from pool_master.core.sr_messages import accept_storage, guard_sr
from pool_master.core.storage import (
    DiskWish,
    StorageOperationRecord,
    StorageTask,
    Vbd,
    VbdConfig,
    Vdi,
    VdiConfig,
)
from pool_master.core.vbd_messages import free_device
from pool_master.core.vdi_messages import checked_size, clone_wish, copy_wish, wish
from pool_master.core.vifs import copies_of_vifs
from pool_master.core.vm import Vm, VmConfig
from pool_master.core.vm_config import created_vm
from shared.enums import (
    Role,
    StorageOperation,
    VbdMode,
    VbdType,
    VdiOperation,
    VdiType,
    VmOperation,
)
from shared.errors import InvalidValue, NoHostsAvailable, UuidInvalid, XenApiError
from shared.refs import (
    NULL_SR,
    SrRef,
    VbdRef,
    VdiRef,
    VmRef,
    derive,
    derive_ref,
    is_null,
)

# What belongs to the original alone.
DISKS_KEY: Final = "disks"
_DROPPED: Final = ("default_template", "mac_seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """Clones the specified VM, making a new VM. Its disks share what the original's held, so it takes no time."""

    vm: VmRef
    new_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Copies a VM, with full copies of its disks, into one SR or, where none is named, each into its own."""

    vm: VmRef
    new_name: str
    sr: SrRef = NULL_SR


def decide_clone(pool: Pool, request: Clone, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.2."""
    vm = _guarded(pool, request.vm, VmOperation.CLONE)
    wishes = tuple(
        clone_wish(context, _disk(pool, vbd, VdiOperation.CLONE), number)
        for number, vbd in enumerate(_disks(pool, vm))
    )
    return _accept(pool, vm, VmOperation.CLONE, wishes, context, new_name=request.new_name)


def decide_copy(pool: Pool, request: Copy, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.2: a reference to no SR means that each disk stays in its own."""
    vm = _guarded(pool, request.vm, VmOperation.COPY)
    target = NULL_SR if is_null(request.sr) else sr_of(pool, request.sr).ref
    wishes = []
    for number, vbd in enumerate(_disks(pool, vm)):
        vdi = _disk(pool, vbd, VdiOperation.COPY)
        sr = vdi.config.SR if target == NULL_SR else target
        wishes.append(copy_wish(context, vdi, sr, number))
    return _accept(pool, vm, VmOperation.COPY, tuple(wishes), context, new_name=request.new_name)


def _guarded(pool: Pool, ref: VmRef, kind: VmOperation) -> Vm:
    vm = vm_of(pool, ref)
    if error := operation_error(vm, kind):
        raise error
    return vm


def _disks(pool: Pool, vm: Vm) -> list[Vbd]:
    """Give the VBDs whose disks the new VM gets of its own: a CD is shared."""
    return [
        vbd
        for vbd in vbds_of_vm(pool, vm.ref)
        if vbd.config.type is VbdType.DISK and not has_no_disk(vbd)
    ]


def _disk(pool: Pool, vbd: Vbd, kind: VdiOperation) -> Vdi:
    vdi = pool.vdis[vbd.config.VDI]
    error: XenApiError | None = vdi_operation_error(pool, vdi, kind)
    if error is not None:
        raise error
    return vdi


def _accept(
    pool: Pool,
    vm: Vm,
    kind: VmOperation,
    wishes: tuple[DiskWish, ...],
    context: Context,
    *,
    new_name: str,
) -> list[ev.Event]:
    new = created_vm(context)
    if new in pool.vms:
        return []
    if not wishes:
        done = ev.TaskSucceeded(task=context.task, result=f"<value>{new}</value>")
        made = _new_vm(pool, vm, context.command_id, new_name, {})
        return [*made, done]
    srs = [wish.config.SR for wish in wishes] + [
        pool.vdis[wish.source].config.SR for wish in wishes
    ]
    hosts = hosts_reaching(pool, list(dict.fromkeys(srs)))
    if not hosts:
        raise NoHostsAvailable
    return [
        accept_storage(
            context,
            StorageTask.CLONE if kind is VmOperation.CLONE else StorageTask.COPY,
            host=hosts[int(len(hosts) * context.chance)],
            sr=wishes[0].config.SR,
            vm=vm.ref,
            wishes=wishes,
            arguments={"vm_operation": kind.value, "new_vm": new, "new_name": new_name},
        )
    ]


def vm_made(pool: Pool, operation: StorageOperationRecord) -> list[ev.Event]:
    """Give what an operation that has made all its disks makes of them: a new VM, or a provisioned one."""
    vm = pool.vms.get(operation.vm)
    if vm is None:
        return []
    if operation.arguments["vm_operation"] == VmOperation.PROVISION.value:
        return _provisioned(vm, operation)
    disks = {wish.source: wish.vdi for wish in operation.wishes}
    return _new_vm(pool, vm, operation.identity, operation.arguments["new_name"], disks)


def _new_vm(
    pool: Pool, vm: Vm, identity: str, new_name: str, disks: dict[VdiRef, VdiRef]
) -> list[ev.Event]:
    ref = VmRef(derive_ref(identity, "VM"))
    created = ev.VmCreated(
        vm=ref,
        uuid=derive(identity, "VM"),
        config=_config(vm, identity, new_name),
        metrics=derive_ref(identity, "VM_metrics"),
        metrics_uuid=derive(identity, "VM_metrics"),
    )
    seed = created.config.other_config["mac_seed"]
    events: list[ev.Event] = [created, *copies_of_vifs(pool, vm.ref, ref, seed, identity)]
    for number, vbd in enumerate(vbds_of_vm(pool, vm.ref)):
        is_own = vbd.config.type is VbdType.DISK
        if is_own and vbd.config.VDI not in disks:
            continue
        vdi = disks[vbd.config.VDI] if is_own else vbd.config.VDI
        config = changed(vbd.config, VM=ref, VDI=vdi)
        events.append(_vbd(identity, number, config))
    return events


def _vbd(identity: str, number: int, config: VbdConfig) -> sev.VbdCreated:
    purpose = f"VBD/{number}"
    vbd = VbdRef(derive_ref(identity, purpose))
    return sev.VbdCreated(vbd=vbd, uuid=derive(identity, purpose), config=config)


def _config(vm: Vm, identity: str, new_name: str) -> VmConfig:
    old = vm.config
    other_config = {key: value for key, value in old.other_config.items() if key not in _DROPPED}
    other_config["mac_seed"] = derive(identity, "mac_seed")
    if old.is_a_template:
        other_config["base_template_name"] = old.name_label
    return changed(
        old,
        name_label=new_name,
        other_config=other_config,
        blocked_operations=EMPTY_MAP,
        ha_always_run=False,
        order=0,
        start_delay=0,
        shutdown_delay=0,
        suspend_SR=NULL_SR,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """Inspects the disk configuration in other_config["disks"], makes the disks, and makes the template a VM.

    Post-install scripts are not run.
    """

    vm: VmRef


def decide_provision(pool: Pool, request: Provision, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.2."""
    vm = _guarded(pool, request.vm, VmOperation.PROVISION)
    wishes, arguments = [], {"vm_operation": VmOperation.PROVISION.value}
    for number, disk in enumerate(_wanted_disks(vm)):
        sr_ref = pool.uuids.get(("SR", disk.get("sr", "")))
        if sr_ref is None:
            raise UuidInvalid("sr", disk.get("sr", ""))
        sr = sr_of(pool, SrRef(sr_ref))
        guard_sr(pool, sr, StorageOperation.VDI_CREATE)
        config = VdiConfig(
            SR=sr.ref,
            virtual_size=checked_size(sr, _number(disk, "size")),
            type=_type_of(disk),
            name_label=f"{vm.config.name_label} {disk.get('device', '')}",
        )
        wishes.append(wish(context, config, number))
        arguments[f"device/{number}"] = free_device(pool, vm.ref, disk.get("device", ""))
        arguments[f"bootable/{number}"] = disk.get("bootable", "false")
    if not wishes:
        return [_no_template(vm), ev.TaskSucceeded(task=context.task)]
    hosts = hosts_reaching(pool, list(dict.fromkeys(made.config.SR for made in wishes)))
    if not hosts:
        raise NoHostsAvailable
    return [
        accept_storage(
            context,
            StorageTask.CREATE,
            host=hosts[int(len(hosts) * context.chance)],
            sr=wishes[0].config.SR,
            vm=vm.ref,
            wishes=tuple(wishes),
            arguments=arguments,
        )
    ]


def _wanted_disks(vm: Vm) -> list[dict[str, str]]:
    text = vm.config.other_config.get(DISKS_KEY, "")
    if not text:
        return []
    try:
        root = defusedxml.ElementTree.fromstring(text)
    except (ParseError, ValueError):
        raise InvalidValue("other_config:disks", text[:200]) from None
    return [dict(disk.attrib) for disk in root.iter("disk")]


def _number(disk: dict[str, str], key: str) -> int:
    text = disk.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidValue(f"other_config:disks:{key}", text)
    return int(text)


def _type_of(disk: dict[str, str]) -> VdiType:
    try:
        return VdiType(disk.get("type", VdiType.SYSTEM))
    except ValueError:
        raise InvalidValue("other_config:disks:type", disk["type"]) from None


def _no_template(vm: Vm) -> ev.FieldSet:
    return ev.FieldSet(object_class="VM", ref=vm.ref, field="is_a_template", value=False)


def _provisioned(vm: Vm, operation: StorageOperationRecord) -> list[ev.Event]:
    said = operation.arguments
    events: list[ev.Event] = [
        _vbd(
            operation.identity,
            number,
            VbdConfig(
                VM=vm.ref,
                VDI=made.vdi,
                userdevice=said[f"device/{number}"],
                bootable=said[f"bootable/{number}"].lower() == "true",
                mode=VbdMode.RW,
                type=VbdType.DISK,
                empty=False,
            ),
        )
        for number, made in enumerate(operation.wishes)
    ]
    consumed = ev.MapKeyRemoved(object_class="VM", ref=vm.ref, field="other_config", key=DISKS_KEY)
    return [*events, _no_template(vm), consumed]


_ERRORS: Final = (
    "VM_BAD_POWER_STATE",
    "OTHER_OPERATION_IN_PROGRESS",
    "OPERATION_NOT_ALLOWED",
    "NO_HOSTS_AVAILABLE",
    "SR_FULL",
)

MESSAGES: Final[tuple[Message, ...]] = (
    operation(
        Clone,
        decide_clone,
        name="clone",
        operation=VmOperation.CLONE,
        role=Role.VM_ADMIN,
        returns=ref_to("VM"),
        result=lambda _request, context: created_vm(context),
        errors=_ERRORS,
    ),
    operation(
        Copy,
        decide_copy,
        name="copy",
        operation=VmOperation.COPY,
        role=Role.VM_ADMIN,
        returns=ref_to("VM"),
        result=lambda _request, context: created_vm(context),
        errors=_ERRORS,
    ),
    operation(
        Provision,
        decide_provision,
        name="provision",
        operation=VmOperation.PROVISION,
        role=Role.VM_ADMIN,
        errors=(*_ERRORS, "UUID_INVALID", "PROVISION_ONLY_ALLOWED_ON_TEMPLATE"),
    ),
)
