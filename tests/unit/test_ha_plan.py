"""The failover planner and its guard: what it promises, what it refuses, what it says of "what if"."""

from typing import Any, Final

import pytest

from pool_master.core import events as ev
from pool_master.core import evolve
from pool_master.core.ha_plan import (
    Guest,
    Layout,
    guest_of,
    layout_of,
    max_failures,
    place,
    plan_exists,
)
from pool_master.core.vm_lifecycle import Start
from shared.refs import HostRef, VmRef, derive, derive_ref
from tests.support.facts import (
    GIB,
    HOST,
    HOST_2,
    MASTER,
    MIB,
    OTHER_VM,
    OTHER_VM_UUID,
    POOL,
    VM,
    a_pool,
    host_described,
    host_ref,
    vm_created,
    vm_started,
)
from tests.support.spec import Scenario, given

ENABLED: Final = ev.HaEnabled(pool=POOL)


def memory(mib: int) -> dict[str, Any]:
    names = ("memory_static_max", "memory_dynamic_max", "memory_dynamic_min")
    return dict.fromkeys(names, mib * MIB)


def guests(number: int, host: int, mib: int = 1800, *, is_protected: bool = True) -> list[ev.Event]:
    """So many running VMs on that host."""
    events: list[ev.Event] = []
    for each in range(number):
        name = f"vm{host}-{each}-{mib}"
        vm = VmRef(derive_ref(name, "VM"))
        wish = {"ha_restart_priority": "restart", "ha_always_run": True} if is_protected else {}
        events.append(vm_created(vm, derive(name, "VM"), **memory(mib), **wish))
        events.append(vm_started(vm, host_ref(host)))
    return events


def tolerating(failures: int, *facts: ev.Event, hosts: int = 3) -> Scenario:
    """A pool with high availability that is to bear so many failures; hosts have 8 GiB, four VMs of 1800 MiB each."""
    scenario = given(*a_pool(hosts), *facts)
    scenario.when_called("pool.set_ha_host_failures_to_tolerate", POOL, str(failures)).then_so()
    return scenario.when_called("pool.enable_ha", [], {}).then_so()


def test_a_pool_bears_as_many_failures_as_the_rest_has_room_for() -> None:
    scenario = given(*a_pool(3), *guests(4, 1), *guests(2, 2), *guests(2, 3))
    ask = "pool.ha_compute_max_host_failures_to_tolerate"
    assert scenario.answer(ask) == 1
    assert scenario.answer("pool.ha_failover_plan_exists", "1")
    assert not scenario.answer("pool.ha_failover_plan_exists", "2")
    scenario.and_given(*guests(1, 2, 1801))
    assert scenario.answer(ask) == 0


def test_the_last_host_is_never_to_spare_and_an_empty_pool_bears_all() -> None:
    assert max_failures(layout_of(given(*a_pool(3), *guests(1, 1)).pool)) == 2
    assert max_failures(layout_of(given(*a_pool(3)).pool)) == 3
    assert max_failures(layout_of(given(*a_pool(1), *guests(1, 1)).pool)) == 0


def test_memory_counts_at_its_most_and_unprotected_vms_take_theirs() -> None:
    scenario = given(*a_pool(2), *guests(2, 1), *guests(3, 2, is_protected=False))
    assert scenario.answer("pool.ha_compute_max_host_failures_to_tolerate") == 0


def test_a_host_that_takes_no_vms_can_fail_and_takes_none_then_either() -> None:
    scenario = given(*a_pool(3), *guests(4, 1), ev.HostDisabled(host=HOST_2))
    assert scenario.answer("pool.ha_compute_max_host_failures_to_tolerate") == 1
    scenario.and_given(ev.HostDisabled(host=host_ref(3)))
    assert scenario.answer("pool.ha_compute_max_host_failures_to_tolerate") == 0


def test_a_packing_is_found_where_biggest_first_finds_none() -> None:
    hosts = [HostRef("a"), HostRef("b")]
    everywhere = frozenset(hosts)
    sizes = [4, 4, 3, 3, 3, 3]
    items = [Guest(VmRef(f"{n}"), size, everywhere) for n, size in enumerate(sizes)]
    places = place(items, {hosts[0]: 8, hosts[1]: 12})
    assert places is not None
    for host, room in ((hosts[0], 8), (hosts[1], 12)):
        assert sum(item.need for item in items if places[item.vm] == host) <= room


def test_a_vm_that_may_boot_on_few_hosts_is_only_placed_there() -> None:
    near, far = HostRef("near"), HostRef("far")
    picky = Guest(VmRef("picky"), 5, frozenset({near}))
    layout = Layout(free={near: 5, far: 50}, guests={near: (), far: (picky,)}, homeless=())
    assert plan_exists(layout, 1)
    assert not plan_exists(
        Layout(free={near: 4, far: 50}, guests={near: (), far: (picky,)}, homeless=()), 1
    )


def test_large_pools_are_answered_by_the_bound() -> None:
    hosts = [HostRef(f"h{n}") for n in range(64)]
    everywhere = frozenset(hosts)
    layout = Layout(
        free=dict.fromkeys(hosts, 40),
        guests={
            host: tuple(Guest(VmRef(f"{host}/{n}"), 4, everywhere) for n in range(20))
            for host in hosts
        },
        homeless=(),
    )
    assert plan_exists(layout, 10)
    assert max_failures(layout) == 64 * 10 // (20 + 10)


def test_the_record_says_what_is_planned_and_when_it_is_too_little() -> None:
    scenario = tolerating(1, *guests(4, 1))
    record = scenario.pool.record
    assert (record.ha_plan_exists_for, record.ha_overcommitted) == (1, False)
    scenario.when_called("pool.set_ha_allow_overcommit", POOL, True).then_so()
    scenario.when_called("pool.set_ha_host_failures_to_tolerate", POOL, "3").then_so()
    record = scenario.pool.record
    assert (record.ha_plan_exists_for, record.ha_overcommitted) == (2, True)


def test_a_start_that_would_break_the_plan_is_refused() -> None:
    full = [*guests(4, 1), *guests(4, 2)]
    new = vm_created(VM, **memory(1800))
    scenario = tolerating(1, *full, new)
    start = Start(vm=VM, start_paused=False, force=False)
    scenario.when(start).then_refused("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN")
    scenario.when_called("VM.start_on", VM, host_ref(3), False, False).then_refused(
        "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"
    )
    scenario.when_called("pool.set_ha_allow_overcommit", POOL, True).then_so()
    scenario.when(start).then_so()


def test_a_pool_without_a_plan_guards_none() -> None:
    scenario = tolerating(1, *guests(4, 1), vm_created(VM, **memory(1800)), hosts=1)
    assert scenario.pool.record.ha_overcommitted
    scenario.when_called("host.disable", HOST).then_so()


@pytest.mark.parametrize("failures", [0, 1])
def test_a_migration_is_guarded_by_what_it_comes_to_in_the_end(failures: int) -> None:
    # Host 2 alone has the room for host 3's VM, and would not have it any more.
    scenario = tolerating(
        failures,
        *guests(1, 1, 1000),
        *guests(1, 1, 6600, is_protected=False),
        *guests(1, 2, 5000, is_protected=False),
        *guests(1, 3, 3000),
    )
    vm = next(iter(scenario.pool.vms))
    there = scenario.when_called("VM.pool_migrate", vm, HOST_2, {})
    if failures:
        there.then_refused("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN")
    else:
        there.then_so()


def test_disabling_a_host_and_protecting_a_vm_are_guarded() -> None:
    scenario = tolerating(
        1,
        *guests(4, 1),
        *guests(1, 2, 6000, is_protected=False),
        *guests(1, 2, 1700),
        *guests(1, 3, 800, is_protected=False),
    )
    scenario.when_called("host.disable", host_ref(3)).then_refused(
        "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"
    )
    big = next(vm for vm in scenario.pool.vms.values() if vm.config.memory_static_max > 5 * GIB)
    scenario.when_called("VM.set_ha_restart_priority", big.ref, "restart").then_refused(
        "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"
    )


def test_more_failures_are_promised_only_where_there_is_a_plan() -> None:
    scenario = tolerating(1, *guests(4, 1))
    ask = "pool.set_ha_host_failures_to_tolerate"
    scenario.when_called(ask, POOL, "3").then_refused("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN")
    scenario.when_called(ask, POOL, "2").then_so()
    scenario.when_called(ask, POOL, "-1").then_refused(
        "INVALID_VALUE", "ha_host_failures_to_tolerate", "-1"
    )
    assert scenario.pool.record.ha_plan_exists_for == 2


def test_what_if_a_host_dies_tells_where_each_protected_vm_would_go() -> None:
    scenario = given(
        *a_pool(2), *guests(2, 1), *guests(1, 1, 700, is_protected=False), *guests(3, 2)
    )
    before = dict(scenario.pool.vms)
    plan = scenario.answer("pool.ha_compute_vm_failover_plan", [HOST], [])
    assert sorted(plan.values(), key=str) == [
        {"error_code": "HOST_NOT_ENOUGH_FREE_MEMORY"},
        {"host": HOST_2},
    ]
    assert dict(scenario.pool.vms) == before
    assert scenario.pool.is_live(HOST)


def test_what_if_names_vms_and_hosts_that_exist() -> None:
    scenario = given(*a_pool(2), vm_created(OTHER_VM, OTHER_VM_UUID))
    plan = scenario.answer("pool.ha_compute_vm_failover_plan", [], [OTHER_VM])
    assert list(plan) == [OTHER_VM]


def test_a_hypothetical_configuration_counts_the_vms_it_names_alone() -> None:
    scenario = given(*a_pool(3), *guests(4, 1), *guests(4, 2), *guests(3, 3))
    ask = "pool.ha_compute_hypothetical_max_host_failures_to_tolerate"
    assert scenario.answer(ask, {}) == 3
    one = next(iter(scenario.pool.vms))
    assert scenario.answer(ask, {one: "restart"}) == 1
    everyone = dict.fromkeys(scenario.pool.vms, "restart")
    assert scenario.answer(ask, everyone) == 0


@pytest.mark.parametrize(
    "fact",
    [
        ev.HostDisabled(host=HOST_2),
        ev.HostLost(host=HOST_2, evidence="gone"),
        ev.FieldSet(object_class="VM", ref=VM, field="VCPUs_max", value=9),
        host_described(2, cpu_count=1),
        ev.HostForgotten(host=HOST_2),
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_where_a_vm_may_boot_is_not_remembered_too_long(fact: ev.Event) -> None:
    facts = [*a_pool(3), vm_created()]
    scenario = given(*facts)
    before = guest_of(scenario.pool, scenario.vm()).may_boot_on
    fork = scenario.pool.fork()
    evolve.apply(fork, ev.Recorded(fork.sequence + 1, 1, 0, MASTER, "", "what if", fact))
    tried = guest_of(fork, fork.vms[VM]).may_boot_on
    assert tried != before
    assert guest_of(scenario.pool, scenario.vm()).may_boot_on == before
    scenario.and_given(fact)
    assert guest_of(scenario.pool, scenario.vm()).may_boot_on == tried
