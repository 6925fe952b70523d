"""Every class of the API: its fields and all its messages, put together from where they are declared.

Rules: this is the one list of classes; a class's own messages win over the implied ones of the same name; nothing is
declared here that another file could declare beside its code.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from pool_master.core import (
    ha_messages,
    ha_queries,
    host_death,
    host_messages,
    network_messages,
    task_messages,
    vbd_messages,
    vif_messages,
    vm_cloning,
    vm_config,
    vm_lifecycle,
    vm_live,
    vm_memory,
    vm_migration,
    vm_queries,
    vm_recovery,
    vm_suspend,
)
from pool_master.core.allowed import allowed_operations
from pool_master.core.allowed_vif import allowed_vif_operations, current_vif_operations
from pool_master.core.datamodel import ClassModel, Field, Message, derived, fields_of
from pool_master.core.datamodel import inert as inert_field
from pool_master.core.host import INERT_HOST_FIELDS, Host, HostMetrics
from pool_master.core.implied import implied_messages
from pool_master.core.marshal import RecordBuilder, record_builder
from pool_master.core.network import (
    INERT_NETWORK_FIELDS,
    INERT_PIF_FIELDS,
    INERT_VIF_FIELDS,
    Network,
    NetworkConfig,
    Pif,
    Vif,
    VifConfig,
)
from pool_master.core.placement import memory_overhead
from pool_master.core.pool import Pool
from pool_master.core.pool_messages import MASTER_MESSAGES
from pool_master.core.pool_record import INERT_POOL_FIELDS, PoolRecord
from pool_master.core.session_model import EVENT_MODEL, SESSION_MODEL
from pool_master.core.storage_classes import STORAGE_CLASSES
from pool_master.core.task import INERT_TASK_FIELDS, Task
from pool_master.core.vm import INERT_VM_FIELDS, Console, Vm, VmConfig, VmGuestMetrics, VmMetrics
from shared.enums import HostOperation, TaskOperation, TaskStatus, VifOperation, VmOperation
from shared.refs import PbdRef, PifRef, TaskRef, VbdRef, VifRef, VmRef

StringMap = dict[str, str]


def linked(kind: str) -> Callable[[Pool, Any], tuple[str, ...]]:
    """Give the function that derives a back-reference: what names this record, by Pool.links."""
    return lambda pool, record: pool.linked(kind, record.ref)


def _resident_vms(pool: Pool, host: Host) -> tuple[VmRef, ...]:
    return tuple(
        ref for ref in pool.residents_of(host.ref) if pool.vms[ref].resident_on == host.ref
    )


def _host_allowed(pool: Pool, host: Host) -> tuple[HostOperation, ...]:
    if not pool.is_live(host.ref):
        return ()
    if not host.enabled:
        return (HostOperation.ENABLE,)
    return (
        HostOperation.PROVISION,
        HostOperation.VM_START,
        HostOperation.VM_RESUME,
        HostOperation.VM_MIGRATE,
    )


_HOST_MARKS: Final = {
    VmOperation.START: HostOperation.VM_START,
    VmOperation.START_ON: HostOperation.VM_START,
    VmOperation.RESUME: HostOperation.VM_RESUME,
    VmOperation.RESUME_ON: HostOperation.VM_RESUME,
    VmOperation.POOL_MIGRATE: HostOperation.VM_MIGRATE,
}


def _host_current(pool: Pool, host: Host) -> dict[TaskRef, HostOperation]:
    """Operations that bring a VM to this host (XenAPI reference 1.0, point 6), found by their reservations."""
    marks = {}
    for ref in pool.residents_of(host.ref):
        vm = pool.vms[ref]
        if vm.scheduled_to_be_resident_on == host.ref:
            for task, kind in vm.current_operations.items():
                if kind in _HOST_MARKS:
                    marks[task] = _HOST_MARKS[kind]
    return marks


def _task_allowed(_pool: Pool, task: Task) -> tuple[TaskOperation, ...]:
    if task.is_finished:
        return (TaskOperation.DESTROY,)
    return (TaskOperation.CANCEL,) if task.is_cancellable else ()


def _task_current(_pool: Pool, task: Task) -> dict[str, TaskOperation]:
    is_cancelling = task.status is TaskStatus.CANCELLING
    return {task.ref: TaskOperation.CANCEL} if is_cancelling else {}


VM_FIELDS: Final[tuple[Field, ...]] = (
    *fields_of(Vm),
    *fields_of(VmConfig, under="config"),
    derived(
        "allowed_operations",
        tuple[VmOperation, ...],
        "list of the operations allowed in this state; advisory: the state may have changed since",
        lambda pool, vm: allowed_operations(vm, is_stranded=pool.is_stranded(vm)),
    ),
    derived(
        "VBDs",
        tuple[VbdRef, ...],
        "virtual block devices",
        lambda pool, vm: pool.linked("VM.VBDs", vm.ref),
    ),
    derived(
        "memory_overhead",
        int,
        "virtualization memory overhead (bytes)",
        lambda _pool, vm: memory_overhead(vm),
    ),
    derived("VIFs", tuple[VifRef, ...], "virtual network interfaces", linked("VM.VIFs")),
    *INERT_VM_FIELDS,
)

HOST_FIELDS: Final[tuple[Field, ...]] = (
    *fields_of(Host),
    derived(
        "resident_VMs", tuple[VmRef, ...], "VMs currently resident on this host", _resident_vms
    ),
    derived(
        "allowed_operations", tuple[HostOperation, ...], "operations allowed now", _host_allowed
    ),
    derived(
        "PBDs",
        tuple[PbdRef, ...],
        "how it reaches SRs",
        lambda pool, host: pool.linked("host.PBDs", host.ref),
    ),
    derived(
        "current_operations",
        dict[TaskRef, HostOperation],
        "running tasks that use this object",
        _host_current,
    ),
    derived("PIFs", tuple[PifRef, ...], "physical network interfaces", linked("host.PIFs")),
    *INERT_HOST_FIELDS,
)

NETWORK_FIELDS: Final[tuple[Field, ...]] = (
    *fields_of(Network),
    *fields_of(NetworkConfig, under="config"),
    derived("VIFs", tuple[VifRef, ...], "list of connected vifs", linked("network.VIFs")),
    derived("PIFs", tuple[PifRef, ...], "list of connected pifs", linked("network.PIFs")),
    *INERT_NETWORK_FIELDS,
)

VIF_FIELDS: Final[tuple[Field, ...]] = (
    *fields_of(Vif),
    *fields_of(VifConfig, under="config"),
    derived(
        "allowed_operations",
        tuple[VifOperation, ...],
        "list of the operations allowed in this state",
        allowed_vif_operations,
    ),
    derived(
        "current_operations",
        dict[TaskRef, VifOperation],
        "links each of the running tasks using this object to the nature of the task",
        current_vif_operations,
    ),
    *INERT_VIF_FIELDS,
)

TASK_FIELDS: Final[tuple[Field, ...]] = (
    *fields_of(Task),
    derived(
        "allowed_operations", tuple[TaskOperation, ...], "operations allowed now", _task_allowed
    ),
    derived("current_operations", dict[str, TaskOperation], "what is done to it", _task_current),
    inert_field("subtasks", tuple[TaskRef, ...], ()),
    *INERT_TASK_FIELDS,
)

VM_METRICS_FIELDS: Final[tuple[Field, ...]] = (
    *fields_of(VmMetrics),
    inert_field("VCPUs_CPU", dict[str, str], {}),
    inert_field("VCPUs_params", StringMap, {}),
    inert_field("VCPUs_flags", dict[str, str], {}),
    inert_field("VCPUs_utilisation", dict[str, str], {}),
    inert_field("state", tuple[str, ...], ()),
    inert_field("nested_virt", bool, False),
    inert_field("nomigrate", bool, False),
)


def _guest_metrics_fields() -> tuple[Field, ...]:
    return (
        *fields_of(VmGuestMetrics),
        inert_field("memory", StringMap, {}),
        inert_field("disks", StringMap, {}),
    )


def _model(name: str, doc: str, table: str, fields: tuple[Field, ...], **row: Any) -> ClassModel:
    own: tuple[Message, ...] = row.pop("messages", ())
    model = ClassModel(name=name, doc=doc, table=table, fields=fields, **row)
    names = {message.name for message in own}
    implied = tuple(m for m in implied_messages(model) if m.name not in names)
    return replace(model, messages=(*own, *implied))


VM_MESSAGES: Final = (
    *vm_config.MESSAGES,
    *vm_lifecycle.MESSAGES,
    *vm_live.MESSAGES,
    *vm_memory.MESSAGES,
    vm_queries.boot_record_message(VM_FIELDS),
    *vm_migration.MESSAGES,
    *vm_recovery.MESSAGES,
    *vm_suspend.MESSAGES,
    *vm_queries.MESSAGES,
    *ha_messages.VM_MESSAGES,
    *vif_messages.VM_MESSAGES,
    *vm_cloning.MESSAGES,
    *vbd_messages.VM_MESSAGES,
)

HOST_MESSAGES: Final = (*host_messages.MESSAGES, *host_death.MESSAGES)

CLASSES: Final[tuple[ClassModel, ...]] = (
    SESSION_MODEL,
    EVENT_MODEL,
    _model(
        "pool",
        "Pool-wide information",
        "pools",
        (*fields_of(PoolRecord), *INERT_POOL_FIELDS),
        messages=(*ha_messages.POOL_MESSAGES, *ha_queries.MESSAGES, *MASTER_MESSAGES),
    ),
    _model("host", "A physical host", "hosts", HOST_FIELDS, messages=HOST_MESSAGES),
    _model("host_metrics", "The metrics of a host", "host_metrics", fields_of(HostMetrics)),
    _model("VM", "A virtual machine (or 'guest').", "vms", VM_FIELDS, messages=VM_MESSAGES),
    _model("VM_metrics", "The metrics of a VM", "vm_metrics", VM_METRICS_FIELDS),
    _model(
        "VM_guest_metrics",
        "What the guest says of itself",
        "vm_guest_metrics",
        _guest_metrics_fields(),
    ),
    _model(
        "network",
        "A virtual network",
        "networks",
        NETWORK_FIELDS,
        messages=network_messages.MESSAGES,
    ),
    _model(
        "VIF", "A virtual network interface", "vifs", VIF_FIELDS, messages=vif_messages.MESSAGES
    ),
    _model(
        "PIF",
        "A physical network interface",
        "pifs",
        (*fields_of(Pif), *INERT_PIF_FIELDS),
    ),
    _model("console", "A console", "consoles", fields_of(Console)),
    *(_model(*row, messages=messages) for *row, messages in STORAGE_CLASSES),
    _model(
        "task",
        "A long-running asynchronous task",
        "tasks",
        TASK_FIELDS,
        messages=task_messages.MESSAGES,
    ),
)

CLASS_BY_NAME: Final[dict[str, ClassModel]] = {model.name: model for model in CLASSES}
RECORD_BUILDERS: Final[dict[str, RecordBuilder]] = {
    model.name: record_builder(model) for model in CLASSES if model.table
}


@functools.cache
def message_table() -> dict[str, tuple[ClassModel, Message]]:
    """Give every synchronous method by its dotted name."""
    return {
        f"{model.name}.{message.name}": (model, message)
        for model in CLASSES
        for message in model.messages
    }


@functools.cache
def method_names() -> tuple[str, ...]:
    """Give what system.listMethods lists."""
    names = ["system.listMethods"]
    for name, (_, message) in message_table().items():
        if not message.is_hidden:
            names.append(name)
            if message.has_async:
                names.append(f"Async.{name}")
    return tuple(names)
