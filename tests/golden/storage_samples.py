"""Storage's part of the samples."""

from typing import Final

from pool_master.core import events as ev
from pool_master.core import storage_events as sev
from pool_master.core.storage import DiskWish, StorageTask, VbdConfig, VdiConfig
from shared.enums import VbdMode, VbdType, VdiType
from shared.refs import PbdRef, SrRef, VbdRef, VdiRef
from tests.support.facts import HOST, VM, task, task_uuid

SR: Final = SrRef("OpaqueRef:sr")
PBD: Final = PbdRef("OpaqueRef:pbd")
VDI: Final = VdiRef("OpaqueRef:vdi")
BASE: Final = VdiRef("OpaqueRef:base")
VBD: Final = VbdRef("OpaqueRef:vbd")
DISK: Final = VdiConfig(
    SR=SR,
    virtual_size=1_073_741_824,
    type=VdiType.SYSTEM,
    sharable=True,
    read_only=True,
    other_config={"a": "b"},
    name_label="disk",
    name_description="the system",
    xenstore_data={"c": "d"},
    sm_config={"type": "raw"},
    tags=("t",),
)

STORAGE_SAMPLES: Final[tuple[ev.Event, ...]] = (
    sev.SrCreated(
        sr=SR,
        uuid="6a1e5f0c-0000-4000-8000-000000000002",
        name_label="disks",
        type="nfs",
        name_description="all of them",
        content_type="user",
        shared=True,
        sm_config={"k": "v"},
    ),
    sev.SrForgotten(sr=SR),
    sev.SrMeasured(sr=SR, physical_size=1_099_511_627_776, physical_utilisation=4_096),
    sev.PbdCreated(
        pbd=PBD,
        uuid="6a1e5f0c-0000-4000-8000-000000000003",
        host=HOST,
        sr=SR,
        device_config={"location": "/srv/disks"},
        other_config={"k": "v"},
    ),
    sev.PbdDestroyed(pbd=PBD),
    sev.PbdAttached(pbd=PBD),
    sev.PbdDetached(pbd=PBD),
    sev.VdiCreated(
        vdi=VDI,
        uuid="6a1e5f0c-0000-4000-8000-000000000004",
        config=DISK,
        location="6a1e5f0c-0000-4000-8000-000000000004.qcow2",
        format="qcow2",
        physical_utilisation=200_704,
        parent=BASE,
        managed=False,
        snapshot_of=BASE,
    ),
    sev.VdiRebased(vdi=VDI, parent=BASE),
    sev.VdiMeasured(vdi=VDI, virtual_size=2, physical_utilisation=1, missing=True),
    sev.VdiDestroyed(vdi=VDI),
    sev.VbdCreated(
        vbd=VBD,
        uuid="6a1e5f0c-0000-4000-8000-000000000005",
        config=VbdConfig(
            VM=VM,
            VDI=VDI,
            userdevice="3",
            bootable=True,
            mode=VbdMode.RO,
            type=VbdType.CD,
            empty=True,
            other_config={"k": "v"},
            qos_algorithm_type="ionice",
            qos_algorithm_params={"sched": "rt"},
            unpluggable=False,
        ),
    ),
    sev.VbdDestroyed(vbd=VBD),
    sev.StorageOperationAccepted(
        task=task(1),
        task_uuid=task_uuid(1),
        name_label="VDI.clone",
        kind=StorageTask.CLONE,
        host=HOST,
        sr=SR,
        vdi=VDI,
        vm=VM,
        identity="command-1",
        wishes=(
            DiskWish(
                vdi=VDI,
                uuid="6a1e5f0c-0000-4000-8000-000000000006",
                config=DISK,
                source=BASE,
                base_ref=BASE,
                base="6a1e5f0c-0000-4000-8000-000000000007",
                is_a_snapshot=True,
            ),
        ),
        arguments={"size": "1"},
    ),
    sev.StorageOperationAdvanced(task=task(1), step=1, vdi=BASE),
)
