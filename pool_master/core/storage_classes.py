"""The classes SR, PBD, VDI and VBD: their fields and messages, for the list in classes.py."""

from typing import Any, Final

from pool_master.core import sr_messages, vbd_messages, vdi_messages
from pool_master.core.allowed_storage import allowed_sr_operations, allowed_vdi_operations
from pool_master.core.datamodel import EMPTY_MAP, Field, derived, fields_of, inert
from pool_master.core.disks import virtual_allocation
from pool_master.core.storage import Pbd, Sr, Vbd, VbdConfig, Vdi, VdiConfig
from shared.enums import StorageOperation, VbdOperation, VdiOperation
from shared.refs import NULL, ForeignRef, PbdRef, PoolRef, TaskRef, VbdRef, VdiRef

StringMap = dict[str, str]

SR_FIELDS: Final[tuple[Field, ...]] = (
    *fields_of(Sr),
    derived(
        "allowed_operations",
        tuple[StorageOperation, ...],
        "list of the operations allowed in this state",
        allowed_sr_operations,
    ),
    derived(
        "VDIs",
        tuple[VdiRef, ...],
        "all disks in it",
        lambda pool, sr: pool.linked("SR.VDIs", sr.ref),
    ),
    derived(
        "PBDs",
        tuple[PbdRef, ...],
        "how hosts reach it",
        lambda pool, sr: pool.linked("SR.PBDs", sr.ref),
    ),
    derived("virtual_allocation", int, "sum of its disks' virtual sizes", virtual_allocation),
    inert("blobs", StringMap, EMPTY_MAP),
    inert("local_cache_enabled", bool, False),
    inert("introduced_by", ForeignRef, NULL),
    inert("clustered", bool, False),
    inert("is_tools_sr", bool, False),
)

VDI_FIELDS: Final[tuple[Field, ...]] = (
    *fields_of(Vdi),
    *fields_of(VdiConfig, under="config"),
    derived(
        "allowed_operations",
        tuple[VdiOperation, ...],
        "list of the operations allowed in this state",
        allowed_vdi_operations,
    ),
    derived(
        "VBDs",
        tuple[VbdRef, ...],
        "the VBDs that name it",
        lambda pool, vdi: pool.linked("VDI.VBDs", vdi.ref),
    ),
    derived(
        "snapshots",
        tuple[VdiRef, ...],
        "its snapshots",
        lambda pool, vdi: pool.linked("VDI.snapshots", vdi.ref),
    ),
    inert("crash_dumps", tuple[ForeignRef, ...], ()),
    inert("storage_lock", bool, False),
    inert("allow_caching", bool, False),
    inert("metadata_of_pool", PoolRef, NULL),
    inert("metadata_latest", bool, False),
    inert("is_tools_iso", bool, False),
    inert("cbt_enabled", bool, False),
)

VBD_FIELDS: Final[tuple[Field, ...]] = (
    *fields_of(Vbd),
    *fields_of(VbdConfig, under="config"),
    inert("allowed_operations", tuple[VbdOperation, ...], ()),
    inert("current_operations", dict[TaskRef, VbdOperation], EMPTY_MAP),
    inert("storage_lock", bool, False),
    inert("status_code", int, 0),
    inert("status_detail", str, ""),
    inert("runtime_properties", StringMap, EMPTY_MAP),
    inert("qos_supported_algorithms", tuple[str, ...], ()),
    inert("metrics", ForeignRef, NULL),
)

# Name, documentation, table, fields, messages.
STORAGE_CLASSES: Final[tuple[tuple[Any, ...], ...]] = (
    ("SR", "A storage repository", "srs", SR_FIELDS, sr_messages.SR_MESSAGES),
    (
        "PBD",
        "The physical block devices through which hosts access SRs",
        "pbds",
        fields_of(Pbd),
        sr_messages.PBD_MESSAGES,
    ),
    ("VDI", "A virtual disk image", "vdis", VDI_FIELDS, vdi_messages.MESSAGES),
    ("VBD", "A virtual block device", "vbds", VBD_FIELDS, vbd_messages.MESSAGES),
)
