"""Messages of the host class."""

from dataclasses import dataclass
from typing import Final

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.datamodel import INT, Message, command, query, ref_to
from pool_master.core.ha_guard import preserving_plan
from pool_master.core.lookup import host_of
from pool_master.core.placement import memory_available
from pool_master.core.pool import Pool
from shared.enums import Role
from shared.errors import HaIsEnabled, HostHasResidentVms, HostIsLive, InvalidValue
from shared.refs import HostRef, derive_ref

UUID_LENGTHS: Final = range(1, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCreate:
    """Let a host into the pool: from now on its agent's word counts. A host that is in it already stays as it is."""

    uuid: str
    name_label: str
    name_description: str = ""
    hostname: str = ""
    address: str = ""


def decide_host_create(pool: Pool, request: HostCreate, _context: Context) -> list[ev.Event]:
    """As xapi's hidden host.create, which pool.join uses."""
    is_name = request.uuid.replace("-", "").isalnum() and request.uuid.isascii()
    if len(request.uuid) not in UUID_LENGTHS or not is_name:
        raise InvalidValue("uuid", request.uuid)
    if pool.host_of_uuid(request.uuid) is not None:
        return []
    return [
        ev.HostJoined(
            host=host_ref_of(request.uuid),
            uuid=request.uuid,
            name_label=request.name_label,
            hostname=request.hostname,
            address=request.address,
        )
    ]


def host_ref_of(uuid: str) -> HostRef:
    """Give the reference of the host with that uuid: the same whenever it joins."""
    return HostRef(derive_ref(uuid, "host"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDestroy:
    """Destroy specified host record in database. Only when it is dead and runs nothing."""

    self: HostRef


def decide_host_destroy(pool: Pool, request: HostDestroy, _context: Context) -> list[ev.Event]:
    """XenAPI reference 6.3."""
    host = host_of(pool, request.self)
    if pool.is_live(host.ref):
        raise HostIsLive(host.ref)
    if pool.record.ha_enabled:
        raise HaIsEnabled()
    is_needed = any(
        host.ref in {operation.host, operation.destination}
        for operation in pool.operations.values()
    ) or any(operation.host == host.ref for operation in pool.storage_operations.values())
    if is_needed or pool.residents_of(host.ref):
        raise HostHasResidentVms(host.ref)
    return [ev.HostForgotten(host=host.ref)]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEnable:
    """Puts the host into a state in which new VMs can be started."""

    host: HostRef


def decide_host_enable(pool: Pool, request: HostEnable, _context: Context) -> list[ev.Event]:
    """XenAPI reference 5."""
    host = host_of(pool, request.host)
    return [] if host.enabled else [ev.HostEnabled(host=host.ref)]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDisable:
    """Puts the host into a state in which no new VMs can be started. Currently active VMs keep running."""

    host: HostRef


def decide_host_disable(pool: Pool, request: HostDisable, context: Context) -> list[ev.Event]:
    """XenAPI reference 5."""
    host = host_of(pool, request.host)
    if not host.enabled:
        return []
    return preserving_plan(pool, [ev.HostDisabled(host=host.ref)], context)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeFreeMemory:
    """Computes the amount of free memory on the host: what is not promised to any VM."""

    host: HostRef


def answer_compute_free_memory(pool: Pool, request: ComputeFreeMemory) -> int:
    """Bytes (XenAPI reference 1.6)."""
    return memory_available(pool, host_of(pool, request.host).ref)


MESSAGES: Final[tuple[Message, ...]] = (
    command(
        HostCreate,
        decide_host_create,
        name="create",
        role=Role.POOL_OPERATOR,
        returns=ref_to("host"),
        result=lambda request, _context: host_ref_of(request.uuid),
        is_hidden=True,
        errors=("INVALID_VALUE",),
    ),
    command(
        HostDestroy,
        decide_host_destroy,
        name="destroy",
        role=Role.POOL_OPERATOR,
        errors=("HOST_IS_LIVE", "HA_IS_ENABLED", "HOST_HAS_RESIDENT_VMS"),
    ),
    command(HostEnable, decide_host_enable, name="enable", role=Role.POOL_OPERATOR),
    command(
        HostDisable,
        decide_host_disable,
        name="disable",
        role=Role.POOL_OPERATOR,
        errors=("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN",),
    ),
    query(ComputeFreeMemory, answer_compute_free_memory, name="compute_free_memory", returns=INT),
)
