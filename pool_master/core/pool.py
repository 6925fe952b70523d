"""The Pool: what the log says is true now.

One job: hold the records by reference, with the indexes over them.

Rules: only evolve.apply writes; records are immutable; indexes (`residents`, `names`…) are derived from records and never
stored elsewhere; `stamps` remembers at which sequence an object was made and last changed, which is all that event.from
needs, so that its tokens outlive any master.
"""

from dataclasses import dataclass
from dataclasses import field as attribute
from typing import Any, Final

from msgspec import Struct

from pool_master.core.devices import DeviceOperation
from pool_master.core.host import Host, HostMetrics
from pool_master.core.network import Network, Pif, Vif
from pool_master.core.pool_record import PoolRecord
from pool_master.core.restart import Restart
from pool_master.core.storage import Pbd, Sr, StorageOperationRecord, Vbd, Vdi
from pool_master.core.table import Records, Table
from pool_master.core.task import Operation, Task
from pool_master.core.vm import Console, Vm, VmConfig, VmGuestMetrics, VmMetrics
from shared.refs import (
    NULL_HOST,
    ConsoleRef,
    HostMetricsRef,
    HostRef,
    NetworkRef,
    PbdRef,
    PifRef,
    PoolRef,
    SrRef,
    TaskRef,
    VbdRef,
    VdiRef,
    VifRef,
    VmGuestMetricsRef,
    VmMetricsRef,
    VmRef,
)

# Tombstones kept for event.from: who asks from before the oldest finds the loss in valid_ref_counts.
TOMBSTONES_MAX: Final = 50_000


class Stamp(Struct, frozen=True, gc=False):
    """When an object of a class was made and last changed, in log sequences."""

    object_class: str
    created: int
    changed: int


class Tombstone(Struct, frozen=True, gc=False):
    """An object that is gone since `destroyed`."""

    object_class: str
    ref: str
    created: int
    destroyed: int


class StaleDomain(Struct, frozen=True, gc=False):
    """An incarnation that a host must drop; `found` is the log sequence at which it was found.

    The same incarnation can be found again, after a migration there and back: each time is another command.
    """

    host: HostRef
    vm_uuid: str
    incarnation: int
    found: int

    @property
    def key(self) -> str:
        """Its identity among stale domains."""
        return stale_key(self.host, self.vm_uuid, self.incarnation)


def stale_key(host: HostRef, vm_uuid: str, incarnation: int) -> str:
    """Give the identity that a stale domain has while it is one."""
    return f"{host}/{vm_uuid}/{incarnation}"


# On which hosts a VM may boot, true for this config in a pool of this shape.
Homes = tuple[VmConfig, object, frozenset[HostRef]]


@dataclass(slots=True)
class Pool:
    """All records of one pool, at one position of its log."""

    sequence: int = 0
    time_us: int = 0
    term: int = 0
    master: str = ""
    master_address: str = ""
    pools: Records[PoolRef, PoolRecord] = attribute(default_factory=Table)
    hosts: Records[HostRef, Host] = attribute(default_factory=Table)
    host_metrics: Records[HostMetricsRef, HostMetrics] = attribute(default_factory=Table)
    vms: Records[VmRef, Vm] = attribute(default_factory=Table)
    vm_metrics: Records[VmMetricsRef, VmMetrics] = attribute(default_factory=Table)
    vm_guest_metrics: Records[VmGuestMetricsRef, VmGuestMetrics] = attribute(default_factory=Table)
    consoles: Records[ConsoleRef, Console] = attribute(default_factory=Table)
    tasks: Records[TaskRef, Task] = attribute(default_factory=Table)
    networks: Records[NetworkRef, Network] = attribute(default_factory=Table)
    vifs: Records[VifRef, Vif] = attribute(default_factory=Table)
    pifs: Records[PifRef, Pif] = attribute(default_factory=Table)
    srs: Records[SrRef, Sr] = attribute(default_factory=Table)
    pbds: Records[PbdRef, Pbd] = attribute(default_factory=Table)
    vdis: Records[VdiRef, Vdi] = attribute(default_factory=Table)
    vbds: Records[VbdRef, Vbd] = attribute(default_factory=Table)
    storage_operations: Records[TaskRef, StorageOperationRecord] = attribute(default_factory=Table)
    device_operations: Records[TaskRef, DeviceOperation] = attribute(default_factory=Table)
    links: Records[str, tuple[str, ...]] = attribute(default_factory=Table)
    operations: Records[TaskRef, Operation] = attribute(default_factory=Table)
    stale_domains: Records[str, StaleDomain] = attribute(default_factory=Table)
    restarts: Records[VmRef, Restart] = attribute(default_factory=Table)
    residents: Records[HostRef, tuple[VmRef, ...]] = attribute(default_factory=Table)
    uuids: Records[tuple[str, str], str] = attribute(default_factory=Table)
    stamps: dict[str, Stamp] = attribute(default_factory=dict)
    tombstones: list[Tombstone] = attribute(default_factory=list)
    # Not state: what was found out about it. `shape` is another object after each event that may change where VMs boot.
    shape: object = attribute(default_factory=object, repr=False, compare=False)
    homes: dict[VmRef, Homes] = attribute(default_factory=dict, repr=False, compare=False)
    tables: dict[str, Records[str, Any]] = attribute(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find the tables by their classes."""
        self.tables = {name: getattr(self, table) for name, table in TABLE_OF_CLASS.items()}

    def fork(self) -> "Pool":
        """Give a Pool to try things on; it keeps no stamps, which only the true one needs."""
        return Pool(
            sequence=self.sequence,
            time_us=self.time_us,
            term=self.term,
            master=self.master,
            master_address=self.master_address,
            shape=self.shape,
            homes=self.homes,
            **{name: getattr(self, name).fork() for name in TABLES},
        )

    @property
    def record(self) -> PoolRecord:
        """The pool's own record.

        Raises:
            LookupError: the log has not begun.
        """
        for record in self.pools.values():
            return record
        raise LookupError("the log has no PoolCreated yet")

    def vm_of_uuid(self, uuid: str) -> Vm | None:
        """Give the VM with that uuid."""
        ref = self.uuids.get(("VM", uuid))
        return None if ref is None else self.vms.get(VmRef(ref))

    def host_of_uuid(self, uuid: str) -> Host | None:
        """Give the host with that uuid."""
        ref = self.uuids.get(("host", uuid))
        return None if ref is None else self.hosts.get(HostRef(ref))

    def residents_of(self, host: HostRef) -> tuple[VmRef, ...]:
        """Give the VMs that reside on a host or hold a reservation there, in the order in which they came."""
        return self.residents.get(host, ())

    def linked(self, kind: str, holder: str) -> tuple[str, ...]:
        """Give the other direction of a reference: `kind` names it as the API does ("VM.VBDs"), oldest first."""
        return self.links.get(f"{kind}/{holder}", ())

    def link(self, kind: str, holder: str, ref: str) -> None:
        """Note that `ref` names `holder`."""
        self.links[f"{kind}/{holder}"] = (*self.linked(kind, holder), ref)

    def unlink(self, kind: str, holder: str, ref: str) -> None:
        """Note that it does no more."""
        left = tuple(other for other in self.linked(kind, holder) if other != ref)
        if left:
            self.links[f"{kind}/{holder}"] = left
        else:
            self.links.pop(f"{kind}/{holder}", None)

    def tasks_on(self, device: str) -> list[TaskRef]:
        """Give the tasks of the operations in flight on a device."""
        return [TaskRef(task) for task in self.linked("device.operations", device)]

    def is_busy(self, task: TaskRef) -> bool:
        """Whether a host works on something under this task, or will."""
        on_others = (self.storage_operations, self.device_operations)
        return task in self.operations or any(task in table for table in on_others)

    def is_live(self, host: HostRef) -> bool:
        """Whether the log says that the host lives."""
        record = self.hosts.get(host)
        return record is not None and self.host_metrics[record.metrics].live

    def is_stranded(self, vm: Vm) -> bool:
        """Whether the host on which the VM resides is lost: nobody can act on its domain."""
        return vm.resident_on != NULL_HOST and not self.is_live(vm.resident_on)

    def operations_of(self, vm: Vm) -> list[Operation]:
        """Give the operations in flight on a VM."""
        return [self.operations[task] for task in vm.current_operations if task in self.operations]

    def has_stale_domain(self, host: HostRef, vm: Vm) -> bool:
        """Whether a host has yet to drop an incarnation of the VM: it must not be told to while a wanted one comes."""
        return any(
            (stale.host, stale.vm_uuid) == (host, vm.uuid) for stale in self.stale_domains.values()
        )

    def stamp(self, touched: list[tuple[str, str]]) -> None:
        """Remember that these objects changed at the present sequence; the most recent come last."""
        stamps, sequence, tables = self.stamps, self.sequence, self.tables
        for object_class, ref in touched:
            old = stamps.pop(ref, None)
            if ref in tables[object_class]:
                stamps[ref] = Stamp(object_class, old.created if old else sequence, sequence)
            elif old is not None:
                self.tombstones.append(Tombstone(object_class, ref, old.created, sequence))
        if len(self.tombstones) > 2 * TOMBSTONES_MAX:
            del self.tombstones[:-TOMBSTONES_MAX]


TABLE_OF_CLASS: Final[dict[str, str]] = {
    "pool": "pools",
    "host": "hosts",
    "host_metrics": "host_metrics",
    "VM": "vms",
    "VM_metrics": "vm_metrics",
    "VM_guest_metrics": "vm_guest_metrics",
    "console": "consoles",
    "task": "tasks",
    "network": "networks",
    "VIF": "vifs",
    "PIF": "pifs",
    "SR": "srs",
    "PBD": "pbds",
    "VDI": "vdis",
    "VBD": "vbds",
}

TABLES: Final = (
    *TABLE_OF_CLASS.values(),
    "operations",
    "storage_operations",
    "device_operations",
    "links",
    "stale_domains",
    "restarts",
    "residents",
    "uuids",
)
