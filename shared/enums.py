"""XenAPI's enumerations, names verbatim; the order of members is the order on the wire."""

from enum import StrEnum


class PowerState(StrEnum):
    """vm_power_state."""

    HALTED = "Halted"
    PAUSED = "Paused"
    RUNNING = "Running"
    SUSPENDED = "Suspended"


class OnNormalExit(StrEnum):
    """on_normal_exit: what follows when the guest powers itself off or reboots."""

    DESTROY = "destroy"
    RESTART = "restart"


class OnCrashBehaviour(StrEnum):
    """on_crash_behaviour."""

    DESTROY = "destroy"
    COREDUMP_AND_DESTROY = "coredump_and_destroy"
    RESTART = "restart"
    COREDUMP_AND_RESTART = "coredump_and_restart"
    PRESERVE = "preserve"
    RENAME_RESTART = "rename_restart"


class OnSoftrebootBehavior(StrEnum):
    """on_softreboot_behavior."""

    SOFT_REBOOT = "soft_reboot"
    DESTROY = "destroy"
    RESTART = "restart"
    PRESERVE = "preserve"


class DomainType(StrEnum):
    """domain_type."""

    HVM = "hvm"
    PV = "pv"
    PV_IN_PVH = "pv_in_pvh"
    PVH = "pvh"
    UNSPECIFIED = "unspecified"


class VmOperation(StrEnum):
    """vm_operations."""

    SNAPSHOT = "snapshot"
    CLONE = "clone"
    COPY = "copy"
    CREATE_TEMPLATE = "create_template"
    REVERT = "revert"
    CHECKPOINT = "checkpoint"
    SNAPSHOT_WITH_QUIESCE = "snapshot_with_quiesce"
    PROVISION = "provision"
    START = "start"
    START_ON = "start_on"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    CLEAN_SHUTDOWN = "clean_shutdown"
    CLEAN_REBOOT = "clean_reboot"
    HARD_SHUTDOWN = "hard_shutdown"
    POWER_STATE_RESET = "power_state_reset"
    HARD_REBOOT = "hard_reboot"
    SUSPEND = "suspend"
    CSVM = "csvm"
    RESUME = "resume"
    RESUME_ON = "resume_on"
    POOL_MIGRATE = "pool_migrate"
    MIGRATE_SEND = "migrate_send"
    GET_BOOT_RECORD = "get_boot_record"
    SEND_SYSRQ = "send_sysrq"
    SEND_TRIGGER = "send_trigger"
    QUERY_SERVICES = "query_services"
    SHUTDOWN = "shutdown"
    CALL_PLUGIN = "call_plugin"
    CHANGING_MEMORY_LIVE = "changing_memory_live"
    AWAITING_MEMORY_LIVE = "awaiting_memory_live"
    CHANGING_DYNAMIC_RANGE = "changing_dynamic_range"
    CHANGING_STATIC_RANGE = "changing_static_range"
    CHANGING_MEMORY_LIMITS = "changing_memory_limits"
    CHANGING_SHADOW_MEMORY = "changing_shadow_memory"
    CHANGING_SHADOW_MEMORY_LIVE = "changing_shadow_memory_live"
    CHANGING_VCPUS = "changing_VCPUs"
    CHANGING_VCPUS_LIVE = "changing_VCPUs_live"
    CHANGING_NVRAM = "changing_NVRAM"
    ASSERT_OPERATION_VALID = "assert_operation_valid"
    DATA_SOURCE_OP = "data_source_op"
    UPDATE_ALLOWED_OPERATIONS = "update_allowed_operations"
    MAKE_INTO_TEMPLATE = "make_into_template"
    IMPORT = "import"
    EXPORT = "export"
    METADATA_EXPORT = "metadata_export"
    REVERTING = "reverting"
    DESTROY = "destroy"
    CREATE_VTPM = "create_vtpm"


class VmTrigger(StrEnum):
    """What VM.send_trigger can send."""

    NMI = "nmi"
    RESET = "reset"
    INIT = "init"
    POWER = "power"
    SLEEP = "sleep"


class HostOperation(StrEnum):
    """host_allowed_operations."""

    PROVISION = "provision"
    EVACUATE = "evacuate"
    SHUTDOWN = "shutdown"
    REBOOT = "reboot"
    POWER_ON = "power_on"
    VM_START = "vm_start"
    VM_RESUME = "vm_resume"
    VM_MIGRATE = "vm_migrate"
    APPLY_UPDATES = "apply_updates"
    ENABLE = "enable"


class TaskStatus(StrEnum):
    """task_status_type."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class TaskOperation(StrEnum):
    """task_allowed_operations."""

    CANCEL = "cancel"
    DESTROY = "destroy"


class EventOperation(StrEnum):
    """event_operation."""

    ADD = "add"
    DEL = "del"
    MOD = "mod"


class ConsoleProtocol(StrEnum):
    """console_protocol."""

    VT100 = "vt100"
    RFB = "rfb"
    RDP = "rdp"


class TristateType(StrEnum):
    """tristate_type."""

    YES = "yes"
    NO = "no"
    UNSPECIFIED = "unspecified"


class NetworkOperation(StrEnum):
    """network_operations."""

    ATTACHING = "attaching"


class VifOperation(StrEnum):
    """vif_operations."""

    ATTACH = "attach"
    PLUG = "plug"
    UNPLUG = "unplug"


class VifLockingMode(StrEnum):
    """vif_locking_mode."""

    NETWORK_DEFAULT = "network_default"
    LOCKED = "locked"
    UNLOCKED = "unlocked"
    DISABLED = "disabled"


class NetworkDefaultLockingMode(StrEnum):
    """network_default_locking_mode."""

    UNLOCKED = "unlocked"
    DISABLED = "disabled"


class IpConfigurationMode(StrEnum):
    """ip_configuration_mode, and those of VIFs, which lack DHCP."""

    NONE = "None"
    DHCP = "DHCP"
    STATIC = "Static"


class StorageOperation(StrEnum):
    """storage_operations: what is done to an SR."""

    SCAN = "scan"
    DESTROY = "destroy"
    FORGET = "forget"
    PLUG = "plug"
    UNPLUG = "unplug"
    UPDATE = "update"
    VDI_CREATE = "vdi_create"
    VDI_INTRODUCE = "vdi_introduce"
    VDI_DESTROY = "vdi_destroy"
    VDI_RESIZE = "vdi_resize"
    VDI_CLONE = "vdi_clone"
    VDI_SNAPSHOT = "vdi_snapshot"
    VDI_MIRROR = "vdi_mirror"
    VDI_ENABLE_CBT = "vdi_enable_cbt"
    VDI_DISABLE_CBT = "vdi_disable_cbt"
    VDI_DATA_DESTROY = "vdi_data_destroy"
    VDI_LIST_CHANGED_BLOCKS = "vdi_list_changed_blocks"
    VDI_SET_ON_BOOT = "vdi_set_on_boot"
    PBD_CREATE = "pbd_create"
    PBD_DESTROY = "pbd_destroy"


class VdiOperation(StrEnum):
    """vdi_operations."""

    CLONE = "clone"
    COPY = "copy"
    RESIZE = "resize"
    RESIZE_ONLINE = "resize_online"
    SNAPSHOT = "snapshot"
    MIRROR = "mirror"
    DESTROY = "destroy"
    FORGET = "forget"
    UPDATE = "update"
    FORCE_UNLOCK = "force_unlock"
    GENERATE_CONFIG = "generate_config"
    ENABLE_CBT = "enable_cbt"
    DISABLE_CBT = "disable_cbt"
    DATA_DESTROY = "data_destroy"
    LIST_CHANGED_BLOCKS = "list_changed_blocks"
    SET_ON_BOOT = "set_on_boot"
    BLOCKED = "blocked"


class VbdOperation(StrEnum):
    """vbd_operations."""

    ATTACH = "attach"
    EJECT = "eject"
    INSERT = "insert"
    PLUG = "plug"
    UNPLUG = "unplug"
    UNPLUG_FORCE = "unplug_force"
    PAUSE = "pause"
    UNPAUSE = "unpause"


class VdiType(StrEnum):
    """vdi_type."""

    SYSTEM = "system"
    USER = "user"
    EPHEMERAL = "ephemeral"
    SUSPEND = "suspend"
    CRASHDUMP = "crashdump"
    HA_STATEFILE = "ha_statefile"
    METADATA = "metadata"
    REDO_LOG = "redo_log"
    RRD = "rrd"
    PVS_CACHE = "pvs_cache"
    CBT_METADATA = "cbt_metadata"


class OnBoot(StrEnum):
    """on_boot: what becomes of a disk's content when its VM boots."""

    RESET = "reset"
    PERSIST = "persist"


class VbdType(StrEnum):
    """vbd_type."""

    CD = "CD"
    DISK = "Disk"
    FLOPPY = "Floppy"


class VbdMode(StrEnum):
    """vbd_mode."""

    RO = "RO"
    RW = "RW"


class Role(StrEnum):
    """XenAPI's roles, least first; a role may do all that the roles before it may."""

    READ_ONLY = "read-only"
    VM_OPERATOR = "vm-operator"
    VM_ADMIN = "vm-admin"
    VM_POWER_ADMIN = "vm-power-admin"
    POOL_OPERATOR = "pool-operator"
    POOL_ADMIN = "pool-admin"
