"""What libvirt's numbers mean.

One job: tell a domain's state, and what changed about it, from libvirt's state, reason and event numbers, which are
part of its ABI and therefore may be written down here.

Rule: an event is only a hint that something happened; the state and its reason, looked up afterwards, are what counts.
A lost event is then lost for nothing, and a late one says nothing false.
"""

from dataclasses import dataclass
from typing import Final

from shared.enums import PowerState
from shared.errors import VmBadPowerState
from shared.protocol import DomainChange, DomainObservation, DomainState

# virDomainState
_NOSTATE: Final = 0
_RUNNING: Final = 1
_BLOCKED: Final = 2
_PAUSED: Final = 3
_SHUTDOWN: Final = 4
_SHUTOFF: Final = 5
_CRASHED: Final = 6
_PMSUSPENDED: Final = 7

# virDomainRunningReason, virDomainPausedReason and virDomainShutoffReason, as far as they matter
_RUNNING_MIGRATED: Final = 2
_PAUSED_MIGRATION: Final = 2
_PAUSED_SHUTTING_DOWN: Final = 8
_PAUSED_CRASHED: Final = 10
_SHUTOFF_SHUTDOWN: Final = 1
_SHUTOFF_DESTROYED: Final = 2
_SHUTOFF_CRASHED: Final = 3
_SHUTOFF_MIGRATED: Final = 4
_SHUTOFF_SAVED: Final = 5
_SHUTOFF_FAILED: Final = 6

# virDomainEventType and the details of its STOPPED
_EVENT_STOPPED: Final = 5
_STOPPED_SHUTDOWN: Final = 0
_STOPPED_DESTROYED: Final = 1
_STOPPED_CRASHED: Final = 2
_STOPPED_MIGRATED: Final = 3
_STOPPED_SAVED: Final = 4
_STOPPED_FAILED: Final = 5

_STATES: Final = {
    # Xen's driver says so of a domain that waits for its turn on a CPU.
    _NOSTATE: DomainState.RUNNING,
    _RUNNING: DomainState.RUNNING,
    _BLOCKED: DomainState.RUNNING,
    _PAUSED: DomainState.PAUSED,
    # On its way down it still has its memory and may write to its disks.
    _SHUTDOWN: DomainState.RUNNING,
    _SHUTOFF: DomainState.SHUTOFF,
    _CRASHED: DomainState.CRASHED,
    # The guest's own sleep: it wakes by itself, and unpause would not wake it.
    _PMSUSPENDED: DomainState.RUNNING,
}

# Where the reason says more than the state.
_STATES_BY_REASON: Final = {
    # QEMU stands still after the guest's power off until libvirt ends it, within moments.
    (_PAUSED, _PAUSED_SHUTTING_DOWN): DomainState.RUNNING,
    # A preserved crash looks like this to a libvirtd that was restarted since.
    (_PAUSED, _PAUSED_CRASHED): DomainState.CRASHED,
    (_SHUTOFF, _SHUTOFF_CRASHED): DomainState.CRASHED,
}

_CHANGES_BY_STATE: Final = {
    DomainState.RUNNING: DomainChange.RESUMED,
    DomainState.PAUSED: DomainChange.PAUSED,
    DomainState.SHUTOFF: DomainChange.DESTROYED,
    DomainState.CRASHED: DomainChange.CRASHED,
}

_CHANGES_BY_SHUTOFF_REASON: Final = {
    _SHUTOFF_SHUTDOWN: DomainChange.POWERED_OFF,
    _SHUTOFF_DESTROYED: DomainChange.DESTROYED,
    _SHUTOFF_CRASHED: DomainChange.CRASHED,
    _SHUTOFF_MIGRATED: DomainChange.MIGRATED_OUT,
    # Somebody else saved it; xapi takes an unexpected suspend for a shutdown.
    _SHUTOFF_SAVED: DomainChange.POWERED_OFF,
    # It ran, and its emulator failed under it.
    _SHUTOFF_FAILED: DomainChange.CRASHED,
}

_CHANGES_BY_STOPPED_DETAIL: Final = {
    _STOPPED_SHUTDOWN: DomainChange.POWERED_OFF,
    _STOPPED_DESTROYED: DomainChange.DESTROYED,
    _STOPPED_CRASHED: DomainChange.CRASHED,
    _STOPPED_MIGRATED: DomainChange.MIGRATED_OUT,
    _STOPPED_SAVED: DomainChange.POWERED_OFF,
    _STOPPED_FAILED: DomainChange.CRASHED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSight:
    """A domain as libvirt shows it at one moment: what is reported of it, and the numbers behind that.

    `is_leaving`: a migration to another host is running. `is_incoming`: it is a copy that a migration is still
    filling here, and has never run.
    """

    observation: DomainObservation
    state: int
    reason: int
    is_leaving: bool = False
    is_incoming: bool = False

    def is_up(self, incarnation: int) -> bool:
        """It is this incarnation, and it runs or could."""
        seen = self.observation
        is_alive = seen.state in {DomainState.RUNNING, DomainState.PAUSED}
        return seen.incarnation == incarnation and is_alive and not self.is_incoming

    @property
    def is_active(self) -> bool:
        """It has a process or a place in the hypervisor, a crashed and preserved one included."""
        return self.observation.domid >= 0

    @property
    def is_standing(self) -> bool:
        """Its VCPUs stand still for the hand-over of a migration."""
        return (self.state, self.reason) == (_PAUSED, _PAUSED_MIGRATION)


def assert_running(sight: DomainSight) -> None:
    """Refuse what only a running domain can do.

    Raises:
        VmBadPowerState: it is paused.
    """
    seen = sight.observation
    if seen.state is not DomainState.RUNNING:
        raise VmBadPowerState(
            seen.vm_uuid, expected=(PowerState.RUNNING,), actual=PowerState.PAUSED
        )


def state_of(state: int, reason: int, *, is_leaving: bool) -> DomainState:
    """Give the state to report."""
    if is_leaving and (state, reason) == (_PAUSED, _PAUSED_MIGRATION):
        # The last moments of a migration; to clients the VM never stops running.
        return DomainState.RUNNING
    return _STATES_BY_REASON.get((state, reason)) or _STATES[state]


def change_hint(event: int, detail: int) -> DomainChange | None:
    """Give what a lifecycle event says of a domain that is gone by the time we look; None where it says nothing."""
    return _CHANGES_BY_STOPPED_DETAIL.get(detail) if event == _EVENT_STOPPED else None


def change_between(
    told: DomainObservation | None, now: DomainSight | None, *, hint: DomainChange | None
) -> DomainChange | None:
    """Give what is new since a domain was last told of, None where nothing is."""
    was_active = told is not None and told.domid >= 0
    if now is None:
        return (hint or DomainChange.DESTROYED) if told is not None and was_active else None
    seen = now.observation
    if not now.is_active:
        # Cause unknown (libvirtd was away) counts as a foreign hand: nothing says that the guest wished it.
        stopped = _CHANGES_BY_SHUTOFF_REASON.get(now.reason, DomainChange.DESTROYED)
        return stopped if was_active else None
    is_another = told is None or (told.incarnation, told.domid) != (seen.incarnation, seen.domid)
    if is_another:
        has_arrived = (now.state, now.reason) == (_RUNNING, _RUNNING_MIGRATED)
        return DomainChange.MIGRATED_IN if has_arrived else DomainChange.STARTED
    assert told is not None
    return _CHANGES_BY_STATE[seen.state] if seen.state is not told.state else None
