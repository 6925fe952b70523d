"""VIF.plug and VIF.unplug: a device of a running VM is changed by its host, in the VM's lane."""

from typing import Any

import pytest

from pool_master.core import events as ev
from pool_master.core.classes import RECORD_BUILDERS
from pool_master.core.plan import plan, plan_all
from pool_master.core.snapshot import decode_pool, encode_pool
from shared.enums import TaskStatus, VmOperation
from shared.protocol import (
    AttachNic,
    CommandFailed,
    CommandSucceeded,
    DetachNic,
    DomainObservation,
    HostNetwork,
    NicConfig,
)
from shared.refs import VifRef
from tests.support.facts import (
    HOST,
    VM,
    VM_UUID,
    a_pool,
    accepted,
    inventory,
    running,
    seen,
    task,
)
from tests.support.spec import Scenario, given

MAC = "02:00:00:00:00:0a"
BRIDGE = HostNetwork(bridge="br0")
VIF_TASK = task(101)


def a_vm_with_a_vif() -> tuple[Scenario, VifRef]:
    """A VM with a VIF on a network that host 1 has."""
    scenario = given(*a_pool(), *running())
    scenario.when_host_says(inventory(1, seen(), networks=(BRIDGE,))).then_so()
    (network,) = scenario.pool.networks
    config = {"device": "0", "network": network, "VM": VM, "MAC": MAC.upper(), "other_config": {}}
    scenario.when_called("VIF.create", config).then_so()
    (vif,) = scenario.pool.vifs
    return scenario, vif


def plugging() -> tuple[Scenario, VifRef]:
    scenario, vif = a_vm_with_a_vif()
    scenario.skip_commands(100).when_called("VIF.plug", vif).then_so()
    return scenario, vif


def plugged() -> tuple[Scenario, VifRef]:
    scenario, vif = plugging()
    answered(scenario, seen(nics=(MAC,)))
    return scenario, vif


def answered(scenario: Scenario, observation: DomainObservation | None, code: str = "") -> None:
    """The host ends the operation in flight."""
    (operation,) = scenario.pool.device_operations.values()
    about: dict[str, Any] = {
        "command_id": f"{operation.task}/device",
        "task": operation.task,
        "vm_uuid": VM_UUID,
        "incarnation": operation.incarnation,
        "observation": observation,
    }
    body = CommandFailed(**about, code=code, parameters=("VIF", MAC)) if code else None
    scenario.when_host_says(body or CommandSucceeded(**about)).then_so()


def record(scenario: Scenario, vif: VifRef) -> dict[str, Any]:
    built: dict[str, Any] = RECORD_BUILDERS["VIF"](scenario.pool, scenario.pool.vifs[vif])
    return built


def test_plug_is_told_to_the_host_and_marks_the_vif_alone() -> None:
    scenario, vif = plugging()

    ((host, command),) = plan(scenario.pool, [VIF_TASK])
    assert (host, command.vm_uuid, command.incarnation) == (HOST, VM_UUID, 1)
    assert command.action == AttachNic(nic=NicConfig(device="0", mac=MAC, bridge="br0"))
    assert record(scenario, vif)["current_operations"] == {VIF_TASK: "plug"}
    assert record(scenario, vif)["allowed_operations"] == []
    assert scenario.vm().current_operations == {}
    assert scenario.pool.tasks[VIF_TASK].status is TaskStatus.PENDING


def test_a_new_leader_or_a_returned_host_is_told_the_same() -> None:
    scenario, _ = plugging()

    again = decode_pool(encode_pool(scenario.pool))

    assert plan_all(again) == plan(scenario.pool, [VIF_TASK])


def test_a_plugged_vif_is_attached_and_may_be_unplugged() -> None:
    scenario, vif = plugged()

    shown = record(scenario, vif)
    assert (shown["currently_attached"], shown["current_operations"]) == (True, {})
    assert shown["allowed_operations"] == ["unplug"]
    assert scenario.pool.tasks[VIF_TASK].status is TaskStatus.SUCCESS
    assert plan_all(scenario.pool) == []


def test_an_unplugged_vif_is_not_attached() -> None:
    scenario, vif = plugged()

    scenario.skip_commands(200).when_called("VIF.unplug", vif).then_so()
    ((_, command),) = plan(scenario.pool, [task(201)])
    assert isinstance(command.action, DetachNic)
    assert command.action.mac == MAC
    answered(scenario, seen())

    assert record(scenario, vif)["currently_attached"] is False
    scenario.when_called("VIF.destroy", vif).then_so()


def test_a_guest_that_does_not_let_go_keeps_it() -> None:
    scenario, vif = plugged()
    scenario.skip_commands(200).when_called("VIF.unplug", vif).then_so()

    answered(scenario, seen(nics=(MAC,)), code="DEVICE_DETACH_TIMEOUT")

    assert scenario.pool.tasks[task(201)].error_info == ("DEVICE_DETACH_TIMEOUT", "VIF", vif)
    assert record(scenario, vif)["currently_attached"] is True


def test_what_became_true_of_a_failed_operation_is_what_the_host_shows() -> None:
    scenario, vif = plugged()
    scenario.skip_commands(200).when_called("VIF.unplug", vif).then_so()

    answered(scenario, seen(), code="INTERNAL_ERROR")

    assert scenario.pool.tasks[task(201)].status is TaskStatus.FAILURE
    assert record(scenario, vif)["currently_attached"] is False


def test_an_answer_about_an_older_domain_says_nothing_of_this_one() -> None:
    scenario, vif = plugging()
    scenario.skip_commands(300).when_called("VM.hard_reboot", VM).then_so()
    scenario.when_done(301, seen(incarnation=2)).then_so()

    answered(scenario, seen(nics=(MAC,)))

    assert record(scenario, vif)["currently_attached"] is False
    assert scenario.pool.tasks[VIF_TASK].is_finished


def test_an_answer_counts_once() -> None:
    scenario, _ = plugged()
    about = CommandSucceeded(
        command_id=f"{VIF_TASK}/device", task=VIF_TASK, vm_uuid=VM_UUID, incarnation=1
    )

    scenario.when_host_says(about).then_nothing_new()


def test_a_lost_host_plugs_nothing() -> None:
    scenario, vif = plugging()

    scenario.when_lost(HOST).then_so()

    assert scenario.pool.tasks[VIF_TASK].error_info == ("HOST_OFFLINE", HOST)
    scenario.when_called("VIF.plug", vif).then_refused("HOST_OFFLINE", HOST)


def test_one_operation_at_a_time() -> None:
    scenario, vif = plugging()

    for method in ("VIF.plug", "VIF.unplug", "VIF.destroy"):
        scenario.when_called(method, vif).then_refused(
            "OTHER_OPERATION_IN_PROGRESS", "VIF", vif, "plug", VIF_TASK
        )


def test_what_is_so_already_is_refused() -> None:
    scenario, vif = a_vm_with_a_vif()
    scenario.when_called("VIF.unplug", vif).then_refused("DEVICE_ALREADY_DETACHED", vif)

    scenario, vif = plugged()
    scenario.when_called("VIF.plug", vif).then_refused("DEVICE_ALREADY_ATTACHED", vif)


@pytest.mark.parametrize("event", [ev.VmPaused(vm=VM), ev.VmHalted(vm=VM, reason="test")])
def test_only_a_running_guest_is_plugged_into(event: ev.Event) -> None:
    scenario, vif = a_vm_with_a_vif()
    scenario.and_given(event)

    assert record(scenario, vif)["allowed_operations"] == []
    actual = scenario.vm().power_state.lower()
    scenario.when_called("VIF.plug", vif).then_refused("VM_BAD_POWER_STATE", VM, "running", actual)


@pytest.mark.parametrize("operation", [VmOperation.POOL_MIGRATE, VmOperation.CLEAN_SHUTDOWN])
def test_a_guest_that_goes_is_not_plugged_into(operation: VmOperation) -> None:
    scenario, vif = a_vm_with_a_vif()
    scenario.and_given(accepted(operation))

    scenario.when_called("VIF.plug", vif).then_refused(
        "OPERATION_NOT_ALLOWED", f"Current operation on VM:{VM} is {operation}"
    )


def test_a_network_that_the_guests_host_lacks_cannot_be_plugged() -> None:
    scenario, vif = a_vm_with_a_vif()
    scenario.when_host_says(inventory(1, seen())).then_so()
    (network,) = scenario.pool.networks

    scenario.when_called("VIF.plug", vif).then_refused("VM_REQUIRES_NETWORK", VM, network)


def test_a_vif_is_not_attached_any_more_when_its_vm_is_halted() -> None:
    scenario, vif = plugged()

    scenario.skip_commands(300).when_called("VM.hard_shutdown", VM).then_so()
    scenario.when_done(301).then_so()

    assert record(scenario, vif)["currently_attached"] is False
