"""What VMs have of disks: devices, and guests that are built with them."""

from typing import Any

import pytest

from pool_master.core import events as ev
from pool_master.core.snapshot import decode_pool, encode_pool
from shared.enums import VmOperation
from shared.refs import NULL_VDI, derive_ref
from tests.support.facts import (
    HOST,
    HOST_2,
    OTHER_VM,
    OTHER_VM_UUID,
    VM,
    a_pool,
    accepted,
    seen,
    task,
    vm_created,
    vm_started,
)
from tests.support.spec import given
from tests.support.storage import (
    OTHER_VBD,
    OTHER_VDI,
    SECOND,
    SR,
    VBD,
    VDI,
    a_disk,
    action_of,
    an_sr,
    pbd_ref,
    record,
    vbd_created,
    vbd_record,
    vdi_created,
)

# --- devices


def test_a_vbd_gets_the_lowest_free_device() -> None:
    scenario = a_disk(vdi_created(OTHER_VDI))
    assert scenario.answer("VM.get_allowed_VBD_devices", VM)[:2] == ("1", "2")
    scenario = scenario.when_called("VBD.create", vbd_record(vdi=OTHER_VDI)).then_so()
    made = record(scenario, "VBD", derive_ref("c1", "VBD"))
    assert (made["userdevice"], made["currently_attached"]) == ("1", False)
    assert record(scenario, "VM", VM)["VBDs"] == [VBD, derive_ref("c1", "VBD")]


@pytest.mark.parametrize(
    ("wrong", "refusal"),
    [
        ({"userdevice": "0"}, ("DEVICE_ALREADY_EXISTS", "0")),
        ({"userdevice": "xvda"}, ("DEVICE_ALREADY_EXISTS", "xvda")),
        ({"userdevice": "16"}, ("INVALID_DEVICE", "16")),
        ({"userdevice": "floppy"}, ("INVALID_DEVICE", "floppy")),
        ({"type": "CD"}, ("VBD_CDS_MUST_BE_READONLY",)),
        ({"empty": True}, ("INVALID_VALUE", "empty", "true")),
        ({"VDI": VDI}, ("VDI_IN_USE", VDI, "attach")),
        ({"VDI": "OpaqueRef:none"}, ("HANDLE_INVALID", "VDI", "OpaqueRef:none")),
        (
            {"type": "Floppy"},
            ("VALUE_NOT_SUPPORTED", "type", "Floppy", "only Disk and CD"),
        ),
    ],
)
def test_a_vbd_that_cannot_be_is_refused(wrong: Any, refusal: Any) -> None:
    scenario = a_disk(vdi_created(OTHER_VDI))
    scenario.when_called("VBD.create", {**vbd_record(vdi=OTHER_VDI), **wrong}).then_refused(
        *refusal
    )


def test_a_read_only_disk_is_only_read() -> None:
    scenario = a_disk(vdi_created(OTHER_VDI, read_only=True))
    wish = vbd_record(vdi=OTHER_VDI)
    scenario.when_called("VBD.create", wish).then_refused("VDI_READONLY", OTHER_VDI)
    scenario.when_called("VBD.create", {**wish, "mode": "RO"}).then_so()


def test_devices_do_not_change_while_a_domain_with_them_is_on_its_way() -> None:
    scenario = a_disk(vdi_created(OTHER_VDI), accepted(VmOperation.START, 9))
    for method, arguments in (
        ("VBD.create", vbd_record(vdi=OTHER_VDI)),
        ("VBD.destroy", VBD),
        ("VBD.set_userdevice", None),
    ):
        call = (VBD, "5") if arguments is None else (arguments,)
        scenario.when_called(method, *call).then_refused(
            "OTHER_OPERATION_IN_PROGRESS", "VM", VM, "start", task(9)
        )


# --- guests with disks


def test_a_domain_has_the_vms_disks_in_the_order_of_their_devices() -> None:
    cd = vbd_created(OTHER_VBD, vdi=NULL_VDI, userdevice="3", type="CD", mode="RO", empty=True)
    second = vbd_created(SECOND, vdi=OTHER_VDI, userdevice="1", mode="RO")
    scenario = a_disk(vdi_created(OTHER_VDI), cd, second)
    scenario = scenario.when_called("VM.start_on", VM, HOST, False, False).then_so()
    disks = action_of(scenario, 1).config.disks
    location = scenario.pool.vdis[VDI].location
    assert [(x.device, x.source, x.read_only, x.is_cdrom) for x in disks] == [
        ("vda", f"/srv/disks/{location}", False, False),
        ("vdb", f"/srv/disks/{scenario.pool.vdis[OTHER_VDI].location}", True, False),
        ("hdc", "", True, True),
    ]
    assert [(x.format, x.is_shared) for x in disks[:2]] == [("qcow2", True)] * 2


def test_disks_are_attached_while_there_is_a_domain() -> None:
    scenario = a_disk().when_called("VM.start_on", VM, HOST, False, False).then_so()
    assert not record(scenario, "VBD", VBD)["currently_attached"]
    scenario = scenario.when_done(1, seen()).then_so()
    attached = record(scenario, "VBD", VBD)
    assert (attached["currently_attached"], attached["device"]) == (True, "vda")
    scenario.and_given(ev.VmHalted(vm=VM, reason="test"))
    gone = record(scenario, "VBD", VBD)
    assert (gone["currently_attached"], gone["device"]) == (False, "")


def test_a_suspended_guest_keeps_its_disks_and_is_resumed_with_them() -> None:
    scenario = a_disk(vbd_created(OTHER_VBD, vm=OTHER_VM))
    scenario = scenario.when_called("VM.start_on", VM, HOST, False, False).then_so()
    flags = {"vendor": "GenuineIntel"}
    scenario = scenario.when_done(1, seen(cpu_flags=flags)).then_so()
    scenario = scenario.and_given(ev.VmSuspended(vm=VM, image="image"))
    assert record(scenario, "VBD", VBD)["currently_attached"]
    scenario.when_called("VM.start", OTHER_VM, False, False).then_refused(
        "VDI_IN_USE", VDI, "attach"
    )
    refused = scenario.when_called("VDI.destroy", VDI).refusal
    assert refused is not None
    scenario = scenario.when_called("VM.resume_on", VM, HOST, False, False).then_so()
    scenario = scenario.when_lost().then_so()
    scenario = scenario.when_called("VM.power_state_reset", VM).then_so()
    assert not record(scenario, "VBD", VBD)["currently_attached"]


def test_one_disk_is_written_to_by_one_guest() -> None:
    scenario = a_disk(vbd_created(OTHER_VBD, vm=OTHER_VM))
    scenario = scenario.when_called("VM.start", VM, False, False).then_so()
    # From the promise on, before any host has done anything.
    scenario.when_called("VM.start", OTHER_VM, False, False).then_refused(
        "VDI_IN_USE", VDI, "attach"
    )


@pytest.mark.parametrize("sharable", [True, False])
@pytest.mark.parametrize("mode", ["RO", "RW"])
def test_readers_share_a_disk_and_writers_only_one_that_is_sharable(
    mode: str, sharable: bool
) -> None:
    scenario = given(
        *a_pool(2),
        *an_sr(1, 2),
        vdi_created(sharable=sharable),
        vm_created(),
        vm_created(OTHER_VM, OTHER_VM_UUID),
        vbd_created(mode=mode),
        vbd_created(OTHER_VBD, vm=OTHER_VM, mode=mode),
        vm_started(),
    )
    outcome = scenario.when_called("VM.start", OTHER_VM, False, False)
    if sharable or mode == "RO":
        outcome.then_so()
    else:
        outcome.then_refused("VDI_IN_USE", VDI, "attach")


def test_a_guest_starts_and_goes_only_where_its_disks_are() -> None:
    scenario = given(*a_pool(2), *an_sr(2), vdi_created(), vm_created(), vbd_created())
    scenario.when_called("VM.start_on", VM, HOST, False, False).then_refused(
        "VM_REQUIRES_SR", VM, SR
    )
    scenario = scenario.when_called("VM.start", VM, False, False).then_so()
    assert scenario.operation(2).host == HOST_2
    scenario = scenario.when_done(2, seen()).then_so()
    scenario.when_called("VM.pool_migrate", VM, HOST, {}).then_refused("VM_REQUIRES_SR", VM, SR)


def test_a_guest_does_not_restart_by_itself_with_a_disk_that_another_has_by_now() -> None:
    scenario = a_disk(
        vdi_created(OTHER_VDI),
        vbd_created(OTHER_VBD, vm=OTHER_VM, vdi=OTHER_VDI),
        vm_started(OTHER_VM),
        vm_started(),
    )
    # Added while it ran, so it does not have it yet.
    added = vbd_created(SECOND, vdi=OTHER_VDI, userdevice="1")
    scenario.and_given(added)
    scenario.when_called("VM.hard_reboot", VM).then_refused("VDI_IN_USE", OTHER_VDI, "attach")


def test_a_domain_shown_again_does_not_get_disks_that_it_was_not_built_with() -> None:
    scenario = a_disk(vm_started(), vdi_created(OTHER_VDI)).and_given(
        vbd_created(OTHER_VBD, vdi=OTHER_VDI, userdevice="1"), vm_started(domid=9)
    )
    assert not scenario.pool.vbds[OTHER_VBD].currently_attached


def test_a_snapshot_of_the_pool_is_the_pool() -> None:
    scenario = a_disk(vm_started()).when_called("SR.scan", SR).then_so()
    again = decode_pool(encode_pool(scenario.pool))
    assert (again.links, again.vbds) == (scenario.pool.links, scenario.pool.vbds)
    assert again.storage_operations == scenario.pool.storage_operations


def test_a_forgotten_host_has_no_pbds() -> None:
    scenario = a_disk().when_lost(HOST_2).then_so()
    scenario = scenario.when_called("host.destroy", HOST_2).then_so()
    assert record(scenario, "SR", SR)["PBDs"] == [pbd_ref(1)]
