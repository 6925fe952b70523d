"""Drift: what hosts run against what the log says.

Rules: the log is the authority on where a VM may run, the hypervisor on whether it does. A domain that the log has moved
past is dropped by a command that names it; a domain that the pool did not make is shown, never touched. A VM with an
operation in flight is left alone: the operation's own report says what became of it.
"""

from typing import Final

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.device_operations import abandon_devices
from pool_master.core.disks import attach_error, missing_sr
from pool_master.core.network_messages import decide_bridges
from pool_master.core.pool import Pool, stale_key
from pool_master.core.storage_reports import storage_abandoned
from pool_master.core.task import Operation
from pool_master.core.vm import Vm
from pool_master.core.vm_lifecycle import start_again
from pool_master.core.vm_migration import STEP_MOVE, STEP_SETTLE
from pool_master.core.waiting import release_waiting
from shared.enums import OnCrashBehaviour, OnNormalExit, PowerState
from shared.errors import HostOffline
from shared.protocol import (
    DomainChange,
    DomainChanged,
    DomainObservation,
    DomainState,
    HostInventory,
)
from shared.refs import NULL_HOST, HostRef

# A guest that crashes sooner than this after its boot is not restarted: it would only crash again (XenAPI reference 3).
CRASH_LOOP_S: Final = 120.0

ALIVE: Final = (DomainState.RUNNING, DomainState.PAUSED)


def reconcile_change(  # noqa: PLR0911 - one return a case
    pool: Pool, host: HostRef, changed: DomainChanged, context: Context
) -> list[ev.Event]:
    """Give the events that a domain's own change makes."""
    seen = changed.observation
    vm = pool.vm_of_uuid(seen.vm_uuid)
    if vm is None or not _is_the_one(vm, host, seen):
        return _drift(pool, host, vm, seen)
    if vm.current_operations:
        return []
    match changed.change:
        case DomainChange.POWERED_OFF:
            is_restart = vm.config.actions_after_shutdown is OnNormalExit.RESTART
            reason = "the guest powered itself off"
            return _exit(pool, vm, reason, context, is_restart=is_restart)
        case DomainChange.CRASHED:
            return _crash(pool, vm, context)
        case DomainChange.REBOOTED:
            if vm.config.actions_after_reboot is OnNormalExit.DESTROY and seen.state not in ALIVE:
                return [ev.VmHalted(vm=vm.ref, reason="the guest rebooted, to be destroyed then")]
            return [ev.VmRebooted(vm=vm.ref)]
        case DomainChange.DESTROYED:
            return [ev.VmHalted(vm=vm.ref, reason="stopped outside the pool")]
        case DomainChange.FENCED:
            return [ev.VmHalted(vm=vm.ref, reason="its host had lost its lease and killed it")]
        case _:
            return _state(vm, seen)


def _is_the_one(vm: Vm, host: HostRef, seen: DomainObservation) -> bool:
    """Whether this domain is the one that the log says lives there."""
    is_alive = vm.power_state in {PowerState.RUNNING, PowerState.PAUSED}
    return is_alive and vm.resident_on == host and vm.incarnation == seen.incarnation


def _exit(pool: Pool, vm: Vm, reason: str, context: Context, *, is_restart: bool) -> list[ev.Event]:
    halted = ev.VmHalted(vm=vm.ref, reason=reason)
    # The word of a host that was lost since: nobody there could carry a restart out.
    if not is_restart or not pool.is_live(vm.resident_on) or not _has_its_disks(pool, vm):
        return [halted]
    return [halted, start_again(vm, vm.resident_on, context)]


def _has_its_disks(pool: Pool, vm: Vm) -> bool:
    """Whether the host could build a domain with all disks that the VM has by now."""
    is_reached = missing_sr(pool, vm, vm.resident_on) is None
    return is_reached and attach_error(pool, vm) is None


def _crash(pool: Pool, vm: Vm, context: Context) -> list[ev.Event]:
    action = vm.config.actions_after_crash
    if action is OnCrashBehaviour.PRESERVE:
        return [] if vm.power_state is PowerState.PAUSED else [ev.VmPaused(vm=vm.ref)]
    wants_restart = action in {
        OnCrashBehaviour.RESTART,
        OnCrashBehaviour.COREDUMP_AND_RESTART,
        OnCrashBehaviour.RENAME_RESTART,
    }
    is_looping = (context.now - vm.booted_at).total_seconds() < CRASH_LOOP_S
    reason = "the guest crashed"
    if wants_restart and is_looping:
        reason += f" within {CRASH_LOOP_S:.0f} s of its boot, so it is not restarted"
    return _exit(pool, vm, reason, context, is_restart=wants_restart and not is_looping)


def _state(vm: Vm, seen: DomainObservation) -> list[ev.Event]:
    if seen.state is DomainState.PAUSED and vm.power_state is PowerState.RUNNING:
        return [ev.VmPaused(vm=vm.ref)]
    if seen.state is DomainState.RUNNING and vm.power_state is PowerState.PAUSED:
        return [ev.VmUnpaused(vm=vm.ref)]
    return []


def _drift(pool: Pool, host: HostRef, vm: Vm | None, seen: DomainObservation) -> list[ev.Event]:
    """A domain that is not where, or what, the log says: drop it, where the log has surely moved past it."""
    if vm is None or _is_unknown(pool, seen):
        return []  # Not ours to judge: shown by the inventory, never touched.
    for operation in pool.operations_of(vm):
        is_expected = seen.incarnation in {operation.incarnation, vm.incarnation}
        if is_expected and host in {operation.host, operation.destination, vm.resident_on}:
            return []
    if (
        stale_key(host, seen.vm_uuid, seen.incarnation) in pool.stale_domains
        or seen.state not in ALIVE
    ):
        return []
    return [ev.StaleDomainFound(host=host, vm_uuid=seen.vm_uuid, incarnation=seen.incarnation)]


def _is_unknown(pool: Pool, seen: DomainObservation) -> bool:
    """Whether the log has never heard of this domain: of its VM, or of so late an incarnation of it."""
    vm = pool.vm_of_uuid(seen.vm_uuid)
    return vm is None or seen.incarnation > vm.last_incarnation


def reconcile_inventory(
    pool: Pool, host: HostRef, inventory: HostInventory, context: Context
) -> list[ev.Event]:
    """Give the events that a full inventory makes: who the host is, what runs, what does not."""
    events = _describe(pool, host, inventory)
    events += decide_bridges(pool, host, inventory.networks, context)
    by_uuid = {seen.vm_uuid: seen for seen in inventory.domains}
    for ref in pool.residents_of(host):
        vm = pool.vms[ref]
        if vm.resident_on != host or vm.current_operations:
            continue
        seen = by_uuid.get(vm.uuid)
        if seen is None or seen.incarnation != vm.incarnation:
            events.append(ev.VmHalted(vm=vm.ref, reason="its host does not run it any more"))
        else:
            events += _found(pool, host, vm, seen, context)
    for seen in inventory.domains:
        found = pool.vm_of_uuid(seen.vm_uuid)
        if found is None or not _is_the_one(found, host, seen):
            events += _drift(pool, host, found, seen)
    if not pool.is_live(host):
        events.append(ev.HostCameAlive(host=host))
    return events


def _found(
    pool: Pool, host: HostRef, vm: Vm, seen: DomainObservation, context: Context
) -> list[ev.Event]:
    if seen.state in ALIVE:
        return _state(vm, seen)
    is_crash = seen.state is DomainState.CRASHED
    change = DomainChange.CRASHED if is_crash else DomainChange.POWERED_OFF
    return reconcile_change(pool, host, DomainChanged(change=change, observation=seen), context)


def _describe(pool: Pool, ref: HostRef, inventory: HostInventory) -> list[ev.Event]:
    host = pool.hosts[ref]
    metrics = pool.host_metrics[host.metrics]
    known = (
        host.hostname,
        host.address,
        host.hypervisor,
        host.migrate_uri,
        metrics.memory_total,
        metrics.cpu_count,
        host.cpu_info,
        host.software_version,
        host.capabilities,
        host.unknown_domains,
        host.peer_address,
    )
    orphans = tuple(seen.vm_uuid for seen in inventory.domains if _is_unknown(pool, seen))
    said = (
        inventory.hostname,
        inventory.address,
        inventory.hypervisor,
        inventory.migrate_uri,
        inventory.memory_total,
        inventory.cpu_count,
        inventory.cpu_info,
        inventory.software_version,
        inventory.capabilities,
        (*inventory.unknown_domains, *orphans),
        inventory.peer_address,
    )
    if known == said:
        return []
    return [
        ev.HostDescribed(
            host=ref,
            hostname=inventory.hostname,
            address=inventory.address,
            hypervisor=inventory.hypervisor,
            migrate_uri=inventory.migrate_uri,
            memory_total=inventory.memory_total,
            memory_free=inventory.memory_free,
            cpu_count=inventory.cpu_count,
            cpu_info=inventory.cpu_info,
            software_version=inventory.software_version,
            capabilities=inventory.capabilities,
            unknown_domains=(*inventory.unknown_domains, *orphans),
            peer_address=inventory.peer_address,
        )
    ]


def decide_host_lost(pool: Pool, host: HostRef, evidence: str) -> list[ev.Event]:
    """Give the events of a host whose guests are surely dead: what it was to do has failed, or moves on.

    A migration away from it goes on: its destination says whether the guest arrived; one towards it is cancelled. VMs
    that resided there stay as they are until somebody, or high availability, resets them: the log does not guess.
    """
    if not pool.is_live(host):
        return []
    events: list[ev.Event] = [ev.HostLost(host=host, evidence=evidence)]
    for operation in list(pool.operations.values()):
        if operation.host == host:
            events += _abandoned(pool, operation, host)
        elif _is_bound_for(operation, host):
            # Its guests count as dead from now on: nobody may arrive there any more.
            events.append(ev.CancelRequested(task=operation.task))
    return [*events, *storage_abandoned(pool, host), *abandon_devices(pool, host)]


def _is_bound_for(operation: Operation, host: HostRef) -> bool:
    is_moving = operation.destination == host and operation.step == STEP_MOVE
    return is_moving and not operation.is_cancelling


def _abandoned(pool: Pool, operation: Operation, host: HostRef) -> list[ev.Event]:
    is_moving = operation.destination not in {NULL_HOST, host} and operation.step == STEP_MOVE
    if is_moving and pool.is_live(operation.destination):
        return [
            ev.OperationAdvanced(task=operation.task, step=STEP_SETTLE, host=operation.destination)
        ]
    failed = ev.TaskFailed(task=operation.task, error_info=(HostOffline.code, host))
    vm = pool.vms.get(operation.vm)
    if vm is None or vm.resident_on == host:
        return [failed]
    # What waited for a migration to this host goes on at the one that the guest came from.
    return [failed, *release_waiting(pool, operation, vm, vm.resident_on)]
