"""VM.suspend, VM.resume and VM.resume_on: a guest's memory goes to an image on a folder that hosts share, and comes back.

Rules: at every moment the VM has a domain, or an image, as the log says; never both that could run. A suspended VM's domain
is gone when the log says Suspended, for its host has said so. A resumed domain stands still until the log says that the
VM has it, and only then is the image removed and the guest let run: a host that dies before has changed nothing that the
image knows of. Images are named by VM and incarnation, so that a late command removes no newer one.
"""

from dataclasses import dataclass
from typing import Any, Final

from pool_master.core import events as ev
from pool_master.core.allowed import operation_error
from pool_master.core.context import Context
from pool_master.core.datamodel import Message, operation
from pool_master.core.ha_guard import preserving_plan
from pool_master.core.ha_wish import wished_by
from pool_master.core.lookup import host_of, vm_of
from pool_master.core.placement import boot_error, choose_host
from pool_master.core.pool import Pool
from pool_master.core.task import Operation
from pool_master.core.vm import Vm
from pool_master.core.vm_lifecycle import START_ERRORS, STATE_ERRORS, accept, on_its_host
from shared.enums import PowerState, Role, VmOperation
from shared.errors import VmIncompatibleWithThisHost, XenApiError
from shared.protocol import DomainObservation, HostAction, ResumeDomain, SettleResume, SuspendDomain
from shared.refs import HostRef, VmRef

RESUMING: Final = (VmOperation.RESUME, VmOperation.RESUME_ON)
# Steps of a resume: the domain is made, standing still; then the image goes and the guest runs.
STEP_RESTORE: Final = 0
STEP_LET_RUN: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend:
    """Suspend the specified VM to disk. Only when Running."""

    vm: VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Awaken the specified VM and resume it. Only when Suspended. Force skips the check of the CPU."""

    vm: VmRef
    start_paused: bool
    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeOn:
    """Awaken the specified VM and resume it on a particular Host. Only when Suspended."""

    vm: VmRef
    host: HostRef
    start_paused: bool
    force: bool


def decide_suspend(pool: Pool, request: Suspend, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.3."""
    vm = vm_of(pool, request.vm)
    kind = VmOperation.SUSPEND
    host = on_its_host(pool, vm, kind)
    accepted = accept(vm, kind, context, host=host, incarnation=vm.incarnation)
    return [accepted, *wished_by(vm, kind)]


def decide_resume(pool: Pool, request: Resume, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.3 and 1.7."""
    vm = vm_of(pool, request.vm)
    if error := operation_error(vm, VmOperation.RESUME):
        raise error
    unfit = () if request.force else tuple(h for h in pool.hosts if cpu_error(pool, vm, h))
    host = choose_host(pool, vm, context.chance, without=unfit)
    accepted = _resume(vm, VmOperation.RESUME, context, host=host, is_paused=request.start_paused)
    return preserving_plan(pool, [accepted, *wished_by(vm, VmOperation.RESUME)], context)


def decide_resume_on(pool: Pool, request: ResumeOn, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.3 and 1.6."""
    vm = vm_of(pool, request.vm)
    host = host_of(pool, request.host).ref
    if error := operation_error(vm, VmOperation.RESUME_ON):
        raise error
    error = boot_error(pool, vm, host)
    if error is None and not request.force:
        error = cpu_error(pool, vm, host)
    if error is not None:
        raise error
    accepted = _resume(
        vm, VmOperation.RESUME_ON, context, host=host, is_paused=request.start_paused
    )
    return preserving_plan(pool, [accepted, *wished_by(vm, VmOperation.RESUME_ON)], context)


def _resume(
    vm: Vm, kind: VmOperation, context: Context, *, host: HostRef, is_paused: bool
) -> ev.OperationAccepted:
    paused = str(is_paused).lower()
    incarnation = vm.last_incarnation + 1
    return accept(
        vm,
        kind,
        context,
        host=host,
        incarnation=incarnation,
        start_paused=paused,
        image=vm.suspend_image,
    )


def cpu_error(pool: Pool, vm: Vm, host: HostRef) -> XenApiError | None:
    """Say whether the host's processor lacks what the guest was booted with."""
    booted, there = vm.last_boot_CPU_flags, pool.hosts[host].cpu_info
    if booted.get("vendor", "") != there.get("vendor", ""):
        return VmIncompatibleWithThisHost(vm.ref, host, "CPUs of different vendors")
    has = there.get("features", "").split()
    missing = [flag for flag in booted.get("features", "").split() if flag not in has]
    if missing:
        return VmIncompatibleWithThisHost(vm.ref, host, f"the CPU lacks {' '.join(missing)}")
    return None


def image_of(vm: Vm, incarnation: int) -> str:
    """Give the name of the image of one incarnation's memory."""
    return f"{vm.uuid}.{incarnation}"


def suspend_action(operation: Operation, vm: Vm) -> HostAction:
    """Give what the host is told for the operation's present step."""
    if operation.kind is VmOperation.SUSPEND:
        return SuspendDomain(image=image_of(vm, operation.incarnation))
    if operation.step == STEP_RESTORE:
        return ResumeDomain(image=operation.arguments["image"])
    is_paused = operation.arguments["start_paused"] == "true"
    return SettleResume(image=operation.arguments["image"], start_paused=is_paused)


def suspended(operation: Operation, vm: Vm) -> ev.VmSuspended:
    """The event for a domain that its host has saved and ended."""
    return ev.VmSuspended(vm=vm.ref, image=image_of(vm, operation.incarnation))


def resumed(vm: Vm, host: HostRef, seen: DomainObservation) -> ev.VmResumed:
    """The event for a domain that a host has made of the image."""
    is_running = seen.state.value == PowerState.RUNNING.value.lower()
    return ev.VmResumed(
        vm=vm.ref,
        host=host,
        incarnation=seen.incarnation,
        domid=seen.domid,
        power_state=PowerState.RUNNING if is_running else PowerState.PAUSED,
        memory_actual=seen.memory_actual,
        vcpus=seen.vcpus,
        console_rfb=seen.console_rfb,
        console_vt100=seen.console_vt100,
        nics=seen.nics,
    )


_RESUME_ROW: Final[dict[str, Any]] = {
    "errors": (*START_ERRORS, "VM_INCOMPATIBLE_WITH_THIS_HOST", "VM_HAS_NO_SUSPEND_VDI"),
}

MESSAGES: Final[tuple[Message, ...]] = (
    operation(
        Suspend,
        decide_suspend,
        name="suspend",
        operation=VmOperation.SUSPEND,
        role=Role.VM_OPERATOR,
        errors=(*STATE_ERRORS, "VM_IS_IMMOBILE", "VM_NO_SUSPEND_SR"),
    ),
    operation(
        Resume,
        decide_resume,
        name="resume",
        operation=VmOperation.RESUME,
        role=Role.VM_OPERATOR,
        **_RESUME_ROW,
    ),
    operation(
        ResumeOn,
        decide_resume_on,
        name="resume_on",
        operation=VmOperation.RESUME_ON,
        role=Role.VM_POWER_ADMIN,
        **_RESUME_ROW,
    ),
)
