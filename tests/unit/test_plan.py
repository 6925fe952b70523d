"""What hosts must still be told: derived from state, the same whoever leads, nothing left after the end."""

from typing import Final

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from pool_master.core import events as ev
from pool_master.core.plan import SHUTDOWN_TIMEOUT_S, domain_config, plan, plan_all, plan_stale
from shared.enums import OnNormalExit, VmOperation
from shared.protocol import (
    CancelCommand,
    DestroyDomain,
    ForgetDomain,
    HostCommand,
    PauseDomain,
    RestartDomain,
    ShutdownDomain,
    StartDomain,
    UnpauseDomain,
)
from shared.refs import NULL_HOST
from tests.support.facts import (
    HOST,
    HOST_2,
    MIB,
    VM,
    VM_UUID,
    a_pool,
    accepted,
    elected,
    host_uuid,
    paused,
    running,
    seen,
    task,
    vm_created,
)
from tests.support.spec import Scenario, given

HOSTED: Final = (
    VmOperation.START,
    VmOperation.START_ON,
    VmOperation.PAUSE,
    VmOperation.UNPAUSE,
    VmOperation.CLEAN_SHUTDOWN,
    VmOperation.HARD_SHUTDOWN,
    VmOperation.CLEAN_REBOOT,
    VmOperation.HARD_REBOOT,
    VmOperation.POOL_MIGRATE,
)


def facts_for(operation: VmOperation) -> list[ev.Event]:
    match operation:
        case VmOperation.START | VmOperation.START_ON:
            return [vm_created()]
        case VmOperation.UNPAUSE:
            return paused()
        case _:
            return running()


def in_flight(operation: VmOperation) -> Scenario:
    destination = HOST_2 if operation is VmOperation.POOL_MIGRATE else NULL_HOST
    promised = accepted(operation, incarnation=3, destination=destination)
    return given(*a_pool(2), *facts_for(operation), promised)


def only_command(scenario: Scenario) -> HostCommand:
    ((host, command),) = plan_all(scenario.pool)
    assert host == HOST
    return command


@pytest.mark.parametrize("operation", HOSTED)
def test_every_operation_in_flight_is_one_command_to_its_host(operation: VmOperation) -> None:
    scenario = in_flight(operation)
    command = only_command(scenario)
    assert (command.task, command.vm_uuid, command.incarnation) == (task(1), VM_UUID, 3)
    assert plan(scenario.pool, [task(1)]) == plan_all(scenario.pool)


@pytest.mark.parametrize("operation", HOSTED)
def test_another_leader_plans_the_same_under_the_same_id(operation: VmOperation) -> None:
    scenario = in_flight(operation)
    first = only_command(scenario)
    scenario.and_given(elected(term=2))
    second = only_command(scenario)
    assert (first.command_id, first.action) == (second.command_id, second.action)
    assert (first.term, second.term) == (1, 2)


@pytest.mark.parametrize("operation", HOSTED)
def test_nothing_is_owed_after_the_end(operation: VmOperation) -> None:
    for end in (
        ev.TaskSucceeded(task=task(1)),
        ev.TaskFailed(task=task(1), error_info=("INTERNAL_ERROR",)),
    ):
        scenario = in_flight(operation).and_given(end)
        assert plan_all(scenario.pool) == []
        assert plan(scenario.pool, [task(1)]) == []


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        (VmOperation.PAUSE, PauseDomain()),
        (VmOperation.UNPAUSE, UnpauseDomain()),
        (VmOperation.CLEAN_SHUTDOWN, ShutdownDomain(timeout_s=SHUTDOWN_TIMEOUT_S)),
        (VmOperation.HARD_SHUTDOWN, DestroyDomain()),
    ],
)
def test_an_operation_is_what_the_host_is_told(operation: VmOperation, action: object) -> None:
    assert only_command(in_flight(operation)).action == action


@pytest.mark.parametrize("is_clean", [True, False])
def test_a_reboot_tells_whether_the_guest_is_asked(is_clean: bool) -> None:
    operation = VmOperation.CLEAN_REBOOT if is_clean else VmOperation.HARD_REBOOT
    action = only_command(in_flight(operation)).action
    assert isinstance(action, RestartDomain)
    assert (action.clean, action.config.incarnation) == (is_clean, 3)


@pytest.mark.parametrize("is_paused", ["true", "false"])
def test_a_start_tells_whether_the_guest_stays_paused(is_paused: str) -> None:
    promised = accepted(VmOperation.START, start_paused=is_paused)
    action = only_command(given(*a_pool(1), vm_created(), promised)).action
    assert isinstance(action, StartDomain)
    assert action.start_paused == (is_paused == "true")


def test_the_domain_is_as_the_vm_is_configured() -> None:
    scenario = given(
        *a_pool(1),
        vm_created(
            name_label="web",
            memory_static_max=256 * MIB,
            memory_dynamic_max=512 * MIB,
            VCPUs_max=4,
            VCPUs_at_startup=2,
            PV_kernel="/k",
            PV_ramdisk="/r",
            PV_args="quiet",
            HVM_boot_params={"order": "nc"},
            actions_after_reboot=OnNormalExit.DESTROY,
            platform={"acpi": "0"},
        ),
        accepted(VmOperation.START),
    )
    config = domain_config(scenario.pool, scenario.vm(), scenario.operation())
    assert (config.name_label, config.kernel, config.ramdisk) == ("web", "/k", "/r")
    assert (config.memory_static_max, config.memory_target) == (256 * MIB, 256 * MIB)
    assert (config.vcpus_max, config.vcpus_at_startup) == (4, 2)
    assert (config.kernel_args, config.boot_order, config.platform) == (
        "quiet",
        "nc",
        {"acpi": "0"},
    )
    assert config.actions_after_reboot is OnNormalExit.DESTROY


def test_a_vm_without_a_boot_order_boots_from_disk_then_cd() -> None:
    scenario = given(*a_pool(1), vm_created(), accepted(VmOperation.START))
    assert domain_config(scenario.pool, scenario.vm(), scenario.operation()).boot_order == "cd"


def test_a_cancel_names_the_command_that_it_cancels() -> None:
    scenario = in_flight(VmOperation.CLEAN_SHUTDOWN)
    scenario.and_given(ev.CancelRequested(task=task(1)))
    command, cancel = (command for _, command in plan(scenario.pool, [task(1)]))
    assert cancel.action == CancelCommand(cancelled_command_id=command.command_id)
    assert cancel.command_id != command.command_id


def test_hosts_that_are_not_live_are_not_owed_anything_yet() -> None:
    scenario = in_flight(VmOperation.PAUSE).and_given(ev.HostLost(host=HOST, evidence=""))
    assert plan_all(scenario.pool) == []
    scenario.and_given(ev.HostCameAlive(host=HOST))
    assert len(plan_all(scenario.pool)) == 1


def test_what_is_unknown_plans_nothing() -> None:
    scenario = given(*a_pool(1))
    assert plan(scenario.pool, [task(1)]) == []


def test_a_stale_domain_is_dropped_by_name_and_incarnation_until_it_is() -> None:
    scenario = given(
        *a_pool(1),
        vm_created(),
        ev.StaleDomainFound(host=HOST, vm_uuid=VM_UUID, incarnation=5),
    )
    ((host, command),) = plan_all(scenario.pool)
    assert (host, command.vm_uuid, command.incarnation) == (HOST, VM_UUID, 5)
    assert isinstance(command.action, ForgetDomain)
    assert plan_stale(scenario.pool) == plan_all(scenario.pool)
    scenario.and_given(ev.StaleDomainDropped(host=HOST, vm_uuid=VM_UUID, incarnation=5))
    assert plan_all(scenario.pool) == []


def test_a_forgotten_host_is_owed_nothing_and_stops_no_plan() -> None:
    scenario = given(
        *a_pool(2),
        *running(host=HOST_2),
        ev.StaleDomainFound(host=HOST, vm_uuid=VM_UUID, incarnation=1),
        accepted(VmOperation.PAUSE, host=HOST_2),
        ev.HostLost(host=HOST, evidence=""),
    )
    scenario.skip_commands(1).when_called("host.destroy", HOST).then_so()
    assert [host for host, _ in plan_all(scenario.pool)] == [HOST_2]
    # What a late word of it would have us drop is not dropped by anybody.
    assert scenario.pool.host_of_uuid(host_uuid(1)) is None


@given_any(order=st.permutations([1, 2, 3]))
def test_the_order_in_which_tasks_are_named_is_the_order_of_commands(order: list[int]) -> None:
    scenario = given(
        *a_pool(1),
        *running(),
        *(accepted(kind, number) for number, kind in enumerate(HOSTED[2:5], 1)),
    )
    tasks = [task(number) for number in order]
    assert [command.task for _, command in plan(scenario.pool, tasks)] == tasks


def test_a_step_that_is_over_is_not_told_again() -> None:
    scenario = in_flight(VmOperation.POOL_MIGRATE)
    before = only_command(scenario).command_id
    scenario.and_given(ev.OperationAdvanced(task=task(1), step=1, host=HOST_2))
    ((host, command),) = plan_all(scenario.pool)
    assert host == HOST_2
    assert command.command_id != before
    scenario.when_done(1, seen(incarnation=3)).then_so()
    assert plan_all(scenario.pool) == []
    assert scenario.vm(VM).resident_on == HOST_2


def test_an_operation_that_no_host_carries_out_is_a_mistake_of_ours() -> None:
    scenario = given(*a_pool(1), vm_created(), accepted(VmOperation.CLONE))
    with pytest.raises(AssertionError, match="clone"):
        plan_all(scenario.pool)
