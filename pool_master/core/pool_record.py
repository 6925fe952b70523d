"""The pool's own record, and the fields that XenAPI's pool class has."""

from datetime import datetime
from typing import Annotated, Final

from msgspec import Struct, field

from pool_master.core.datamodel import EMPTY_MAP, inert, runtime, rw
from shared.codec import EPOCH
from shared.refs import NULL, NULL_HOST, NULL_SR, ForeignRef, HostRef, PoolRef, SrRef, VdiRef

StringMap = dict[str, str]


def _empty() -> StringMap:
    return EMPTY_MAP


class PoolRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """pool: there is exactly one. No restart is begun before `ha_restarts_held_until`."""

    ref: PoolRef
    ha_restarts_held_until: datetime = EPOCH
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    name_label: Annotated[str, rw("short name")] = ""
    name_description: Annotated[str, rw("description")] = ""
    master: Annotated[HostRef, runtime("the host that is pool master")] = NULL_HOST
    default_SR: Annotated[SrRef, rw("default SR for VDIs")] = NULL_SR
    suspend_image_SR: Annotated[SrRef, rw("the SR for suspend images")] = NULL_SR
    crash_dump_SR: Annotated[SrRef, rw("the SR for crash dumps")] = NULL_SR
    other_config: Annotated[StringMap, rw("additional configuration")] = field(
        default_factory=_empty
    )
    tags: Annotated[tuple[str, ...], rw("user-specified tags for categorization purposes")] = ()
    gui_config: Annotated[StringMap, rw("gui-specific configuration")] = field(
        default_factory=_empty
    )
    health_check_config: Annotated[StringMap, rw("stored only")] = field(default_factory=_empty)
    ha_allow_overcommit: Annotated[bool, rw("allow operations that break the failover plan")] = (
        False
    )
    wlb_enabled: Annotated[bool, rw("stored only")] = False
    policy_no_vendor_device: Annotated[bool, rw("stored only")] = False
    live_patching_disabled: Annotated[bool, rw("stored only")] = False
    is_psr_pending: Annotated[bool, rw("stored only")] = False
    migration_compression: Annotated[bool, rw("compress migration streams by default")] = False
    ha_enabled: Annotated[bool, runtime("true if HA is enabled on the pool")] = False
    ha_configuration: Annotated[StringMap, runtime("the HA configuration in use")] = field(
        default_factory=_empty
    )
    ha_host_failures_to_tolerate: Annotated[
        int, runtime("host failures to tolerate before the pool is declared to be overcommitted")
    ] = 0
    ha_plan_exists_for: Annotated[
        int, runtime("future host failures for which there is a plan; at 0 the next one costs VMs")
    ] = 0
    ha_overcommitted: Annotated[
        bool, runtime("true if fewer host failures are tolerable than are to be tolerated")
    ] = False
    coordinator_bias: Annotated[bool, rw("placement avoids the master's host")] = True


INERT_POOL_FIELDS: Final = (
    inert("ha_statefiles", tuple[str, ...], ()),
    inert("ha_cluster_stack", str, ""),
    inert("blobs", StringMap, EMPTY_MAP),
    inert("wlb_url", str, ""),
    inert("wlb_username", str, ""),
    inert("wlb_verify_cert", bool, False),
    inert("redo_log_enabled", bool, False),
    inert("redo_log_vdi", VdiRef, NULL),
    inert("vswitch_controller", str, ""),
    inert("restrictions", StringMap, EMPTY_MAP),
    inert("metadata_VDIs", tuple[VdiRef, ...], ()),
    inert("allowed_operations", tuple[str, ...], ()),
    inert("current_operations", StringMap, EMPTY_MAP),
    inert("guest_agent_config", StringMap, EMPTY_MAP),
    inert("cpu_info", StringMap, EMPTY_MAP),
    inert("igmp_snooping_enabled", bool, False),
    inert("uefi_certificates", str, "", is_constructor=True),
    inert("custom_uefi_certificates", str, "", is_constructor=True),
    inert("tls_verification_enabled", bool, False),
    inert("repositories", tuple[ForeignRef, ...], ()),
    inert("client_certificate_auth_enabled", bool, False),
    inert("client_certificate_auth_name", str, ""),
    inert("repository_proxy_url", str, ""),
    inert("repository_proxy_username", str, ""),
    inert("repository_proxy_password", ForeignRef, NULL),
    inert("local_auth_max_threads", int, 8, is_constructor=True),
    inert("ext_auth_max_threads", int, 1, is_constructor=True),
    inert("telemetry_uuid", ForeignRef, NULL),
    inert("telemetry_frequency", str, "weekly"),
    inert("telemetry_next_collection", datetime, EPOCH),
    inert("last_update_sync", datetime, EPOCH),
    inert("update_sync_frequency", str, "weekly"),
    inert("update_sync_day", int, 0),
    inert("update_sync_enabled", bool, False),
)
