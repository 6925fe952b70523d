"""Memory accounting and the choice of a host: promises count, measurements never."""

from collections import Counter
from typing import Any, Final

import pytest
from msgspec.structs import replace

from pool_master.core import events as ev
from pool_master.core.placement import (
    boot_error,
    boot_memory,
    choose_host,
    config_error,
    memory_available,
    memory_needed,
    memory_overhead,
    possible_hosts,
)
from shared.enums import OnCrashBehaviour, VmOperation
from shared.errors import HostNotEnoughFreeMemory, NoHostsAvailable, XenApiError
from shared.refs import HostRef
from tests.support.facts import (
    GIB,
    HOST,
    HOST_2,
    HOST_3,
    MIB,
    OTHER_VM,
    OTHER_VM_UUID,
    VM,
    a_pool,
    accepted,
    host_described,
    live_host,
    running,
    vm_created,
)
from tests.support.spec import Scenario, given

EMPTY: Final = 8 * GIB
OVERHEAD: Final = 16 * MIB + 4 * MIB  # Of a VM of 512 MiB: the floor, and 1/128.
NEEDED: Final = 512 * MIB + OVERHEAD


def sized(gib: int) -> dict[str, Any]:
    return dict.fromkeys(
        ("memory_static_max", "memory_dynamic_max", "memory_dynamic_min"), gib * GIB
    )


def a_vm(**changes: Any) -> Scenario:
    return given(*a_pool(3), vm_created(**changes))


def code_at(scenario: Scenario, host: HostRef = HOST) -> str | None:
    error = boot_error(scenario.pool, scenario.vm(), host)
    return None if error is None else error.code


# --- memory


def test_a_vm_needs_its_dynamic_minimum_and_overhead() -> None:
    vm = a_vm(memory_dynamic_min=256 * MIB).vm()
    assert memory_overhead(vm) == OVERHEAD
    assert memory_needed(vm) == 256 * MIB + OVERHEAD


@pytest.mark.parametrize(("asked", "given_"), [(64, 128), (256, 256), (1024, 512)])
def test_a_dynamic_value_is_clamped_into_the_static_range(asked: int, given_: int) -> None:
    vm = a_vm(memory_static_min=128 * MIB, memory_static_max=512 * MIB).vm()
    assert boot_memory(vm, asked * MIB) == given_ * MIB


def test_measured_free_memory_is_never_used() -> None:
    scenario = given(*a_pool(1), replace(host_described(1), memory_free=0))
    assert memory_available(scenario.pool, HOST) == EMPTY


def test_who_resides_and_who_is_to_come_both_count() -> None:
    scenario = given(*a_pool(1), *running(), vm_created(OTHER_VM, OTHER_VM_UUID))
    assert memory_available(scenario.pool, HOST) == EMPTY - NEEDED
    scenario.and_given(accepted(VmOperation.START, vm=OTHER_VM))
    assert memory_available(scenario.pool, HOST) == EMPTY - 2 * NEEDED


def test_a_migrating_vm_counts_at_both_sides_and_once_at_each() -> None:
    scenario = given(*a_pool(2), *running())
    scenario.and_given(accepted(VmOperation.POOL_MIGRATE, destination=HOST_2))
    left = [memory_available(scenario.pool, host) for host in (HOST, HOST_2)]
    assert left == [EMPTY - NEEDED, EMPTY - NEEDED]


def test_the_vm_that_is_asked_about_does_not_stand_in_its_own_way() -> None:
    scenario = given(*a_pool(1), *running(**sized(5)))
    assert memory_available(scenario.pool, HOST, without=scenario.vm()) == EMPTY
    assert code_at(scenario) is None


def test_available_memory_is_never_negative() -> None:
    scenario = given(*a_pool(1), *running(**sized(5)), host_described(1, memory_total=GIB))
    assert memory_available(scenario.pool, HOST) == 0


def test_a_vm_that_fits_exactly_boots_and_one_byte_more_does_not() -> None:
    exact = given(*a_pool(1), host_described(1, memory_total=NEEDED), vm_created())
    assert code_at(exact) is None
    short = given(*a_pool(1), host_described(1, memory_total=NEEDED - 1), vm_created())
    error = boot_error(short.pool, short.vm(), HOST)
    assert error is not None
    assert error.description == [
        "HOST_NOT_ENOUGH_FREE_MEMORY",
        str(NEEDED),
        str(NEEDED - 1),
    ]


# --- what keeps a VM from booting


@pytest.mark.parametrize(
    ("changes", "description"),
    [
        ({"VCPUs_max": 0}, ["INVALID_VALUE", "VCPUs-max", "0"]),
        ({"VCPUs_at_startup": 0}, ["INVALID_VALUE", "VCPUs-at-startup", "0"]),
        (
            {"VCPUs_at_startup": 3},
            ["VALUE_NOT_SUPPORTED", "VCPUs-at-startup", "3", "more than VCPUs-max"],
        ),
        ({"memory_static_min": GIB}, ["MEMORY_CONSTRAINT_VIOLATION"]),
        ({"memory_dynamic_min": GIB}, ["MEMORY_CONSTRAINT_VIOLATION"]),
        (
            {"memory_static_max": 0, "memory_static_min": 0},
            ["MEMORY_CONSTRAINT_VIOLATION"],
        ),
        (
            {"actions_after_crash": OnCrashBehaviour.RENAME_RESTART},
            ["VALUE_NOT_SUPPORTED", "actions-after-crash", "rename_restart"],
        ),
    ],
)
def test_a_configuration_that_cannot_boot_is_refused_everywhere(
    changes: dict[str, Any], description: list[str]
) -> None:
    scenario = a_vm(**changes)
    error = config_error(scenario.vm())
    assert error is not None
    assert error.description[: len(description)] == description
    assert possible_hosts(scenario.pool, scenario.vm()) == []
    with pytest.raises(type(error)):
        choose_host(scenario.pool, scenario.vm(), 0.0)


def test_reasons_come_in_xenapis_order() -> None:
    facts: dict[str, Any] = {"VCPUs_max": 99, "VCPUs_at_startup": 1}
    scenario = a_vm(**sized(99), **facts, memory_static_min=0)
    assert code_at(scenario) == "HOST_NOT_ENOUGH_FREE_MEMORY"
    scenario.and_given(ev.HostDisabled(host=HOST))
    assert code_at(scenario) == "HOST_DISABLED"
    scenario.and_given(ev.HostLost(host=HOST, evidence=""))
    assert code_at(scenario) == "HOST_NOT_LIVE"
    assert code_at(scenario, HostRef("OpaqueRef:nowhere")) == "HANDLE_INVALID"
    scenario.when_called("VM.set_actions_after_crash", VM, "rename_restart").then_so()
    assert code_at(scenario) == "VALUE_NOT_SUPPORTED"


def test_a_vm_never_has_more_vcpus_than_its_host_unless_it_may() -> None:
    assert code_at(a_vm(VCPUs_max=9)) == "HOST_NOT_ENOUGH_PCPUS"
    assert code_at(a_vm(VCPUs_max=8)) is None
    assert code_at(a_vm(VCPUs_max=9, platform={"vcpu-unrestricted": "true"})) is None


def test_a_disabled_host_keeps_what_it_has() -> None:
    scenario = given(*a_pool(2), *running(), ev.HostDisabled(host=HOST))
    assert code_at(scenario) is None


# --- the choice


def test_only_hosts_that_would_do_are_possible() -> None:
    scenario = a_vm()
    assert possible_hosts(scenario.pool, scenario.vm()) == [HOST, HOST_2, HOST_3]
    scenario.and_given(ev.HostDisabled(host=HOST), ev.HostLost(host=HOST_2, evidence=""))
    assert possible_hosts(scenario.pool, scenario.vm()) == [HOST_3]


def test_a_vm_that_is_to_come_to_a_host_can_only_come_there() -> None:
    scenario = a_vm().and_given(accepted(VmOperation.START, host=HOST_2))
    assert possible_hosts(scenario.pool, scenario.vm()) == [HOST_2]


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_affinity_comes_first(chance: float) -> None:
    scenario = a_vm(affinity=HOST_3)
    assert choose_host(scenario.pool, scenario.vm(), chance) == HOST_3


def test_affinity_is_only_a_hint() -> None:
    scenario = a_vm(affinity=HOST_3).and_given(ev.HostDisabled(host=HOST_3))
    assert choose_host(scenario.pool, scenario.vm(), 0.0) == HOST
    dangling = a_vm(affinity=HostRef("OpaqueRef:gone"))
    assert choose_host(dangling.pool, dangling.vm(), 0.0) == HOST


def test_the_host_with_most_room_is_chosen_by_a_small_chance_and_the_fullest_by_a_large_one() -> (
    None
):
    scenario = given(
        *a_pool(1, memory_total=2 * GIB),
        *live_host(2, memory_total=4 * GIB),
        *live_host(3, memory_total=3 * GIB),
        vm_created(),
    )
    vm = scenario.vm()
    picked = [choose_host(scenario.pool, vm, chance) for chance in (0.0, 0.5, 0.6, 0.999)]
    assert picked == [HOST_2, HOST_2, HOST_3, HOST]


def test_every_chance_picks_a_host_and_a_burst_is_spread() -> None:
    scenario = a_vm()
    picked = Counter(
        choose_host(scenario.pool, scenario.vm(), number / 1000) for number in range(1000)
    )
    assert set(picked) == {HOST, HOST_2, HOST_3}
    assert picked.most_common(1)[0][1] < 600


def refusal_of(scenario: Scenario) -> XenApiError:
    with pytest.raises(XenApiError) as refused:
        choose_host(scenario.pool, scenario.vm(), 0.0)
    return refused.value


def test_hosts_that_only_lack_memory_say_so() -> None:
    assert isinstance(refusal_of(a_vm(**sized(9))), HostNotEnoughFreeMemory)


def test_hosts_that_only_lack_cpus_say_so() -> None:
    assert refusal_of(a_vm(VCPUs_max=9)).description == ["HOST_NOT_ENOUGH_PCPUS", "9", "8"]


def test_without_any_host_there_is_none() -> None:
    scenario = given(*a_pool(1), vm_created(), ev.HostDisabled(host=HOST))
    assert isinstance(refusal_of(scenario), NoHostsAvailable)


def test_clients_can_ask_for_all_of_it() -> None:
    scenario = a_vm()
    assert scenario.answer("VM.get_possible_hosts", VM) == [HOST, HOST_2, HOST_3]
    assert scenario.answer("host.compute_free_memory", HOST) == EMPTY
    assert scenario.answer("VM.compute_memory_overhead", VM) == OVERHEAD
    assert scenario.answer("VM.assert_can_boot_here", VM, HOST) is None
    full = a_vm(**sized(9))
    with pytest.raises(HostNotEnoughFreeMemory):
        full.answer("VM.assert_can_boot_here", VM, HOST)
