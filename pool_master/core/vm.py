"""The VM: its record, and the fields that XenAPI's VM class has.

Rules: the annotated fields ARE the datamodel, XenAPI's names verbatim; a field without a Spec is internal. What users
set lives in VmConfig, what the system maintains in Vm, so that a change of state copies only what changes often.
"""

from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import Struct, field

from pool_master.core.datamodel import EMPTY_MAP, constructor, inert, runtime, rw
from shared.codec import EPOCH
from shared.enums import (
    ConsoleProtocol,
    DomainType,
    OnCrashBehaviour,
    OnNormalExit,
    OnSoftrebootBehavior,
    PowerState,
    TristateType,
    VmOperation,
)
from shared.refs import (
    NULL,
    NULL_HOST,
    NULL_SR,
    NULL_VDI,
    ConsoleRef,
    ForeignRef,
    HostRef,
    SrRef,
    TaskRef,
    VdiRef,
    VmGuestMetricsRef,
    VmMetricsRef,
    VmRef,
)

StringMap = dict[str, str]


def _empty() -> dict[Any, Any]:
    return EMPTY_MAP


class VmConfig(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What users ask of a VM: given at create, changed by setters."""

    user_version: Annotated[int, rw("a user version number for this machine")]
    is_a_template: Annotated[
        bool,
        rw(
            "true if this is a template. Template VMs can never be started, they are used only for cloning"
        ),
    ]
    affinity: Annotated[
        HostRef, rw("a host which the VM has some affinity for (or NULL); a hint to start")
    ]
    memory_static_max: Annotated[
        int,
        constructor("the most memory the guest can use (bytes); new values take effect on reboot"),
    ]
    memory_dynamic_max: Annotated[int, constructor("dynamic maximum (bytes)")]
    memory_dynamic_min: Annotated[int, constructor("dynamic minimum (bytes)")]
    memory_static_min: Annotated[int, constructor("the least memory this VM can boot with (bytes)")]
    VCPUs_params: Annotated[StringMap, rw("parameters for the VCPU policy: weight, cap, mask")]
    VCPUs_max: Annotated[int, constructor("max number of VCPUs")]
    VCPUs_at_startup: Annotated[int, constructor("boot number of VCPUs")]
    actions_after_shutdown: Annotated[
        OnNormalExit, rw("action to take after the guest has shut itself down")
    ]
    actions_after_reboot: Annotated[
        OnNormalExit, rw("action to take after the guest has rebooted itself")
    ]
    actions_after_crash: Annotated[
        OnCrashBehaviour, constructor("action to take if the guest crashes")
    ]
    PV_bootloader: Annotated[str, rw("name of or path to bootloader")]
    PV_kernel: Annotated[str, rw("path to the kernel, on the host")]
    PV_ramdisk: Annotated[str, rw("path to the initrd, on the host")]
    PV_args: Annotated[str, rw("kernel command-line arguments")]
    PV_bootloader_args: Annotated[str, rw("miscellaneous arguments for the bootloader")]
    PV_legacy_args: Annotated[str, rw("to make Zurich guests boot; stored only")]
    HVM_boot_policy: Annotated[str, constructor("HVM boot policy", is_deprecated=True)]
    HVM_boot_params: Annotated[StringMap, rw("HVM boot params: order of c disk, d CD, n network")]
    platform: Annotated[StringMap, rw("platform-specific configuration")]
    PCI_bus: Annotated[str, rw("PCI bus path for pass-through devices; stored only")]
    other_config: Annotated[StringMap, rw("additional configuration")]
    recommendations: Annotated[
        str, rw("an XML specification of recommended values and ranges for properties of this VM")
    ]
    name_label: Annotated[str, rw("a human-readable name")] = ""
    name_description: Annotated[str, rw("a notes field containing human-readable description")] = ""
    suspend_SR: Annotated[SrRef, rw("the SR on which a suspend image is stored")] = NULL_SR
    ha_restart_priority: Annotated[
        str, constructor('"restart": protected; "best-effort"; "": not restarted')
    ] = ""
    ha_always_run: Annotated[
        bool, constructor("true if the VM should always run", is_deprecated=True)
    ] = False
    order: Annotated[
        int, constructor("the point in the startup order at which this VM is started")
    ] = 0
    start_delay: Annotated[int, constructor("seconds to wait before the next in the order")] = 0
    shutdown_delay: Annotated[int, constructor("seconds to wait after shutdown")] = 0
    xenstore_data: Annotated[StringMap, rw("data for the guest")] = field(default_factory=_empty)
    blocked_operations: Annotated[
        dict[VmOperation, str], rw("operations that are blocked, with the reason")
    ] = field(default_factory=_empty)
    tags: Annotated[tuple[str, ...], rw("user-specified tags for categorization purposes")] = ()
    actions_after_softreboot: Annotated[
        OnSoftrebootBehavior, rw("action to take after soft reboot; stored only")
    ] = OnSoftrebootBehavior.SOFT_REBOOT
    hardware_platform_version: Annotated[int, rw("the host virtual hardware platform version")] = 0
    HVM_shadow_multiplier: Annotated[float, constructor("stored only")] = 1.0
    domain_type: Annotated[DomainType, constructor("the type of domain")] = DomainType.UNSPECIFIED
    NVRAM: Annotated[StringMap, constructor("initial value for guest NVRAM")] = field(
        default_factory=_empty
    )


BOOT_ORDER_DEFAULT: Final = "cd"


class Vm(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A VM as the log knows it.

    `incarnation` numbers the domain that runs (0: none), `last_incarnation` the last one that was given out: every
    start gets a new one, and a host only ever acts on a domain by VM and incarnation. `memory_promised` (bytes) is the
    dynamic minimum that an operation in flight will give it, 0 where none will. `booted_config` is what it was booted
    with, None while it has no domain. `suspend_image` names the image that holds its memory while it is Suspended.
    """

    ref: VmRef
    config: VmConfig
    last_incarnation: int = 0
    incarnation: int = 0
    booted_at: datetime = EPOCH
    booted_config: VmConfig | None = None
    memory_promised: int = 0
    suspend_image: str = ""
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    power_state: Annotated[PowerState, constructor("current power state of the machine")] = (
        PowerState.HALTED
    )
    current_operations: Annotated[
        dict[TaskRef, VmOperation],
        runtime("links each of the running tasks using this object to the nature of the task"),
    ] = field(default_factory=_empty)
    resident_on: Annotated[HostRef, runtime("the host the VM is currently resident on")] = NULL_HOST
    scheduled_to_be_resident_on: Annotated[
        HostRef, runtime("the host on which the VM is due to be started/resumed/migrated")
    ] = NULL_HOST
    suspend_VDI: Annotated[VdiRef, constructor("the VDI that a suspend image is stored on")] = (
        NULL_VDI
    )
    domid: Annotated[int, runtime("domain ID (if available, -1 otherwise)")] = -1
    domarch: Annotated[
        str, runtime("domain architecture (if available, null string otherwise)")
    ] = ""
    last_boot_CPU_flags: Annotated[
        StringMap, constructor("the CPU flags on which the VM was last booted")
    ] = field(default_factory=_empty)
    is_control_domain: Annotated[bool, runtime("true if this is a control domain")] = False
    is_default_template: Annotated[bool, runtime("true if this is a default template")] = False
    is_a_snapshot: Annotated[bool, runtime("true if this is a snapshot")] = False
    metrics: Annotated[VmMetricsRef, runtime("metrics associated with this VM")] = VmMetricsRef(
        NULL
    )
    guest_metrics: Annotated[
        VmGuestMetricsRef, runtime("metrics associated with the running guest")
    ] = VmGuestMetricsRef(NULL)
    memory_target: Annotated[int, constructor("dynamically-set memory target (bytes)")] = 0
    consoles: Annotated[tuple[ConsoleRef, ...], runtime("virtual console devices")] = ()


class VmMetrics(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """VM_metrics: what is measured of a VM."""

    ref: VmMetricsRef
    vm: VmRef
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    memory_actual: Annotated[int, runtime("guest's actual memory (bytes)")] = 0
    VCPUs_number: Annotated[int, runtime("current number of VCPUs")] = 0
    start_time: Annotated[datetime, runtime("time at which this VM was last booted")] = EPOCH
    install_time: Annotated[datetime, runtime("time at which the VM was installed")] = EPOCH
    last_updated: Annotated[
        datetime, runtime("time at which this information was last updated")
    ] = EPOCH
    other_config: Annotated[StringMap, rw("additional configuration")] = field(
        default_factory=_empty
    )
    hvm: Annotated[bool, runtime("hardware virtual machine")] = False
    current_domain_type: Annotated[DomainType, runtime("the current domain type of the VM")] = (
        DomainType.UNSPECIFIED
    )


class VmGuestMetrics(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """VM_guest_metrics: what the running guest says of itself."""

    ref: VmGuestMetricsRef
    vm: VmRef
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    os_version: Annotated[StringMap, runtime("version of the OS")] = field(default_factory=_empty)
    PV_drivers_version: Annotated[StringMap, runtime("version of the PV drivers")] = field(
        default_factory=_empty
    )
    PV_drivers_up_to_date: Annotated[bool, runtime("always true", is_deprecated=True)] = True
    networks: Annotated[StringMap, runtime("network configuration")] = field(default_factory=_empty)
    other: Annotated[StringMap, runtime("anything else")] = field(default_factory=_empty)
    last_updated: Annotated[datetime, runtime("time of the last update")] = EPOCH
    other_config: Annotated[StringMap, rw("additional configuration")] = field(
        default_factory=_empty
    )
    live: Annotated[bool, runtime("true if the guest is sending heartbeat messages")] = False
    can_use_hotplug_vbd: Annotated[TristateType, runtime("whether VBDs can be hot-plugged")] = (
        TristateType.UNSPECIFIED
    )
    can_use_hotplug_vif: Annotated[TristateType, runtime("whether VIFs can be hot-plugged")] = (
        TristateType.UNSPECIFIED
    )
    PV_drivers_detected: Annotated[bool, runtime("whether PV drivers were detected")] = False


class Console(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """console: a way to see the running guest; made with the domain, gone with it."""

    ref: ConsoleRef
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    protocol: Annotated[ConsoleProtocol, runtime("the protocol used by this console")]
    location: Annotated[str, runtime("where the console service is")]
    VM: Annotated[VmRef, runtime("the VM this console is attached to")]
    other_config: Annotated[StringMap, rw("additional configuration")] = field(
        default_factory=_empty
    )


# Fields of today's VM class that never change here.
INERT_VM_FIELDS: Final = (
    inert("VUSBs", tuple[ForeignRef, ...], ()),
    inert("VGPUs", tuple[ForeignRef, ...], ()),
    inert("attached_PCIs", tuple[ForeignRef, ...], ()),
    inert("snapshot_of", VmRef, NULL),
    inert("snapshots", tuple[VmRef, ...], ()),
    inert("snapshot_time", datetime, EPOCH),
    inert("transportable_snapshot_id", str, ""),
    inert("snapshot_info", StringMap, EMPTY_MAP),
    inert("snapshot_metadata", str, ""),
    inert("blobs", StringMap, EMPTY_MAP),
    inert("parent", VmRef, NULL),
    inert("children", tuple[VmRef, ...], ()),
    inert("bios_strings", StringMap, EMPTY_MAP),
    inert("protection_policy", ForeignRef, NULL, is_constructor=True),
    inert("snapshot_schedule", ForeignRef, NULL, is_constructor=True),
    inert("is_vmss_snapshot", bool, False, is_constructor=True),
    inert("appliance", ForeignRef, NULL, is_constructor=True),
    inert("version", int, 0, is_constructor=True),
    inert("generation_id", str, "0:0", is_constructor=True),
    inert("has_vendor_device", bool, False, is_constructor=True),
    inert("requires_reboot", bool, False),
    inert("reference_label", str, "", is_constructor=True),
    inert("last_booted_record", str, "", is_constructor=True),
    inert("pending_guidances", tuple[str, ...], ()),
    inert("pending_guidances_recommended", tuple[str, ...], ()),
    inert("pending_guidances_full", tuple[str, ...], ()),
    inert("crash_dumps", tuple[ForeignRef, ...], ()),
    inert("VTPMs", tuple[ForeignRef, ...], ()),
)
