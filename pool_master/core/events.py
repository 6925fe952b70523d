"""The facts of the log: a closed union.

Rules: past tense; events are for ever: fields are added with defaults, never renamed or reused (upcast.py alone knows
the past); an event holds all that evolve needs, so that replay asks nobody; no event says what somebody wants.
"""

from enum import StrEnum
from typing import Any, Final, get_args

from msgspec import Struct, field

from pool_master.core.device_events import DeviceOperationAccepted as DeviceOperationAccepted
from pool_master.core.events_ha import FailoverPlanned as FailoverPlanned
from pool_master.core.events_ha import HaDisabled as HaDisabled
from pool_master.core.events_ha import HaEnabled as HaEnabled
from pool_master.core.events_ha import HaRestartsHeld as HaRestartsHeld
from pool_master.core.events_ha import VmRestartDue as VmRestartDue
from pool_master.core.events_ha import VmRestartEnded as VmRestartEnded
from pool_master.core.events_ha import VmRestartGivenUp as VmRestartGivenUp
from pool_master.core.events_ha import VmRestartTried as VmRestartTried
from pool_master.core.events_live import VmResumed as VmResumed
from pool_master.core.events_live import VmSuspended as VmSuspended
from pool_master.core.events_live import VmTuned as VmTuned
from pool_master.core.network_events import NetworkEvent
from pool_master.core.storage_events import StorageEvent
from pool_master.core.vm import VmConfig
from shared.enums import PowerState, VmOperation
from shared.refs import NULL_HOST, HostRef, PoolRef, TaskRef, VmRef

StringMap = dict[str, str]


class ActorKind(StrEnum):
    """Who can cause events."""

    USER = "user"
    HOST = "host"
    MASTER = "master"


class Actor(Struct, frozen=True, omit_defaults=True, gc=False):
    """Who caused an event: a user (with the session's uuid), a host (its uuid), or the master itself."""

    kind: ActorKind
    name: str
    session: str = ""


# --- the pool and its masters


class PoolCreated(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The log begins."""

    pool: PoolRef
    uuid: str
    name_label: str


class MasterElected(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A master took over: all that follows has its term, until the next one's."""

    term: int
    master: str
    address: str


# --- hosts


class HostJoined(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A host belongs to the pool; its agent's word counts from now on."""

    host: HostRef
    uuid: str
    name_label: str
    hostname: str = ""
    address: str = ""


class HostForgotten(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A host left the pool for good."""

    host: HostRef


class HostDescribed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A host said what it is, and it differs from what was known."""

    host: HostRef
    hostname: str
    address: str
    hypervisor: str
    migrate_uri: str
    memory_total: int
    memory_free: int
    cpu_count: int
    cpu_info: StringMap
    software_version: StringMap
    capabilities: tuple[str, ...]
    unknown_domains: tuple[str, ...] = ()
    peer_address: str = ""


class HostAgentStarted(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host's agent began to speak from this journal and epoch; its reports count from there."""

    host: HostRef
    journal: str
    epoch: int


class HostCameAlive(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host holds a lease and has said what runs on it."""

    host: HostRef


class HostLost(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host surely runs no guest of ours any more; `evidence` says how we know (the fence proof)."""

    host: HostRef
    evidence: str


class HostEnabled(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host may be given new VMs."""

    host: HostRef


class HostDisabled(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host is given no new VMs; what runs there stays."""

    host: HostRef


class HostReportsSeen(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Everything up to this report of the host is in the log: what comes again says nothing new."""

    host: HostRef
    journal: str
    sequence: int


class StaleDomainFound(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A host runs, or still knows, an incarnation that the log has moved past; it must be dropped."""

    host: HostRef
    vm_uuid: str
    incarnation: int


class StaleDomainDropped(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host has dropped it."""

    host: HostRef
    vm_uuid: str
    incarnation: int


class StaleDomainKept(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host could not drop it; where its next inventory still shows it, it is asked again."""

    host: HostRef
    vm_uuid: str
    incarnation: int
    error_info: tuple[str, ...]


# --- VMs


class VmCreated(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A VM exists, Halted."""

    vm: VmRef
    uuid: str
    config: VmConfig
    metrics: str
    metrics_uuid: str


class VmDestroyed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The VM is gone for good."""

    vm: VmRef


class VmStarted(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A host has shown the domain of this incarnation: residency is known, not hoped. `nics` are its MACs."""

    vm: VmRef
    host: HostRef
    incarnation: int
    domid: int
    power_state: PowerState = PowerState.RUNNING
    cpu_flags: StringMap = field(default_factory=dict)
    memory_actual: int = 0
    vcpus: int = 0
    console_rfb: str = ""
    console_vt100: str = ""
    nics: tuple[str, ...] = ()


class VmHalted(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """No domain of the VM runs; `reason` says why, in words."""

    vm: VmRef
    reason: str


class VmPaused(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The domain's VCPUs have stopped."""

    vm: VmRef


class VmUnpaused(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The domain's VCPUs run again."""

    vm: VmRef


class VmRebooted(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The guest rebooted by itself, inside its domain."""

    vm: VmRef


class VmMigrated(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The VM's domain runs on another host."""

    vm: VmRef
    host: HostRef
    domid: int
    console_rfb: str = ""
    console_vt100: str = ""


class VmReset(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Somebody vouched that the VM no longer runs; `evidence` is the fence proof it rests on."""

    vm: VmRef
    evidence: str


# --- fields, of any class


class FieldSet(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A field that users may set has this value."""

    object_class: str
    ref: str
    field: str
    value: Any


class MapKeySet(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A map field has this key."""

    object_class: str
    ref: str
    field: str
    key: str
    value: str


class MapKeyRemoved(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A map field lacks this key."""

    object_class: str
    ref: str
    field: str
    key: str


class ObjectTouched(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A client asked for an event on this object, as a barrier (event.inject); nothing else changed."""

    object_class: str
    ref: str


# --- tasks and operations


class TaskCreated(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A task exists that no host works on: a client's own, or a call that was asked for asynchronously.

    `method` and `parameters` are the call that waits for its turn under it, so that a new leader can go on waiting.
    """

    task: TaskRef
    uuid: str
    name_label: str
    name_description: str = ""
    method: str = ""
    parameters: tuple[Any, ...] = ()


class TaskUpdated(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A client set its task's progress, result or error; None leaves as it was."""

    task: TaskRef
    progress: float | None = None
    result: str | None = None
    error_info: tuple[str, ...] | None = None


class TaskDestroyed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The task's record is gone."""

    task: TaskRef


class OperationAccepted(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The pool has promised to carry this operation to its end; memory on the hosts is reserved for it."""

    task: TaskRef
    task_uuid: str
    name_label: str
    operation: VmOperation
    vm: VmRef
    host: HostRef
    incarnation: int
    destination: HostRef = NULL_HOST
    arguments: StringMap = field(default_factory=dict)


class OperationAdvanced(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The operation goes on with its next step, at another host where `host` names one."""

    task: TaskRef
    step: int
    host: HostRef


class OperationProgressed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A long operation is this far (0 to 1)."""

    task: TaskRef
    progress: float


class CancelRequested(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Somebody wants the task to end early; it ends with what is true when it does."""

    task: TaskRef


class TaskSucceeded(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The task's one end: done; `result` is an XML-RPC value."""

    task: TaskRef
    result: str = ""


class TaskFailed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The task's one end: not done, and why."""

    task: TaskRef
    error_info: tuple[str, ...]


Event = (
    PoolCreated
    | MasterElected
    | HostJoined
    | HostForgotten
    | HostDescribed
    | HostAgentStarted
    | HostCameAlive
    | HostLost
    | HostEnabled
    | HostDisabled
    | HostReportsSeen
    | StaleDomainFound
    | StaleDomainDropped
    | StaleDomainKept
    | VmCreated
    | VmDestroyed
    | VmStarted
    | VmHalted
    | VmPaused
    | VmUnpaused
    | VmRebooted
    | VmTuned
    | VmSuspended
    | VmResumed
    | VmMigrated
    | VmReset
    | HaEnabled
    | HaDisabled
    | HaRestartsHeld
    | FailoverPlanned
    | VmRestartDue
    | VmRestartTried
    | VmRestartEnded
    | VmRestartGivenUp
    | FieldSet
    | MapKeySet
    | MapKeyRemoved
    | ObjectTouched
    | TaskCreated
    | TaskUpdated
    | TaskDestroyed
    | OperationAccepted
    | DeviceOperationAccepted
    | OperationAdvanced
    | OperationProgressed
    | CancelRequested
    | TaskSucceeded
    | TaskFailed
    | NetworkEvent
    | StorageEvent
)

EVENT_TYPES: Final[dict[str, type]] = {event.__name__: event for event in get_args(Event)}


class Recorded(Struct, frozen=True, omit_defaults=True, gc=False):
    """An event in the log, with all that the log says around it.

    `cause` names what it answers: a command's method, a report, or the master's own clockwork. `time_us` is UTC in
    microseconds and never runs backwards along the log.
    """

    sequence: int
    term: int
    time_us: int
    actor: Actor
    command_id: str
    cause: str
    event: Event

    @property
    def event_id(self) -> str:
        """An id that no other event of any history of this pool has."""
        return f"{self.term:x}-{self.sequence:x}"
