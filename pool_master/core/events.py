"""The facts of the log: a closed union.

Rules: past tense; events are for ever: fields are added with defaults, never renamed or reused (upcast.py alone knows
the past); an event holds all that evolve needs, so that replay asks nobody; no event says what somebody wants.
"""

from dataclasses import dataclass
from dataclasses import field as attribute
from enum import StrEnum
from typing import Any, Final, get_args

from pool_master.core.vm import VmConfig
from shared.enums import PowerState, VmOperation
from shared.refs import NULL_HOST, HostRef, PoolRef, TaskRef, VmRef

StringMap = dict[str, str]


class ActorKind(StrEnum):
    """Who can cause events."""

    USER = "user"
    HOST = "host"
    MASTER = "master"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who caused an event: a user (with the session's uuid), a host (its uuid), or the master itself."""

    kind: ActorKind
    name: str
    session: str = ""


# --- the pool and its masters


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCreated:
    """The log begins."""

    pool: PoolRef
    uuid: str
    name_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterElected:
    """A master took over: all that follows has its term, until the next one's."""

    term: int
    master: str
    address: str


# --- hosts


@dataclass(frozen=True, slots=True, kw_only=True)
class HostJoined:
    """A host belongs to the pool; its agent's word counts from now on."""

    host: HostRef
    uuid: str
    name_label: str
    hostname: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostForgotten:
    """A host left the pool for good."""

    host: HostRef


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDescribed:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAgentStarted:
    """The host's agent began to speak from this journal and epoch; its reports count from there."""

    host: HostRef
    journal: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCameAlive:
    """The host holds a lease and has said what runs on it."""

    host: HostRef


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLost:
    """The host surely runs no guest of ours any more; `evidence` says how we know (the fence proof)."""

    host: HostRef
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEnabled:
    """The host may be given new VMs."""

    host: HostRef


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDisabled:
    """The host is given no new VMs; what runs there stays."""

    host: HostRef


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReportsSeen:
    """Everything up to this report of the host is in the log: what comes again says nothing new."""

    host: HostRef
    journal: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleDomainFound:
    """A host runs, or still knows, an incarnation that the log has moved past; it must be dropped."""

    host: HostRef
    vm_uuid: str
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleDomainDropped:
    """The host has dropped it."""

    host: HostRef
    vm_uuid: str
    incarnation: int


# --- VMs


@dataclass(frozen=True, slots=True, kw_only=True)
class VmCreated:
    """A VM exists, Halted."""

    vm: VmRef
    uuid: str
    config: VmConfig
    metrics: str
    metrics_uuid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDestroyed:
    """The VM is gone for good."""

    vm: VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class VmStarted:
    """A host has shown the domain of this incarnation: residency is known, not hoped."""

    vm: VmRef
    host: HostRef
    incarnation: int
    domid: int
    power_state: PowerState = PowerState.RUNNING
    cpu_flags: StringMap = attribute(default_factory=dict)
    memory_actual: int = 0
    vcpus: int = 0
    console_rfb: str = ""
    console_vt100: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmHalted:
    """No domain of the VM runs; `reason` says why, in words."""

    vm: VmRef
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VmPaused:
    """The domain's VCPUs have stopped."""

    vm: VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class VmUnpaused:
    """The domain's VCPUs run again."""

    vm: VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class VmRebooted:
    """The guest rebooted by itself, inside its domain."""

    vm: VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class VmMigrated:
    """The VM's domain runs on another host."""

    vm: VmRef
    host: HostRef
    domid: int
    console_rfb: str = ""
    console_vt100: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmReset:
    """Somebody vouched that the VM no longer runs; `evidence` is the fence proof it rests on."""

    vm: VmRef
    evidence: str


# --- fields, of any class


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSet:
    """A field that users may set has this value."""

    object_class: str
    ref: str
    field: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class MapKeySet:
    """A map field has this key."""

    object_class: str
    ref: str
    field: str
    key: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MapKeyRemoved:
    """A map field lacks this key."""

    object_class: str
    ref: str
    field: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectTouched:
    """A client asked for an event on this object, as a barrier (event.inject); nothing else changed."""

    object_class: str
    ref: str


# --- tasks and operations


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCreated:
    """A task exists that no host works on: a client's own, or a call that was asked for asynchronously.

    `method` and `parameters` are the call that waits for its turn under it, so that a new leader can go on waiting.
    """

    task: TaskRef
    uuid: str
    name_label: str
    name_description: str = ""
    method: str = ""
    parameters: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUpdated:
    """A client set its task's progress, result or error; None leaves as it was."""

    task: TaskRef
    progress: float | None = None
    result: str | None = None
    error_info: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDestroyed:
    """The task's record is gone."""

    task: TaskRef


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationAccepted:
    """The pool has promised to carry this operation to its end; memory on the hosts is reserved for it."""

    task: TaskRef
    task_uuid: str
    name_label: str
    operation: VmOperation
    vm: VmRef
    host: HostRef
    incarnation: int
    destination: HostRef = NULL_HOST
    arguments: StringMap = attribute(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationAdvanced:
    """The operation goes on with its next step, at another host where `host` names one."""

    task: TaskRef
    step: int
    host: HostRef


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationProgressed:
    """A long operation is this far (0 to 1)."""

    task: TaskRef
    progress: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Somebody wants the task to end early; it ends with what is true when it does."""

    task: TaskRef


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSucceeded:
    """The task's one end: done; `result` is an XML-RPC value."""

    task: TaskRef
    result: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed:
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
    | VmCreated
    | VmDestroyed
    | VmStarted
    | VmHalted
    | VmPaused
    | VmUnpaused
    | VmRebooted
    | VmMigrated
    | VmReset
    | FieldSet
    | MapKeySet
    | MapKeyRemoved
    | ObjectTouched
    | TaskCreated
    | TaskUpdated
    | TaskDestroyed
    | OperationAccepted
    | OperationAdvanced
    | OperationProgressed
    | CancelRequested
    | TaskSucceeded
    | TaskFailed
)

EVENT_TYPES: Final[dict[str, type]] = {event.__name__: event for event in get_args(Event)}


@dataclass(frozen=True, slots=True)
class Recorded:
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
