"""SR, PBD, VDI and VBD: their records, and the operations that hosts carry out on storage.

Rules: a reference is stored once, in the record that holds it (VBD.VM, VDI.SR…); the other direction is the index `links`
of the Pool. What users set of a disk or device lives in VdiConfig and VbdConfig, as a VM's does in VmConfig.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Struct, field

from pool_master.core.datamodel import EMPTY_MAP, constructor, runtime, rw
from shared.codec import EPOCH
from shared.enums import OnBoot, StorageOperation, VbdMode, VbdType, VdiOperation, VdiType
from shared.refs import (
    NULL_VDI,
    NULL_VM,
    HostRef,
    PbdRef,
    SrRef,
    TaskRef,
    VbdRef,
    VdiRef,
    VmRef,
)

StringMap = dict[str, str]


def _empty() -> dict[Any, Any]:
    return EMPTY_MAP


class Sr(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """SR: a place where disks are."""

    ref: SrRef
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    name_label: Annotated[str, constructor("a human-readable name")] = ""
    name_description: Annotated[str, constructor("a notes field")] = ""
    current_operations: Annotated[
        dict[TaskRef, StorageOperation], runtime("what is being done to it, by task")
    ] = field(default_factory=_empty)
    physical_utilisation: Annotated[int, runtime("bytes that are taken")] = 0
    physical_size: Annotated[int, constructor("bytes that there are")] = 0
    type: Annotated[str, constructor("type of the storage repository")] = ""
    content_type: Annotated[str, constructor("the type of the SR's content")] = ""
    shared: Annotated[bool, runtime("whether several hosts can use it at once")] = False
    other_config: Annotated[StringMap, rw("additional configuration")] = field(
        default_factory=_empty
    )
    tags: Annotated[tuple[str, ...], rw("user-specified tags for categorization purposes")] = ()
    sm_config: Annotated[StringMap, rw("data that the storage itself keeps")] = field(
        default_factory=_empty
    )


class PbdConfig(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a PBD is made with."""

    host: HostRef
    SR: SrRef
    device_config: StringMap
    other_config: StringMap = field(default_factory=_empty)


class Pbd(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """PBD: how one host reaches one SR."""

    ref: PbdRef
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    host: Annotated[HostRef, constructor("the host")]
    SR: Annotated[SrRef, constructor("the SR")]
    device_config: Annotated[StringMap, constructor("how the host reaches it")]
    currently_attached: Annotated[bool, runtime("whether the host can use the SR")] = False
    other_config: Annotated[StringMap, rw("additional configuration")] = field(
        default_factory=_empty
    )


class VdiConfig(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a VDI is made with."""

    SR: Annotated[SrRef, constructor("the SR in which it is")]
    virtual_size: Annotated[int, constructor("size as the guest sees it (bytes)")]
    type: Annotated[VdiType, constructor("what it is used for")] = VdiType.USER
    sharable: Annotated[bool, constructor("whether several VMs may write to it at once")] = False
    read_only: Annotated[bool, constructor("whether nobody may write to it")] = False
    other_config: Annotated[StringMap, rw("additional configuration")] = field(
        default_factory=_empty
    )
    name_label: Annotated[str, constructor("a human-readable name")] = ""
    name_description: Annotated[str, constructor("a notes field")] = ""
    xenstore_data: Annotated[StringMap, rw("data for the guest; stored only")] = field(
        default_factory=_empty
    )
    sm_config: Annotated[StringMap, rw("type raw or qcow2; else stored only")] = field(
        default_factory=_empty
    )
    tags: Annotated[tuple[str, ...], rw("user-specified tags for categorization purposes")] = ()


class Vdi(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """VDI: a disk.

    `is_pristine`: nobody has written to it since it was made from its parent: a clone of it is one of the parent.
    """

    ref: VdiRef
    config: VdiConfig
    format: str = "qcow2"
    is_pristine: bool = False
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    current_operations: Annotated[
        dict[TaskRef, VdiOperation], runtime("what is being done to it, by task")
    ] = field(default_factory=_empty)
    physical_utilisation: Annotated[int, runtime("bytes that it takes in its SR")] = 0
    location: Annotated[str, runtime("its name within the SR")] = ""
    managed: Annotated[bool, runtime("false: only there because others are built on it")] = True
    missing: Annotated[bool, runtime("the last scan of the SR did not find it")] = False
    parent: Annotated[VdiRef, runtime("the disk that it is built on", is_deprecated=True)] = (
        NULL_VDI
    )
    is_a_snapshot: Annotated[bool, runtime("true if this is a snapshot")] = False
    snapshot_of: Annotated[VdiRef, runtime("the disk that it is a snapshot of")] = NULL_VDI
    snapshot_time: Annotated[datetime, runtime("when the snapshot was made")] = EPOCH
    on_boot: Annotated[OnBoot, runtime("always persist here")] = OnBoot.PERSIST


class VbdConfig(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a VBD is made with."""

    VM: Annotated[VmRef, constructor("the virtual machine")]
    VDI: Annotated[VdiRef, constructor("the virtual disk")]
    userdevice: Annotated[str, rw("user-friendly device name: a number, or autodetect")]
    bootable: Annotated[bool, rw("true if this VBD is bootable")]
    mode: Annotated[VbdMode, constructor("how it is mounted: RO or RW")]
    type: Annotated[VbdType, rw("how the guest sees it: CD, Disk or Floppy")]
    empty: Annotated[bool, constructor("whether there is no disk in the drive")]
    other_config: Annotated[StringMap, rw("additional configuration")] = field(
        default_factory=_empty
    )
    qos_algorithm_type: Annotated[str, rw("stored only")] = ""
    qos_algorithm_params: Annotated[StringMap, rw("stored only")] = field(default_factory=_empty)
    unpluggable: Annotated[bool, rw("true if it supports hot-unplug")] = True


class Vbd(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """VBD: a disk, or an empty drive, in a VM."""

    ref: VbdRef
    config: VbdConfig
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    device: Annotated[str, constructor("the device as the guest sees it")] = ""
    currently_attached: Annotated[bool, constructor("whether the running guest has it")] = False


class StorageTask(StrEnum):
    """What a host is told to do with storage."""

    ATTACH = "attach"
    DETACH = "detach"
    FORGET = "forget"
    SCAN = "scan"
    CREATE = "create"
    CLONE = "clone"
    SNAPSHOT = "snapshot"
    COPY = "copy"
    RESIZE = "resize"
    DESTROY = "destroy"


class DiskWish(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A disk that an operation makes.

    `source` is what it begins as; with `base` it shares that content: the disk of that uuid, which the operation makes
    of the source (`base_ref`), or which is there already.
    """

    vdi: VdiRef
    uuid: str
    config: VdiConfig
    source: VdiRef = NULL_VDI
    base_ref: VdiRef = NULL_VDI
    base: str = ""
    is_a_snapshot: bool = False


class StorageOperationRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An accepted operation on storage, from acceptance to its one end; `host` carries it out.

    `wishes` are the disks that it makes, `vdi` the one it acts on. `vm` is whose disks are cloned or copied, or who
    gets them; `identity` is the id of the command, from which the references of what it makes come.
    """

    task: TaskRef
    kind: StorageTask
    host: HostRef
    sr: SrRef
    vdi: VdiRef = NULL_VDI
    vm: VmRef = NULL_VM
    identity: str = ""
    wishes: tuple[DiskWish, ...] = ()
    arguments: StringMap = field(default_factory=_empty)
    step: int = 0
    is_cancelling: bool = False
    accepted_at: datetime = EPOCH
