"""Whether every protected VM has a place left when hosts fail, and where: the failover planner.

One job: count, on values alone, and say where VMs go.

Rules: never optimistic. A VM counts with the most memory that it may ever use, and a host that may boot it only if it may
now. A plan for n failures exists where, whichever n hosts are lost, at once or one after another in whatever order, each
protected VM is placed by the very placement that restarts use. Small pools are played through in full; for large ones a
bound is taken that says yes only where that would, and no where it cannot say.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Final

from pool_master.core.placement import boot_error, memory_overhead
from pool_master.core.pool import Pool
from pool_master.core.vm import Vm
from shared.enums import PowerState
from shared.refs import NULL_HOST, HostRef, VmRef

RESTART: Final = "restart"
BEST_EFFORT: Final = "best-effort"
PRIORITIES: Final = (RESTART, BEST_EFFORT, "")
ALIVE: Final = (PowerState.RUNNING, PowerState.PAUSED)

# Placements that a full play-through may take, and steps that one placement may look for a packing.
PLAY_STEPS_MAX: Final = 30_000
SEARCH_STEPS_MAX: Final = 2_000


def is_protected(vm: Vm) -> bool:
    """Whether high availability must see to it that the VM runs."""
    config = vm.config
    is_wanted = config.ha_always_run and config.ha_restart_priority == RESTART
    return is_wanted and not config.is_a_template


@dataclass(frozen=True, slots=True)
class Guest:
    """A VM that must run somewhere: what it needs (bytes), and on which hosts it may boot."""

    vm: VmRef
    need: int
    may_boot_on: frozenset[HostRef]


Free = dict[HostRef, int]
Places = dict[VmRef, HostRef]
Frozen = tuple[
    tuple[tuple[HostRef, int], ...],
    tuple[tuple[HostRef, tuple[Guest, ...]], ...],
    tuple[Guest, ...],
]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where protected VMs are, and what is free beside them and all others (bytes; below 0 where promised twice).

    `free` has the hosts that may be given VMs, `guests` every host that can fail; `homeless` have no host now.
    """

    free: Free
    guests: Mapping[HostRef, tuple[Guest, ...]]
    homeless: tuple[Guest, ...]

    def without(self, hosts: Iterable[HostRef]) -> "Layout":
        """Give the layout once these hosts are lost: their guests are homeless."""
        lost = dict.fromkeys(hosts)
        return Layout(
            free={host: room for host, room in self.free.items() if host not in lost},
            guests={host: own for host, own in self.guests.items() if host not in lost},
            homeless=(*self.homeless, *(g for host in lost for g in self.guests.get(host, ()))),
        )

    def settled(self) -> "Layout | None":
        """Give the layout once the homeless are placed; None where they have no place."""
        if not self.homeless:
            return self
        places = place(self.homeless, self.free)
        if places is None:
            return None
        free, guests = dict(self.free), dict(self.guests)
        for guest in self.homeless:
            host = places[guest.vm]
            free[host] -= guest.need
            guests[host] = (*guests.get(host, ()), guest)
        return Layout(free=free, guests=guests, homeless=())


def memory_at_most(vm: Vm) -> int:
    """Give the most memory that the VM may ever take from a host (bytes)."""
    return vm.config.memory_static_max + memory_overhead(vm)


def guest_of(pool: Pool, vm: Vm) -> Guest:
    """Give a VM as the planner sees it."""
    return Guest(vm.ref, memory_at_most(vm), _may_boot_on(pool, vm))


def _may_boot_on(pool: Pool, vm: Vm) -> frozenset[HostRef]:
    """Give the hosts, remembered while neither the VM's config nor the pool's shape changes: each start asks for all."""
    config, shape, homes = pool.homes.get(vm.ref, (None, None, frozenset()))
    if config is vm.config and shape is pool.shape:
        return homes
    homes = frozenset(
        host
        for host in pool.hosts
        if pool.hosts[host].enabled and boot_error(pool, vm, host, is_memory_counted=False) is None
    )
    pool.homes[vm.ref] = (vm.config, pool.shape, homes)
    return homes


def layout_of(pool: Pool) -> Layout:
    """Give the pool's layout as it is now."""
    free: Free = {}
    guests: dict[HostRef, tuple[Guest, ...]] = {}
    for host in pool.hosts.values():
        if not pool.is_live(host.ref):
            continue
        residents = [pool.vms[ref] for ref in pool.residents_of(host.ref)]
        if host.enabled:
            total = pool.host_metrics[host.metrics].memory_total
            free[host.ref] = total - sum(memory_at_most(vm) for vm in residents)
        guests[host.ref] = tuple(
            guest_of(pool, vm) for vm in residents if is_protected(vm) and _home(vm) == host.ref
        )
    homeless = tuple(
        guest_of(pool, vm)
        for vm in pool.vms.values()
        if is_protected(vm) and _home(vm) not in guests
    )
    return Layout(free=free, guests=guests, homeless=homeless)


def _home(vm: Vm) -> HostRef:
    """The host whose loss the VM would not survive; while it comes to one, that one."""
    return vm.resident_on if vm.resident_on != NULL_HOST else vm.scheduled_to_be_resident_on


def place(guests: Iterable[Guest], free: Mapping[HostRef, int]) -> Places | None:
    """Give each guest a host: the biggest first, where most is free; None where not all have found one.

    Where that leads nowhere, a packing is looked for, for as many steps as may be taken.
    """
    biggest_first = sorted(guests, key=lambda guest: guest.need, reverse=True)
    places, homeless = place_most(biggest_first, free)
    if not homeless:
        return places
    return _Search(biggest_first, dict(free)).run()


def place_all_or_most(guests: Iterable[Guest], free: Mapping[HostRef, int]) -> Places:
    """Give every guest a host, or where that cannot be, as many as possible."""
    biggest_first = sorted(guests, key=lambda guest: guest.need, reverse=True)
    return place(biggest_first, free) or place_most(biggest_first, free)[0]


def place_most(
    biggest_first: Iterable[Guest], free: Mapping[HostRef, int]
) -> tuple[Places, list[Guest]]:
    """Give as many as possible a host, in this order, where most is free; and who has found none."""
    room, places, homeless = dict(free), Places(), []
    for guest in biggest_first:
        fitting = [h for h in room if h in guest.may_boot_on and room[h] >= guest.need]
        if not fitting:
            homeless.append(guest)
            continue
        host = max(fitting, key=room.__getitem__)
        room[host] -= guest.need
        places[guest.vm] = host
    return places, homeless


class _Search:
    """A packing by trying: exact where the steps suffice, no answer is "none" where they do not."""

    def __init__(self, biggest_first: list[Guest], room: Free) -> None:
        self._guests = biggest_first
        self._room = room
        self._places = Places()
        self._steps = SEARCH_STEPS_MAX

    def run(self) -> Places | None:
        if sum(guest.need for guest in self._guests) > sum(r for r in self._room.values() if r > 0):
            return None
        return self._places if self._fits(0) else None

    def _fits(self, number: int) -> bool:
        if number == len(self._guests):
            return True
        guest, seen = self._guests[number], []
        for host, room in self._room.items():
            self._steps -= 1
            if self._steps < 0:
                return False
            kind = (room, tuple(host in other.may_boot_on for other in self._guests[number:]))
            if room < guest.need or host not in guest.may_boot_on or kind in seen:
                continue
            seen.append(kind)
            self._room[host] = room - guest.need
            self._places[guest.vm] = host
            if self._fits(number + 1):
                return True
            self._room[host] = room
        return False


def plan_exists(layout: Layout, failures: int) -> bool:
    """Whether every protected VM survives the loss of any so many hosts."""
    frozen = tuple(layout.free.items()), tuple(layout.guests.items()), layout.homeless
    return _plan_exists(frozen, failures)


@functools.lru_cache(maxsize=64)
def _plan_exists(frozen: Frozen, failures: int) -> bool:
    """The same question comes again with every decision, and the answer takes long where a pool is played through."""
    layout = Layout(free=dict(frozen[0]), guests=dict(frozen[1]), homeless=frozen[2])
    settled = layout.settled()
    if settled is None:
        return False
    if failures <= 0:
        return True
    has_guests = any(settled.guests.values())
    if failures > len(settled.guests) or (has_guests and failures == len(settled.guests)):
        return False
    return (
        not has_guests
        or _has_slots(settled, failures)
        or (_is_small(settled, failures) and _survives(settled, failures))
    )


def max_failures(layout: Layout, at_most: int | None = None) -> int:
    """Give for how many host failures a plan exists, looking no further than `at_most`."""
    limit = len(layout.guests) if at_most is None else min(at_most, len(layout.guests))
    found = 0
    while found < limit and plan_exists(layout, found + 1):
        found += 1
    return found


def _has_slots(layout: Layout, failures: int) -> bool:
    """Whether there is room even if every VM were the biggest one, and the worst hosts were lost.

    Slots are counted on hosts that may boot every protected VM; a moved VM takes one at most, wherever it is put, so
    this holds for losses one after another too.
    """
    everyone = [guest for own in layout.guests.values() for guest in own]
    biggest = max(guest.need for guest in everyone)
    anywhere = frozenset.intersection(*(guest.may_boot_on for guest in everyone))
    slots = {
        host: max(0, room) // biggest for host, room in layout.free.items() if host in anywhere
    }
    costs = sorted(
        (len(own) + slots.get(host, 0) for host, own in layout.guests.items()), reverse=True
    )
    return sum(costs[:failures]) <= sum(slots.values())


def _is_small(layout: Layout, failures: int) -> bool:
    guests = sum(len(own) for own in layout.guests.values())
    return _plays(len(layout.guests), failures) * guests <= PLAY_STEPS_MAX


def _plays(hosts: int, failures: int) -> int:
    """In how many ways so many of the hosts can be lost: some at once, then some more, and so on."""
    if not failures:
        return 1
    return sum(
        comb(hosts, at_once) * _plays(hosts - at_once, failures - at_once)
        for at_once in range(1, failures + 1)
    )


def _survives(layout: Layout, failures: int) -> bool:
    for at_once in range(1, failures + 1):
        for lost in combinations(layout.guests, at_once):
            after = layout.without(lost).settled()
            if after is None:
                return False
            left = min(failures - at_once, len(after.guests))
            if left and not _survives(after, left):
                return False
    return True
