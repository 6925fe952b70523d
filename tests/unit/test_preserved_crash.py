"""A guest that crashed and is kept in memory: Paused in XenAPI's words, and there until somebody stops it."""

from dataclasses import replace

from pool_master.core import events as ev
from pool_master.core.vm_lifecycle import HardShutdown, Unpause
from shared.enums import VmOperation
from shared.protocol import DomainState
from tests.support.facts import VM, a_pool, accepted, paused, seen, task
from tests.support.spec import given

PRESERVED = replace(seen(), state=DomainState.CRASHED)
GONE = seen(DomainState.CRASHED)


def test_an_unpause_that_fails_leaves_a_preserved_crash_where_it_is() -> None:
    scenario = given(*a_pool(), *paused()).when(Unpause(vm=VM)).then_so()
    scenario.when_failed(1, "VM_BAD_POWER_STATE", observation=PRESERVED).then(
        ev.TaskFailed(task=task(1), error_info=("VM_BAD_POWER_STATE",))
    )


def test_a_crash_that_was_not_preserved_leaves_nothing() -> None:
    scenario = given(*a_pool(), *paused()).when(Unpause(vm=VM)).then_so()
    scenario.when_failed(1, "VM_BAD_POWER_STATE", observation=GONE).then(
        ev.VmHalted(vm=VM, reason="unpause failed, no domain is left"),
        ev.TaskFailed(task=task(1), error_info=("VM_BAD_POWER_STATE",)),
    )


def test_a_preserved_crash_can_be_stopped() -> None:
    given(*a_pool(), *paused()).when(HardShutdown(vm=VM)).then(
        accepted(VmOperation.HARD_SHUTDOWN, incarnation=1)
    )
