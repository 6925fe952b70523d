"""VM.clone, VM.copy and VM.provision, and the chains of disks that they make."""

from typing import Any, Final

from pool_master.core import events as ev
from shared.refs import VdiRef, derive, derive_ref
from shared.storage_protocol import DeleteDisk, MakeDisks
from tests.support.facts import GIB, HOST, VM, a_pool, task, vm_created, vm_started
from tests.support.spec import Scenario, given
from tests.support.storage import (
    SR,
    SR_UUID,
    VDI,
    a_disk,
    action_of,
    an_sr,
    disk_seen,
    host_did,
    host_failed,
    record,
)

CLONE: Final = derive_ref("c1", "VDI/0")
BASE: Final = VdiRef(derive_ref("c1", "base/0"))


def cloned() -> Scenario:
    """A VM with one disk, cloned by command 1."""
    scenario = a_disk(hosts=1).when_called("VM.clone", VM, "twin").then_so()
    names = [f"{derive('c1', what)}.qcow2" for what in ("base/0", "VDI/0")]
    return host_did(scenario, 1, *(disk_seen(name) for name in names)).then_so()


def test_a_clone_is_a_new_vm_with_disks_of_its_own_on_a_common_base() -> None:
    scenario = cloned()
    twin = derive_ref("c1", "VM")
    made = record(scenario, "VM", twin)
    assert (made["name_label"], made["power_state"]) == ("twin", "Halted")
    assert (
        made["other_config"]["mac_seed"] != record(scenario, "VM", VM)["other_config"]["mac_seed"]
    )
    (vbd,) = made["VBDs"]
    assert record(scenario, "VBD", vbd)["VDI"] == CLONE
    for vdi in (CLONE, VDI):
        assert record(scenario, "VDI", vdi)["parent"] == BASE
    base = record(scenario, "VDI", BASE)
    assert (base["managed"], base["VBDs"], base["allowed_operations"]) == (False, [], [])
    assert scenario.pool.tasks[task(1)].result == f"<value>{twin}</value>"
    assert record(scenario, "VM", VM)["current_operations"] == {}


def test_nobody_starts_a_vm_that_is_being_cloned() -> None:
    scenario = a_disk(hosts=1).when_called("VM.clone", VM, "twin").then_so()
    scenario.when_called("VM.start", VM, False, False).then_refused(
        "OTHER_OPERATION_IN_PROGRESS", "VM", VM, "clone", task(1)
    )


def test_a_failed_clone_leaves_no_vm_and_no_disk() -> None:
    scenario = a_disk(hosts=1).when_called("VM.clone", VM, "twin").then_so()
    before = (list(scenario.pool.vms), list(scenario.pool.vdis))
    scenario = host_failed(scenario, 1, "SR_FULL", "2", "1").then(
        ev.TaskFailed(task=task(1), error_info=("SR_FULL", "2", "1"))
    )
    assert (list(scenario.pool.vms), list(scenario.pool.vdis)) == before
    assert record(scenario, "VDI", VDI)["current_operations"] == {}
    assert record(scenario, "VM", VM)["current_operations"] == {}


def order_of(scenario: Scenario, number: int) -> Any:
    action = action_of(scenario, number)
    assert isinstance(action, MakeDisks)
    (order,) = action.orders
    return order


def test_cloning_again_what_nobody_wrote_to_makes_no_longer_chain() -> None:
    scenario = cloned()
    base = scenario.pool.vdis[BASE].location
    scenario = scenario.when_called("VM.clone", VM, "third").then_so()
    order = order_of(scenario, 3)
    assert (order.source, order.base) == (base, base)


def test_what_was_written_since_gets_a_base_of_its_own() -> None:
    scenario = cloned().and_given(vm_started(), ev.VmHalted(vm=VM, reason="test"))
    scenario = scenario.when_called("VM.clone", VM, "third").then_so()
    order = order_of(scenario, 3)
    assert order.source == scenario.pool.vdis[VDI].location
    assert order.base == f"{derive('c3', 'base/0')}.qcow2"


def test_the_base_goes_with_the_last_disk_that_is_built_on_it() -> None:
    scenario = cloned().when_called("VDI.destroy", CLONE).then_so()
    scenario = host_did(scenario, 3).then_so()
    assert BASE in scenario.pool.vdis
    scenario = scenario.when_called("VDI.destroy", VDI).then_so()
    scenario = host_did(scenario, 5).then_so()
    action = action_of(scenario, 5)
    assert isinstance(action, DeleteDisk)
    assert action.location == scenario.pool.vdis[BASE].location
    scenario = host_did(scenario, 5).then_so()
    assert not scenario.pool.vdis
    assert scenario.pool.tasks[task(5)].status == "success"


def test_both_disks_of_a_base_may_go_at_once() -> None:
    scenario = cloned().when_called("VDI.destroy", CLONE).then_so()
    scenario = scenario.when_called("VDI.destroy", VDI).then_so()
    for number in (3, 4, 4):
        scenario = host_did(scenario, number).then_so()
    assert not scenario.pool.vdis
    assert not scenario.pool.storage_operations


def test_a_copy_shares_nothing() -> None:
    scenario = a_disk(hosts=1).when_called("VM.copy", VM, "twin", SR).then_so()
    order = order_of(scenario, 1)
    assert (order.source, order.base) == (scenario.pool.vdis[VDI].location, "")
    name = f"{derive('c1', 'VDI/0')}.qcow2"
    scenario = host_did(scenario, 1, disk_seen(name)).then_so()
    assert record(scenario, "VDI", CLONE)["parent"] == "OpaqueRef:NULL"
    assert record(scenario, "VM", derive_ref("c1", "VM"))["name_label"] == "twin"


def test_a_vm_without_disks_is_cloned_at_once() -> None:
    scenario = given(*a_pool(1), vm_created()).when_called("VM.clone", VM, "twin").then_so()
    assert record(scenario, "VM", derive_ref("c1", "VM"))["name_label"] == "twin"


def a_template(disks: str) -> Scenario:
    other_config = {"disks": disks} if disks else {}
    return given(*a_pool(1), *an_sr(1), vm_created(is_a_template=True, other_config=other_config))


def test_a_template_is_provisioned_with_its_disks() -> None:
    wanted = (
        f'<provision><disk device="0" size="{GIB}" sr="{SR_UUID}" bootable="true"'
        ' type="system"/></provision>'
    )
    scenario = a_template(wanted).when_called("VM.provision", VM).then_so()
    assert record(scenario, "VM", VM)["is_a_template"]
    scenario = host_did(scenario, 1).then_so()
    vm = record(scenario, "VM", VM)
    assert (vm["is_a_template"], vm["other_config"]) == (False, {})
    (vbd,) = [record(scenario, "VBD", ref) for ref in vm["VBDs"]]
    assert (vbd["userdevice"], vbd["bootable"], vbd["VDI"]) == ("0", True, CLONE)
    assert scenario.pool.vms[VM].resident_on != HOST


def test_a_template_without_disks_is_a_vm_at_once() -> None:
    scenario = a_template("").when_called("VM.provision", VM).then_so()
    assert not record(scenario, "VM", VM)["is_a_template"]


def test_a_template_that_wants_nonsense_is_refused_by_name() -> None:
    for disks, refusal in (
        ("<provision", ("INVALID_VALUE", "other_config:disks", "<provision")),
        ('<provision><disk sr="x" size="1"/></provision>', ("UUID_INVALID", "sr", "x")),
        (
            f'<provision><disk sr="{SR_UUID}" size="big"/></provision>',
            ("INVALID_VALUE", "other_config:disks:size", "big"),
        ),
    ):
        a_template(disks).when_called("VM.provision", VM).then_refused(*refusal)
