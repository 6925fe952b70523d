"""SRs, disks and what VMs have of them: wishes, hosts' words and what follows."""

from typing import Any

import pytest

from pool_master.core import events as ev
from pool_master.core import storage_events as sev
from pool_master.core.plan import plan, plan_all
from shared.refs import NULL, derive, derive_ref
from shared.storage_protocol import (
    AttachStorage,
    DeleteDisk,
    DetachStorage,
    MakeDisks,
    ResizeDisk,
)
from tests.support.facts import (
    GIB,
    HOST,
    HOST_2,
    VM,
    a_pool,
    task,
    vm_started,
)
from tests.support.spec import given
from tests.support.storage import (
    SR,
    VDI,
    a_disk,
    action_of,
    an_sr,
    disk_seen,
    host_did,
    host_failed,
    pbd_ref,
    record,
)

# --- SRs


SR_CREATE: tuple[Any, ...] = (
    HOST,
    {"location": "/srv/disks"},
    "0",
    "disks",
    "all",
    "nfs",
    "user",
    True,
    {},
)


def test_an_sr_is_in_the_log_when_its_host_can_use_it_and_then_spreads() -> None:
    scenario = given(*a_pool(2)).when_called("SR.create", *SR_CREATE).then_so()
    assert list(scenario.pool.srs) == []
    action = action_of(scenario, 1)
    assert isinstance(action, AttachStorage)
    assert action.is_new
    assert action.storage.device_config == {"location": "/srv/disks"}

    scenario = host_did(scenario, 1).then_so()

    sr = derive_ref("c1", "SR")
    assert record(scenario, "SR", sr)["physical_size"] == 100 * GIB
    assert scenario.pool.tasks[task(1)].result == f"<value>{sr}</value>"
    pbds = record(scenario, "SR", sr)["PBDs"]
    assert [scenario.pool.pbds[x].currently_attached for x in pbds] == [True, False]
    ((host, command),) = plan_all(scenario.pool)
    assert host == HOST_2
    assert isinstance(command.action, AttachStorage)
    assert not command.action.is_new
    assert command.action.storage.sr_uuid == action.storage.sr_uuid


def test_an_sr_that_could_not_be_made_leaves_nothing() -> None:
    scenario = given(*a_pool(1)).when_called("SR.create", *SR_CREATE).then_so()
    host_failed(scenario, 1, "SR_BACKEND_FAILURE", "", "", "no").then(
        ev.TaskFailed(task=task(1), error_info=("SR_BACKEND_FAILURE", "", "", "no"))
    )
    assert not scenario.pool.srs
    assert not scenario.pool.storage_operations


@pytest.mark.parametrize("location", ["", "relative", "/", "/a/../b", "/a\nb"])
def test_an_sr_needs_a_plain_absolute_path(location: str) -> None:
    arguments = (HOST, {"location": location}, *SR_CREATE[2:])
    given(*a_pool(1)).when_called("SR.create", *arguments).then_refused(
        "INVALID_VALUE", "device_config:location", location
    )


def test_an_sr_of_an_unknown_type_is_refused() -> None:
    arguments = (*SR_CREATE[:5], "lvmoiscsi", *SR_CREATE[6:])
    given(*a_pool(1)).when_called("SR.create", *arguments).then_refused(
        "SR_UNKNOWN_DRIVER", "lvmoiscsi"
    )


def test_a_plugged_sr_is_neither_forgotten_nor_destroyed() -> None:
    scenario = given(*a_pool(1), *an_sr(1))
    scenario.when_called("SR.forget", SR).then_refused("SR_HAS_PBD", SR)
    scenario.when_called("SR.destroy", SR).then_refused("SR_HAS_PBD", SR)


def test_an_unplugged_sr_is_forgotten_with_what_was_known_of_it() -> None:
    scenario = a_disk(hosts=1).and_given(sev.PbdDetached(pbd=pbd_ref(1)))
    scenario.when_called("SR.destroy", SR).then_refused("SR_NOT_EMPTY")
    scenario = scenario.when_called("SR.forget", SR).then(sev.SrForgotten(sr=SR))
    for table in ("srs", "pbds", "vdis", "vbds", "links"):
        assert not getattr(scenario.pool, table), table


def test_an_sr_is_destroyed_by_a_host_that_knows_it() -> None:
    scenario = given(*a_pool(1), *an_sr(1), sev.PbdDetached(pbd=pbd_ref(1)))
    scenario = scenario.when_called("SR.destroy", SR).then_so()
    assert action_of(scenario, 1) == DetachStorage(
        storage=action_of(scenario, 1).storage, is_final=True
    )
    scenario = host_did(scenario, 1).then_so()
    assert not scenario.pool.srs


def test_nothing_begins_on_a_host_from_the_moment_its_pbd_is_unplugged() -> None:
    scenario = a_disk(hosts=1).when_called("PBD.unplug", pbd_ref(1)).then_so()
    scenario.when_called("VM.start", VM, False, False).then_refused("VM_REQUIRES_SR", VM, SR)
    scenario = host_failed(scenario, 1, "SR_BACKEND_FAILURE").then_so()
    assert scenario.pool.pbds[pbd_ref(1)].currently_attached


def test_a_pbd_is_not_unplugged_under_a_guest() -> None:
    scenario = a_disk(vm_started())
    scenario.when_called("PBD.unplug", pbd_ref(1)).then_refused("VDI_IN_USE", VDI, "unplug")
    scenario.when_called("PBD.unplug", pbd_ref(2)).then_so()


def test_a_shared_sr_is_under_the_same_path_on_every_host() -> None:
    scenario = given(*a_pool(2), *an_sr(1, shared=True))
    wish = {"host": HOST_2, "SR": SR, "device_config": {"location": "/other"}}
    scenario.when_called("PBD.create", wish).then_refused(
        "INVALID_VALUE", "device_config:location", "/other"
    )
    wish["device_config"] = {"location": "/srv/disks"}
    scenario.when_called("PBD.create", wish).then_so()
    scenario.when_called("PBD.create", wish).then_refused(
        "PBD_EXISTS", SR, HOST_2, derive_ref("c2", "PBD")
    )


def test_a_scan_marks_what_is_not_there_any_more() -> None:
    scenario = a_disk(hosts=1).when_called("SR.scan", SR).then_so()
    scenario = host_did(scenario, 1).then_so()
    assert record(scenario, "VDI", VDI)["missing"]
    scenario.when_called("VM.start", VM, False, False).then_refused("VDI_MISSING", SR, VDI)
    scenario = scenario.when_called("SR.scan", SR).then_so()
    number = 3
    scenario = host_did(scenario, number + 1, disk_seen(scenario.pool.vdis[VDI].location)).then_so()
    assert not record(scenario, "VDI", VDI)["missing"]


# --- disks


def vdi_record(**changes: Any) -> dict[str, Any]:
    values = {"SR": SR, "virtual_size": str(GIB), "name_label": "disk", "type": "user"}
    return {**values, "sharable": False, "read_only": False, "other_config": {}, **changes}


def test_a_disk_is_in_the_log_when_it_is_whole() -> None:
    scenario = given(*a_pool(1), *an_sr(1)).when_called("VDI.create", vdi_record()).then_so()
    assert not scenario.pool.vdis
    assert record(scenario, "SR", SR)["current_operations"] == {task(1): "vdi_create"}
    action = action_of(scenario, 1)
    uuid = derive("c1", "VDI/0")
    assert isinstance(action, MakeDisks)
    assert [(x.name, x.size, x.source) for x in action.orders] == [(f"{uuid}.qcow2", GIB, "")]

    scenario = host_did(scenario, 1, disk_seen(f"{uuid}.qcow2")).then_so()

    vdi = derive_ref("c1", "VDI/0")
    made = record(scenario, "VDI", vdi)
    assert (made["location"], made["virtual_size"]) == (f"{uuid}.qcow2", GIB)
    assert record(scenario, "SR", SR)["VDIs"] == [vdi]
    assert record(scenario, "SR", SR)["virtual_allocation"] == GIB
    assert record(scenario, "SR", SR)["current_operations"] == {}
    assert scenario.pool.tasks[task(1)].result == f"<value>{vdi}</value>"


def test_a_disk_larger_than_its_sr_is_refused() -> None:
    size = 101 * GIB
    given(*a_pool(1), *an_sr(1)).when_called(
        "VDI.create", vdi_record(virtual_size=str(size))
    ).then_refused("SR_FULL", str(size), str(100 * GIB))


@pytest.mark.parametrize(
    ("wrong", "refusal"),
    [
        ({"virtual_size": "0"}, ("INVALID_VALUE", "virtual_size", "0")),
        ({"SR": "OpaqueRef:none"}, ("HANDLE_INVALID", "SR", "OpaqueRef:none")),
        (
            {"sm_config": {"type": "vhd"}},
            ("VALUE_NOT_SUPPORTED", "sm_config:type", "vhd", "qcow2 or raw"),
        ),
    ],
)
def test_a_disk_that_cannot_be_is_refused(wrong: Any, refusal: Any) -> None:
    scenario = given(*a_pool(1), *an_sr(1))
    scenario.when_called("VDI.create", vdi_record(**wrong)).then_refused(*refusal)


def test_a_lost_host_fails_what_it_was_to_do_with_storage_exactly_once() -> None:
    scenario = given(*a_pool(1), *an_sr(1)).when_called("VDI.create", vdi_record()).then_so()
    scenario = scenario.when_lost().then(
        ev.HostLost(host=HOST, evidence="lease expired"),
        ev.TaskFailed(task=task(1), error_info=("HOST_OFFLINE", HOST)),
    )
    assert not scenario.pool.storage_operations
    assert record(scenario, "SR", SR)["current_operations"] == {}
    assert plan_all(scenario.pool) == []


def test_a_cancel_is_told_to_the_host_that_is_at_it() -> None:
    scenario = given(*a_pool(1), *an_sr(1)).when_called("VDI.create", vdi_record()).then_so()
    scenario = scenario.when_called("task.cancel", task(1)).then_so()
    _, (_, cancel) = plan(scenario.pool, [task(1)])
    assert cancel.command_id == f"{task(1)}/0/cancel"
    scenario = host_failed(scenario, 1, "TASK_CANCELLED", task(1)).then_so()
    assert scenario.pool.tasks[task(1)].status == "cancelled"
    assert not scenario.pool.vdis


def test_a_disk_grows_and_never_shrinks() -> None:
    scenario = a_disk()
    scenario.when_called("VDI.resize", VDI, str(GIB // 2)).then_refused(
        "INVALID_VALUE", "size", str(GIB // 2)
    )
    scenario = scenario.when_called("VDI.resize", VDI, str(2 * GIB)).then_so()
    action = action_of(scenario, 2)
    assert isinstance(action, ResizeDisk)
    assert action.size == 2 * GIB
    host = 1 if scenario.pool.storage_operations[task(2)].host == HOST else 2
    scenario = host_did(scenario, 2, disk_seen("x", 2 * GIB), host=host).then_so()
    assert record(scenario, "VDI", VDI)["virtual_size"] == 2 * GIB


@pytest.mark.parametrize(
    ("method", "arguments", "word"),
    [
        ("VDI.destroy", (), "destroy"),
        ("VDI.resize", (str(2 * GIB),), "resize"),
        ("VDI.clone", ({},), "clone"),
        ("VDI.snapshot", ({},), "snapshot"),
        ("VDI.copy", (NULL, NULL, NULL), "copy"),
    ],
)
def test_a_disk_that_a_guest_has_is_left_alone_and_says_so(
    method: str, arguments: tuple[Any, ...], word: str
) -> None:
    scenario = a_disk(vm_started())
    scenario.when_called(method, VDI, *arguments).then_refused("VDI_IN_USE", VDI, word)
    assert record(scenario, "VDI", VDI)["allowed_operations"] == []
    scenario.and_given(ev.VmHalted(vm=VM, reason="test"))
    assert word in record(scenario, "VDI", VDI)["allowed_operations"]
    scenario.when_called(method, VDI, *arguments).then_so()
    assert record(scenario, "VDI", VDI)["current_operations"] == {task(2): word}


def test_a_destroyed_disk_is_taken_out_of_its_vm() -> None:
    scenario = a_disk(hosts=1).when_called("VDI.destroy", VDI).then_so()
    assert isinstance(action_of(scenario, 1), DeleteDisk)
    scenario = host_did(scenario, 1).then_so()
    assert record(scenario, "VM", VM)["VBDs"] == []
    assert not scenario.pool.vdis
    scenario.when_called("VM.destroy", VM).then_so()
    assert list(scenario.pool.links) == [f"SR.PBDs/{SR}", f"host.PBDs/{HOST}"]


def test_a_destroyed_vm_leaves_its_disk() -> None:
    scenario = a_disk(hosts=1).when_called("VM.destroy", VM).then_so()
    assert record(scenario, "VDI", VDI)["VBDs"] == []
    assert not scenario.pool.vbds
    scenario.when_called("VDI.destroy", VDI).then_so()
