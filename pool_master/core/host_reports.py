"""What a host's word means: reports in, events out.

Rules: a report that was seen before, or that an older one has overtaken, yields nothing (invariant 6); a command's report
counts only for the operation that it answers, in the step in which that operation is; what a host says of a domain counts
only for the incarnation that the log says lives there, everything else is drift and goes to reconcile.
"""

from typing import Final, assert_never

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.device_operations import decide_device_outcome
from pool_master.core.ha_restart import after_change
from pool_master.core.ha_wish import wished_after_failure
from pool_master.core.live_changes import LIVE_CHANGES, live_effect
from pool_master.core.pool import Pool, StaleDomain, stale_key
from pool_master.core.reconcile import ALIVE, reconcile_change, reconcile_inventory
from pool_master.core.storage_reports import decide_storage_outcome, is_storage_answer
from pool_master.core.task import Operation
from pool_master.core.vm import Vm
from pool_master.core.vm_migration import STEP_MOVE, STEP_SETTLE
from pool_master.core.vm_suspend import (
    RESUMING,
    STEP_LET_RUN,
    STEP_RESTORE,
    resumed,
    suspended,
)
from pool_master.core.waiting import release_waiting
from shared import protocol as says
from shared.enums import PowerState, VmOperation
from shared.errors import TaskCancelled, VmMigrateFailed
from shared.protocol import DomainObservation, DomainState
from shared.refs import HostRef, TaskRef

# Operations whose success is a new domain, under the incarnation that they were promised.
MAKING: Final = (
    VmOperation.START,
    VmOperation.START_ON,
    VmOperation.CLEAN_REBOOT,
    VmOperation.HARD_REBOOT,
)


# Of a suspended VM these remove the image.
DISCARDING: Final = (VmOperation.HARD_SHUTDOWN, VmOperation.SHUTDOWN)


class UnknownHost(Exception):
    """A report from a host that is not in the pool: refused, counted and shown."""


def decide_report(pool: Pool, report: says.HostReport, context: Context) -> list[ev.Event]:
    """Give the events that one report makes.

    Raises:
        UnknownHost: nobody asked that host.
    """
    host = pool.host_of_uuid(report.host)
    if host is None:
        raise UnknownHost(report.host)
    if report.journal in host.past_journals:
        return []
    if report.journal == host.journal and report.sequence <= host.report_sequence:
        return []
    began: list[ev.Event] = []
    if (report.journal, report.epoch) != (host.journal, host.epoch):
        if report.journal == host.journal and report.epoch < host.epoch:
            return []
        began = [ev.HostAgentStarted(host=host.ref, journal=report.journal, epoch=report.epoch)]
    said = _decide_body(pool, host.ref, report.body, context)
    seen = ev.HostReportsSeen(host=host.ref, journal=report.journal, sequence=report.sequence)
    # A report that says nothing new leaves no trace in the log.
    return [*began, *said, seen] if began or said else []


def _decide_body(
    pool: Pool, host: HostRef, body: says.ReportBody, context: Context
) -> list[ev.Event]:
    match body:
        case says.CommandSucceeded() | says.CommandFailed():
            return _decide_answer(pool, host, body, context)
        case says.CommandProgressed():
            return _decide_progress(pool, host, body)
        case says.DomainChanged():
            changed = reconcile_change(pool, host, body, context)
            return [*changed, *after_change(pool, body, changed)]
        case says.HostInventory():
            return reconcile_inventory(pool, host, body, context)
    assert_never(body)


def _decide_answer(
    pool: Pool, host: HostRef, body: says.CommandSucceeded | says.CommandFailed, context: Context
) -> list[ev.Event]:
    if (on_device := pool.device_operations.get(TaskRef(body.task))) is not None:
        return decide_device_outcome(pool, on_device, host, body)
    on_storage = pool.storage_operations.get(TaskRef(body.task))
    if on_storage is None:
        return _decide_outcome(pool, host, body)
    if not is_storage_answer(on_storage, host, body.command_id):
        return []
    return decide_storage_outcome(pool, on_storage, body, context)


def _decide_progress(pool: Pool, host: HostRef, body: says.CommandProgressed) -> list[ev.Event]:
    on_storage = pool.storage_operations.get(TaskRef(body.task))
    if on_storage is not None and is_storage_answer(on_storage, host, body.command_id):
        return _progress(pool, on_storage.task, body.progress)
    operation = pool.operations.get(TaskRef(body.task))
    if operation is None or not _is_answer(operation, host, body.command_id):
        return []
    return _progress(pool, operation.task, body.progress)


def _progress(pool: Pool, task: TaskRef, progress: float) -> list[ev.Event]:
    if not pool.tasks[task].progress < progress:
        return []
    return [ev.OperationProgressed(task=task, progress=min(progress, 1.0))]


def _decide_outcome(
    pool: Pool, host: HostRef, body: says.CommandSucceeded | says.CommandFailed
) -> list[ev.Event]:
    operation = pool.operations.get(TaskRef(body.task))
    if operation is None:
        return _decide_dropped(pool, host, body)
    vm = pool.vms.get(operation.vm)
    if vm is None or not _is_answer(operation, host, body.command_id):
        return []
    if operation.kind is VmOperation.POOL_MIGRATE:
        return _decide_migration(pool, operation, vm, body)
    if _wants_force(operation, vm, body):
        step = operation.step + 1
        return [ev.OperationAdvanced(task=operation.task, step=step, host=operation.host)]
    if _is_restored(operation, vm, body):
        assert body.observation is not None
        shown = resumed(vm, operation.host, body.observation)
        return [
            shown,
            ev.OperationAdvanced(task=operation.task, step=STEP_LET_RUN, host=operation.host),
        ]
    end: ev.TaskSucceeded | ev.TaskFailed
    if isinstance(body, says.CommandSucceeded):
        effect = _effect(operation, vm, body.observation)
        end = ev.TaskSucceeded(task=operation.task)
    else:
        effect = _left_behind(operation, vm, body.observation) if body.was_begun else []
        end = ev.TaskFailed(task=operation.task, error_info=_error_info(pool, operation, vm, body))
    is_gone = _is_gone(vm, effect)
    released = release_waiting(pool, operation, vm, operation.host, is_gone=is_gone)
    wish = []
    if isinstance(end, ev.TaskFailed):
        wish = wished_after_failure(pool, operation, vm, is_gone=is_gone)
    return [*effect, end, *released, *wish]


def _is_restored(
    operation: Operation, vm: Vm, body: says.CommandSucceeded | says.CommandFailed
) -> bool:
    """Whether a domain stands there that was made of the VM's image."""
    is_first = operation.kind in RESUMING and operation.step == STEP_RESTORE
    if not is_first or not isinstance(body, says.CommandSucceeded) or body.observation is None:
        return False
    return vm.power_state is PowerState.SUSPENDED and _has_machine(body.observation)


def _wants_force(
    operation: Operation, vm: Vm, body: says.CommandSucceeded | says.CommandFailed
) -> bool:
    """Whether a shutdown whose guest would not go is now to be done without asking it."""
    is_asked = operation.kind is VmOperation.SHUTDOWN and operation.step == 0
    if not is_asked or not isinstance(body, says.CommandFailed):
        return False
    return body.code != TaskCancelled.code and _lives_as_then(operation, vm)


def _error_info(
    pool: Pool, operation: Operation, vm: Vm, body: says.CommandFailed
) -> tuple[str, ...]:
    """Give a host's failure as clients know it: by references, where the host only knows uuids."""
    if body.code == VmMigrateFailed.code:
        text = body.parameters[-1] if body.parameters else ""
        failed = VmMigrateFailed(vm.ref, vm.resident_on, operation.destination, text)
        return tuple(failed.description)
    known = {vm.uuid: vm.ref, **{host.uuid: host.ref for host in pool.hosts.values()}}
    return (body.code, *(known.get(parameter, parameter) for parameter in body.parameters))


def _is_answer(operation: Operation, host: HostRef, command_id: str) -> bool:
    return operation.host == host and command_id == command_id_of(operation)


def command_id_of(operation: Operation) -> str:
    """Give the id of the command for the operation's present step: the same under every leader."""
    return f"{operation.task}/{operation.step}"


def stale_command_id(stale: StaleDomain) -> str:
    """Give the id of the command that drops a stale domain, once each time that it is found."""
    return f"drop/{stale.found}/{stale.vm_uuid}/{stale.incarnation}"


def _decide_dropped(
    pool: Pool, host: HostRef, body: says.CommandSucceeded | says.CommandFailed
) -> list[ev.Event]:
    stale = pool.stale_domains.get(stale_key(host, body.vm_uuid, body.incarnation))
    if stale is None or body.command_id != stale_command_id(stale):
        return []
    uuid, incarnation = stale.vm_uuid, stale.incarnation
    if isinstance(body, says.CommandFailed):
        error = (body.code, *body.parameters)
        return [
            ev.StaleDomainKept(host=host, vm_uuid=uuid, incarnation=incarnation, error_info=error)
        ]
    return [ev.StaleDomainDropped(host=host, vm_uuid=uuid, incarnation=incarnation)]


def _effect(  # noqa: PLR0911 - one return a case
    operation: Operation, vm: Vm, observation: DomainObservation | None
) -> list[ev.Event]:
    """What is true after a command that succeeded: its effect, read from what the host saw."""
    match operation.kind:
        case VmOperation.PAUSE:
            is_new = vm.power_state is PowerState.RUNNING and _lives_as_then(operation, vm)
            return [ev.VmPaused(vm=vm.ref)] if is_new else []
        case VmOperation.UNPAUSE:
            is_new = vm.power_state is PowerState.PAUSED and _lives_as_then(operation, vm)
            return [ev.VmUnpaused(vm=vm.ref)] if is_new else []
        case VmOperation.SUSPEND:
            return [suspended(operation, vm)] if _lives_as_then(operation, vm) else []
        case kind if kind in DISCARDING and vm.power_state is PowerState.SUSPENDED:
            return [ev.VmHalted(vm=vm.ref, reason=f"{kind.value} of a suspended VM")]
        case VmOperation.CLEAN_SHUTDOWN | VmOperation.HARD_SHUTDOWN | VmOperation.SHUTDOWN:
            return _gone(operation, vm, reason=operation.kind.value)
        case _ if observation is not None and not _has_machine(observation):
            # It was there, and stopped again before the host looked.
            return _gone(operation, vm, reason=f"{operation.kind.value}: the guest has stopped")
        case kind if kind in LIVE_CHANGES:
            seen = observation if _lives_as_then(operation, vm) else None
            return live_effect(operation, vm, seen)
        case _:
            return _shown(operation, vm, observation)


def _lives_as_then(operation: Operation, vm: Vm) -> bool:
    """Whether the domain that the operation acted on is still the VM's."""
    return (vm.incarnation, vm.resident_on) == (operation.incarnation, operation.host)


def _left_behind(
    operation: Operation, vm: Vm, observation: DomainObservation | None
) -> list[ev.Event]:
    """What is true after a command that failed: the domain as the host left it."""
    if observation is not None and _has_machine(observation):
        return _shown(operation, vm, observation)
    return _gone(operation, vm, reason=f"{operation.kind.value} failed, no domain is left")


def _has_machine(observation: DomainObservation) -> bool:
    """Whether a domain stands behind it: one that crashed and was preserved holds memory and disks as a paused one does."""
    is_preserved = observation.state is DomainState.CRASHED and observation.domid >= 0
    return observation.state in ALIVE or is_preserved


def _power_state(observation: DomainObservation) -> PowerState:
    is_running = observation.state is DomainState.RUNNING
    return PowerState.RUNNING if is_running else PowerState.PAUSED


def _gone(operation: Operation, vm: Vm, *, reason: str) -> list[ev.Event]:
    """No domain of the operation's incarnation, or an older one, is left; a newer one is not its business."""
    if vm.power_state is PowerState.HALTED or vm.incarnation > operation.incarnation:
        return []
    if vm.resident_on != operation.host:
        return []
    return [ev.VmHalted(vm=vm.ref, reason=reason)]


def _shown(operation: Operation, vm: Vm, observation: DomainObservation | None) -> list[ev.Event]:
    """A domain that runs or is paused, as the host shows it; nothing where the log says so already."""
    if observation is None or observation.incarnation < vm.incarnation:
        return []
    is_made = (
        operation.kind in (*MAKING, *RESUMING) and observation.incarnation == operation.incarnation
    )
    if vm.power_state in {PowerState.HALTED, PowerState.SUSPENDED} and not is_made:
        return []  # Seen before it was stopped: another operation has ended that domain since.
    host = operation.host
    state = _power_state(observation)
    is_known = (vm.resident_on, vm.incarnation, vm.domid) == (
        host,
        observation.incarnation,
        observation.domid,
    )
    if is_known and state is vm.power_state:
        return []
    if is_known:
        is_paused = state is PowerState.PAUSED
        return [ev.VmPaused(vm=vm.ref) if is_paused else ev.VmUnpaused(vm=vm.ref)]
    if vm.power_state is PowerState.SUSPENDED:
        return [resumed(vm, host, observation)]
    return [started(vm, host, observation)]


def started(vm: Vm, host: HostRef, observation: DomainObservation) -> ev.VmStarted:
    """The event for a domain that a host has shown."""
    return ev.VmStarted(
        vm=vm.ref,
        host=host,
        incarnation=observation.incarnation,
        domid=observation.domid,
        power_state=_power_state(observation),
        cpu_flags=observation.cpu_flags,
        memory_actual=observation.memory_actual,
        vcpus=observation.vcpus,
        console_rfb=observation.console_rfb,
        console_vt100=observation.console_vt100,
        nics=observation.nics,
    )


def _decide_migration(
    pool: Pool, operation: Operation, vm: Vm, body: says.CommandSucceeded | says.CommandFailed
) -> list[ev.Event]:
    if operation.step == STEP_MOVE:
        return _decide_moved(pool, operation, vm, body)
    seen = body.observation
    is_here = seen is not None and _has_machine(seen) and seen.incarnation == operation.incarnation
    if isinstance(body, says.CommandFailed) and not is_here:
        # Nobody knows where the guest is before the destination has settled it: it is asked until it has, or is lost.
        step = operation.step + 1
        return [ev.OperationAdvanced(task=operation.task, step=step, host=operation.destination)]
    if seen is None or not is_here:
        is_lost = pool.is_live(vm.resident_on)
        return _migrated_nowhere(pool, operation, vm, is_lost=is_lost)
    migrated = ev.VmMigrated(
        vm=vm.ref,
        host=operation.destination,
        domid=seen.domid,
        console_rfb=seen.console_rfb,
        console_vt100=seen.console_vt100,
    )
    is_paused = (_power_state(seen), vm.power_state) == (PowerState.PAUSED, PowerState.RUNNING)
    return [
        migrated,
        *([ev.VmPaused(vm=vm.ref)] if is_paused else []),
        ev.TaskSucceeded(task=operation.task),
        *release_waiting(pool, operation, vm, operation.destination),
    ]


def _decide_moved(
    pool: Pool, operation: Operation, vm: Vm, body: says.CommandSucceeded | says.CommandFailed
) -> list[ev.Event]:
    """The source has spoken: the guest is still there, or only the destination knows."""
    if isinstance(body, says.CommandFailed) and not (body.was_begun and body.observation is None):
        left = _left_behind(operation, vm, body.observation) if body.was_begun else []
        error = _error_info(pool, operation, vm, body)
        failed = ev.TaskFailed(task=operation.task, error_info=error)
        is_gone = _is_gone(vm, left)
        released = release_waiting(pool, operation, vm, vm.resident_on, is_gone=is_gone)
        return [*left, failed, *released]
    # Cut at its hand-over, a migration may leave a domain here that stands still and is nobody's once it is settled.
    remains: list[ev.Event] = []
    if isinstance(body, says.CommandFailed) and pool.is_live(operation.host):
        remains = [
            ev.StaleDomainFound(
                host=operation.host, vm_uuid=vm.uuid, incarnation=operation.incarnation
            )
        ]
    if not pool.is_live(operation.destination):
        # Gone from here, and there every guest is surely dead: nobody is left to ask.
        return [*_migrated_nowhere(pool, operation, vm, is_lost=True), *remains]
    settle = ev.OperationAdvanced(task=operation.task, step=STEP_SETTLE, host=operation.destination)
    return [settle, *remains]


def _is_gone(vm: Vm, effect: list[ev.Event]) -> bool:
    """Whether the VM has no domain once this is true."""
    if not effect:
        return vm.power_state is PowerState.HALTED
    return any(isinstance(event, ev.VmHalted) for event in effect)


def _migrated_nowhere(pool: Pool, operation: Operation, vm: Vm, *, is_lost: bool) -> list[ev.Event]:
    """The destination has no guest and never will: it is where it was, or, where the source has none, lost."""
    error = VmMigrateFailed(
        vm.ref, vm.resident_on, operation.destination, "the guest did not arrive"
    )
    failed = ev.TaskFailed(task=operation.task, error_info=tuple(error.description))
    halted = [ev.VmHalted(vm=vm.ref, reason="lost in migration")] if is_lost else []
    return [*halted, failed, *release_waiting(pool, operation, vm, vm.resident_on, is_gone=is_lost)]
