"""What masters and hosts say to each other about storage: members of protocol.py, under its rules."""

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskConfig:
    """A disk of a domain: a file or block device on the host."""

    device: str
    source: str
    format: str = "raw"
    read_only: bool = False
    is_cdrom: bool = False
    is_shared: bool = False
    is_sharable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """An SR as one host reaches it: XenAPI's SR.type and PBD.device_config."""

    sr_uuid: str
    type: str
    shared: bool = False
    device_config: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOrder:
    """A disk to be made in `storage` under `name`, of `size` bytes.

    Empty where `source` is empty. Otherwise it begins with the content of the disk `source` of `source_storage`: a
    full copy, or, with `base`, in no time: `source` becomes the disk `base`, read by both from then on. Where `source`
    is `base` already, nobody writes to it and it stays as it is.
    """

    storage: StorageConfig
    name: str
    size: int
    format: str = "qcow2"
    source: str = ""
    source_format: str = "qcow2"
    source_storage: StorageConfig | None = None
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskObservation:
    """What a disk is: `location` names it within its SR."""

    location: str
    virtual_size: int
    physical_utilisation: int
    format: str = "qcow2"


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageObservation:
    """What a host sees of an SR; `disks` are those that the command was about, or all of them after a scan."""

    physical_size: int
    physical_utilisation: int
    disks: tuple[DiskObservation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachStorage:
    """Make the SR usable on this host. `is_new`: it begins now; otherwise it must be the one that began elsewhere."""

    storage: StorageConfig
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachStorage:
    """Let go of the SR on this host; `is_final`: and leave nothing of it where it has no disks."""

    storage: StorageConfig
    is_final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanStorage:
    """Say what is in the SR."""

    storage: StorageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDisks:
    """Make all these disks, or none; disks that are there already are these."""

    orders: tuple[DiskOrder, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteDisk:
    """Delete the disk; succeeds where it is gone already."""

    storage: StorageConfig
    location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeDisk:
    """Make the disk larger, to `size` bytes."""

    storage: StorageConfig
    location: str
    format: str
    size: int


StorageAction = AttachStorage | DetachStorage | ScanStorage | MakeDisks | DeleteDisk | ResizeDisk
# At run time what isinstance needs.
STORAGE_ACTIONS: Final = (
    AttachStorage,
    DetachStorage,
    ScanStorage,
    MakeDisks,
    DeleteDisk,
    ResizeDisk,
)
