"""High availability: VMs of lost hosts, and protected ones that stopped unasked, are started again.

One job: decide, from the state alone, what is owed and what of it is begun now. All that is remembered is in the log, so
that a new leader goes on where the old one was.

Rules: a VM is reset on a fence proof (HostLost) alone, by the very rule of VM.power_state_reset; silence proves nothing. A
protected VM is owed a start whenever it is Halted and its user has not stopped it; a best-effort one only when its host was
lost, and after all protected ones. Lower `order` first, negative last, a `start_delay` before the next order. A start that
fails is tried on hosts where it has not been yet, then again after a pause, up to a limit; lack of room is no try. Where
more hosts are lost than the pool is to tolerate, few are begun at a time: the trouble may be ours.
"""

from collections.abc import Iterator
from datetime import timedelta
from enum import Enum
from itertools import groupby
from typing import Final

from pool_master.core import events as ev
from pool_master.core.allowed import operation_error
from pool_master.core.context import Context
from pool_master.core.draft import Draft
from pool_master.core.ha_guard import planned
from pool_master.core.ha_plan import (
    ALIVE,
    BEST_EFFORT,
    Places,
    guest_of,
    is_protected,
    layout_of,
    memory_at_most,
    place_all_or_most,
)
from pool_master.core.ha_wish import wished
from pool_master.core.placement import choose_host, possible_hosts
from pool_master.core.pool import Pool
from pool_master.core.reconcile import CRASH_LOOP_S
from pool_master.core.restart import Restart
from pool_master.core.vm import Vm
from pool_master.core.vm_lifecycle import start_again
from pool_master.core.vm_recovery import reset
from shared.codec import moment_to_us
from shared.enums import PowerState, VmOperation
from shared.errors import HostIsLive
from shared.protocol import DomainChange, DomainChanged
from shared.refs import NULL_HOST, HostRef, VmRef

# A VM whose start has failed on every host is tried again after this (XenAPI reference 6.4).
RETRY_S: Final = 120.0
TRIES_MAX: Final = 10
BEST_EFFORT_TRIES_MAX: Final = 2
# Starts in flight at once, in the whole pool; the second where more hosts are lost than are to be tolerated.
STARTS_MAX: Final = 32
STORM_STARTS_MAX: Final = 4


class Turn(Enum):
    """Where a start that is owed stands."""

    BUSY = "it is being started, or was and its start_delay runs"
    LATER = "it was tried, and waits"
    NO_ROOM = "no host has room for it"
    READY = "it can be begun"


def decide_ha(pool: Pool, context: Context) -> list[ev.Event]:
    """Give all that high availability has to say now; nothing where it is off."""
    if not pool.record.ha_enabled:
        return []
    draft = Draft(pool, context)
    _reset_lost(draft)
    _find_halted(draft)
    _end_settled(draft)
    if context.now >= pool.record.ha_restarts_held_until:
        _begin_starts(draft)
    draft.add(*planned(draft.pool))
    return draft.events


def _reset_lost(draft: Draft) -> None:
    """What resides on hosts that were declared lost is Halted, on that proof; and owed a start if anybody wants it."""
    due: dict[VmRef, HostRef] = {}
    if not any(draft.pool.is_live(host) for host in draft.pool.hosts):
        return  # Nobody is left to start anything: whoever comes back says first what it still runs.
    for host in draft.pool.hosts:
        if draft.pool.is_live(host):
            continue
        for ref in draft.pool.residents_of(host):
            vm = draft.pool.vms[ref]
            if vm.resident_on != host:
                continue
            try:
                proven = reset(draft.pool, vm)
            except HostIsLive:
                continue  # It is on its way to a host that lives, which will say whether it has arrived.
            draft.add(*proven)
            if is_protected(vm) or vm.config.ha_restart_priority == BEST_EFFORT:
                due[ref] = host
    vms = [draft.pool.vms[ref] for ref in due]
    guests = [guest_of(draft.pool, vm) for vm in vms if is_protected(vm)]
    # All of them beforehand: small ones that go first must leave the big ones their room.
    places = place_all_or_most(guests, layout_of(draft.pool).free) if guests else {}
    for ref, host in due.items():
        reason, place = f"host {host} was lost", places.get(ref, NULL_HOST)
        draft.add(ev.VmRestartDue(vm=ref, reason=reason, host=place))


def _find_halted(draft: Draft) -> None:
    """A protected VM that is Halted was not stopped by its user: its wish to run would have gone with it."""
    for vm in list(draft.pool.vms.values()):
        if _is_down(vm) and is_protected(vm) and vm.ref not in draft.pool.restarts:
            reason = "it stopped, and nobody had asked for that"
            draft.add(ev.VmRestartDue(vm=vm.ref, reason=reason))


def after_change(pool: Pool, said: DomainChanged, events: list[ev.Event]) -> list[ev.Event]:
    """A guest that powered itself off wants no restart; one that crashed gets it, but not in a tight loop.

    `events` are what its change came to.
    """
    vm = pool.vm_of_uuid(said.observation.vm_uuid)
    is_down = [type(event) for event in events] == [ev.VmHalted]
    if vm is None or not is_down:
        return []
    if said.change is DomainChange.POWERED_OFF:
        return wished(vm, is_to_run=False)
    if said.change is DomainChange.CRASHED and pool.record.ha_enabled and is_protected(vm):
        again_us = moment_to_us(vm.booted_at + timedelta(seconds=CRASH_LOOP_S))
        return [ev.VmRestartDue(vm=vm.ref, reason="it crashed", not_before_us=again_us)]
    return []


def _is_down(vm: Vm) -> bool:
    return vm.power_state is PowerState.HALTED and not vm.current_operations


def _end_settled(draft: Draft) -> None:
    for owed in list(draft.pool.restarts.values()):
        vm = draft.pool.vms.get(owed.vm)
        if reason := _settlement(owed, vm, draft.context):
            draft.add(ev.VmRestartEnded(vm=owed.vm, reason=reason))


def _settlement(owed: Restart, vm: Vm | None, context: Context) -> str:
    """Why the VM is owed no start any more; nothing while it is."""
    if vm is None:
        return "the VM is gone"
    if not is_protected(vm) and vm.config.ha_restart_priority != BEST_EFFORT:
        return "it is not to be restarted any more"
    if vm.power_state is PowerState.HALTED or vm.current_operations:
        return ""
    delay = timedelta(seconds=vm.config.start_delay)
    is_settled = vm.power_state not in ALIVE or vm.booted_at + delay <= context.now
    return f"it is {vm.power_state}" if is_settled else ""


def _begin_starts(draft: Draft) -> None:
    owed = [restart for restart in draft.pool.restarts.values() if not restart.is_given_up]
    in_flight = sum(bool(draft.pool.vms[restart.vm].current_operations) for restart in owed)
    starts = _Starts(draft, _starts_max(draft.pool) - in_flight)
    protected = [x for x in owed if is_protected(draft.pool.vms[x.vm])]
    best_effort = [x for x in owed if not is_protected(draft.pool.vms[x.vm])]
    starts.plan(protected)
    for group in _by_order(draft.pool, protected):
        if starts.begin(group):
            return
    if not starts.is_short_of_room:
        starts.begin(best_effort)


def _starts_max(pool: Pool) -> int:
    lost = sum(not pool.is_live(host) and pool.hosts[host].lost_count > 0 for host in pool.hosts)
    is_storm = lost > max(1, pool.record.ha_host_failures_to_tolerate)
    return STORM_STARTS_MAX if is_storm else STARTS_MAX


def _by_order(pool: Pool, owed: list[Restart]) -> Iterator[list[Restart]]:
    """Groups of one `order`, lowest first and negative ones last; the biggest VM of each first."""

    def order(restart: Restart) -> tuple[bool, int]:
        config = pool.vms[restart.vm].config
        return config.order < 0, config.order

    def size(restart: Restart) -> int:
        return -memory_at_most(pool.vms[restart.vm])

    for _, group in groupby(sorted(owed, key=lambda x: (order(x), size(x))), key=order):
        yield list(group)


class _Starts:
    """Starts that are begun in one decision, as many as may be."""

    def __init__(self, draft: Draft, room: int) -> None:
        self._draft = draft
        self._room = room
        self._planned: Places = {}
        self.is_short_of_room = False

    def plan(self, owed: list[Restart]) -> None:
        """Give all that wait a place beforehand: the one they were promised where it still has room, or another."""
        pool, homeless = self._draft.pool, []
        waiting = [x for x in owed if _is_down(pool.vms[x.vm])]
        free = layout_of(pool).free if waiting else {}
        for restart in waiting:
            guest = guest_of(pool, pool.vms[restart.vm])
            is_good = restart.host in guest.may_boot_on and restart.host not in restart.tried
            if is_good and free[restart.host] >= guest.need:
                self._planned[guest.vm] = restart.host
                free[restart.host] -= guest.need
            else:
                homeless.append(guest)
        self._planned |= place_all_or_most(homeless, free)

    def begin(self, group: list[Restart]) -> bool:
        """Begin what can be begun; give whether those that come later must wait."""
        is_busy = False
        for owed in group:
            if self._is_exhausted(owed):
                self._give_up(owed)
                continue
            turn, host = self._turn(owed)
            self.is_short_of_room |= turn is Turn.NO_ROOM
            is_busy |= turn in {Turn.BUSY, Turn.READY}
            if turn is Turn.READY and self._room > 0:
                self._room -= 1
                self._start(owed, host)
        return is_busy

    def _turn(self, owed: Restart) -> tuple[Turn, HostRef]:
        pool, now = self._draft.pool, self._draft.context.now
        vm = pool.vms[owed.vm]
        if not _is_down(vm):
            return Turn.BUSY, NULL_HOST
        if now < owed.not_before or operation_error(vm, VmOperation.START) is not None:
            return Turn.LATER, NULL_HOST
        fitting = possible_hosts(pool, vm)
        untried = [host for host in fitting if host not in owed.tried]
        if not fitting:
            return Turn.NO_ROOM, NULL_HOST
        if not untried and now < owed.tried_at + timedelta(seconds=RETRY_S):
            return Turn.LATER, NULL_HOST
        return Turn.READY, self._choose(vm, untried or fitting)

    def _is_exhausted(self, owed: Restart) -> bool:
        vm = self._draft.pool.vms[owed.vm]
        return _is_down(vm) and owed.tries >= _tries_max(vm)

    def _choose(self, vm: Vm, hosts: list[HostRef]) -> HostRef:
        planned = self._planned.get(vm.ref, NULL_HOST)
        if planned in hosts:
            return planned
        chosen = choose_host(self._draft.pool, vm, 0.0)
        return chosen if chosen in hosts else hosts[0]

    def _start(self, owed: Restart, host: HostRef) -> None:
        vm = self._draft.pool.vms[owed.vm]
        accepted = start_again(vm, host, self._draft.context)
        tried = ev.VmRestartTried(vm=vm.ref, host=host, task=accepted.task)
        self._draft.add(accepted, tried)

    def _give_up(self, owed: Restart) -> None:
        task = self._draft.pool.tasks.get(owed.task)
        error = task.error_info if task is not None else ()
        self._draft.add(ev.VmRestartGivenUp(vm=owed.vm, error_info=error))


def _tries_max(vm: Vm) -> int:
    return TRIES_MAX if is_protected(vm) else BEST_EFFORT_TRIES_MAX
