"""Facts and words to build tests from: a pool with hosts, VMs in every state, what hosts would say of them.

Rules: references and uuids are derived from small numbers and names, as real ones are from command ids; `inventory` agrees
with `host_described`, and `seen` with `vm_started`, so that a test only names what differs.
"""

from typing import Any, Final

from pool_master.core import events as ev
from pool_master.core.vm import VmConfig
from shared import protocol as says
from shared.enums import OnCrashBehaviour, OnNormalExit, VmOperation
from shared.protocol import DomainObservation, DomainState, HostInventory
from shared.refs import NULL_HOST, HostRef, PoolRef, TaskRef, VmRef, derive, derive_ref

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
# 2024-04-20T12:00:00Z
BEGINNING_US: Final = 1_713_614_400 * 1_000_000
ALICE: Final = ev.Actor(ev.ActorKind.USER, "alice", "session-of-alice")
MASTER: Final = ev.Actor(ev.ActorKind.MASTER, "master-1")

POOL: Final = PoolRef(derive_ref("pool", "pool"))
VM: Final = VmRef(derive_ref("vm", "VM"))
VM_UUID: Final = derive("vm", "VM")
OTHER_VM: Final = VmRef(derive_ref("other", "VM"))
OTHER_VM_UUID: Final = derive("other", "VM")


def host_uuid(number: int) -> str:
    """The uuid of the pool's host with that number, from 1."""
    return derive(f"host-{number}", "host")


def host_ref(number: int) -> HostRef:
    """The reference of the pool's host with that number, from 1."""
    return HostRef(derive_ref(host_uuid(number), "host"))


HOST: Final = host_ref(1)
HOST_2: Final = host_ref(2)
HOST_3: Final = host_ref(3)


def task(number: int) -> TaskRef:
    """The task of the scenario's command with that number, from 1."""
    return TaskRef(derive_ref(f"c{number}", "task"))


def task_uuid(number: int) -> str:
    """That task's uuid."""
    return derive(f"c{number}", "task")


# --- facts


def config(**changes: Any) -> VmConfig:
    """What a user might ask of a small VM."""
    values: dict[str, Any] = {
        "user_version": 1,
        "is_a_template": False,
        "affinity": NULL_HOST,
        "memory_static_max": 512 * MIB,
        "memory_dynamic_max": 512 * MIB,
        "memory_dynamic_min": 512 * MIB,
        "memory_static_min": 128 * MIB,
        "VCPUs_params": {},
        "VCPUs_max": 2,
        "VCPUs_at_startup": 1,
        "actions_after_shutdown": OnNormalExit.DESTROY,
        "actions_after_reboot": OnNormalExit.RESTART,
        "actions_after_crash": OnCrashBehaviour.RESTART,
        "PV_bootloader": "",
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {},
        "platform": {},
        "PCI_bus": "",
        "other_config": {"mac_seed": "seed"},
        "recommendations": "",
        "name_label": "vm",
    }
    return VmConfig(**{**values, **changes})


def pool_created() -> ev.PoolCreated:
    """The beginning of the log."""
    return ev.PoolCreated(pool=POOL, uuid=derive("pool", "pool"), name_label="pool")


def elected(term: int = 1) -> ev.MasterElected:
    """A master."""
    return ev.MasterElected(term=term, master="master-1", address="192.0.2.1")


def host_joined(number: int) -> ev.HostJoined:
    """A host that nobody has heard of since."""
    return ev.HostJoined(
        host=host_ref(number),
        uuid=host_uuid(number),
        name_label=f"host-{number}",
        hostname=f"h{number}",
        address=f"192.0.2.{10 + number}",
    )


def host_described(
    number: int, *, memory_total: int = 8 * GIB, cpu_count: int = 8, vendor: str = "GenuineIntel"
) -> ev.HostDescribed:
    """A host's word of itself; what `inventory` says too."""
    return ev.HostDescribed(
        host=host_ref(number),
        hostname=f"h{number}",
        address=f"192.0.2.{10 + number}",
        hypervisor="test",
        migrate_uri=f"test://h{number}/",
        memory_total=memory_total,
        memory_free=memory_total,
        cpu_count=cpu_count,
        cpu_info={"vendor": vendor},
        software_version={"product_version": "1.0.0"},
        capabilities=("hvm",),
    )


def live_host(number: int, **described: Any) -> list[ev.Event]:
    """A host that lives, with 8 GiB and 8 CPUs unless said otherwise."""
    return [
        host_joined(number),
        host_described(number, **described),
        ev.HostCameAlive(host=host_ref(number)),
    ]


def a_pool(hosts: int = 2, **described: Any) -> list[ev.Event]:
    """A pool with so many live hosts."""
    events: list[ev.Event] = [pool_created(), elected()]
    for number in range(1, hosts + 1):
        events += live_host(number, **described)
    return events


def vm_created(vm: VmRef = VM, uuid: str = VM_UUID, **changes: Any) -> ev.VmCreated:
    """A halted VM."""
    return ev.VmCreated(
        vm=vm,
        uuid=uuid,
        config=config(**changes),
        metrics=derive_ref(uuid, "VM_metrics"),
        metrics_uuid=derive(uuid, "VM_metrics"),
    )


def vm_started(
    vm: VmRef = VM, host: HostRef = HOST, incarnation: int = 1, **more: Any
) -> ev.VmStarted:
    """A running domain, as `seen` shows it."""
    values = {"domid": 7, "memory_actual": 512 * MIB, "vcpus": 1, "cpu_flags": {"vendor": "x"}}
    return ev.VmStarted(vm=vm, host=host, incarnation=incarnation, **{**values, **more})


def running(vm: VmRef = VM, host: HostRef = HOST, **changes: Any) -> list[ev.Event]:
    """A running VM."""
    uuid = VM_UUID if vm == VM else OTHER_VM_UUID
    return [vm_created(vm, uuid, **changes), vm_started(vm, host)]


def paused(vm: VmRef = VM, host: HostRef = HOST, **changes: Any) -> list[ev.Event]:
    """A paused VM."""
    return [*running(vm, host, **changes), ev.VmPaused(vm=vm)]


def accepted(
    operation: VmOperation,
    number: int = 1,
    *,
    vm: VmRef = VM,
    host: HostRef = HOST,
    incarnation: int = 1,
    destination: HostRef = NULL_HOST,
    label: str = "",
    **arguments: str,
) -> ev.OperationAccepted:
    """An operation in flight, under the task of command `number`."""
    return ev.OperationAccepted(
        task=task(number),
        task_uuid=task_uuid(number),
        name_label=label or f"VM.{operation}",
        operation=operation,
        vm=vm,
        host=host,
        incarnation=incarnation,
        destination=destination,
        arguments=arguments,
    )


# --- hosts' words


def seen(
    state: DomainState = DomainState.RUNNING,
    *,
    incarnation: int = 1,
    uuid: str = VM_UUID,
    domid: int = 7,
    **more: Any,
) -> DomainObservation:
    """A domain as a host sees it."""
    is_alive = state in {DomainState.RUNNING, DomainState.PAUSED}
    values = {"memory_actual": 512 * MIB, "vcpus": 1, "cpu_flags": {"vendor": "x"}}
    return DomainObservation(
        vm_uuid=uuid,
        incarnation=incarnation,
        state=state,
        domid=domid if is_alive else -1,
        **{**values, **more},
    )


def inventory(
    number: int = 1,
    *domains: DomainObservation,
    memory_total: int = 8 * GIB,
    unknown_domains: tuple[str, ...] = (),
    **more: Any,
) -> HostInventory:
    """What a host says of itself, in agreement with `host_described`."""
    values: dict[str, Any] = {
        "hostname": f"h{number}",
        "address": f"192.0.2.{10 + number}",
        "hypervisor": "test",
        "migrate_uri": f"test://h{number}/",
        "memory_total": memory_total,
        "memory_free": memory_total,
        "cpu_count": 8,
        "cpu_info": {"vendor": "GenuineIntel"},
        "software_version": {"product_version": "1.0.0"},
        "capabilities": ("hvm",),
    }
    return HostInventory(domains=domains, unknown_domains=unknown_domains, **{**values, **more})


def changed(
    change: says.DomainChange, observation: DomainObservation | None = None
) -> says.DomainChanged:
    """A domain that changed by itself."""
    return says.DomainChanged(
        change=change, observation=seen(DomainState.SHUTOFF) if observation is None else observation
    )
