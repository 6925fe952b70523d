"""What events make true of VMs: that they exist, where they reside, and what is reserved for them."""

from collections.abc import Iterable
from datetime import datetime
from typing import assert_never

from pool_master.core import events as ev
from pool_master.core.changed import changed
from pool_master.core.evolve_network import drop_vifs_of, show_nics
from pool_master.core.evolve_storage import attach_disks, detach_disks, drop_vbds_of
from pool_master.core.placement import boot_memory
from pool_master.core.pool import Pool
from pool_master.core.vm import Console, Vm, VmMetrics
from shared.codec import moment_from_us
from shared.enums import ConsoleProtocol, PowerState, VmOperation
from shared.refs import (
    NULL_HOST,
    ConsoleRef,
    HostRef,
    TaskRef,
    VmMetricsRef,
    VmRef,
    derive,
    derive_ref,
)

Touched = list[tuple[str, str]]

RESERVING = (
    VmOperation.START,
    VmOperation.START_ON,
    VmOperation.RESUME,
    VmOperation.RESUME_ON,
    VmOperation.POOL_MIGRATE,
)
# These need no more than the domain has, but go on needing it where another operation has ended that domain.
REBOOTING = (VmOperation.CLEAN_REBOOT, VmOperation.HARD_REBOOT)


def reservation(pool: Pool, vm: Vm, tasks: Iterable[TaskRef]) -> HostRef:
    """Give the host on which these operations in flight need room for the VM, or none (invariant 8)."""
    scheduled = NULL_HOST
    for task in tasks:
        operation = pool.operations.get(task)
        if operation is None:
            continue
        if operation.kind in RESERVING:
            scheduled = (
                operation.host if operation.destination == NULL_HOST else operation.destination
            )
        elif operation.kind in REBOOTING and vm.power_state is PowerState.HALTED:
            scheduled = operation.host
    return scheduled


def reserving(pool: Pool, vm: Vm) -> Vm:
    """Give the VM with the reservation that its operations in flight need, or none."""
    scheduled = reservation(pool, vm, vm.current_operations)
    if scheduled == vm.scheduled_to_be_resident_on:
        return vm
    return changed(vm, scheduled_to_be_resident_on=scheduled)


# The argument under which these carry the dynamic minimum (bytes) that the VM will have.
CHANGING_MEMORY = (VmOperation.CHANGING_DYNAMIC_RANGE, VmOperation.CHANGING_MEMORY_LIVE)
DYNAMIC_MIN = "memory_dynamic_min"


def promised_memory(pool: Pool, tasks: Iterable[TaskRef]) -> int:
    """Give the dynamic minimum (bytes) that these operations in flight will give the VM, 0 where none does."""
    running = [pool.operations[task] for task in tasks if task in pool.operations]
    return max(
        (int(each.arguments[DYNAMIC_MIN]) for each in running if each.kind in CHANGING_MEMORY),
        default=0,
    )


def put_vm(pool: Pool, vm: Vm) -> Touched:
    """Store a VM and keep the index of residents true; touches the hosts that it came to or left."""
    old = pool.vms.get(vm.ref)
    pool.vms[vm.ref] = vm
    touched: Touched = [("VM", vm.ref)]
    # What may be done to its VIFs depends on the VM.
    touched += [("VIF", vif) for vif in pool.linked("VM.VIFs", vm.ref)]
    resident_on, scheduled = vm.resident_on, vm.scheduled_to_be_resident_on
    if old is None:
        before: tuple[HostRef, ...] = ()
    elif old.resident_on == resident_on and old.scheduled_to_be_resident_on == scheduled:
        return touched
    else:
        before = (old.resident_on, old.scheduled_to_be_resident_on)
    after = (resident_on, scheduled)
    for host in dict.fromkeys((*before, *after)):
        if host == NULL_HOST:
            continue
        if (host in before) != (host in after):
            guests = pool.residents.get(host, ())
            pool.residents[host] = (
                (*guests, vm.ref) if host in after else tuple(x for x in guests if x != vm.ref)
            )
        # A reservation shows in the host's current_operations, residence in its resident_VMs.
        touched.append(("host", host))
    return touched


def evolve_existence(
    pool: Pool, event: ev.VmCreated | ev.VmDestroyed, _recorded: ev.Recorded
) -> Touched:
    """A VM is made, Halted; or it is gone, with all that was tied to it."""
    match event:
        case ev.VmCreated():
            metrics = VmMetrics(
                ref=VmMetricsRef(event.metrics), vm=event.vm, uuid=event.metrics_uuid
            )
            pool.vm_metrics[metrics.ref] = metrics
            pool.uuids["VM_metrics", metrics.uuid] = metrics.ref
            pool.uuids["VM", event.uuid] = event.vm
            vm = Vm(ref=event.vm, uuid=event.uuid, config=event.config, metrics=metrics.ref)
            return [*put_vm(pool, vm), ("VM_metrics", metrics.ref)]
        case ev.VmDestroyed():
            gone = pool.vms.get(event.vm)
            if gone is None:
                return []
            touched = halt(pool, event.vm) + drop_vifs_of(pool, event.vm)
            touched += drop_vbds_of(pool, event.vm)
            del pool.vms[gone.ref], pool.uuids["VM", gone.uuid]
            pool.homes.pop(gone.ref, None)
            old_metrics = pool.vm_metrics.pop(gone.metrics, None)
            if old_metrics is not None:
                del pool.uuids["VM_metrics", old_metrics.uuid]
                touched.append(("VM_metrics", old_metrics.ref))
            return touched
    assert_never(event)


def evolve_residence(
    pool: Pool, event: ev.VmStarted | ev.VmMigrated | ev.VmResumed, recorded: ev.Recorded
) -> Touched:
    """A host has shown the domain: the VM is there, with the consoles of this domain."""
    vm = pool.vms.get(event.vm)
    if vm is None:
        return []
    touched = _drop_consoles(pool, vm)
    now = moment_from_us(recorded.time_us)
    incarnation = vm.incarnation if isinstance(event, ev.VmMigrated) else event.incarnation
    is_new = incarnation != vm.incarnation
    vm = changed(
        vm,
        resident_on=event.host,
        scheduled_to_be_resident_on=NULL_HOST,
        domid=event.domid,
        incarnation=incarnation,
        last_incarnation=max(vm.last_incarnation, incarnation),
        consoles=_add_consoles(pool, vm, f"{incarnation}/{recorded.sequence}", event),
    )
    touched += [("console", console) for console in vm.consoles]
    if isinstance(event, ev.VmStarted):
        vm = changed(
            vm,
            power_state=event.power_state,
            last_boot_CPU_flags=event.cpu_flags,
            booted_at=now,
            booted_config=vm.config,
            memory_target=boot_memory(vm, vm.config.memory_dynamic_max),
        )
        touched += _start_metrics(pool, vm, event, now) + show_nics(pool, vm.ref, event.nics)
        if is_new:
            touched += attach_disks(pool, vm.ref)
    if isinstance(event, ev.VmResumed):
        vm = changed(vm, power_state=event.power_state, suspend_image="")
        touched += _size(pool, vm, event, now) + show_nics(pool, vm.ref, event.nics)
    return touched + put_vm(pool, vm)


def _start_metrics(pool: Pool, vm: Vm, event: ev.VmStarted, now: datetime) -> Touched:
    metrics = pool.vm_metrics.get(vm.metrics)
    if metrics is None:
        return []
    pool.vm_metrics[metrics.ref] = changed(
        metrics,
        start_time=now,
        last_updated=now,
        memory_actual=event.memory_actual,
        VCPUs_number=event.vcpus,
        hvm=not vm.config.PV_kernel,
    )
    return [("VM_metrics", metrics.ref)]


def _add_consoles(
    pool: Pool, vm: Vm, occasion: str, event: ev.VmStarted | ev.VmMigrated | ev.VmResumed
) -> tuple[ConsoleRef, ...]:
    found = []
    for protocol, location in (
        (ConsoleProtocol.RFB, event.console_rfb),
        (ConsoleProtocol.VT100, event.console_vt100),
    ):
        if location:
            purpose = f"{occasion}/{protocol}"
            console = Console(
                ref=ConsoleRef(derive_ref(vm.uuid, purpose)),
                uuid=derive(vm.uuid, purpose),
                protocol=protocol,
                location=location,
                VM=vm.ref,
            )
            pool.consoles[console.ref] = console
            pool.uuids["console", console.uuid] = console.ref
            found.append(console.ref)
    return tuple(found)


def _drop_consoles(pool: Pool, vm: Vm) -> Touched:
    for ref in vm.consoles:
        console = pool.consoles.pop(ref, None)
        if console is not None:
            del pool.uuids["console", console.uuid]
    return [("console", ref) for ref in vm.consoles]


def halt(pool: Pool, ref: VmRef) -> Touched:
    """No domain is left: all that was tied to it is cleared at once (XenAPI reference 1.0.3)."""
    vm = pool.vms.get(ref)
    if vm is None:
        return []
    touched = _drop_consoles(pool, vm) + show_nics(pool, vm.ref, ())
    touched += detach_disks(pool, vm.ref)
    halted = changed(
        vm,
        power_state=PowerState.HALTED,
        resident_on=NULL_HOST,
        domid=-1,
        incarnation=0,
        consoles=(),
        booted_config=None,
        suspend_image="",
    )
    return touched + put_vm(pool, reserving(pool, halted))


def suspend(pool: Pool, event: ev.VmSuspended, _recorded: ev.Recorded) -> Touched:
    """No domain is left, but what it was booted with counts still (XenAPI reference 1.0.3)."""
    vm = pool.vms.get(event.vm)
    if vm is None:
        return []
    touched = _drop_consoles(pool, vm)
    suspended = changed(
        vm,
        power_state=PowerState.SUSPENDED,
        resident_on=NULL_HOST,
        domid=-1,
        incarnation=0,
        consoles=(),
        suspend_image=event.image,
    )
    return touched + put_vm(pool, reserving(pool, suspended))


def set_power_state(pool: Pool, ref: VmRef, power_state: PowerState) -> Touched:
    """The domain is paused or runs again; everything else stays."""
    vm = pool.vms.get(ref)
    return [] if vm is None else put_vm(pool, changed(vm, power_state=power_state))


def rebooted(pool: Pool, event: ev.VmRebooted, recorded: ev.Recorded) -> Touched:
    """The guest is freshly booted, in the same domain."""
    now = moment_from_us(recorded.time_us)
    vm = pool.vms.get(event.vm)
    if vm is None:
        return []
    touched = put_vm(pool, changed(vm, booted_at=now))
    metrics = pool.vm_metrics.get(vm.metrics)
    if metrics is not None:
        pool.vm_metrics[metrics.ref] = changed(metrics, start_time=now, last_updated=now)
        touched.append(("VM_metrics", metrics.ref))
    return touched


def tuned(pool: Pool, event: ev.VmTuned, recorded: ev.Recorded) -> Touched:
    """The running domain has another size."""
    vm = pool.vms.get(event.vm)
    if vm is None:
        return []
    target = event.memory_target or vm.memory_target
    touched = put_vm(pool, changed(vm, memory_target=target))
    return touched + _size(pool, vm, event, moment_from_us(recorded.time_us))


def _size(pool: Pool, vm: Vm, event: ev.VmTuned | ev.VmResumed, now: datetime) -> Touched:
    metrics = pool.vm_metrics.get(vm.metrics)
    if metrics is None:
        return []
    pool.vm_metrics[metrics.ref] = changed(
        metrics, memory_actual=event.memory_actual, VCPUs_number=event.vcpus, last_updated=now
    )
    return [("VM_metrics", metrics.ref)]
