"""network.create and network.destroy, and what hosts say of their bridges."""

from dataclasses import dataclass
from typing import Annotated, Final

from pool_master.core import events as ev
from pool_master.core import network_events as nev
from pool_master.core.changed import changed
from pool_master.core.context import Context
from pool_master.core.datamodel import Message, command, record_of, ref_to
from pool_master.core.lookup import network_of
from pool_master.core.network import MTU_DEFAULT, NetworkConfig, Pif, Vif
from pool_master.core.pool import Pool
from shared.enums import Role
from shared.errors import InvalidValue
from shared.network_errors import BridgeNameExists, NetworkContainsPif, NetworkContainsVif
from shared.protocol import HostNetwork
from shared.refs import HostRef, NetworkRef, PifRef, VifRef, derive, derive_ref

# Linux's own limit for names of interfaces.
BRIDGE_CHARACTERS_MAX: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCreate:
    """Create a new network instance, and return its handle. VMs on it run on hosts that have its bridge."""

    args: Annotated[NetworkConfig, record_of("network")]


def decide_network_create(pool: Pool, request: NetworkCreate, context: Context) -> list[ev.Event]:
    """As xapi's network.create: without a bridge it gets the next free name."""
    if created_network(context) in pool.networks:
        return []
    config = request.args
    taken = {network.config.bridge for network in pool.networks.values()}
    if len(config.bridge) > BRIDGE_CHARACTERS_MAX:
        raise InvalidValue("bridge", config.bridge)
    if config.bridge in taken:
        raise BridgeNameExists(config.bridge)
    bridge = config.bridge or next(
        name for number in range(len(taken) + 1) if (name := f"xapi{number}") not in taken
    )
    mtu = config.MTU if config.MTU > 0 else MTU_DEFAULT
    return [
        nev.NetworkCreated(
            network=created_network(context),
            uuid=derive(context.command_id, "network"),
            config=changed(config, bridge=bridge, MTU=mtu),
        )
    ]


def created_network(context: Context) -> NetworkRef:
    """Give the reference of the network that this command makes."""
    return NetworkRef(derive_ref(context.command_id, "network"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDestroy:
    """Destroy the specified network, with the VIFs that are on it. Only where no VIF is attached and no host has it."""

    self: NetworkRef


def decide_network_destroy(
    pool: Pool, request: NetworkDestroy, _context: Context
) -> list[ev.Event]:
    """As xapi's network.destroy."""
    network = network_of(pool, request.self)
    vifs = [pool.vifs[VifRef(ref)] for ref in pool.linked("network.VIFs", network.ref)]
    if attached := [vif.ref for vif in vifs if vif.currently_attached]:
        raise NetworkContainsVif(*attached)
    if busy := [vif.ref for vif in vifs if _is_in_use(pool, vif)]:
        raise NetworkContainsVif(*busy)
    if pifs := pool.linked("network.PIFs", network.ref):
        raise NetworkContainsPif(*pifs)
    return [nev.NetworkDestroyed(network=network.ref)]


def _is_in_use(pool: Pool, vif: Vif) -> bool:
    return bool(pool.vms[vif.config.VM].current_operations or pool.tasks_on(vif.ref))


def decide_bridges(
    pool: Pool, host: HostRef, bridges: tuple[HostNetwork, ...], context: Context
) -> list[ev.Event]:
    """Give the events by which the pool learns of a host's bridges: equal names are one network, as in XenServer."""
    events: list[ev.Event] = []
    by_bridge = {network.config.bridge: network.ref for network in pool.networks.values()}
    known = {pool.networks[pif.network].config.bridge: pif for pif in _pifs_of(pool, host)}
    for seen in bridges:
        network = by_bridge.get(seen.bridge)
        if network is None:
            made = _found_network(seen, context)
            network = by_bridge[seen.bridge] = made.network
            events.append(made)
        told = _introduced(pool, host, network, seen)
        if (pif := known.pop(seen.bridge, None)) is None or not _is_as_told(pif, told):
            events.append(told)
    return [
        *events,
        *(nev.PifUnplugged(pif=pif.ref) for pif in known.values() if pif.currently_attached),
    ]


def _pifs_of(pool: Pool, host: HostRef) -> list[Pif]:
    return [pool.pifs[PifRef(ref)] for ref in pool.linked("host.PIFs", host)]


def _found_network(seen: HostNetwork, context: Context) -> nev.NetworkCreated:
    purpose = f"network/{seen.bridge}"
    return nev.NetworkCreated(
        network=NetworkRef(derive_ref(context.command_id, purpose)),
        uuid=derive(context.command_id, purpose),
        config=NetworkConfig(
            name_label=f"Pool-wide network associated with {seen.device or seen.bridge}",
            bridge=seen.bridge,
            MTU=seen.mtu,
            managed=False,
        ),
    )


def _introduced(
    pool: Pool, host: HostRef, network: NetworkRef, seen: HostNetwork
) -> nev.PifIntroduced:
    purpose = f"PIF/{seen.bridge}"
    uuid = pool.hosts[host].uuid
    return nev.PifIntroduced(
        pif=PifRef(derive_ref(uuid, purpose)),
        uuid=derive(uuid, purpose),
        host=host,
        network=network,
        device=seen.device or seen.bridge,
        MAC=seen.mac,
        MTU=seen.mtu,
        physical=bool(seen.device),
        libvirt_network=seen.libvirt_network,
    )


def _is_as_told(pif: Pif, told: nev.PifIntroduced) -> bool:
    return pif.currently_attached and (
        pif.network,
        pif.device,
        pif.MAC,
        pif.MTU,
        pif.libvirt_network,
    ) == (told.network, told.device, told.MAC, told.MTU, told.libvirt_network)


MESSAGES: Final[tuple[Message, ...]] = (
    command(
        NetworkCreate,
        decide_network_create,
        name="create",
        role=Role.POOL_OPERATOR,
        returns=ref_to("network"),
        result=lambda _request, context: created_network(context),
        errors=("BRIDGE_NAME_EXISTS", "INVALID_VALUE"),
    ),
    command(
        NetworkDestroy,
        decide_network_destroy,
        name="destroy",
        role=Role.POOL_OPERATOR,
        errors=("NETWORK_CONTAINS_VIF", "NETWORK_CONTAINS_PIF"),
    ),
)
