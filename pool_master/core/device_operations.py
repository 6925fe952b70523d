"""Operations on one device of a running VM: accepted, told to the host in the VM's lane, and ended by its answer.

Rules: as for operations on VMs, but they leave the VM's own state alone, so it bears no mark of them: the device does.
What is true afterwards is what the host shows of the domain, however the command went. A class of devices has one arm
in `_action` and one in `_shown`; all else is the same for all of them.
"""

from pool_master.core import events as ev
from pool_master.core import network_events as nev
from pool_master.core.context import Context
from pool_master.core.devices import DeviceOperation
from pool_master.core.pool import Pool
from pool_master.core.vifs import nic_on
from pool_master.core.vm import Vm
from shared.enums import VifOperation
from shared.errors import HostOffline
from shared.protocol import (
    AttachNic,
    CommandFailed,
    CommandSucceeded,
    DetachNic,
    DeviceChange,
    DomainObservation,
    HostCommand,
)
from shared.refs import HostRef, TaskRef, VifRef

# How long a guest may take to let go of a device.
DETACH_TIMEOUT_S = 20.0


def accept_device(
    vm: Vm, device: str, operation: str, context: Context, *, object_class: str, name: str
) -> ev.DeviceOperationAccepted:
    """Promise an operation on a device of a running VM; `name` is how hosts know the device, a VIF by its MAC."""
    return ev.DeviceOperationAccepted(
        task=context.task,
        task_uuid=context.task_uuid,
        name_label=context.label,
        object_class=object_class,
        device=device,
        name=name,
        operation=operation,
        vm=vm.ref,
        host=vm.resident_on,
        incarnation=vm.incarnation,
    )


def plan_device(pool: Pool, task: TaskRef) -> list[tuple[HostRef, HostCommand]]:
    """Give the command that this operation needs, with the host that must be told."""
    operation = pool.device_operations.get(task)
    vm = None if operation is None else pool.vms.get(operation.vm)
    if operation is None or vm is None or operation.host not in pool.hosts:
        return []
    command = HostCommand(
        command_id=_command_id(operation),
        task=operation.task,
        term=pool.term,
        vm_uuid=vm.uuid,
        incarnation=operation.incarnation,
        host_epoch=pool.hosts[operation.host].lost_count,
        action=_action(pool, operation),
    )
    return [(operation.host, command)]


def _action(pool: Pool, operation: DeviceOperation) -> DeviceChange:
    vif = pool.vifs.get(VifRef(operation.device))
    if vif is not None and operation.operation == VifOperation.PLUG:
        return AttachNic(nic=nic_on(pool, vif, operation.host))
    return DetachNic(mac=operation.name, timeout_s=DETACH_TIMEOUT_S)


def decide_device_outcome(
    pool: Pool, operation: DeviceOperation, host: HostRef, body: CommandSucceeded | CommandFailed
) -> list[ev.Event]:
    """Give the events of a host's answer."""
    if operation.host != host or body.command_id != _command_id(operation):
        return []
    shown = [] if body.observation is None else _shown(pool, operation, body.observation)
    if isinstance(body, CommandSucceeded):
        return [*shown, ev.TaskSucceeded(task=operation.task)]
    vm = pool.vms.get(operation.vm)
    known: dict[str, str] = {} if vm is None else {vm.uuid: vm.ref}
    known[operation.name] = operation.device
    error = (body.code, *(known.get(parameter, parameter) for parameter in body.parameters))
    return [*shown, ev.TaskFailed(task=operation.task, error_info=error)]


def _shown(pool: Pool, operation: DeviceOperation, seen: DomainObservation) -> list[ev.Event]:
    vm, vif = pool.vms.get(operation.vm), pool.vifs.get(VifRef(operation.device))
    is_the_one = vm is not None and vm.incarnation == seen.incarnation == operation.incarnation
    if vif is None or not is_the_one:
        return []
    is_attached = operation.name in seen.nics
    if is_attached == vif.currently_attached:
        return []
    return [nev.VifPlugged(vif=vif.ref) if is_attached else nev.VifUnplugged(vif=vif.ref)]


def abandon_devices(pool: Pool, host: HostRef) -> list[ev.Event]:
    """Give the ends of what a lost host was to do to devices."""
    error = tuple(HostOffline(host).description)
    return [
        ev.TaskFailed(task=operation.task, error_info=error)
        for operation in list(pool.device_operations.values())
        if operation.host == host
    ]


def _command_id(operation: DeviceOperation) -> str:
    return f"{operation.task}/device"
