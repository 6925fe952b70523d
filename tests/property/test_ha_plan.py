"""The planner against brute force: it never promises what cannot be kept, and misses nothing in small pools."""

from collections.abc import Iterator, Mapping
from itertools import combinations, product
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from pool_master.core import ha_plan
from pool_master.core.ha_plan import Guest, Layout, place, plan_exists
from shared.refs import HostRef, VmRef

HOSTS_MAX = 4
sizes = st.integers(1, 6)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    hosts = [HostRef(f"h{n}") for n in range(draw(st.integers(1, HOSTS_MAX)))]
    everywhere = frozenset(hosts)
    homes = st.one_of(st.just(everywhere), st.frozensets(st.sampled_from(hosts)))
    count = 0

    def some(most: int) -> tuple[Guest, ...]:
        nonlocal count
        found = []
        for need in draw(st.lists(sizes, max_size=most)):
            count += 1
            found.append(Guest(VmRef(f"vm{count}"), need, draw(homes)))
        return tuple(found)

    guests = {host: some(2) for host in hosts}
    enabled = [host for host in hosts if draw(st.integers(0, 5))]
    free = {host: draw(st.integers(-2, 12)) for host in enabled}
    return Layout(free=free, guests=guests, homeless=some(1))


def packings(
    guests: tuple[Guest, ...], free: Mapping[HostRef, int]
) -> Iterator[dict[VmRef, HostRef]]:
    """Every way to give each of them a host with room."""
    for hosts in product(*(tuple(h for h in free if h in guest.may_boot_on) for guest in guests)):
        used: dict[HostRef, int] = {}
        for guest, host in zip(guests, hosts, strict=True):
            used[host] = used.get(host, 0) + guest.need
        if all(used[host] <= free[host] for host in used):
            yield {guest.vm: host for guest, host in zip(guests, hosts, strict=True)}


def bears_all_at_once(layout: Layout, failures: int) -> bool:
    """Whether, whichever so many hosts are lost together, everybody has a place: by trying all."""
    for lost in combinations(layout.guests, failures):
        after = layout.without(lost)
        if next(packings(after.homeless, after.free), None) is None:
            return False
    return True


@settings(deadline=None, max_examples=400)
@given(layout=layouts(), failures=st.integers(0, 3))
def test_it_never_promises_what_cannot_be_kept(layout: Layout, failures: int) -> None:
    if plan_exists(layout, failures):
        assert failures <= len(layout.guests)
        for fewer in range(failures + 1):
            assert bears_all_at_once(layout, fewer)


@settings(deadline=None, max_examples=400)
@given(layout=layouts(), failures=st.integers(1, 3))
def test_the_bound_of_large_pools_never_promises_what_a_full_play_would_not(
    layout: Layout, failures: int
) -> None:
    settled = layout.settled()
    if settled is None or not any(settled.guests.values()) or failures >= len(settled.guests):
        return
    if ha_plan._has_slots(settled, failures):
        assert ha_plan._survives(settled, failures)
        assert bears_all_at_once(settled, failures)


@settings(deadline=None, max_examples=400)
@given(layout=layouts())
def test_for_one_failure_it_is_exact(layout: Layout) -> None:
    """As long as nobody is homeless: where they go is a choice, and others may have left a plan."""
    if layout.homeless or not any(layout.guests.values()):
        return
    expected = len(layout.guests) > 1 and bears_all_at_once(layout, 1)
    assert plan_exists(layout, 1) == expected


@settings(deadline=None, max_examples=400)
@given(layout=layouts())
def test_a_place_is_found_where_there_is_one_and_each_has_room(layout: Layout) -> None:
    guests = tuple(guest for own in layout.guests.values() for guest in own)
    places = place(guests, layout.free)
    assert (places is not None) == (next(packings(guests, layout.free), None) is not None)
    for host, room in layout.free.items():
        taken = [guest.need for guest in guests if places and places[guest.vm] == host]
        assert sum(taken) <= max(0, room)


@settings(deadline=None, max_examples=200)
@given(layout=layouts(), failures=st.integers(0, 3))
def test_fewer_steps_make_it_more_careful_only(layout: Layout, failures: int) -> None:
    with patch.object(ha_plan, "SEARCH_STEPS_MAX", 3), patch.object(ha_plan, "PLAY_STEPS_MAX", 3):
        ha_plan._plan_exists.cache_clear()
        hasty = plan_exists(layout, failures)
    ha_plan._plan_exists.cache_clear()
    if hasty:
        assert bears_all_at_once(layout, failures)
