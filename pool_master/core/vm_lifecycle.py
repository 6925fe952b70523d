"""Start, pause, shut down and reboot: command, decider and message row of each, side by side.

Rules: guards first, events last; what a host must do is not said here but planned from the accepted operation.
"""

from dataclasses import dataclass, replace
from typing import Final

from pool_master.core import events as ev
from pool_master.core.allowed import operation_error
from pool_master.core.context import Context
from pool_master.core.datamodel import Message, operation
from pool_master.core.disks import attach_error
from pool_master.core.ha_guard import preserving_plan
from pool_master.core.ha_wish import wished_by
from pool_master.core.lookup import host_of, vm_of
from pool_master.core.placement import boot_error, choose_host
from pool_master.core.pool import Pool
from pool_master.core.vm import Vm
from shared.enums import PowerState, Role, VmOperation
from shared.errors import NoHostsAvailable
from shared.refs import HostRef, VmRef


def accept(
    vm: Vm,
    kind: VmOperation,
    context: Context,
    *,
    host: HostRef,
    incarnation: int,
    **arguments: str,
) -> ev.OperationAccepted:
    """Promise an operation: from here on it has exactly one end."""
    return ev.OperationAccepted(
        task=context.task,
        task_uuid=context.task_uuid,
        name_label=context.label,
        operation=kind,
        vm=vm.ref,
        host=host,
        incarnation=incarnation,
        arguments=arguments,
    )


def on_its_host(pool: Pool, vm: Vm, kind: VmOperation) -> HostRef:
    """Guard an operation on a domain that runs; give the host that runs it.

    Raises:
        HostOffline: that host is lost: nobody could carry it out.
    """
    if error := operation_error(vm, kind, is_stranded=pool.is_stranded(vm)):
        raise error
    return vm.resident_on


def end_home(pool: Pool, vm: Vm, kind: VmOperation) -> HostRef:
    """Guard an operation that ends what a VM runs on; give who carries it out: for a suspended one any host can.

    Raises:
        HostOffline: the host that runs it is lost.
        NoHostsAvailable: no host lives that could remove the image.
    """
    host = on_its_host(pool, vm, kind)
    if vm.power_state is not PowerState.SUSPENDED:
        return host
    for other in pool.hosts:
        if pool.is_live(other):
            return other
    raise NoHostsAvailable()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start the specified VM on a host that the pool chooses. Only when Halted."""

    vm: VmRef
    start_paused: bool
    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOn:
    """Start the specified VM on a particular host. Only when Halted."""

    vm: VmRef
    host: HostRef
    start_paused: bool
    force: bool


def decide_start(pool: Pool, request: Start, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.3 and 1.7."""
    vm = vm_of(pool, request.vm)
    if error := operation_error(vm, VmOperation.START):
        raise error
    if error := attach_error(pool, vm):
        raise error
    host = choose_host(pool, vm, context.chance)
    accepted = _start(vm, VmOperation.START, context, host=host, is_paused=request.start_paused)
    return preserving_plan(pool, [accepted, *wished_by(vm, VmOperation.START)], context)


def decide_start_on(pool: Pool, request: StartOn, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.3 and 1.6."""
    vm = vm_of(pool, request.vm)
    host = host_of(pool, request.host)
    if error := operation_error(vm, VmOperation.START_ON):
        raise error
    if error := attach_error(pool, vm) or boot_error(pool, vm, host.ref):
        raise error
    accepted = _start(
        vm, VmOperation.START_ON, context, host=host.ref, is_paused=request.start_paused
    )
    return preserving_plan(pool, [accepted, *wished_by(vm, VmOperation.START_ON)], context)


def _start(
    vm: Vm, kind: VmOperation, context: Context, *, host: HostRef, is_paused: bool
) -> ev.OperationAccepted:
    return accept(
        vm,
        kind,
        context,
        host=host,
        incarnation=vm.last_incarnation + 1,
        start_paused=str(is_paused).lower(),
    )


def start_again(vm: Vm, host: HostRef, context: Context) -> ev.OperationAccepted:
    """Promise a new start that no user has asked for: what actions_after_shutdown and _crash "restart" mean, and HA.

    One report, or one lost host, can restart several VMs: each has a task of its own.
    """
    context = replace(context, command_id=f"{context.command_id}/{vm.uuid}")
    return _start(vm, VmOperation.START_ON, context, host=host, is_paused=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Pause the specified VM. Only when Running."""

    vm: VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpause:
    """Resume the specified VM. Only when Paused."""

    vm: VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanShutdown:
    """Attempt to cleanly shut the specified VM down. Only when Running."""

    vm: VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanReboot:
    """Attempt to cleanly reboot the specified VM. Only when Running."""

    vm: VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class HardShutdown:
    """Stop executing the specified VM without attempting a clean shutdown."""

    vm: VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """Attempts to first clean shutdown a VM and if it should fail then perform a hard shutdown on it."""

    vm: VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class HardReboot:
    """Stop executing the specified VM without attempting a clean shutdown and immediately restart it."""

    vm: VmRef


def decide_pause(pool: Pool, request: Pause, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.3."""
    return _on_running_domain(pool, request.vm, VmOperation.PAUSE, context)


def decide_unpause(pool: Pool, request: Unpause, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.3."""
    return _on_running_domain(pool, request.vm, VmOperation.UNPAUSE, context)


def decide_clean_shutdown(pool: Pool, request: CleanShutdown, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.3."""
    return _on_running_domain(pool, request.vm, VmOperation.CLEAN_SHUTDOWN, context)


def decide_hard_shutdown(pool: Pool, request: HardShutdown, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.3: whatever waits for the guest is cancelled first."""
    return _on_running_domain(pool, request.vm, VmOperation.HARD_SHUTDOWN, context)


def decide_shutdown(pool: Pool, request: Shutdown, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.3: only a running guest can be asked."""
    vm = vm_of(pool, request.vm)
    host = end_home(pool, vm, VmOperation.SHUTDOWN)
    asks = str(vm.power_state is PowerState.RUNNING).lower()
    kind = VmOperation.SHUTDOWN
    accepted = accept(vm, kind, context, host=host, incarnation=vm.incarnation, asks=asks)
    return [accepted, *wished_by(vm, kind)]


def _on_running_domain(
    pool: Pool, ref: VmRef, kind: VmOperation, context: Context
) -> list[ev.Event]:
    vm = vm_of(pool, ref)
    host = end_home(pool, vm, kind)
    accepted = accept(vm, kind, context, host=host, incarnation=vm.incarnation)
    return [*_cancel_overtaken(pool, vm, kind), accepted, *wished_by(vm, kind)]


def decide_clean_reboot(pool: Pool, request: CleanReboot, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.3: the domain that comes up is a new incarnation on the same host."""
    return _reboot(pool, request.vm, VmOperation.CLEAN_REBOOT, context)


def decide_hard_reboot(pool: Pool, request: HardReboot, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.3."""
    return _reboot(pool, request.vm, VmOperation.HARD_REBOOT, context)


def _reboot(pool: Pool, ref: VmRef, kind: VmOperation, context: Context) -> list[ev.Event]:
    vm = vm_of(pool, ref)
    host = on_its_host(pool, vm, kind)
    if error := attach_error(pool, vm):
        raise error
    accepted = accept(vm, kind, context, host=host, incarnation=vm.last_incarnation + 1)
    return [*_cancel_overtaken(pool, vm, kind), accepted]


# What a hard operation takes the place of (XenAPI reference 1.3).
OVERTAKEN: Final = {
    VmOperation.HARD_SHUTDOWN: (
        VmOperation.CLEAN_SHUTDOWN,
        VmOperation.SHUTDOWN,
        VmOperation.CLEAN_REBOOT,
        VmOperation.HARD_REBOOT,
        VmOperation.POOL_MIGRATE,
    ),
    VmOperation.HARD_REBOOT: (
        VmOperation.CLEAN_SHUTDOWN,
        VmOperation.SHUTDOWN,
        VmOperation.CLEAN_REBOOT,
        VmOperation.POOL_MIGRATE,
    ),
}


def _cancel_overtaken(pool: Pool, vm: Vm, kind: VmOperation) -> list[ev.Event]:
    overtaken = OVERTAKEN.get(kind, ())
    return [
        ev.CancelRequested(task=running.task)
        for running in pool.operations_of(vm)
        if running.kind in overtaken and not running.is_cancelling
    ]


STATE_ERRORS: Final = (
    "VM_BAD_POWER_STATE",
    "OTHER_OPERATION_IN_PROGRESS",
    "OPERATION_NOT_ALLOWED",
    "VM_IS_TEMPLATE",
    "HOST_OFFLINE",
)
START_ERRORS: Final = (
    *STATE_ERRORS[:-1],
    "HOST_NOT_ENOUGH_FREE_MEMORY",
    "HOST_NOT_ENOUGH_PCPUS",
    "HOST_NOT_LIVE",
    "HOST_DISABLED",
    "MEMORY_CONSTRAINT_VIOLATION",
    "BOOTLOADER_FAILED",
    "DOMAIN_BUILDER_ERROR",
    "FAILED_TO_START_EMULATOR",
    "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN",
)

MESSAGES: Final[tuple[Message, ...]] = (
    operation(
        Start,
        decide_start,
        name="start",
        operation=VmOperation.START,
        role=Role.VM_OPERATOR,
        errors=(*START_ERRORS, "NO_HOSTS_AVAILABLE"),
    ),
    operation(
        StartOn,
        decide_start_on,
        name="start_on",
        operation=VmOperation.START_ON,
        role=Role.VM_POWER_ADMIN,
        errors=START_ERRORS,
    ),
    operation(
        Pause,
        decide_pause,
        name="pause",
        operation=VmOperation.PAUSE,
        role=Role.VM_OPERATOR,
        errors=STATE_ERRORS,
    ),
    operation(
        Unpause,
        decide_unpause,
        name="unpause",
        operation=VmOperation.UNPAUSE,
        role=Role.VM_OPERATOR,
        errors=STATE_ERRORS,
    ),
    operation(
        CleanShutdown,
        decide_clean_shutdown,
        name="clean_shutdown",
        operation=VmOperation.CLEAN_SHUTDOWN,
        role=Role.VM_OPERATOR,
        errors=(*STATE_ERRORS, "VM_SHUTDOWN_TIMEOUT"),
    ),
    operation(
        CleanReboot,
        decide_clean_reboot,
        name="clean_reboot",
        operation=VmOperation.CLEAN_REBOOT,
        role=Role.VM_OPERATOR,
        errors=(*STATE_ERRORS, "VM_SHUTDOWN_TIMEOUT"),
    ),
    operation(
        HardShutdown,
        decide_hard_shutdown,
        name="hard_shutdown",
        operation=VmOperation.HARD_SHUTDOWN,
        role=Role.VM_OPERATOR,
        errors=STATE_ERRORS,
    ),
    operation(
        HardReboot,
        decide_hard_reboot,
        name="hard_reboot",
        operation=VmOperation.HARD_REBOOT,
        role=Role.VM_OPERATOR,
        errors=STATE_ERRORS,
    ),
    operation(
        Shutdown,
        decide_shutdown,
        name="shutdown",
        operation=VmOperation.SHUTDOWN,
        role=Role.VM_OPERATOR,
        errors=STATE_ERRORS,
    ),
)
