"""References to records, with XenAPI's refusal where there is none."""

from pool_master.core.host import Host
from pool_master.core.network import Network, Vif
from pool_master.core.pool import Pool
from pool_master.core.task import Task
from pool_master.core.vm import Vm
from shared.errors import HandleInvalid
from shared.refs import HostRef, NetworkRef, TaskRef, VifRef, VmRef


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
