"""One event of every type, with every field away from its default: what the golden files are first written from."""

from typing import Final

from pool_master.core import events as ev
from pool_master.core import network_events as nev
from pool_master.core.network import NetworkConfig, VifConfig
from shared.enums import (
    DomainType,
    OnCrashBehaviour,
    OnNormalExit,
    OnSoftrebootBehavior,
    PowerState,
    VmOperation,
)
from shared.refs import NetworkRef, PifRef, VifRef, VmRef
from tests.golden.storage_samples import STORAGE_SAMPLES
from tests.support.facts import (
    HOST,
    HOST_2,
    POOL,
    VM,
    VM_UUID,
    config,
    host_described,
    host_joined,
    host_uuid,
    task,
    task_uuid,
    vm_created,
)

NETWORK: Final = NetworkRef("OpaqueRef:network-1")
PIF: Final = PifRef("OpaqueRef:PIF-1")
VIF: Final = VifRef("OpaqueRef:VIF-1")

TIME_US: Final = 1_713_614_400_123_456

_EVENTS: Final[tuple[ev.Event, ...]] = (
    ev.PoolCreated(pool=POOL, uuid="6a1e5f0c-0000-4000-8000-000000000001", name_label="pool"),
    ev.MasterElected(term=7, master="master-1", address="192.0.2.1"),
    host_joined(1),
    ev.HostForgotten(host=HOST),
    ev.HostDescribed(
        host=HOST,
        hostname="h1",
        address="192.0.2.11",
        hypervisor="QEMU",
        migrate_uri="qemu+tcp://192.0.2.11/system",
        memory_total=8_589_934_592,
        memory_free=4_294_967_296,
        cpu_count=8,
        cpu_info=host_described(1).cpu_info,
        software_version={"product_version": "1.0.0"},
        capabilities=("hvm", "kvm"),
        unknown_domains=("somebody's",),
        peer_address="192.0.2.11:7399",
    ),
    ev.HostAgentStarted(host=HOST, journal="journal-1", epoch=3),
    ev.HostCameAlive(host=HOST),
    ev.HostLost(host=HOST, evidence="lease expired 10.0 s ago"),
    ev.HostEnabled(host=HOST),
    ev.HostDisabled(host=HOST),
    ev.HostReportsSeen(host=HOST, journal="journal-1", sequence=41),
    ev.StaleDomainFound(host=HOST, vm_uuid=VM_UUID, incarnation=2),
    ev.StaleDomainDropped(host=HOST, vm_uuid=VM_UUID, incarnation=2),
    ev.StaleDomainKept(
        host=HOST, vm_uuid=VM_UUID, incarnation=2, error_info=("INTERNAL_ERROR", "busy")
    ),
    ev.VmCreated(
        vm=VM,
        uuid=VM_UUID,
        config=config(
            name_label="wëb",
            affinity=HOST,
            actions_after_shutdown=OnNormalExit.RESTART,
            actions_after_crash=OnCrashBehaviour.PRESERVE,
            platform={"acpi": "true"},
            tags=("a", "b"),
            blocked_operations={VmOperation.START: "why"},
            name_description="serves",
            suspend_SR="OpaqueRef:sr",
            ha_restart_priority="restart",
            ha_always_run=True,
            order=2,
            start_delay=3,
            shutdown_delay=4,
            xenstore_data={"vm-data": "x"},
            actions_after_softreboot=OnSoftrebootBehavior.DESTROY,
            hardware_platform_version=2,
            HVM_shadow_multiplier=1.5,
            domain_type=DomainType.HVM,
            NVRAM={"EFI": "x"},
        ),
        metrics=vm_created().metrics,
        metrics_uuid=vm_created().metrics_uuid,
    ),
    ev.VmDestroyed(vm=VM),
    ev.VmStarted(
        vm=VM,
        host=HOST,
        incarnation=3,
        domid=12,
        power_state=PowerState.PAUSED,
        cpu_flags={"vendor": "GenuineIntel"},
        memory_actual=536_870_912,
        vcpus=2,
        console_rfb="192.0.2.11:5900",
        console_vt100="192.0.2.11:7000",
        nics=("02:00:00:00:00:01",),
    ),
    ev.VmHalted(vm=VM, reason="the guest powered itself off"),
    ev.VmPaused(vm=VM),
    ev.VmUnpaused(vm=VM),
    ev.VmRebooted(vm=VM),
    ev.VmSuspended(vm=VM, image=f"{VM_UUID}.3"),
    ev.VmResumed(
        vm=VM,
        host=HOST,
        incarnation=4,
        domid=13,
        power_state=PowerState.RUNNING,
        memory_actual=536_870_912,
        vcpus=2,
        console_rfb="192.0.2.11:5900",
        console_vt100="192.0.2.11:7000",
        nics=("52:54:00:00:00:01",),
    ),
    ev.VmTuned(vm=VM, memory_actual=536_870_912, vcpus=2, memory_target=536_870_912),
    ev.VmMigrated(
        vm=VM, host=HOST_2, domid=4, console_rfb="192.0.2.12:5900", console_vt100="192.0.2.12:7000"
    ),
    ev.VmReset(vm=VM, evidence=f"host {host_uuid(1)} was declared lost"),
    ev.HaEnabled(pool=POOL, configuration={"timeout": "60"}),
    ev.HaDisabled(pool=POOL),
    ev.HaRestartsHeld(pool=POOL, until_us=TIME_US),
    ev.FailoverPlanned(pool=POOL, plan_exists_for=1, is_overcommitted=True),
    ev.VmRestartDue(vm=VM, reason="its host was lost", host=HOST_2, not_before_us=TIME_US),
    ev.VmRestartTried(vm=VM, host=HOST_2, task=task(1)),
    ev.VmRestartEnded(vm=VM, reason="it is Running"),
    ev.VmRestartGivenUp(vm=VM, error_info=("HOST_OFFLINE", HOST_2)),
    ev.FieldSet(object_class="VM", ref=VM, field="tags", value=["a", "b"]),
    ev.MapKeySet(object_class="VM", ref=VM, field="other_config", key="k", value="v"),
    ev.MapKeyRemoved(object_class="VM", ref=VM, field="other_config", key="k"),
    ev.ObjectTouched(object_class="pool", ref=POOL),
    ev.TaskCreated(
        task=task(1),
        uuid=task_uuid(1),
        name_label="Async.VM.start",
        name_description="a call that waits",
        method="VM.start",
        parameters=(VmRef(VM), False, False),
    ),
    ev.TaskUpdated(task=task(1), progress=0.5, result="<value/>", error_info=("CODE", "x")),
    ev.TaskDestroyed(task=task(1)),
    ev.OperationAccepted(
        task=task(1),
        task_uuid=task_uuid(1),
        name_label="VM.pool_migrate",
        operation=VmOperation.POOL_MIGRATE,
        vm=VM,
        host=HOST,
        incarnation=3,
        destination=HOST_2,
        arguments={"live": "true"},
    ),
    ev.OperationAdvanced(task=task(1), step=1, host=HOST_2),
    ev.OperationProgressed(task=task(1), progress=0.25),
    ev.CancelRequested(task=task(1)),
    ev.TaskSucceeded(task=task(1), result="<value>x</value>"),
    ev.TaskFailed(task=task(1), error_info=("HOST_OFFLINE", HOST)),
    nev.NetworkCreated(
        network=NETWORK,
        uuid="n1",
        config=NetworkConfig(
            name_label="lan",
            name_description="d",
            MTU=9000,
            other_config={"k": "v"},
            bridge="xenbr0",
            managed=False,
            tags=("a",),
        ),
    ),
    nev.NetworkDestroyed(network=NETWORK),
    nev.PifIntroduced(
        pif=PIF,
        uuid="p1",
        host=HOST,
        network=NETWORK,
        device="eth0",
        MAC="02:00:00:00:00:09",
        MTU=9000,
        physical=True,
        libvirt_network="default",
    ),
    nev.PifUnplugged(pif=PIF),
    nev.VifCreated(
        vif=VIF,
        uuid="v1",
        config=VifConfig(
            device="0",
            network=NETWORK,
            VM=VM,
            MAC="02:00:00:00:00:01",
            MTU=9000,
            other_config={"k": "v"},
            qos_algorithm_type="ratelimit",
            qos_algorithm_params={"kbps": "100"},
        ),
        is_mac_generated=True,
    ),
    nev.VifDestroyed(vif=VIF),
    *STORAGE_SAMPLES,
    nev.VifPlugged(vif=VIF),
    nev.VifUnplugged(vif=VIF),
    ev.DeviceOperationAccepted(
        task=task(1),
        task_uuid=task_uuid(1),
        name_label="VIF.plug",
        object_class="VIF",
        device=VIF,
        name="02:00:00:00:00:01",
        operation="plug",
        vm=VM,
        host=HOST,
        incarnation=3,
    ),
)


def samples() -> dict[str, ev.Recorded]:
    """Give one recorded event of every type, by type."""
    actor = ev.Actor(ev.ActorKind.USER, "alice", "session-1")
    return {
        type(event).__name__: ev.Recorded(1, 7, TIME_US, actor, "command-1", "VM.x", event)
        for event in _EVENTS
    }
