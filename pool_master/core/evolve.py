"""What each event makes true: evolve(record, event).

Rules: total and closed: it never rejects, never asks, never reads a clock; the same log always gives the same Pool
(invariant 4). A new event without an arm is a type error. An event about an object that is gone changes nothing: the
log may hold a host's word about a VM that was destroyed a moment before.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, assert_never

from pool_master.core import events as ev
from pool_master.core.changed import changed
from pool_master.core.datamodel import EMPTY_MAP
from pool_master.core.fields import stored_value
from pool_master.core.host import Host, HostMetrics
from pool_master.core.pool import TABLE_OF_CLASS, Pool, StaleDomain
from pool_master.core.pool_record import PoolRecord
from pool_master.core.table import Table
from pool_master.core.task import Operation, Task
from pool_master.core.vm import Console, Vm, VmMetrics
from shared.codec import moment_from_us
from shared.enums import ConsoleProtocol, PowerState, TaskStatus, VmOperation
from shared.errors import TaskCancelled
from shared.refs import (
    NULL_HOST,
    NULL_TASK,
    ConsoleRef,
    HostMetricsRef,
    HostRef,
    TaskRef,
    VmMetricsRef,
    VmRef,
    derive,
    derive_ref,
)

Touched = list[tuple[str, str]]

# Journals of a host's agent that are remembered as over: a report of theirs can only be a redelivery.
PAST_JOURNALS_MAX = 16

CANCELLABLE = (VmOperation.CLEAN_SHUTDOWN, VmOperation.CLEAN_REBOOT, VmOperation.POOL_MIGRATE)


def apply(pool: Pool, recorded: ev.Recorded) -> Touched:
    """Make one recorded event true; give (class, ref) of every object that it touched."""
    touched = _evolve(pool, recorded)
    pool.sequence = recorded.sequence
    pool.time_us = recorded.time_us
    return touched


def _evolve(pool: Pool, recorded: ev.Recorded) -> Touched:
    event = recorded.event
    event_type = type(event)
    arm = _ARMS.get(event_type)
    if arm is None:
        arm = _ARMS[event_type] = _arm_of(event)
    return arm(pool, event, recorded)


Arm = Callable[[Pool, Any, ev.Recorded], Touched]
_ARMS: dict[type, Arm] = {}  # Found once per type of event: the match below is long, and replay is hot.


def _arm_of(event: ev.Event) -> Arm:  # noqa: C901, PLR0911, PLR0912 - one arm per family of facts
    match event:
        case ev.OperationAccepted() | ev.OperationAdvanced() | ev.OperationProgressed():
            return _evolve_operation
        case ev.TaskSucceeded() | ev.TaskFailed() | ev.CancelRequested():
            return _evolve_end
        case ev.VmStarted() | ev.VmMigrated():
            return _evolve_residence
        case ev.VmHalted() | ev.VmReset():
            return lambda pool, event, _recorded: _halt(pool, event.vm)
        case ev.VmPaused() | ev.VmUnpaused():
            state = PowerState.PAUSED if isinstance(event, ev.VmPaused) else PowerState.RUNNING
            return lambda pool, event, _recorded: _set_power_state(pool, event.vm, state)
        case ev.VmRebooted():
            return _rebooted
        case ev.VmCreated() | ev.VmDestroyed():
            return _evolve_existence
        case ev.HostReportsSeen() | ev.HostAgentStarted() | ev.HostDescribed():
            return _evolve_host_word
        case ev.HostJoined() | ev.HostForgotten() | ev.HostEnabled() | ev.HostDisabled():
            return _evolve_membership
        case ev.HostCameAlive() | ev.HostLost():
            return _set_live
        case ev.StaleDomainFound() | ev.StaleDomainDropped():
            return _evolve_stale
        case ev.FieldSet() | ev.MapKeySet() | ev.MapKeyRemoved():
            return _evolve_field
        case ev.ObjectTouched():
            return lambda _pool, event, _recorded: [(event.object_class, event.ref)]
        case ev.TaskCreated() | ev.TaskUpdated() | ev.TaskDestroyed():
            return _evolve_task
        case ev.PoolCreated() | ev.MasterElected():
            return _evolve_pool
    assert_never(event)


# --- VMs


def put_vm(pool: Pool, vm: Vm) -> Touched:
    """Store a VM and keep the index of residents true; touches the hosts that it came to or left."""
    old = pool.vms.get(vm.ref)
    pool.vms[vm.ref] = vm
    touched: Touched = [("VM", vm.ref)]
    before = () if old is None else (old.resident_on, old.scheduled_to_be_resident_on)
    after = (vm.resident_on, vm.scheduled_to_be_resident_on)
    if before == after:
        return touched
    for host in dict.fromkeys((*before, *after)):
        if host == NULL_HOST or (host in before) == (host in after):
            continue
        guests = pool.residents.get(host, ())
        pool.residents[host] = (
            (*guests, vm.ref) if host in after else tuple(x for x in guests if x != vm.ref)
        )
    # A reservation shows in the host's current_operations, residence in its resident_VMs.
    return touched + [("host", host) for host in dict.fromkeys((*before, *after))]


def _evolve_existence(
    pool: Pool, event: ev.VmCreated | ev.VmDestroyed, _recorded: ev.Recorded
) -> Touched:
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
            touched = _halt(pool, event.vm)
            del pool.vms[gone.ref], pool.uuids["VM", gone.uuid]
            old_metrics = pool.vm_metrics.pop(gone.metrics, None)
            if old_metrics is not None:
                del pool.uuids["VM_metrics", old_metrics.uuid]
                touched.append(("VM_metrics", old_metrics.ref))
            return touched
    assert_never(event)


def _evolve_residence(
    pool: Pool, event: ev.VmStarted | ev.VmMigrated, recorded: ev.Recorded
) -> Touched:
    vm = pool.vms.get(event.vm)
    if vm is None:
        return []
    touched = _drop_consoles(pool, vm)
    now = moment_from_us(recorded.time_us)
    incarnation = vm.incarnation if isinstance(event, ev.VmMigrated) else event.incarnation
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
            vm, power_state=event.power_state, last_boot_CPU_flags=event.cpu_flags, booted_at=now
        )
        touched += _start_metrics(pool, vm, event, now)
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
    pool: Pool, vm: Vm, occasion: str, event: ev.VmStarted | ev.VmMigrated
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


def _halt(pool: Pool, ref: VmRef) -> Touched:
    """No domain is left: all that was tied to it is cleared at once (XenAPI reference 1.0.3)."""
    vm = pool.vms.get(ref)
    if vm is None:
        return []
    touched = _drop_consoles(pool, vm)
    halted = changed(
        vm,
        power_state=PowerState.HALTED,
        resident_on=NULL_HOST,
        domid=-1,
        incarnation=0,
        consoles=(),
    )
    return touched + put_vm(pool, _reserving(pool, halted))


def _set_power_state(pool: Pool, ref: VmRef, power_state: PowerState) -> Touched:
    vm = pool.vms.get(ref)
    return [] if vm is None else put_vm(pool, changed(vm, power_state=power_state))


def _rebooted(pool: Pool, event: ev.VmRebooted, recorded: ev.Recorded) -> Touched:
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


# --- tasks and operations


def _evolve_operation(
    pool: Pool,
    event: ev.OperationAccepted | ev.OperationAdvanced | ev.OperationProgressed,
    recorded: ev.Recorded,
) -> Touched:
    match event:
        case ev.OperationAccepted():
            return _accept(pool, event, recorded)
        case ev.OperationAdvanced():
            old = pool.operations.get(event.task)
            if old is None:
                return []
            return _advance(pool, old, event)
        case ev.OperationProgressed():
            running = pool.tasks.get(event.task)
            if running is None or running.is_finished:
                return []
            pool.tasks[event.task] = changed(running, progress=event.progress)
            return [("task", event.task)]
    assert_never(event)


def _advance(pool: Pool, old: Operation, event: ev.OperationAdvanced) -> Touched:
    vm = pool.vms.get(old.vm)
    operation = changed(old, step=event.step, host=event.host)
    if vm is not None and old.kind is VmOperation.HARD_SHUTDOWN:
        # It waited for a reboot or a migration: it ends whatever that has left.
        operation = changed(operation, incarnation=vm.incarnation)
    pool.operations[event.task] = operation
    pool.tasks[event.task] = changed(pool.tasks[event.task], resident_on=event.host)
    touched: Touched = [("task", event.task)]
    return touched if vm is None else touched + put_vm(pool, _reserving(pool, vm))


# Operations that leave the domain where it is reserve nothing elsewhere.
RESERVING = (VmOperation.START, VmOperation.START_ON, VmOperation.POOL_MIGRATE)
# These need no more than the domain has, but go on needing it where another operation has ended that domain.
REBOOTING = (VmOperation.CLEAN_REBOOT, VmOperation.HARD_REBOOT)


def _reservation(pool: Pool, vm: Vm, tasks: Iterable[TaskRef]) -> HostRef:
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


def _reserving(pool: Pool, vm: Vm) -> Vm:
    """Give the VM with the reservation that its operations in flight need, or none."""
    scheduled = _reservation(pool, vm, vm.current_operations)
    if scheduled == vm.scheduled_to_be_resident_on:
        return vm
    return changed(vm, scheduled_to_be_resident_on=scheduled)


# What new ones are copied from: the copy is the hot path.
_NEW_TASK = Task(ref=NULL_TASK, uuid="")
_NEW_OPERATION = Operation(
    task=NULL_TASK, kind=VmOperation.START, vm=VmRef(""), host=NULL_HOST, incarnation=0
)


def _accept(pool: Pool, event: ev.OperationAccepted, recorded: ev.Recorded) -> Touched:
    now = moment_from_us(recorded.time_us)
    task = pool.tasks.get(event.task) or _NEW_TASK
    pool.uuids["task", event.task_uuid] = event.task
    pool.tasks[event.task] = changed(
        task,
        ref=event.task,
        uuid=event.task_uuid,
        name_label=event.name_label,
        owner=recorded.actor.name,
        created=now if task is _NEW_TASK else task.created,
        resident_on=event.host,
        is_cancellable=event.operation in CANCELLABLE,
    )
    pool.operations[event.task] = changed(
        _NEW_OPERATION,
        task=event.task,
        kind=event.operation,
        vm=event.vm,
        host=event.host,
        incarnation=event.incarnation,
        destination=event.destination,
        arguments=event.arguments,
        accepted_at=now,
    )
    vm = pool.vms.get(event.vm)
    if vm is None:
        return [("task", event.task)]
    operations = {**vm.current_operations, event.task: event.operation}
    vm = changed(
        vm,
        current_operations=operations,
        last_incarnation=max(vm.last_incarnation, event.incarnation),
        scheduled_to_be_resident_on=_reservation(pool, vm, operations),
    )
    return [("task", event.task), *put_vm(pool, vm)]


def _evolve_end(
    pool: Pool, event: ev.TaskSucceeded | ev.TaskFailed | ev.CancelRequested, recorded: ev.Recorded
) -> Touched:
    task = pool.tasks.get(event.task)
    if task is None or task.is_finished:
        # Whatever became of its task: an operation that is over is over.
        return [] if isinstance(event, ev.CancelRequested) else _end_operation(pool, event.task)
    if isinstance(event, ev.CancelRequested):
        pool.tasks[task.ref] = changed(task, status=TaskStatus.CANCELLING, is_cancellable=False)
        running = pool.operations.get(task.ref)
        if running is not None:
            pool.operations[task.ref] = changed(running, is_cancelling=True)
        return [("task", task.ref)]
    outcome: dict[str, Any]
    match event:
        case ev.TaskSucceeded():
            outcome = {"status": TaskStatus.SUCCESS, "progress": 1.0, "result": event.result}
        case ev.TaskFailed():
            is_cancelled = event.error_info[:1] == (TaskCancelled.code,)
            status = TaskStatus.CANCELLED if is_cancelled else TaskStatus.FAILURE
            outcome = {"status": status, "error_info": event.error_info}
    pool.tasks[task.ref] = changed(
        task,
        finished=moment_from_us(recorded.time_us),
        is_cancellable=False,
        resident_on=NULL_HOST,
        **outcome,
    )
    return [("task", task.ref), *_end_operation(pool, task.ref)]


def _end_operation(pool: Pool, task: TaskRef) -> Touched:
    """An operation is over: its mark and its reservation go with it, whatever became of it (invariant 8)."""
    operation = pool.operations.pop(task, None)
    vm = None if operation is None else pool.vms.get(operation.vm)
    if operation is None or vm is None:
        return []
    others = {key: value for key, value in vm.current_operations.items() if key != task}
    scheduled = _reservation(pool, vm, others)
    return put_vm(
        pool,
        changed(vm, current_operations=others or EMPTY_MAP, scheduled_to_be_resident_on=scheduled),
    )


def _evolve_task(
    pool: Pool, event: ev.TaskCreated | ev.TaskUpdated | ev.TaskDestroyed, recorded: ev.Recorded
) -> Touched:
    match event:
        case ev.TaskCreated():
            pool.tasks[event.task] = Task(
                ref=event.task,
                uuid=event.uuid,
                name_label=event.name_label,
                name_description=event.name_description,
                owner=recorded.actor.name,
                command_id=recorded.command_id,
                method=event.method,
                parameters=event.parameters,
                is_cancellable=True,
                created=moment_from_us(recorded.time_us),
            )
            pool.uuids["task", event.uuid] = event.task
        case ev.TaskUpdated():
            task = pool.tasks.get(event.task)
            if task is None:
                return []
            pool.tasks[event.task] = changed(
                task,
                progress=task.progress if event.progress is None else event.progress,
                result=task.result if event.result is None else event.result,
                error_info=task.error_info if event.error_info is None else event.error_info,
            )
        case ev.TaskDestroyed():
            gone = pool.tasks.pop(event.task, None)
            if gone is not None:
                pool.uuids.pop(("task", gone.uuid), None)
    return [("task", event.task)]


# --- hosts


def _evolve_membership(
    pool: Pool,
    event: ev.HostJoined | ev.HostForgotten | ev.HostEnabled | ev.HostDisabled,
    _recorded: ev.Recorded,
) -> Touched:
    match event:
        case ev.HostJoined():
            metrics = HostMetrics(
                ref=HostMetricsRef(derive_ref(event.uuid, "host_metrics")),
                host=event.host,
                uuid=derive(event.uuid, "host_metrics"),
            )
            pool.host_metrics[metrics.ref] = metrics
            pool.uuids["host_metrics", metrics.uuid] = metrics.ref
            pool.uuids["host", event.uuid] = event.host
            pool.hosts[event.host] = Host(
                ref=event.host,
                uuid=event.uuid,
                name_label=event.name_label,
                hostname=event.hostname,
                address=event.address,
                metrics=metrics.ref,
            )
            return [("host", event.host), ("host_metrics", metrics.ref), *_elect_if_none(pool)]
        case ev.HostForgotten():
            gone = pool.hosts.pop(event.host, None)
            if gone is None:
                return []
            old = pool.host_metrics.pop(gone.metrics)
            del pool.uuids["host", gone.uuid], pool.uuids["host_metrics", old.uuid]
            pool.residents.pop(event.host, None)
            for stale in list(pool.stale_domains.values()):
                if stale.host == event.host:
                    del pool.stale_domains[stale.key]
            return [("host", event.host), ("host_metrics", old.ref), *_elect_if_none(pool)]
        case ev.HostEnabled() | ev.HostDisabled():
            host = pool.hosts.get(event.host)
            if host is None:
                return []
            pool.hosts[event.host] = changed(host, enabled=isinstance(event, ev.HostEnabled))
            return [("host", event.host)]
    assert_never(event)


def _elect_if_none(pool: Pool) -> Touched:
    """XenAPI says that the master is one of the hosts: name the first one, since ours need not run on any."""
    record = pool.record
    if record.master in pool.hosts:
        return []
    pool.pools[record.ref] = changed(record, master=next(iter(pool.hosts), NULL_HOST))
    return [("pool", record.ref)]


def _evolve_host_word(
    pool: Pool,
    event: ev.HostReportsSeen | ev.HostAgentStarted | ev.HostDescribed,
    recorded: ev.Recorded,
) -> Touched:
    host = pool.hosts.get(event.host)
    if host is None:
        return []
    match event:
        case ev.HostReportsSeen():
            pool.hosts[host.ref] = changed(
                host, journal=event.journal, report_sequence=event.sequence
            )
            return []
        case ev.HostAgentStarted():
            is_same = event.journal == host.journal
            is_other = not is_same and host.journal != ""
            past = (*host.past_journals, host.journal) if is_other else host.past_journals
            pool.hosts[host.ref] = changed(
                host,
                journal=event.journal,
                past_journals=past[-PAST_JOURNALS_MAX:],
                epoch=event.epoch,
                report_sequence=host.report_sequence if is_same else 0,
            )
            return []
        case ev.HostDescribed():
            pool.hosts[host.ref] = changed(
                host,
                hostname=event.hostname,
                address=event.address,
                hypervisor=event.hypervisor,
                migrate_uri=event.migrate_uri,
                cpu_info=event.cpu_info,
                software_version=event.software_version,
                capabilities=event.capabilities,
                unknown_domains=event.unknown_domains,
                peer_address=event.peer_address,
            )
            pool.host_metrics[host.metrics] = changed(
                pool.host_metrics[host.metrics],
                memory_total=event.memory_total,
                memory_free=event.memory_free,
                cpu_count=event.cpu_count,
                last_updated=moment_from_us(recorded.time_us),
            )
            return [("host", host.ref), ("host_metrics", host.metrics)]
    assert_never(event)


def _set_live(pool: Pool, event: ev.HostCameAlive | ev.HostLost, recorded: ev.Recorded) -> Touched:
    host = pool.hosts.get(event.host)
    if host is None:
        return []
    is_live, now = isinstance(event, ev.HostCameAlive), moment_from_us(recorded.time_us)
    metrics = pool.host_metrics[host.metrics]
    pool.host_metrics[host.metrics] = changed(metrics, live=is_live, last_updated=now)
    if not is_live:
        pool.hosts[host.ref] = changed(host, lost_count=host.lost_count + 1)
    return [("host", host.ref), ("host_metrics", host.metrics)]


def _evolve_stale(
    pool: Pool, event: ev.StaleDomainFound | ev.StaleDomainDropped, _recorded: ev.Recorded
) -> Touched:
    stale = StaleDomain(event.host, event.vm_uuid, event.incarnation)
    if isinstance(event, ev.StaleDomainFound):
        pool.stale_domains[stale.key] = stale
    else:
        pool.stale_domains.pop(stale.key, None)
    return []


# --- the pool, and fields of any class


def _evolve_pool(
    pool: Pool, event: ev.PoolCreated | ev.MasterElected, _recorded: ev.Recorded
) -> Touched:
    match event:
        case ev.PoolCreated():
            pool.pools[event.pool] = PoolRecord(
                ref=event.pool, uuid=event.uuid, name_label=event.name_label
            )
            pool.uuids["pool", event.uuid] = event.pool
        case ev.MasterElected():
            pool.term = event.term
            pool.master = event.master
            pool.master_address = event.address
    return [("pool", record) for record in pool.pools]


def _evolve_field(
    pool: Pool, event: ev.FieldSet | ev.MapKeySet | ev.MapKeyRemoved, _recorded: ev.Recorded
) -> Touched:
    table: Table[str, Any] = getattr(pool, TABLE_OF_CLASS[event.object_class])
    record = table.get(event.ref)
    if record is None:
        return []
    holder: Any = record
    value: Any
    is_config = isinstance(record, Vm) and event.field in record.config.__struct_fields__
    if isinstance(record, Vm) and is_config:
        holder = record.config
    match event:
        case ev.FieldSet():
            value = stored_value(type(holder), event.field, event.value)
        case ev.MapKeySet():
            held = {**getattr(holder, event.field), event.key: event.value}
            value = stored_value(type(holder), event.field, held)
        case ev.MapKeyRemoved():
            old = getattr(holder, event.field)
            value = {key: kept for key, kept in old.items() if key != event.key} or EMPTY_MAP
    new = changed(holder, **{event.field: value})
    table[event.ref] = changed(record, config=new) if is_config else new
    touched: Touched = [(event.object_class, event.ref)]
    return touched
