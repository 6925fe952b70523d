"""High availability: what is restarted, where, in which order, and what is left alone."""

from typing import Any, Final

import pytest

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.ha_restart import RETRY_S, STORM_STARTS_MAX, TRIES_MAX, decide_ha
from pool_master.core.vm_lifecycle import CleanShutdown, HardShutdown, Start
from shared.codec import moment_from_us
from shared.enums import OnCrashBehaviour, PowerState, VmOperation
from shared.protocol import DomainChange, DomainState
from shared.refs import HostRef, VmRef, derive, derive_ref
from tests.support.facts import (
    GIB,
    HOST,
    HOST_2,
    HOST_3,
    MASTER,
    POOL,
    VM,
    a_pool,
    accepted,
    changed,
    host_ref,
    inventory,
    running,
    seen,
    task,
    vm_created,
    vm_started,
)
from tests.support.spec import Scenario, given

ENABLED: Final = ev.HaEnabled(pool=POOL)
PROTECTED: Final[dict[str, Any]] = {"ha_restart_priority": "restart", "ha_always_run": True}
BEST_EFFORT: Final[dict[str, Any]] = {"ha_restart_priority": "best-effort"}


def vm_ref(name: str) -> VmRef:
    return VmRef(derive_ref(name, "VM"))


def guest(name: str, host: HostRef = HOST, **config: Any) -> list[ev.Event]:
    """A running VM of that name; protected unless said otherwise."""
    created = vm_created(vm_ref(name), derive(name, "VM"), **{**PROTECTED, **config})
    return [created, vm_started(vm_ref(name), host)]


def memory(gib: int) -> dict[str, Any]:
    names = ("memory_static_max", "memory_dynamic_max", "memory_dynamic_min")
    return dict.fromkeys(names, gib * GIB)


def look(scenario: Scenario) -> list[ev.Event]:
    """The leader looks once, and what it decides becomes true; the planner's word is left out."""
    context = Context(
        command_id=f"ha/{scenario.pool.sequence}",
        now=moment_from_us(scenario.now_us),
        actor=MASTER,
        label="high availability",
    )
    events = decide_ha(scenario.pool, context)
    scenario.record(events, MASTER)
    return [event for event in events if not isinstance(event, ev.FailoverPlanned)]


def begun(events: list[ev.Event]) -> dict[VmRef, HostRef]:
    """Which VMs were begun, and where."""
    return {x.vm: x.host for x in events if isinstance(x, ev.OperationAccepted)}


def kinds(events: list[ev.Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def started_there(scenario: Scenario, vm: VmRef = VM) -> None:
    """The host says that it runs."""
    (operation,) = scenario.pool.operations_of(scenario.vm(vm))
    scenario.record(
        [
            vm_started(vm, operation.host, operation.incarnation),
            ev.TaskSucceeded(task=operation.task),
        ]
    )


def failed_there(scenario: Scenario, vm: VmRef = VM) -> HostRef:
    (operation,) = scenario.pool.operations_of(scenario.vm(vm))
    scenario.record([ev.TaskFailed(task=operation.task, error_info=("INTERNAL_ERROR", "no"))])
    return operation.host


# A pool with this has a second host that lives, and takes nobody.
NO_ROOM: Final = ev.HostDisabled(host=HOST_2)


def a_loss(*facts: ev.Event, hosts: int = 3, **described: Any) -> Scenario:
    """A pool with high availability on, whose first host is lost."""
    scenario = given(*a_pool(hosts, **described), ENABLED, *facts).after(1_000)
    return scenario.when_lost(HOST).then_so()


def test_a_protected_vm_of_a_lost_host_is_reset_on_the_proof_and_started_elsewhere() -> None:
    scenario = a_loss(*running(**PROTECTED))
    events = look(scenario)
    assert kinds(events) == ["VmReset", "VmRestartDue", "OperationAccepted", "VmRestartTried"]
    start = events[2]
    assert isinstance(start, ev.OperationAccepted)
    assert (start.operation, start.incarnation) == (VmOperation.START_ON, 2)
    assert start.host in {HOST_2, HOST_3}
    assert look(scenario) == []


def test_no_vm_of_a_host_that_is_not_lost_is_touched_however_silent() -> None:
    scenario = given(*a_pool(3), ENABLED, *running(**PROTECTED)).after(1_000_000)
    assert look(scenario) == []


def test_without_high_availability_nothing_is_restarted() -> None:
    scenario = given(*a_pool(3), *running(**PROTECTED)).when_lost(HOST).then_so()
    assert look(scenario) == []
    assert scenario.vm().power_state is PowerState.RUNNING


def test_where_no_host_lives_nothing_is_reset_whoever_returns_says_first_what_it_runs() -> None:
    scenario = given(*a_pool(1), ENABLED, *running(**PROTECTED)).when_lost(HOST).then_so()
    assert look(scenario) == []
    scenario.when_host_says(inventory(1, seen())).then_so()
    assert look(scenario) == []
    assert scenario.vm().power_state is PowerState.RUNNING


def test_an_unprotected_vm_of_a_lost_host_is_reset_and_stays_down() -> None:
    scenario = a_loss(*running())
    assert kinds(look(scenario)) == ["VmReset"]
    assert look(scenario) == []


def test_a_restart_ends_when_the_vm_runs() -> None:
    scenario = a_loss(*running(**PROTECTED))
    look(scenario)
    started_there(scenario)
    assert look(scenario) == [ev.VmRestartEnded(vm=VM, reason="it is Running")]
    assert not scenario.pool.restarts


def test_a_new_leader_goes_on_with_what_the_old_one_owed() -> None:
    scenario = a_loss(*running(**PROTECTED))
    first = look(scenario)
    again = given(*(recorded.event for recorded in scenario.log)).after(1_000)
    assert list(again.pool.restarts) == list(scenario.pool.restarts) == [VM]
    again.record([ev.MasterElected(term=2, master="master-2", address="192.0.2.2")])
    assert look(again) == []
    assert begun(first)


def test_a_vm_whose_migration_goes_on_at_a_living_host_is_left_to_it() -> None:
    scenario = given(
        *a_pool(3),
        ENABLED,
        *running(**PROTECTED),
        accepted(VmOperation.POOL_MIGRATE, destination=HOST_2),
    )
    scenario.when_lost(HOST).then_so()
    assert look(scenario) == []
    assert scenario.vm().power_state is PowerState.RUNNING


def test_orders_follow_one_another_and_negative_ones_come_last() -> None:
    names = {"first": 0, "second": 1, "last": -1}
    scenario = a_loss(
        *(x for name, order in names.items() for x in guest(name, order=order)),
    )
    for name in names:
        assert list(begun(look(scenario))) == [vm_ref(name)]
        assert begun(look(scenario)) == {}
        started_there(scenario, vm_ref(name))


def test_a_start_delay_holds_back_the_next_order() -> None:
    scenario = a_loss(*guest("db", order=0, start_delay=30), *guest("web", order=1))
    look(scenario)
    started_there(scenario, vm_ref("db"))
    assert look(scenario.after(29)) == []
    assert list(begun(look(scenario.after(2)))) == [vm_ref("web")]


def test_best_effort_comes_after_all_protected_ones_and_not_at_all_when_found_halted() -> None:
    scenario = a_loss(*guest("maybe", **BEST_EFFORT, ha_always_run=False), *guest("must"))
    assert list(begun(look(scenario))) == [vm_ref("must")]
    started_there(scenario, vm_ref("must"))
    assert list(begun(look(scenario))) == [vm_ref("maybe")]
    halted = given(*a_pool(2), ENABLED, vm_created(**BEST_EFFORT))
    assert look(halted) == []


def test_best_effort_takes_no_room_that_a_protected_one_waits_for() -> None:
    scenario = a_loss(
        *guest("huge", **memory(7)),
        *guest("maybe", **BEST_EFFORT, ha_always_run=False),
        *guest("there", HOST_2, **memory(2)),
        hosts=2,
    )
    assert begun(look(scenario)) == {}
    scenario.record(
        [ev.VmHalted(vm=vm_ref("there"), reason="its user"), ev.VmDestroyed(vm=vm_ref("there"))]
    )
    assert list(begun(look(scenario))) == [vm_ref("huge")]
    started_there(scenario, vm_ref("huge"))
    assert list(begun(look(scenario))) == [vm_ref("maybe")]


def test_a_failed_start_is_tried_on_each_other_host_and_then_after_a_pause() -> None:
    scenario = a_loss(*running(**PROTECTED))
    look(scenario)
    first = failed_there(scenario)
    assert set(begun(look(scenario)).values()) == {HOST_2, HOST_3} - {first}
    failed_there(scenario)
    assert look(scenario) == []
    assert look(scenario.after(RETRY_S - 1)) == []
    assert begun(look(scenario.after(2)))


def test_a_start_that_always_fails_is_given_up_once_and_stays_so() -> None:
    scenario = a_loss(*running(**PROTECTED))
    for _ in range(TRIES_MAX):
        assert begun(look(scenario))
        failed_there(scenario)
        scenario.after(RETRY_S + 1)
    assert kinds(look(scenario)) == ["VmRestartGivenUp"]
    assert look(scenario.after(10_000)) == []


def test_lack_of_room_is_no_try_and_the_vm_starts_when_there_is_some() -> None:
    scenario = a_loss(*running(**PROTECTED), NO_ROOM, hosts=2)
    assert kinds(look(scenario)) == ["VmReset", "VmRestartDue"]
    assert look(scenario.after(100_000)) == []
    scenario.record([ev.HostCameAlive(host=HOST)])
    assert begun(look(scenario)) == {VM: HOST}


def test_small_ones_that_go_first_leave_the_big_one_its_room() -> None:
    big, small = {**memory(6), "order": 5}, memory(2)
    scenario = a_loss(
        *guest("a", **small), *guest("big", **big), *guest("b", **small), memory_total=9 * GIB
    )
    where = begun(look(scenario))
    assert list(where) == [vm_ref("a"), vm_ref("b")]
    for name in ("a", "b"):
        started_there(scenario, vm_ref(name))
    assert list(begun(look(scenario))) == [vm_ref("big")]


def test_a_storm_of_lost_hosts_restarts_few_at_a_time() -> None:
    guests = [x for n in range(8) for x in guest(f"vm{n}", host_ref(1 + n % 2))]
    scenario = given(*a_pool(5), ENABLED, *guests)
    for number in (1, 2):
        scenario.when_lost(host_ref(number)).then_so()
    assert len(begun(look(scenario))) == STORM_STARTS_MAX
    assert begun(look(scenario)) == {}
    tolerant = ev.FieldSet(
        object_class="pool", ref=POOL, field="ha_host_failures_to_tolerate", value=2
    )
    assert len(begun(look(scenario.and_given(tolerant)))) == 8 - STORM_STARTS_MAX


def test_nothing_is_begun_while_restarts_are_held_back() -> None:
    scenario = given(*a_pool(), ENABLED, *running(**PROTECTED))
    scenario.when_called("pool.ha_prevent_restarts_for", "60").then_so()
    scenario.when_lost(HOST).then_so()
    assert begun(look(scenario)) == {}
    assert begun(look(scenario.after(61))) == {VM: HOST_2}


def test_a_protected_vm_that_crashes_runs_again_but_not_in_a_tight_loop() -> None:
    scenario = given(
        *a_pool(1), ENABLED, *running(**PROTECTED, actions_after_crash=OnCrashBehaviour.DESTROY)
    )
    scenario.when_host_says(changed(DomainChange.CRASHED, seen(DomainState.CRASHED))).then_so()
    assert scenario.pool.restarts[VM].reason == "it crashed"
    assert look(scenario.after(RETRY_S - 1)) == []
    assert begun(look(scenario.after(2))) == {VM: HOST}


@pytest.mark.parametrize("request_", [CleanShutdown(vm=VM), HardShutdown(vm=VM)])
def test_a_vm_that_its_user_shuts_down_stays_down(request_: object) -> None:
    scenario = given(*a_pool(2), ENABLED, *running(**PROTECTED)).when(request_).then_so()
    scenario.when_done(1).then_so()
    assert scenario.vm().power_state is PowerState.HALTED
    assert look(scenario.after(10_000)) == []


def test_a_guest_that_powers_itself_off_stays_down() -> None:
    scenario = given(*a_pool(2), ENABLED, *running(**PROTECTED))
    scenario.when_host_says(changed(DomainChange.POWERED_OFF)).then_so()
    assert look(scenario.after(10_000)) == []


@pytest.mark.parametrize("change", [DomainChange.DESTROYED, DomainChange.FENCED])
def test_a_vm_that_was_stopped_behind_the_pools_back_runs_again(change: DomainChange) -> None:
    scenario = given(*a_pool(2), ENABLED, *running(**PROTECTED)).after(1_000)
    scenario.when_host_says(changed(change)).then_so()
    assert begun(look(scenario))


def test_a_shutdown_that_fails_leaves_the_vm_protected() -> None:
    scenario = given(*a_pool(2), ENABLED, *running(**PROTECTED))
    scenario.when(CleanShutdown(vm=VM)).then_so()
    assert not scenario.vm().config.ha_always_run
    scenario.when_failed(1, "VM_SHUTDOWN_TIMEOUT", observation=seen()).then_so()
    assert scenario.vm().config.ha_always_run


def test_a_failed_shutdown_that_a_hard_one_overtook_leaves_the_wish_ended() -> None:
    scenario = given(*a_pool(2), ENABLED, *running(**PROTECTED))
    scenario.when(CleanShutdown(vm=VM)).then_so()
    scenario.when(HardShutdown(vm=VM)).then_so()
    scenario.when_failed(1, "TASK_CANCELLED", observation=seen()).then_so()
    assert not scenario.vm().config.ha_always_run


def test_a_start_makes_the_wish_of_a_vm_that_is_to_be_restarted() -> None:
    scenario = given(*a_pool(2), vm_created(ha_restart_priority="restart"))
    scenario.when(Start(vm=VM, start_paused=False, force=False)).then_so()
    assert scenario.vm().config.ha_always_run
    plain = given(*a_pool(2), vm_created())
    plain.when(Start(vm=VM, start_paused=False, force=False)).then_so()
    assert not plain.vm().config.ha_always_run


@pytest.mark.parametrize("call", [("VM.resume", VM), ("VM.resume_on", VM, HOST_2)])
def test_a_suspended_vm_is_left_alone_and_a_resume_makes_the_wish_again(
    call: tuple[str, ...],
) -> None:
    scenario = given(*a_pool(2), ENABLED, *running(**PROTECTED))
    scenario.when_called("VM.suspend", VM).then_so()
    assert not scenario.vm().config.ha_always_run
    suspended = ev.VmSuspended(vm=VM, image="image")
    scenario.record([suspended, ev.TaskSucceeded(task=task(1))])
    assert look(scenario.after(1_000)) == []
    scenario.when_called(*call, False, True).then_so()
    assert scenario.vm().config.ha_always_run


def test_protecting_a_running_vm_makes_the_wish_and_unprotecting_ends_it() -> None:
    scenario = given(*a_pool(2), *running())
    scenario.when_called("VM.set_ha_restart_priority", VM, "restart").then_so()
    assert scenario.vm().config.ha_always_run
    scenario.when_called("VM.set_ha_restart_priority", VM, "").then_so()
    assert not scenario.vm().config.ha_always_run
    scenario.when_called("VM.set_ha_restart_priority", VM, "always").then_refused(
        "INVALID_VALUE", "ha_restart_priority", "always"
    )


def test_a_restart_that_is_owed_ends_with_the_wish() -> None:
    scenario = a_loss(*running(**PROTECTED), NO_ROOM, hosts=2)
    look(scenario)
    scenario.when_called("VM.set_ha_restart_priority", VM, "").then_so()
    assert kinds(look(scenario)) == ["VmRestartEnded"]


def test_high_availability_is_switched_on_once_and_only_while_all_hosts_live() -> None:
    scenario = given(*a_pool(2), vm_created(ha_always_run=True))
    scenario.when_called("pool.disable_ha").then_refused("HA_NOT_ENABLED")
    scenario.when_called("pool.enable_ha", [], {"timeout": "60"}).then_so()
    assert scenario.pool.record.ha_enabled
    assert scenario.pool.record.ha_configuration == {"timeout": "60"}
    scenario.when_called("pool.enable_ha", [], {}).then_refused("HA_IS_ENABLED")
    scenario.when_called("pool.disable_ha").then_so()
    assert not scenario.pool.record.ha_enabled
    scenario.when_lost(HOST_2).then_so()
    scenario.when_called("pool.enable_ha", [], {}).then_refused("HOST_OFFLINE", HOST_2)


def test_switching_it_off_forgets_what_is_owed() -> None:
    scenario = a_loss(*running(**PROTECTED), NO_ROOM, hosts=2)
    look(scenario)
    scenario.when_called("pool.disable_ha").then_so()
    assert not scenario.pool.restarts


def test_a_returned_host_is_told_to_drop_what_runs_elsewhere_by_then() -> None:
    scenario = a_loss(*running(**PROTECTED), hosts=2)
    look(scenario)
    started_there(scenario)
    scenario.when_host_says(inventory(1, seen(incarnation=1))).then_so()
    assert [stale.host for stale in scenario.pool.stale_domains.values()] == [HOST]


def test_a_host_is_not_destroyed_while_high_availability_is_on() -> None:
    scenario = a_loss(hosts=2)
    scenario.when_called("host.destroy", HOST).then_refused("HA_IS_ENABLED")


def test_delays_are_not_negative_and_orders_may_be() -> None:
    scenario = given(*a_pool(1), vm_created())
    scenario.when_called("VM.set_start_delay", VM, "-1").then_refused(
        "INVALID_VALUE", "start_delay", "-1"
    )
    scenario.when_called("VM.set_order", VM, "-1").then_so()
    assert scenario.vm().config.order == -1
