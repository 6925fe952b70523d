"""Messages of the VIF class, and the VM's query about its device numbers."""

from dataclasses import dataclass
from typing import Annotated, Final

from pool_master.core import events as ev
from pool_master.core import network_events as nev
from pool_master.core.allowed_vif import current_vif_operations, vif_operation_error
from pool_master.core.changed import changed
from pool_master.core.context import Context
from pool_master.core.datamodel import (
    STRING,
    Message,
    command,
    operation,
    query,
    record_of,
    ref_to,
    set_of,
)
from pool_master.core.device_operations import accept_device
from pool_master.core.lookup import network_of, vif_of, vm_of
from pool_master.core.mac import generated_mac, is_valid_mac
from pool_master.core.network import MTU_DEFAULT, VifConfig
from pool_master.core.pool import Pool
from pool_master.core.vifs import DEVICES, free_devices, vifs_of
from shared.enums import Role, VifOperation
from shared.errors import OperationNotAllowed, OtherOperationInProgress
from shared.network_errors import DeviceAlreadyExists, InvalidDevice, MacInvalid, MacStillExists
from shared.refs import VifRef, VmRef, derive, derive_ref


@dataclass(frozen=True, slots=True, kw_only=True)
class VifCreate:
    """Create a new VIF instance, and return its handle. A VM that runs gets it by plug, or when it starts again."""

    args: Annotated[VifConfig, record_of("VIF")]


def decide_vif_create(pool: Pool, request: VifCreate, context: Context) -> list[ev.Event]:
    """XenAPI reference 5: an empty MAC is made from the VM's mac_seed."""
    if created_vif(context) in pool.vifs:
        return []
    config = request.args
    vm = vm_of(pool, config.VM)
    network_of(pool, config.network)
    if config.device not in DEVICES:
        raise InvalidDevice(config.device)
    seed = vm.config.other_config.get("mac_seed")
    mac = config.MAC
    is_generated = mac == "" and seed is not None
    if mac == "" and seed is not None:
        mac = generated_mac(seed, int(config.device))
    if not is_valid_mac(mac):
        raise MacInvalid(mac)
    for other in vifs_of(pool, vm.ref):
        if other.config.device == config.device:
            raise DeviceAlreadyExists(config.device)
        if other.config.MAC.lower() == mac.lower():
            # By its MAC a host finds an interface in the domain: within a VM it must be one.
            raise MacStillExists(mac)
    return [
        nev.VifCreated(
            vif=created_vif(context),
            uuid=derive(context.command_id, "VIF"),
            config=changed(config, MAC=mac, MTU=config.MTU if config.MTU > 0 else MTU_DEFAULT),
            is_mac_generated=is_generated,
        )
    ]


def created_vif(context: Context) -> VifRef:
    """Give the reference of the VIF that this command makes."""
    return VifRef(derive_ref(context.command_id, "VIF"))


@dataclass(frozen=True, slots=True, kw_only=True)
class VifDestroy:
    """Destroy the specified VIF instance. One that is attached must be unplugged first."""

    self: VifRef


def decide_vif_destroy(pool: Pool, request: VifDestroy, _context: Context) -> list[ev.Event]:
    """As xapi's VIF.destroy."""
    vif = vif_of(pool, request.self)
    if vif.currently_attached:
        raise OperationNotAllowed("VIF currently attached to a running VM")
    if current := current_vif_operations(pool, vif):
        raise OtherOperationInProgress(
            "VIF", vif.ref, operations=current.values(), tasks=current.keys()
        )
    return [nev.VifDestroyed(vif=vif.ref)]


@dataclass(frozen=True, slots=True, kw_only=True)
class VifPlug:
    """Hotplug the specified VIF, dynamically attaching it to the running VM."""

    self: VifRef


@dataclass(frozen=True, slots=True, kw_only=True)
class VifUnplug:
    """Hot-unplug the specified VIF, dynamically unattaching it from the running VM. The guest must let go of it."""

    self: VifRef


def decide_vif_plug(pool: Pool, request: VifPlug, context: Context) -> list[ev.Event]:
    """As xapi's VIF.plug."""
    return _change(pool, request.self, VifOperation.PLUG, context)


def decide_vif_unplug(pool: Pool, request: VifUnplug, context: Context) -> list[ev.Event]:
    """As xapi's VIF.unplug."""
    return _change(pool, request.self, VifOperation.UNPLUG, context)


def _change(pool: Pool, ref: VifRef, kind: VifOperation, context: Context) -> list[ev.Event]:
    vif = vif_of(pool, ref)
    if error := vif_operation_error(pool, vif, kind):
        raise error
    vm, mac = pool.vms[vif.config.VM], vif.config.MAC.lower()
    return [accept_device(vm, vif.ref, kind, context, object_class="VIF", name=mac)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GetAllowedVifDevices:
    """Returns a list of the allowed values that a VIF device field can take."""

    vm: VmRef


def answer_allowed_vif_devices(pool: Pool, request: GetAllowedVifDevices) -> tuple[str, ...]:
    """XenAPI reference 1.1."""
    return free_devices(pool, vm_of(pool, request.vm).ref)


_PLUG_ERRORS: Final = (
    "VM_BAD_POWER_STATE",
    "OTHER_OPERATION_IN_PROGRESS",
    "OPERATION_NOT_ALLOWED",
    "HOST_OFFLINE",
)
MESSAGES: Final[tuple[Message, ...]] = (
    command(
        VifCreate,
        decide_vif_create,
        name="create",
        role=Role.VM_ADMIN,
        returns=ref_to("VIF"),
        result=lambda _request, context: created_vif(context),
        errors=("MAC_INVALID", "MAC_STILL_EXISTS", "DEVICE_ALREADY_EXISTS", "INVALID_DEVICE"),
    ),
    command(
        VifDestroy,
        decide_vif_destroy,
        name="destroy",
        role=Role.VM_ADMIN,
        errors=("OPERATION_NOT_ALLOWED",),
    ),
    operation(
        VifPlug,
        decide_vif_plug,
        name="plug",
        operation=VifOperation.PLUG,
        role=Role.VM_ADMIN,
        errors=(*_PLUG_ERRORS, "DEVICE_ALREADY_ATTACHED", "VM_REQUIRES_NETWORK"),
    ),
    operation(
        VifUnplug,
        decide_vif_unplug,
        name="unplug",
        operation=VifOperation.UNPLUG,
        role=Role.VM_ADMIN,
        errors=(*_PLUG_ERRORS, "DEVICE_ALREADY_DETACHED", "DEVICE_DETACH_TIMEOUT"),
    ),
)
VM_MESSAGES: Final[tuple[Message, ...]] = (
    query(
        GetAllowedVifDevices,
        answer_allowed_vif_devices,
        name="get_allowed_VIF_devices",
        returns=set_of(STRING),
    ),
)
