"""VM.power_state_reset: Halted only once it is proven that the guest is dead."""

from typing import Final

import pytest
from msgspec.structs import replace

from pool_master.core import events as ev
from pool_master.core.vm_lifecycle import HardShutdown, Start, StartOn
from pool_master.core.vm_migration import PoolMigrate
from pool_master.core.vm_recovery import PowerStateReset
from shared.enums import TaskStatus, VmOperation
from shared.protocol import HostInventory
from shared.refs import NULL_HOST
from tests.support.facts import (
    HOST,
    HOST_2,
    VM,
    VM_UUID,
    a_pool,
    host_uuid,
    inventory,
    paused,
    running,
    seen,
    task,
    vm_created,
    vm_started,
)
from tests.support.spec import given, halted_after

RESET: Final = PowerStateReset(vm=VM)
PROVEN: Final = ev.VmReset(vm=VM, evidence=f"host {host_uuid(1)} was declared lost")


@pytest.mark.parametrize("facts", [running(), paused()], ids=["running", "paused"])
def test_a_vm_of_a_host_that_lives_is_not_reset(facts: list[ev.Event]) -> None:
    given(*a_pool(), *facts).when(RESET).then_refused("HOST_IS_LIVE", HOST)


def test_a_vm_is_reset_once_its_host_is_lost() -> None:
    scenario = given(*a_pool(), *running())
    scenario.when(RESET).then_refused("HOST_IS_LIVE", HOST)
    scenario.when_lost(HOST).then_so()
    scenario.when(RESET).then(PROVEN)
    halted_after(scenario)
    assert scenario.pool.residents_of(HOST) == ()


def test_a_reset_vm_starts_elsewhere_as_a_new_incarnation_and_the_old_one_is_dropped() -> None:
    scenario = given(*a_pool(), *running()).when_lost(HOST).then_so()
    scenario.when(RESET).then_so()
    scenario.when(StartOn(vm=VM, host=HOST_2, start_paused=False, force=False)).then_so()
    scenario.when_done(3, seen(incarnation=2)).then(
        vm_started(host=HOST_2, incarnation=2), ev.TaskSucceeded(task=task(3))
    )
    assert scenario.vm().incarnation == 2


def test_a_halted_vm_has_nothing_to_reset() -> None:
    given(*a_pool(), vm_created()).when(RESET).then_nothing_new()


def test_a_vm_that_starts_on_a_host_that_lives_is_not_reset() -> None:
    scenario = given(*a_pool(1), vm_created())
    scenario.when(Start(vm=VM, start_paused=False, force=False)).then_so()
    scenario.when(RESET).then_refused("HOST_IS_LIVE", HOST)


def test_a_migrating_vm_is_reset_only_when_both_hosts_are_lost() -> None:
    scenario = given(*a_pool(), *running()).when(PoolMigrate(vm=VM, host=HOST_2)).then_so()
    scenario.when_lost(HOST).then_so()
    scenario.when(RESET).then_refused("HOST_IS_LIVE", HOST_2)
    scenario.when_lost(HOST_2).then_so()
    scenario.when(RESET).then(PROVEN)


def test_a_host_that_may_have_the_guest_before_the_log_knows_keeps_it_from_a_reset() -> None:
    """Whatever has become of the reservation: who carries out an operation may have a domain of it."""
    scenario = given(*a_pool(), *running()).when(PoolMigrate(vm=VM, host=HOST_2)).then_so()
    scenario.and_given(vm_started(domid=8), ev.HostLost(host=HOST, evidence=""))
    assert scenario.vm().scheduled_to_be_resident_on == NULL_HOST
    scenario.when(RESET).then_refused("HOST_IS_LIVE", HOST_2)


def test_a_reset_ends_what_was_in_flight() -> None:
    scenario = given(*a_pool(), *running()).when(HardShutdown(vm=VM)).then_so()
    # A log that knows of the loss, but not yet of what it means for the operation.
    scenario.and_given(ev.HostLost(host=HOST, evidence=""))
    scenario.when(RESET).then(
        ev.TaskFailed(task=task(1), error_info=("HOST_OFFLINE", HOST, "power_state_reset")),
        PROVEN,
    )
    assert scenario.vm().current_operations == {}
    assert scenario.pool.tasks[task(1)].status is TaskStatus.FAILURE


def test_a_template_can_be_reset_and_a_control_domain_cannot() -> None:
    given(*a_pool(), vm_created(is_a_template=True)).when(RESET).then()
    scenario = given(*a_pool(), vm_created())
    scenario.pool.vms[VM] = replace(scenario.vm(), is_control_domain=True)
    scenario.when(RESET).then_refused("CANNOT_RESET_CONTROL_DOMAIN", VM)


def test_a_blocked_reset_is_refused() -> None:
    blocked = {VmOperation.POWER_STATE_RESET: "no"}
    given(*a_pool(), vm_created(blocked_operations=blocked)).when(RESET).then_refused(
        "OPERATION_BLOCKED", VM, "no"
    )


def test_a_vm_that_does_not_exist_cannot_be_reset() -> None:
    given(*a_pool()).when(RESET).then_refused("HANDLE_INVALID", "VM", VM)


def test_the_host_that_comes_back_is_told_to_drop_what_was_reset() -> None:
    scenario = given(*a_pool(), *running()).when_lost(HOST).then_so()
    scenario.when(RESET).then_so()
    found = ev.StaleDomainFound(host=HOST, vm_uuid=VM_UUID, incarnation=1)
    assert found in scenario.when_host_says(inventory_of(1)).told()


def inventory_of(incarnation: int) -> HostInventory:
    return inventory(1, seen(incarnation=incarnation))
