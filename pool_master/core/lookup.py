"""References to records, with XenAPI's refusal where there is none."""

from pool_master.core.host import Host
from pool_master.core.network import Network, Vif
from pool_master.core.pool import Pool
from pool_master.core.storage import Pbd, Sr, Vbd, Vdi
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


def vm_of(pool: Pool, ref: VmRef) -> Vm:
    """Give the VM.

    Raises:
        HandleInvalid: there is none.
    """
    vm = pool.vms.get(ref)
    if vm is None:
        raise HandleInvalid("VM", ref)
    return vm


def host_of(pool: Pool, ref: HostRef) -> Host:
    """Give the host.

    Raises:
        HandleInvalid: there is none.
    """
    host = pool.hosts.get(ref)
    if host is None:
        raise HandleInvalid("host", ref)
    return host


def task_of(pool: Pool, ref: TaskRef) -> Task:
    """Give the task.

    Raises:
        HandleInvalid: there is none.
    """
    task = pool.tasks.get(ref)
    if task is None:
        raise HandleInvalid("task", ref)
    return task


def network_of(pool: Pool, ref: NetworkRef) -> Network:
    """Give the network.

    Raises:
        HandleInvalid: there is none.
    """
    network = pool.networks.get(ref)
    if network is None:
        raise HandleInvalid("network", ref)
    return network


def vif_of(pool: Pool, ref: VifRef) -> Vif:
    """Give the VIF.

    Raises:
        HandleInvalid: there is none.
    """
    vif = pool.vifs.get(ref)
    if vif is None:
        raise HandleInvalid("VIF", ref)
    return vif


def sr_of(pool: Pool, ref: SrRef) -> Sr:
    """Give the SR.

    Raises:
        HandleInvalid: there is none.
    """
    sr = pool.srs.get(ref)
    if sr is None:
        raise HandleInvalid("SR", ref)
    return sr


def pbd_of_ref(pool: Pool, ref: PbdRef) -> Pbd:
    """Give the PBD.

    Raises:
        HandleInvalid: there is none.
    """
    pbd = pool.pbds.get(ref)
    if pbd is None:
        raise HandleInvalid("PBD", ref)
    return pbd


def vdi_of(pool: Pool, ref: VdiRef) -> Vdi:
    """Give the VDI.

    Raises:
        HandleInvalid: there is none.
    """
    vdi = pool.vdis.get(ref)
    if vdi is None:
        raise HandleInvalid("VDI", ref)
    return vdi


def vbd_of(pool: Pool, ref: VbdRef) -> Vbd:
    """Give the VBD.

    Raises:
        HandleInvalid: there is none.
    """
    vbd = pool.vbds.get(ref)
    if vbd is None:
        raise HandleInvalid("VBD", ref)
    return vbd
