"""Messages of the VIF class, and the VM's query about its device numbers."""

from dataclasses import dataclass
from typing import Annotated, Final

from pool_master.core import events as ev
from pool_master.core import network_events as nev
from pool_master.core.changed import changed
from pool_master.core.context import Context
from pool_master.core.datamodel import STRING, Message, command, query, record_of, ref_to, set_of
from pool_master.core.lookup import network_of, vif_of, vm_of
from pool_master.core.mac import generated_mac, is_valid_mac
from pool_master.core.network import MTU_DEFAULT, VifConfig
from pool_master.core.pool import Pool
from pool_master.core.vifs import DEVICES, free_devices, vifs_of
from shared.enums import Role
from shared.errors import OperationNotAllowed
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
    return [nev.VifDestroyed(vif=vif.ref)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GetAllowedVifDevices:
    """Returns a list of the allowed values that a VIF device field can take."""

    vm: VmRef


def answer_allowed_vif_devices(pool: Pool, request: GetAllowedVifDevices) -> tuple[str, ...]:
    """XenAPI reference 1.1."""
    return free_devices(pool, vm_of(pool, request.vm).ref)


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
)
VM_MESSAGES: Final[tuple[Message, ...]] = (
    query(
        GetAllowedVifDevices,
        answer_allowed_vif_devices,
        name="get_allowed_VIF_devices",
        returns=set_of(STRING),
    ),
)
