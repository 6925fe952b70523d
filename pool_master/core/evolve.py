"""What each event makes true: evolve(record, event).

Rules: total and closed: it never rejects, never asks, never reads a clock; the same log always gives the same Pool
(invariant 4). A new event without an arm is a type error. An event about an object that is gone changes nothing: the
log may hold a host's word about a VM that was destroyed a moment before.
"""

from collections.abc import Callable
from typing import Any, Final, assert_never

from pool_master.core import events as ev
from pool_master.core import network_events as nev
from pool_master.core import storage_events as sev
from pool_master.core.evolve_device import evolve_device
from pool_master.core.evolve_ha import evolve_ha, evolve_restart
from pool_master.core.evolve_host import (
    evolve_field,
    evolve_host_word,
    evolve_membership,
    evolve_pool,
    evolve_stale,
    set_live,
)
from pool_master.core.evolve_network import evolve_network, evolve_pif, evolve_vif
from pool_master.core.evolve_storage import (
    evolve_pbd,
    evolve_sr,
    evolve_storage_operation,
    evolve_vbd,
    evolve_vdi,
)
from pool_master.core.evolve_task import evolve_end, evolve_operation, evolve_task
from pool_master.core.evolve_vm import (
    Touched,
    evolve_existence,
    evolve_residence,
    halt,
    rebooted,
    set_power_state,
    suspend,
    tuned,
)
from pool_master.core.pool import Pool
from shared.enums import PowerState


def apply(pool: Pool, recorded: ev.Recorded) -> Touched:
    """Make one recorded event true; give (class, ref) of every object that it touched."""
    event = recorded.event
    event_type = type(event)
    arm = _ARMS.get(event_type)
    if arm is None:
        arm = _ARMS[event_type] = _arm_of(event)
    touched = arm(pool, event, recorded)
    if event_type not in SHAPELESS and getattr(event, "object_class", "") != "VM":
        pool.shape = object()
    pool.sequence = recorded.sequence
    pool.time_us = recorded.time_us
    return touched


# After these every VM may boot where it might before. Whatever is not named here counts as a change: a new event costs
# time before it costs truth. A VM's own fields are told by its record.
SHAPELESS: Final = frozenset(
    {
        ev.HostAgentStarted,
        ev.HostReportsSeen,
        ev.StaleDomainFound,
        ev.StaleDomainDropped,
        ev.StaleDomainKept,
        ev.VmCreated,
        ev.VmStarted,
        ev.VmHalted,
        ev.VmPaused,
        ev.VmUnpaused,
        ev.VmRebooted,
        ev.VmMigrated,
        ev.VmReset,
        ev.HaEnabled,
        ev.HaDisabled,
        ev.HaRestartsHeld,
        ev.FailoverPlanned,
        ev.VmRestartDue,
        ev.VmRestartTried,
        ev.VmRestartEnded,
        ev.VmRestartGivenUp,
        ev.TaskCreated,
        ev.TaskUpdated,
        ev.TaskDestroyed,
        ev.OperationAccepted,
        ev.OperationAdvanced,
        ev.OperationProgressed,
        ev.CancelRequested,
        ev.TaskSucceeded,
        ev.TaskFailed,
    }
)

Arm = Callable[[Pool, Any, ev.Recorded], Touched]
_ARMS: dict[
    type, Arm
] = {}  # Found once per type of event: the match below is long, and replay is hot.


def _arm_of(event: ev.Event) -> Arm:  # noqa: C901, PLR0911, PLR0912 - one arm per family of facts
    if isinstance(event, sev.StorageEvent):
        return _storage_arm(event)
    if isinstance(event, nev.NetworkEvent):
        return _network_arm(event)
    match event:
        case ev.OperationAccepted() | ev.OperationAdvanced() | ev.OperationProgressed():
            return evolve_operation
        case ev.TaskSucceeded() | ev.TaskFailed() | ev.CancelRequested():
            return evolve_end
        case ev.VmStarted() | ev.VmMigrated() | ev.VmResumed():
            return evolve_residence
        case ev.VmSuspended():
            return suspend
        case ev.VmHalted() | ev.VmReset():
            return lambda pool, event, _recorded: halt(pool, event.vm)
        case ev.VmPaused() | ev.VmUnpaused():
            state = PowerState.PAUSED if isinstance(event, ev.VmPaused) else PowerState.RUNNING
            return lambda pool, event, _recorded: set_power_state(pool, event.vm, state)
        case ev.VmRebooted():
            return rebooted
        case ev.VmTuned():
            return tuned
        case ev.VmCreated() | ev.VmDestroyed():
            return evolve_existence
        case ev.HostReportsSeen() | ev.HostAgentStarted() | ev.HostDescribed():
            return evolve_host_word
        case ev.HostJoined() | ev.HostForgotten() | ev.HostEnabled() | ev.HostDisabled():
            return evolve_membership
        case ev.HostCameAlive() | ev.HostLost():
            return set_live
        case ev.StaleDomainFound() | ev.StaleDomainDropped() | ev.StaleDomainKept():
            return evolve_stale
        case ev.HaEnabled() | ev.HaDisabled() | ev.HaRestartsHeld() | ev.FailoverPlanned():
            return evolve_ha
        case ev.VmRestartDue() | ev.VmRestartTried():
            return evolve_restart
        case ev.VmRestartEnded() | ev.VmRestartGivenUp():
            return evolve_restart
        case ev.FieldSet() | ev.MapKeySet() | ev.MapKeyRemoved():
            return evolve_field
        case ev.ObjectTouched():
            return lambda _pool, event, _recorded: [(event.object_class, event.ref)]
        case ev.TaskCreated() | ev.TaskUpdated() | ev.TaskDestroyed():
            return evolve_task
        case ev.PoolCreated() | ev.MasterElected():
            return evolve_pool
        case ev.DeviceOperationAccepted():
            return evolve_device
    assert_never(event)


def _storage_arm(event: sev.StorageEvent) -> Arm:
    match event:
        case sev.SrCreated() | sev.SrForgotten() | sev.SrMeasured():
            return evolve_sr
        case sev.PbdCreated() | sev.PbdDestroyed() | sev.PbdAttached() | sev.PbdDetached():
            return evolve_pbd
        case sev.VdiCreated() | sev.VdiRebased() | sev.VdiMeasured() | sev.VdiDestroyed():
            return evolve_vdi
        case sev.VbdCreated() | sev.VbdDestroyed():
            return evolve_vbd
        case sev.StorageOperationAccepted() | sev.StorageOperationAdvanced():
            return evolve_storage_operation
    assert_never(event)


def _network_arm(event: nev.NetworkEvent) -> Arm:
    match event:
        case nev.NetworkCreated() | nev.NetworkDestroyed():
            return evolve_network
        case nev.PifIntroduced() | nev.PifUnplugged():
            return evolve_pif
        case nev.VifCreated() | nev.VifDestroyed() | nev.VifPlugged() | nev.VifUnplugged():
            return evolve_vif
    assert_never(event)
