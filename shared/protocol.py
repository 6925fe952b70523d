"""What masters and hosts say to each other: commands, reports and leases.

Rules: a command is a wish with no choices left in it; a report is what a host saw; neither is ever a fact of the log.
Every command carries the term of the leader that sent it, the VM and the incarnation it is about; a host drops what
is older than what it knows. Sizes are bytes, times are seconds unless the name says otherwise.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from shared.enums import OnCrashBehaviour, OnNormalExit, VmTrigger
from shared.protocol_devices import AttachNic as AttachNic
from shared.protocol_devices import DetachNic as DetachNic
from shared.protocol_devices import DeviceChange as DeviceChange
from shared.protocol_devices import HostNetwork as HostNetwork
from shared.protocol_devices import NicConfig as NicConfig
from shared.storage_protocol import DiskConfig, StorageAction, StorageObservation

PROTOCOL_VERSION: Final = 1


class DomainState(StrEnum):
    """What a hypervisor says of a domain."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTOFF = "shutoff"
    CRASHED = "crashed"


class DomainChange(StrEnum):
    """Why a host reports a domain without having been told to act on it."""

    STARTED = "started"
    POWERED_OFF = "powered_off"
    REBOOTED = "rebooted"
    CRASHED = "crashed"
    DESTROYED = "destroyed"
    PAUSED = "paused"
    RESUMED = "resumed"
    MIGRATED_IN = "migrated_in"
    MIGRATED_OUT = "migrated_out"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainConfig:
    """All that a host needs to build the domain of one incarnation of a VM.

    An empty `kernel` means boot by firmware in `boot_order` (XenAPI's HVM_boot_params order: c disk, d CD, n net).
    `vcpus_params`: weight, cap, mask. `memory_static_max` is the ceiling, `memory_target` what the guest starts with.
    """

    vm_uuid: str
    name_label: str
    incarnation: int
    memory_static_max: int
    memory_target: int
    vcpus_max: int
    vcpus_at_startup: int
    vcpus_params: dict[str, str] = field(default_factory=dict)
    kernel: str = ""
    ramdisk: str = ""
    kernel_args: str = ""
    boot_order: str = "cd"
    actions_after_shutdown: OnNormalExit = OnNormalExit.DESTROY
    actions_after_reboot: OnNormalExit = OnNormalExit.RESTART
    actions_after_crash: OnCrashBehaviour = OnCrashBehaviour.DESTROY
    platform: dict[str, str] = field(default_factory=dict)
    disks: tuple[DiskConfig, ...] = ()
    nics: tuple[NicConfig, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartDomain:
    """Build the domain and run it, or leave it paused."""

    config: DomainConfig
    start_paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseDomain:
    """Stop the domain's VCPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpauseDomain:
    """Let the domain's VCPUs run again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownDomain:
    """Ask the guest to power off, wait until it has; VM_SHUTDOWN_TIMEOUT after `timeout_s`."""

    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DestroyDomain:
    """Stop the domain at once; succeeds where it is gone already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartDomain:
    """Stop the domain of an older incarnation and run the one of `config`.

    With `clean`, ask the guest first and fail with VM_SHUTDOWN_TIMEOUT after `timeout_s`; otherwise at once.
    """

    config: DomainConfig
    clean: bool
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrateDomain:
    """Move the running domain to another host; sent to the source, which answers for the outcome."""

    destination_host: str
    destination_uri: str
    migrate_uri: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleMigration:
    """Sent to the destination when the source has spoken or is lost: say whether the guest runs here.

    Succeeds with the observation where it runs; otherwise makes sure that no incoming copy can ever run, and succeeds
    with none.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetDomain:
    """Destroy and undefine a stale incarnation; the only road by which a host drops a guest it was not asked to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelCommand:
    """Give up waiting for the command `command_id`, where it still waits."""

    cancelled_command_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDomainVcpus:
    """Let the running domain have this many VCPUs."""

    vcpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDomainMemory:
    """Ask the running guest, by its balloon, to make do with this much memory (bytes)."""

    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDomainScheduler:
    """Apply VCPUs_params (weight, cap, mask) to the running domain; what is not named stays as it is."""

    params: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SendSysrq:
    """Press Alt, SysRq and this key on the guest's keyboard."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTrigger:
    """Do to the machine what its front panel could: see XenAPI's VM.send_trigger."""

    trigger: VmTrigger


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendDomain:
    """Save the running domain's memory under this name and end the domain; the image is there when it is gone."""

    image: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeDomain:
    """Make the command's incarnation of a saved image, standing still; the image stays."""

    image: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleResume:
    """The log has the resumed domain: remove the image, and let the guest run."""

    image: str
    start_paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscardImage:
    """Remove a saved image; one that is gone is fine."""

    image: str


DomainTuning = SetDomainVcpus | SetDomainMemory | SetDomainScheduler
DomainSignal = SendSysrq | SendTrigger

HostAction = (
    StartDomain
    | PauseDomain
    | UnpauseDomain
    | ShutdownDomain
    | DestroyDomain
    | RestartDomain
    | MigrateDomain
    | SettleMigration
    | ForgetDomain
    | CancelCommand
    | SetDomainVcpus
    | SetDomainMemory
    | SetDomainScheduler
    | SendSysrq
    | SendTrigger
    | SuspendDomain
    | ResumeDomain
    | SettleResume
    | DiscardImage
    | StorageAction
    | AttachNic
    | DetachNic
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCommand:
    """A wish of the leader to one host.

    `command_id` is the same at every redelivery and under every leader: it is derived from the task and the step.
    `host_epoch` counts how often the host was given up: a command from before the last time must not run any more.
    """

    command_id: str
    task: str
    term: int
    vm_uuid: str
    incarnation: int
    action: HostAction
    host_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainObservation:
    """What the hypervisor says of one domain now; `domid` is -1 where the domain does not run.

    `nics` are the MACs of its network interfaces, in lower case.
    """

    vm_uuid: str
    incarnation: int
    state: DomainState
    domid: int = -1
    memory_actual: int = 0
    vcpus: int = 0
    console_rfb: str = ""
    console_vt100: str = ""
    cpu_flags: dict[str, str] = field(default_factory=dict)
    nics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSucceeded:
    """The command's effect is there; `observation` is the domain after it, None where none is left.

    `storage` is what a command about disks has left. Such a command has the uuid of the disk or SR in `vm_uuid`.
    """

    command_id: str
    task: str
    vm_uuid: str
    incarnation: int
    observation: DomainObservation | None = None
    storage: StorageObservation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFailed:
    """The command ended without its effect; `code` is XenAPI's, `observation` the domain as it was left.

    No observation: no domain is left (of a migration: only the destination can know). Without `was_begun` nobody has
    acted or looked: all is as it was.
    """

    command_id: str
    task: str
    vm_uuid: str
    incarnation: int
    code: str
    parameters: tuple[str, ...] = ()
    observation: DomainObservation | None = None
    was_begun: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandProgressed:
    """A long command is `progress` (0 to 1) on its way."""

    command_id: str
    task: str
    progress: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainChanged:
    """A domain changed by itself, or by a hand that is not the pool's."""

    change: DomainChange
    observation: DomainObservation


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInventory:
    """All that runs on the host, and what the host is; sent on connect and now and then.

    `domains` are those that carry vmpool's metadata; `unknown_domains` are the names of the others, shown, never touched.
    `hypervisor` is the libvirt driver; `cpu_info` has cpu_count, vendor, modelname, features.
    """

    hostname: str
    address: str
    hypervisor: str
    migrate_uri: str
    memory_total: int
    memory_free: int
    cpu_count: int
    cpu_info: dict[str, str]
    software_version: dict[str, str]
    capabilities: tuple[str, ...]
    domains: tuple[DomainObservation, ...]
    unknown_domains: tuple[str, ...] = ()
    peer_address: str = ""
    is_first: bool = False
    networks: tuple[HostNetwork, ...] = ()


ReportBody = CommandSucceeded | CommandFailed | CommandProgressed | DomainChanged | HostInventory


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """What one host saw.

    `journal` names the agent's journal, `sequence` counts the reports in it from 1: a report that was seen before, or
    that is older than one seen, says nothing new. `epoch` counts the starts of the agent on that journal.
    `time_us` is the host's own clock, for people only.
    """

    host: str
    journal: str
    epoch: int
    sequence: int
    time_us: int
    body: ReportBody


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportBatch:
    """Reports of one host in order: one message, so that many share one flush."""

    reports: tuple[HostReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandBatch:
    """Commands for one host in order: one message per host and commit of the log."""

    commands: tuple[HostCommand, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """A host asks to be trusted with its guests for another while. Counted by the host from when it was sent.

    `peers_known` is the digest of the peers that it would ask in failsafe (membership.py).
    """

    host: str
    journal: str
    epoch: int
    peer_address: str = ""
    peers_known: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGranted:
    """Yes, for `lease_s`; guests must be dead `fence_s` after that. `peers` are all hosts' peer addresses by uuid.

    `wants_inventory` asks the agent for a fresh inventory: this leader has not seen one yet. `host_epoch`: HostCommand.
    """

    term: int
    lease_s: float
    fence_s: float
    peers: dict[str, str] = field(default_factory=dict)
    wants_inventory: bool = False
    host_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRefused:
    """No: `reason` is unknown_host (not in this pool), no_authority (this master may not grant now), or not_known_to_all.

    The last is for a host that has just joined: others may keep guests by promises that it has not made.
    """

    term: int
    reason: str


LeaseReply = LeaseGranted | LeaseRefused
