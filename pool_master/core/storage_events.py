"""The facts of storage: members of the union in events.py, under the same rules."""

from msgspec import Struct, field

from pool_master.core.storage import DiskWish, StorageTask, VbdConfig, VdiConfig
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


class SrCreated(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A place for disks belongs to the pool."""

    sr: SrRef
    uuid: str
    name_label: str
    type: str
    name_description: str = ""
    content_type: str = ""
    shared: bool = False
    sm_config: StringMap = field(default_factory=dict)


class SrForgotten(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The SR left the pool, with all that the pool knew of its disks."""

    sr: SrRef


class SrMeasured(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A host said how large the SR is, and it differs from what was known."""

    sr: SrRef
    physical_size: int
    physical_utilisation: int


class PbdCreated(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """It is said how a host reaches an SR; it does not use it yet."""

    pbd: PbdRef
    uuid: str
    host: HostRef
    sr: SrRef
    device_config: StringMap = field(default_factory=dict)
    other_config: StringMap = field(default_factory=dict)


class PbdDestroyed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host has nothing to do with the SR any more."""

    pbd: PbdRef


class PbdAttached(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host has shown that it can use the SR."""

    pbd: PbdRef


class PbdDetached(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host has let go of the SR."""

    pbd: PbdRef


class VdiCreated(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A disk is there, whole. Not `managed`: it is only there because others are built on it."""

    vdi: VdiRef
    uuid: str
    config: VdiConfig
    location: str
    format: str
    physical_utilisation: int = 0
    parent: VdiRef = NULL_VDI
    managed: bool = True
    snapshot_of: VdiRef = NULL_VDI


class VdiRebased(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the disk held is in its parent now, which others are built on too; it goes on from there."""

    vdi: VdiRef
    parent: VdiRef


class VdiMeasured(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A host said how large the disk is, or that it is not there, and it differs from what was known."""

    vdi: VdiRef
    virtual_size: int
    physical_utilisation: int
    missing: bool = False


class VdiDestroyed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The disk is gone for good."""

    vdi: VdiRef


class VbdCreated(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A VM has a disk or drive, from its next start on."""

    vbd: VbdRef
    uuid: str
    config: VbdConfig


class VbdDestroyed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The VM has it no more; the disk stays."""

    vbd: VbdRef


class StorageOperationAccepted(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The pool has promised to carry this operation on storage to its end."""

    task: TaskRef
    task_uuid: str
    name_label: str
    kind: StorageTask
    host: HostRef
    sr: SrRef
    vdi: VdiRef = NULL_VDI
    vm: VmRef = NULL_VM
    identity: str = ""
    wishes: tuple[DiskWish, ...] = ()
    arguments: StringMap = field(default_factory=dict)


class StorageOperationAdvanced(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The operation goes on with its next step, on this disk."""

    task: TaskRef
    step: int
    vdi: VdiRef


StorageEvent = (
    SrCreated
    | SrForgotten
    | SrMeasured
    | PbdCreated
    | PbdDestroyed
    | PbdAttached
    | PbdDetached
    | VdiCreated
    | VdiRebased
    | VdiMeasured
    | VdiDestroyed
    | VbdCreated
    | VbdDestroyed
    | StorageOperationAccepted
    | StorageOperationAdvanced
)
