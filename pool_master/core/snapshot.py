"""The Pool as bytes, so that a start need not replay the whole log.

Rules: a snapshot is a materialisation: any that cannot be read, or is of another schema, is ignored and the log replayed
instead; replay(log) = replay(snapshot, rest of the log), at every position (invariant 4).
"""

from typing import Any, Final

from pool_master.core.devices import DeviceOperation
from pool_master.core.host import Host, HostMetrics
from pool_master.core.network import Network, Pif, Vif
from pool_master.core.pool import Pool, StaleDomain, Stamp, Tombstone
from pool_master.core.pool_record import PoolRecord
from pool_master.core.restart import Restart
from pool_master.core.storage import Pbd, Sr, StorageOperationRecord, Vbd, Vdi
from pool_master.core.table import Table
from pool_master.core.task import Operation, Task
from pool_master.core.vm import Console, Vm, VmGuestMetrics, VmMetrics
from shared.codec import from_plain, pack, to_plain, unpack
from shared.refs import HostRef, VmRef

# Raise it with any change of a record that an old snapshot would decode wrongly.
SNAPSHOT_SCHEMA: Final = 3

RECORD_TYPES: Final[dict[str, type]] = {
    "pools": PoolRecord,
    "hosts": Host,
    "host_metrics": HostMetrics,
    "vms": Vm,
    "vm_metrics": VmMetrics,
    "vm_guest_metrics": VmGuestMetrics,
    "consoles": Console,
    "tasks": Task,
    "operations": Operation,
    "stale_domains": StaleDomain,
    "device_operations": DeviceOperation,
    "networks": Network,
    "vifs": Vif,
    "pifs": Pif,
    "restarts": Restart,
    "srs": Sr,
    "pbds": Pbd,
    "vdis": Vdi,
    "vbds": Vbd,
    "storage_operations": StorageOperationRecord,
}
SCALARS: Final = ("sequence", "time_us", "term", "master", "master_address")


def encode_pool(pool: Pool) -> bytes:
    """Give the Pool as bytes."""
    plain: dict[str, Any] = {name: getattr(pool, name) for name in SCALARS}
    for name, record_type in RECORD_TYPES.items():
        table: Table[str, Any] = getattr(pool, name)
        plain[name] = [[key, to_plain(record, record_type)] for key, record in table.items()]
    plain["residents"] = [[host, list(guests)] for host, guests in pool.residents.items()]
    plain["links"] = [[key, list(refs)] for key, refs in pool.links.items()]
    plain["uuids"] = [[*key, ref] for key, ref in pool.uuids.items()]
    plain["stamps"] = [
        [ref, s.object_class, s.created, s.changed] for ref, s in pool.stamps.items()
    ]
    plain["tombstones"] = [
        [gone.object_class, gone.ref, gone.created, gone.destroyed] for gone in pool.tombstones
    ]
    return pack(plain)


def decode_pool(data: bytes) -> Pool:
    """Give the Pool in a snapshot's bytes.

    Raises:
        DecodeError, LookupError, TypeError: not a snapshot of this schema.
    """
    plain = unpack(data)
    pool = Pool(**{name: plain[name] for name in SCALARS})
    for name, record_type in RECORD_TYPES.items():
        table: Table[str, Any] = getattr(pool, name)
        for key, record in plain.get(name, ()):  # a table that came later
            table[key] = from_plain(record, record_type)
    for host, guests in plain["residents"]:
        pool.residents[HostRef(host)] = tuple(VmRef(guest) for guest in guests)
    for key, refs in plain.get("links", ()):
        pool.links[key] = tuple(refs)
    for object_class, uuid, ref in plain["uuids"]:
        pool.uuids[object_class, uuid] = ref
    for ref, object_class, created, changed in plain["stamps"]:
        pool.stamps[ref] = Stamp(object_class, created, changed)
    pool.tombstones.extend(Tombstone(*gone) for gone in plain["tombstones"])
    return pool
