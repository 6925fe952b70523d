"""References to records, with XenAPI's refusal where there is none."""

from typing import TypeVar

from pool_master.core.host import Host
from pool_master.core.network import Network, Vif
from pool_master.core.pool import Pool
from pool_master.core.storage import Pbd, Sr, Vbd, Vdi
from pool_master.core.table import Records
from pool_master.core.task import Task
from pool_master.core.vm import Vm
from shared.errors import HandleInvalid
from shared.refs import (
    HostRef,
    NetworkRef,
    PbdRef,
    SrRef,
    TaskRef,
    VbdRef,
    VdiRef,
    VifRef,
    VmRef,
)

K = TypeVar("K", bound=str)
V = TypeVar("V")


def vm_of(pool: Pool, ref: VmRef) -> Vm:
    """Give the VM.

    Raises:
        HandleInvalid: there is none.
    """
    return _found(pool.vms, "VM", ref)


def host_of(pool: Pool, ref: HostRef) -> Host:
    """Give the host.

    Raises:
        HandleInvalid: there is none.
    """
    return _found(pool.hosts, "host", ref)


def task_of(pool: Pool, ref: TaskRef) -> Task:
    """Give the task.

    Raises:
        HandleInvalid: there is none.
    """
    return _found(pool.tasks, "task", ref)


def network_of(pool: Pool, ref: NetworkRef) -> Network:
    """Give the network.

    Raises:
        HandleInvalid: there is none.
    """
    return _found(pool.networks, "network", ref)


def vif_of(pool: Pool, ref: VifRef) -> Vif:
    """Give the VIF.

    Raises:
        HandleInvalid: there is none.
    """
    return _found(pool.vifs, "VIF", ref)


def sr_of(pool: Pool, ref: SrRef) -> Sr:
    """Give the SR.

    Raises:
        HandleInvalid: there is none.
    """
    return _found(pool.srs, "SR", ref)


def pbd_of_ref(pool: Pool, ref: PbdRef) -> Pbd:
    """Give the PBD.

    Raises:
        HandleInvalid: there is none.
    """
    return _found(pool.pbds, "PBD", ref)


def vdi_of(pool: Pool, ref: VdiRef) -> Vdi:
    """Give the VDI.

    Raises:
        HandleInvalid: there is none.
    """
    return _found(pool.vdis, "VDI", ref)


def vbd_of(pool: Pool, ref: VbdRef) -> Vbd:
    """Give the VBD.

    Raises:
        HandleInvalid: there is none.
    """
    return _found(pool.vbds, "VBD", ref)


def _found(table: Records[K, V], object_class: str, ref: K) -> V:
    record = table.get(ref)
    if record is None:
        raise HandleInvalid(object_class, ref)
    return record
