"""The host: its record and metrics, and the fields that XenAPI's host class has."""

from datetime import datetime
from typing import Annotated, Final

from msgspec import Struct, field

from pool_master.core.datamodel import EMPTY_MAP, constructor, inert, runtime, rw
from shared.codec import EPOCH
from shared.refs import NULL, NULL_SR, ForeignRef, HostMetricsRef, HostRef, SrRef, VmRef

StringMap = dict[str, str]


def _empty() -> StringMap:
    return EMPTY_MAP


class Host(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A host as the log knows it.

    `journal` and `report_sequence` say up to which report of the agent everything is in the log; `epoch` counts the
    agent's starts; of `past_journals` nothing counts any more. `unknown_domains` are guests that the pool did not make:
    shown, never touched. `peer_address` is where other hosts ask its agent for its lease; `lost_count` counts how often it
    was given up: commands from before the last time must not run any more.
    """

    ref: HostRef
    journal: str = ""
    past_journals: tuple[str, ...] = ()
    report_sequence: int = 0
    epoch: int = 0
    migrate_uri: str = ""
    hypervisor: str = ""
    unknown_domains: tuple[str, ...] = ()
    peer_address: str = ""
    lost_count: int = 0
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    name_label: Annotated[str, rw("a human-readable name")] = ""
    name_description: Annotated[str, rw("a notes field")] = ""
    enabled: Annotated[bool, runtime("true if the host may be given new VMs")] = True
    software_version: Annotated[StringMap, constructor("version strings")] = field(
        default_factory=_empty
    )
    other_config: Annotated[StringMap, rw("additional configuration")] = field(
        default_factory=_empty
    )
    capabilities: Annotated[tuple[str, ...], constructor("what the hypervisor can do")] = ()
    cpu_info: Annotated[StringMap, runtime("details about the physical CPUs")] = field(
        default_factory=_empty
    )
    hostname: Annotated[str, rw("the hostname of this host")] = ""
    address: Annotated[str, rw("the address by which this host can be contacted")] = ""
    metrics: Annotated[HostMetricsRef, runtime("metrics associated with this host")] = (
        HostMetricsRef(NULL)
    )
    suspend_image_sr: Annotated[SrRef, rw("the SR for suspend images")] = NULL_SR
    crash_dump_sr: Annotated[SrRef, rw("the SR for crash dumps")] = NULL_SR
    logging: Annotated[StringMap, rw("logging configuration")] = field(default_factory=_empty)
    tags: Annotated[tuple[str, ...], rw("user-specified tags for categorization purposes")] = ()
    guest_VCPUs_params: Annotated[StringMap, rw("VCPU params for the guests")] = field(
        default_factory=_empty
    )


class HostMetrics(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """host_metrics: whether a host lives, and its memory. `cpu_count` is internal."""

    ref: HostMetricsRef
    host: HostRef
    cpu_count: int = 0
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    memory_total: Annotated[int, runtime("total host memory (bytes)")] = 0
    memory_free: Annotated[int, runtime("free host memory (bytes), as last reported")] = 0
    live: Annotated[bool, runtime("pool master thinks this host is live")] = False
    last_updated: Annotated[datetime, runtime("time of the last update")] = EPOCH
    other_config: Annotated[StringMap, rw("additional configuration")] = field(
        default_factory=_empty
    )


INERT_HOST_FIELDS: Final = (
    inert("memory_overhead", int, 0),
    inert("API_version_vendor", str, "vmpool"),
    inert("API_version_vendor_implementation", StringMap, EMPTY_MAP),
    inert("API_version_major", int, 2),
    inert("API_version_minor", int, 21),
    inert("cpu_configuration", StringMap, EMPTY_MAP),
    inert("sched_policy", str, ""),
    inert("supported_bootloaders", tuple[str, ...], ()),
    inert("crashdumps", tuple[ForeignRef, ...], ()),
    inert("patches", tuple[ForeignRef, ...], ()),
    inert("updates", tuple[ForeignRef, ...], ()),
    inert("host_CPUs", tuple[ForeignRef, ...], ()),
    inert("license_params", StringMap, EMPTY_MAP),
    inert("ha_statefiles", tuple[str, ...], ()),
    inert("ha_network_peers", tuple[str, ...], ()),
    inert("blobs", StringMap, EMPTY_MAP),
    inert("external_auth_type", str, ""),
    inert("external_auth_service_name", str, ""),
    inert("external_auth_configuration", StringMap, EMPTY_MAP),
    inert("edition", str, "free"),
    inert("license_server", StringMap, EMPTY_MAP),
    inert("bios_strings", StringMap, EMPTY_MAP),
    inert("power_on_mode", str, ""),
    inert("power_on_config", StringMap, EMPTY_MAP),
    inert("local_cache_sr", SrRef, NULL, is_constructor=True),
    inert("chipset_info", StringMap, EMPTY_MAP),
    inert("PCIs", tuple[ForeignRef, ...], ()),
    inert("PGPUs", tuple[ForeignRef, ...], ()),
    inert("PUSBs", tuple[ForeignRef, ...], ()),
    inert("ssl_legacy", bool, False, is_constructor=True),
    inert("display", str, "disabled"),
    inert("virtual_hardware_platform_versions", tuple[int, ...], (0, 1, 2)),
    inert("control_domain", VmRef, NULL),
    inert("updates_requiring_reboot", tuple[ForeignRef, ...], ()),
    inert("features", tuple[ForeignRef, ...], ()),
    inert("iscsi_iqn", str, "", is_constructor=True),
    inert("multipathing", bool, False, is_constructor=True),
    inert("uefi_certificates", str, "", is_constructor=True),
    inert("certificates", tuple[ForeignRef, ...], ()),
    inert("editions", tuple[str, ...], ("free",)),
    inert("pending_guidances", tuple[str, ...], ()),
    inert("pending_guidances_recommended", tuple[str, ...], ()),
    inert("pending_guidances_full", tuple[str, ...], ()),
    inert("tls_verification_enabled", bool, False),
    inert("last_software_update", datetime, EPOCH),
    inert("https_only", bool, False),
    inert("latest_synced_updates_applied", str, "unknown"),
    inert("numa_affinity_policy", str, "default_policy"),
    inert("last_update_hash", str, ""),
)
