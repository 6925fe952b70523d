"""Random lives of disks: whatever clients ask in whichever order, nothing is left behind and no disk has two writers."""

from typing import Any, Final

from hypothesis import example, settings
from hypothesis import given as with_any
from hypothesis import strategies as st

from pool_master.core.plan import plan
from pool_master.core.storage_plan import plan_storage
from shared.enums import PowerState, VbdMode
from shared.storage_protocol import MakeDisks
from tests.support.facts import GIB, HOST, OTHER_VM, config, seen
from tests.support.facts import task as numbered
from tests.support.spec import Outcome, Scenario
from tests.support.storage import (
    OTHER_VBD,
    SR,
    a_disk,
    disk_seen,
    host_did,
    host_failed,
    vbd_created,
    vbd_record,
)
from tests.unit.test_storage import vdi_record

CALLS: Final = (
    "VM.create",
    "VM.destroy",
    "VM.start",
    "VM.hard_shutdown",
    "VM.clone",
    "VM.copy",
    "VDI.create",
    "VDI.destroy",
    "VDI.clone",
    "VDI.resize",
    "VBD.create",
    "VBD.destroy",
    *("host answers",) * 5,
    "host fails",
)


class World:
    """A pool with one host and two VMs that have one disk; clients pick from what is there."""

    def __init__(self) -> None:
        self.scenario: Scenario = a_disk(vbd_created(OTHER_VBD, vm=OTHER_VM), hosts=1)

    @property
    def pool(self) -> Any:
        return self.scenario.pool

    def step(self, call: str, choice: int) -> None:
        if call.startswith("host"):
            self.answer(choice, goes_well=call == "host answers")
        elif (arguments := self._arguments(call, choice)) is not None:
            self._take(self.scenario.when_called(call, *arguments))
        self.check()

    def _take(self, outcome: Outcome) -> None:
        if outcome.refusal is None:
            outcome.then_so()

    def _arguments(self, call: str, choice: int) -> tuple[Any, ...] | None:
        of_class = {"VM": self.pool.vms, "VDI": self.pool.vdis, "VBD": self.pool.vbds}
        table = list(of_class[call.partition(".")[0]])
        match call:
            case "VM.create":
                wanted = config()
                return ({name: getattr(wanted, name) for name in wanted.__struct_fields__},)
            case "VDI.create":
                return (vdi_record(),)
            case "VBD.create":
                vms, vdis = list(self.pool.vms), list(self.pool.vdis)
                if not vms or not vdis:
                    return None
                pair = (vms[choice % len(vms)], vdis[choice // 3 % len(vdis)])
                return (vbd_record(*pair),)
            case _:
                pass
        if not table:
            return None
        picked = table[choice % len(table)]
        more = {
            "VM.start": (False, False),
            "VM.clone": ("twin",),
            "VM.copy": ("copy", SR),
            "VDI.clone": ({},),
            "VDI.resize": (str(2 * GIB),),
        }
        return (picked, *more.get(call, ()))

    def answer(self, choice: int, *, goes_well: bool) -> None:
        pending = [*self.pool.storage_operations, *self.pool.operations]
        if not pending:
            return
        task = pending[choice % len(pending)]
        number = self._number_of(task)
        if task in self.pool.operations:
            if goes_well:
                operation = self.pool.operations[task]
                vm = self.pool.vms[operation.vm]
                is_start = operation.kind == "start"
                shown = seen(incarnation=operation.incarnation, uuid=vm.uuid) if is_start else None
                self._take(self.scenario.when_done(number, shown))
            else:
                self._take(self.scenario.when_failed(number, was_begun=False))
        elif goes_well:
            self._take(host_did(self.scenario, number, *self._disks(task)))
        else:
            self._take(host_failed(self.scenario, number, "SR_BACKEND_FAILURE", "", "", "no"))

    def _number_of(self, task: str) -> int:
        return next(number for number in range(1, 1_000) if numbered(number) == task)

    def _disks(self, task: Any) -> list[Any]:
        ((_, command), *_) = plan_storage(self.pool, self.pool.storage_operations[task])
        if isinstance(command.action, MakeDisks):
            names = [x for order in command.action.orders for x in (order.base, order.name) if x]
            return [disk_seen(name) for name in names]
        return [disk_seen("any", 2 * GIB)]

    def check(self) -> None:
        pool = self.pool
        for vdi in pool.vdis.values():
            vbds = [vbd for vbd in pool.vbds.values() if vdi.ref == vbd.config.VDI]
            attached = [vbd for vbd in vbds if vbd.currently_attached]
            writers = [vbd for vbd in attached if vbd.config.mode is VbdMode.RW]
            assert len(writers) <= 1
            assert not (attached and vdi.current_operations)
            assert vdi.parent == "OpaqueRef:NULL" or vdi.parent in pool.vdis
            marks = [x for x in vdi.current_operations if x not in pool.storage_operations]
            assert marks == []
        for vbd in pool.vbds.values():
            vm = pool.vms[vbd.config.VM]
            assert not (vbd.currently_attached and vm.power_state is PowerState.HALTED)
            assert vbd.config.VDI in pool.vdis
        for base in pool.vdis.values():
            if not base.managed and not base.current_operations:
                assert pool.linked("VDI.children", base.ref)
        assert all(plan(pool, [task]) for task in pool.storage_operations)

    def clear(self) -> None:
        """Let everything end well, and destroy all that is there."""
        for _ in range(400):
            if self.pool.storage_operations or self.pool.operations:
                self.answer(0, goes_well=True)
        for vm in list(self.pool.vms):
            if self.pool.vms[vm].power_state is not PowerState.HALTED:
                self.scenario.when_called("VM.hard_shutdown", vm).then_so()
                self.answer(0, goes_well=True)
            self.scenario.when_called("VM.destroy", vm).then_so()
        while disks := [x.ref for x in self.pool.vdis.values() if x.managed]:
            self.scenario.when_called("VDI.destroy", disks[0]).then_so()
            while self.pool.storage_operations:
                self.answer(0, goes_well=True)


TWO_STARTS: Final = [("VM.start", 0), ("VM.start", 1), ("host answers", 0), ("host answers", 0)]
A_CLONE: Final = [("VM.clone", 0), ("host answers", 0), ("VDI.clone", 0), ("host answers", 0)]


@settings(deadline=None)
@example(TWO_STARTS)
@example(A_CLONE)
@with_any(st.lists(st.tuples(st.sampled_from(CALLS), st.integers(0, 60)), min_size=20, max_size=60))
def test_nothing_of_any_life_is_left_behind(steps: list[tuple[str, int]]) -> None:
    world = World()
    for call, choice in steps:
        world.step(call, choice)
    world.clear()
    pool = world.pool
    assert not pool.vdis
    assert not pool.vbds
    assert not pool.storage_operations
    assert not pool.residents_of(HOST)
    assert [key.partition("/")[0] for key in pool.links] == ["SR.PBDs", "host.PBDs"]
