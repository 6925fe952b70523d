"""Facts of storage to build tests from, and hosts' words about it: beside facts.py, by its rules."""

from typing import Any, Final

from pool_master.core import events as ev
from pool_master.core import storage_events as sev
from pool_master.core.classes import CLASS_BY_NAME, RECORD_BUILDERS
from pool_master.core.plan import plan
from pool_master.core.storage import VbdConfig, VdiConfig
from pool_master.core.storage_reports import storage_command_id
from shared import protocol as says
from shared.enums import VbdMode, VbdType
from shared.refs import NULL_VDI, PbdRef, SrRef, VbdRef, VdiRef, VmRef, derive, derive_ref
from shared.storage_protocol import DiskObservation, StorageObservation
from tests.support.facts import (
    GIB,
    HOST,
    OTHER_VM,
    OTHER_VM_UUID,
    VM,
    a_pool,
    host_ref,
    task,
    vm_created,
)
from tests.support.spec import Outcome, Scenario, given

SR: Final = SrRef(derive_ref("sr", "SR"))
SR_UUID: Final = derive("sr", "SR")
VDI: Final = VdiRef(derive_ref("vdi", "VDI"))
OTHER_VDI: Final = VdiRef(derive_ref("other", "VDI"))
VBD: Final = VbdRef(derive_ref("vbd", "VBD"))
OTHER_VBD: Final = VbdRef(derive_ref("other", "VBD"))
SECOND: Final = VbdRef(derive_ref("second", "VBD"))


def pbd_ref(number: int, sr: SrRef = SR) -> PbdRef:
    """The PBD of the host with that number."""
    return PbdRef(derive_ref(f"{sr}/{number}", "PBD"))


def an_sr(*hosts: int, sr: SrRef = SR, **changes: Any) -> list[ev.Event]:
    """An SR of 100 GiB, plugged on these hosts."""
    uuid = SR_UUID if sr == SR else derive(sr, "SR")
    values = {"uuid": uuid, "name_label": "disks", "type": "nfs", "shared": len(hosts) > 1}
    events: list[ev.Event] = [
        sev.SrCreated(sr=sr, **{**values, **changes}),
        sev.SrMeasured(sr=sr, physical_size=100 * GIB, physical_utilisation=0),
    ]
    for number in hosts:
        pbd = pbd_ref(number, sr)
        events += [
            sev.PbdCreated(
                pbd=pbd,
                uuid=derive(pbd, "PBD"),
                host=host_ref(number),
                sr=sr,
                device_config={"location": "/srv/disks"},
            ),
            sev.PbdAttached(pbd=pbd),
        ]
    return events


def vdi_created(vdi: VdiRef = VDI, *, sr: SrRef = SR, **changes: Any) -> sev.VdiCreated:
    """A disk of 1 GiB."""
    uuid = derive(vdi, "VDI")
    parent = changes.pop("parent", NULL_VDI)
    return sev.VdiCreated(
        vdi=vdi,
        uuid=uuid,
        config=VdiConfig(**{"SR": sr, "virtual_size": GIB, **changes}),
        location=f"{uuid}.qcow2",
        format="qcow2",
        parent=parent,
    )


def vbd_created(
    vbd: VbdRef = VBD, *, vm: VmRef = VM, vdi: VdiRef = VDI, **changes: Any
) -> sev.VbdCreated:
    """That disk in a VM, as its first device."""
    values: dict[str, Any] = {
        "VM": vm,
        "VDI": vdi,
        "userdevice": "0",
        "bootable": True,
        "mode": VbdMode.RW,
        "type": VbdType.DISK,
        "empty": False,
    }
    config = VbdConfig(**{**values, **changes})
    return sev.VbdCreated(vbd=vbd, uuid=derive(vbd, "VBD"), config=config)


def vbd_record(vm: VmRef = VM, vdi: VdiRef = VDI, **changes: Any) -> dict[str, Any]:
    """What VBD.create takes."""
    return {
        "VM": vm,
        "VDI": vdi,
        "userdevice": "autodetect",
        "bootable": True,
        "mode": "RW",
        "type": "Disk",
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
        **changes,
    }


def disk_seen(location: str, size: int = GIB) -> DiskObservation:
    """A disk as a host sees it."""
    return DiskObservation(location=location, virtual_size=size, physical_utilisation=4096)


def storage_seen(*disks: DiskObservation) -> StorageObservation:
    """An SR as a host sees it, in agreement with `an_sr`."""
    return StorageObservation(physical_size=100 * GIB, physical_utilisation=0, disks=disks)


def host_did(scenario: Scenario, number: int, *disks: DiskObservation, host: int = 1) -> Outcome:
    """The host says that it has done the storage operation of command `number`."""
    operation = scenario.pool.storage_operations[task(number)]
    assert operation.host == (HOST if host == 1 else host_ref(host))
    body = says.CommandSucceeded(
        command_id=storage_command_id(operation),
        task=operation.task,
        vm_uuid="",
        incarnation=0,
        storage=storage_seen(*disks),
    )
    return scenario.when_host_says(body, number=host)


def host_failed(scenario: Scenario, number: int, code: str, *parameters: str) -> Outcome:
    """The host says that it could not."""
    operation = scenario.pool.storage_operations[task(number)]
    body = says.CommandFailed(
        command_id=storage_command_id(operation),
        task=operation.task,
        vm_uuid="",
        incarnation=0,
        code=code,
        parameters=parameters,
    )
    return scenario.when_host_says(body)


def a_disk(*more: ev.Event, hosts: int = 2) -> Scenario:
    """Two hosts with a shared SR, a disk in it, a halted VM that has it, and another VM."""
    return given(
        *a_pool(hosts),
        *an_sr(*range(1, hosts + 1)),
        vdi_created(),
        vm_created(),
        vm_created(OTHER_VM, OTHER_VM_UUID),
        vbd_created(),
        *more,
    )


def record(scenario: Scenario, name: str, ref: str) -> dict[str, Any]:
    """What a client reads of an object."""
    table = getattr(scenario.pool, CLASS_BY_NAME[name].table)
    return RECORD_BUILDERS[name](scenario.pool, table[ref])


def action_of(scenario: Scenario, number: int) -> Any:
    """What the host is told for the operation of command `number`."""
    ((_, command),) = plan(scenario.pool, [task(number)])
    return command.action
