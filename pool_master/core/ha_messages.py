"""Messages of high availability: the pool's switch, and each VM's policy."""

from dataclasses import dataclass, field
from typing import Final

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.datamodel import Message, command
from pool_master.core.draft import Draft
from pool_master.core.ha_guard import planned, preserving_plan
from pool_master.core.ha_plan import ALIVE, PRIORITIES, RESTART, layout_of, plan_exists
from pool_master.core.lookup import vm_of
from pool_master.core.pool import Pool
from pool_master.core.pool_record import PoolRecord
from pool_master.core.vm import Vm
from shared.codec import moment_to_us
from shared.enums import Role
from shared.errors import (
    HaIsEnabled,
    HandleInvalid,
    HaNotEnabled,
    HaOperationWouldBreakFailoverPlan,
    HostOffline,
    InvalidValue,
)
from shared.refs import PoolRef, SrRef, VmRef

# As XenAPI has it; more is a mistake.
HOLD_S_MAX: Final = 7 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class EnableHa:
    """Turn on high availability mode: protected VMs of hosts that are lost are restarted elsewhere.

    Hosts are watched by their leases, not by a state file: heartbeat_srs is accepted, and not used.
    """

    heartbeat_srs: tuple[SrRef, ...]
    configuration: dict[str, str] = field(default_factory=dict)


def decide_enable_ha(pool: Pool, request: EnableHa, context: Context) -> list[ev.Event]:
    """XenAPI reference 6.4: from now on the wish to run is what each VM's user wants now."""
    if pool.record.ha_enabled:
        raise HaIsEnabled()
    for host in pool.hosts:
        if not pool.is_live(host):
            raise HostOffline(host)
    wishes = [
        _set(vm, "ha_always_run", is_wanted)
        for vm in pool.vms.values()
        if (is_wanted := _is_wanted(vm, vm.config.ha_restart_priority)) != vm.config.ha_always_run
    ]
    enabled = ev.HaEnabled(pool=pool.record.ref, configuration=request.configuration)
    return _with_plan(pool, [*wishes, enabled], context)


def _with_plan(pool: Pool, events: list[ev.Event], context: Context) -> list[ev.Event]:
    """Give the events, and what they make of the failover plan."""
    draft = Draft(pool, context)
    draft.add(*events)
    draft.add(*planned(draft.pool))
    return draft.events


def _is_wanted(vm: Vm, priority: str) -> bool:
    """Whether a VM of this priority runs now, or is about to: its user wants that to stay so."""
    return priority == RESTART and (vm.power_state in ALIVE or vm.config.ha_always_run)


@dataclass(frozen=True, slots=True, kw_only=True)
class DisableHa:
    """Turn off high availability mode: nothing is restarted any more."""


def decide_disable_ha(pool: Pool, _request: DisableHa, _context: Context) -> list[ev.Event]:
    """XenAPI reference 6.4."""
    if not pool.record.ha_enabled:
        raise HaNotEnabled()
    return [ev.HaDisabled(pool=pool.record.ref)]


@dataclass(frozen=True, slots=True, kw_only=True)
class HaPreventRestartsFor:
    """When this call returns the VM restart logic will not run for the requested number of seconds.

    If the argument is zero then the restart logic is immediately unblocked.
    """

    seconds: int


def decide_ha_prevent_restarts_for(
    pool: Pool, request: HaPreventRestartsFor, context: Context
) -> list[ev.Event]:
    """XenAPI reference 6.4: a maintenance window."""
    if not 0 <= request.seconds <= HOLD_S_MAX:
        raise InvalidValue("seconds", request.seconds)
    until_us = moment_to_us(context.now) + request.seconds * 1_000_000
    return [ev.HaRestartsHeld(pool=pool.record.ref, until_us=until_us)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHaHostFailuresToTolerate:
    """Set the maximum number of host failures to consider in the HA VM restart planner."""

    self: PoolRef
    value: int


def decide_set_ha_host_failures_to_tolerate(
    pool: Pool, request: SetHaHostFailuresToTolerate, context: Context
) -> list[ev.Event]:
    """XenAPI reference 6.4."""
    record = pool_of(pool, request.self)
    if request.value < 0:
        raise InvalidValue("ha_host_failures_to_tolerate", request.value)
    name = "ha_host_failures_to_tolerate"
    if request.value == record.ha_host_failures_to_tolerate:
        return []
    # Where there is no plan any number is taken, so that a pool in trouble can be configured.
    is_guarded = record.ha_plan_exists_for > 0 and not record.ha_allow_overcommit
    if is_guarded and not plan_exists(layout_of(pool), request.value):
        raise HaOperationWouldBreakFailoverPlan()
    changed = ev.FieldSet(object_class="pool", ref=record.ref, field=name, value=request.value)
    return _with_plan(pool, [changed], context)


def pool_of(pool: Pool, ref: PoolRef) -> PoolRecord:
    """Give the pool's record.

    Raises:
        HandleInvalid: that is not its reference.
    """
    record = pool.pools.get(ref)
    if record is None:
        raise HandleInvalid("pool", ref)
    return record


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHaRestartPriority:
    """Set the value of the ha_restart_priority field: "restart" (protected), "best-effort", or "" (not restarted)."""

    self: VmRef
    value: str


def decide_set_ha_restart_priority(
    pool: Pool, request: SetHaRestartPriority, context: Context
) -> list[ev.Event]:
    """XenAPI reference 6.4: a VM that runs is to go on running."""
    vm = vm_of(pool, request.self)
    if request.value not in PRIORITIES:
        raise InvalidValue("ha_restart_priority", request.value)
    is_wanted = _is_wanted(vm, request.value)
    changes = [
        *_changed(vm, "ha_restart_priority", request.value),
        *_changed(vm, "ha_always_run", is_wanted),
    ]
    return preserving_plan(pool, changes, context)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHaAlwaysRun:
    """Set the value of the ha_always_run: whether high availability starts the VM when it is found Halted."""

    self: VmRef
    value: bool


def decide_set_ha_always_run(
    pool: Pool, request: SetHaAlwaysRun, context: Context
) -> list[ev.Event]:
    """XenAPI reference 6.4."""
    changes = _changed(vm_of(pool, request.self), "ha_always_run", request.value)
    return preserving_plan(pool, changes, context)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOrder:
    """Set this VM's boot order: high availability starts lower ones first, negative ones last."""

    self: VmRef
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetStartDelay:
    """Set this VM's start delay in seconds, before VMs of the next order are started."""

    self: VmRef
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetShutdownDelay:
    """Set this VM's shutdown delay in seconds; stored only."""

    self: VmRef
    value: int


def decide_set_order(pool: Pool, request: SetOrder, _context: Context) -> list[ev.Event]:
    """XenAPI reference 6.4."""
    return _changed(vm_of(pool, request.self), "order", request.value)


def decide_set_start_delay(pool: Pool, request: SetStartDelay, _context: Context) -> list[ev.Event]:
    """XenAPI reference 6.4."""
    return _set_delay(pool, request.self, "start_delay", request.value)


def decide_set_shutdown_delay(
    pool: Pool, request: SetShutdownDelay, _context: Context
) -> list[ev.Event]:
    """XenAPI reference 6.4."""
    return _set_delay(pool, request.self, "shutdown_delay", request.value)


def _set_delay(pool: Pool, ref: VmRef, name: str, value: int) -> list[ev.Event]:
    vm = vm_of(pool, ref)
    if value < 0:
        raise InvalidValue(name, value)
    return _changed(vm, name, value)


def _changed(vm: Vm, name: str, value: object) -> list[ev.Event]:
    return [] if getattr(vm.config, name) == value else [_set(vm, name, value)]


def _set(vm: Vm, name: str, value: object) -> ev.FieldSet:
    return ev.FieldSet(object_class="VM", ref=vm.ref, field=name, value=value)


_OPERATOR: Final = Role.POOL_OPERATOR

POOL_MESSAGES: Final[tuple[Message, ...]] = (
    command(
        EnableHa,
        decide_enable_ha,
        name="enable_ha",
        role=_OPERATOR,
        errors=("HA_IS_ENABLED", "HOST_OFFLINE"),
    ),
    command(
        DisableHa, decide_disable_ha, name="disable_ha", role=_OPERATOR, errors=("HA_NOT_ENABLED",)
    ),
    command(
        HaPreventRestartsFor,
        decide_ha_prevent_restarts_for,
        name="ha_prevent_restarts_for",
        role=_OPERATOR,
        errors=("INVALID_VALUE",),
        has_async=False,
    ),
    command(
        SetHaHostFailuresToTolerate,
        decide_set_ha_host_failures_to_tolerate,
        name="set_ha_host_failures_to_tolerate",
        role=_OPERATOR,
        errors=("INVALID_VALUE", "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"),
    ),
)

VM_MESSAGES: Final[tuple[Message, ...]] = (
    command(
        SetHaRestartPriority,
        decide_set_ha_restart_priority,
        name="set_ha_restart_priority",
        role=_OPERATOR,
        errors=("INVALID_VALUE", "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"),
        has_async=False,
    ),
    command(
        SetHaAlwaysRun,
        decide_set_ha_always_run,
        name="set_ha_always_run",
        role=_OPERATOR,
        errors=("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN",),
        has_async=False,
    ),
    command(SetOrder, decide_set_order, name="set_order", role=_OPERATOR, has_async=False),
    command(
        SetStartDelay,
        decide_set_start_delay,
        name="set_start_delay",
        role=_OPERATOR,
        errors=("INVALID_VALUE",),
        has_async=False,
    ),
    command(
        SetShutdownDelay,
        decide_set_shutdown_delay,
        name="set_shutdown_delay",
        role=_OPERATOR,
        errors=("INVALID_VALUE",),
        has_async=False,
    ),
)
