"""What must hold, whatever happens: held against the hypervisors and the stream, not against what masters believe.

Rules: the stream of records is read as it is written, by a reader of its own; the fabric is looked at after every change.
The first violation ends the run. Each check names the invariant of docs/ARCHITECTURE.md that it holds.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from host_agent.shell.fabric_store import SimulatedDomain
from host_agent.shell.simulated_fabric import ACTIVE_STATES
from pool_master.core import events as ev
from pool_master.core import evolve
from pool_master.core.allowed import ADVERTISED, IMPLEMENTED, allowed_operations, operation_error
from pool_master.core.classes import message_table
from pool_master.core.context import Context
from pool_master.core.datamodel import MANDATORY, Message, MessageKind
from pool_master.core.placement import memory_needed
from pool_master.core.pool import Pool
from pool_master.core.records import EMPTY_TAIL, Break, Tail, follow
from pool_master.core.snapshot import decode_pool, encode_pool
from pool_master.core.vm import Vm
from pool_master.shell.follower import events_of
from pool_master.shell.mirror import MirrorRecord
from shared.codec import moment_from_us
from shared.enums import PowerState, VmOperation
from shared.errors import XenApiError
from shared.protocol import DomainState
from shared.refs import NULL_HOST, HostRef, TaskRef, VmRef
from simulator.cluster import Cluster, MasterHost
from simulator.observer import POOL, Observer

LAST_EVENTS: Final = 40
# What may promise memory on a host on which the VM does not reside yet, or no more.
RESERVING: Final = (
    VmOperation.START,
    VmOperation.START_ON,
    VmOperation.POOL_MIGRATE,
    VmOperation.CLEAN_REBOOT,
    VmOperation.HARD_REBOOT,
)
PRESERVED: Final = {DomainState.CRASHED: DomainState.PAUSED}
# A refusal with one of these breaks what allowed_operations has advertised; lack of memory or hosts does not.
ADVERTISED_AGAINST: Final = (
    "VM_BAD_POWER_STATE",
    "OTHER_OPERATION_IN_PROGRESS",
    "VM_IS_TEMPLATE",
    "OPERATION_BLOCKED",
)


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """What a client was told is done: an operation on a VM, or a task of its own."""

    method: str
    vm: str
    session: str
    since: int
    task: str = ""


class Checks:
    """Everything that must hold of one cluster; `violations` is empty as long as it does."""

    def __init__(self, cluster: Cluster) -> None:
        self.violations: list[str] = []
        self.pool = Pool()
        self.tail: Tail = EMPTY_TAIL
        self.recorded: list[ev.Recorded] = []
        self.acknowledged: list[Acknowledged] = []
        self.starts: Counter[tuple[str, int]] = Counter()
        self.story: list[str] = []
        self.observer = Observer(cluster)
        self._cluster = cluster
        self._verified: dict[str, MirrorRecord] = {}
        self._accepted: dict[TaskRef, ev.Recorded] = {}
        self._ends: dict[TaskRef, ev.Recorded] = {}
        self._data: list[bytes] = []
        self._digests: dict[int, bytes] = {}
        cluster.broker.on_store = self._stored
        cluster.store.on_changed = self._domains_changed
        cluster.store.on_started = self._domain_started

    def fail(self, invariant: str, text: str) -> None:
        """Note a violation."""
        self.violations.append(f"{self._cluster.loop.time():.3f} {invariant}: {text}")
        self.observer.timeline.mark(POOL, "violation", f"{invariant}: {text}")

    # --- the hypervisors

    def _domain_started(self, host: str, domain: SimulatedDomain) -> None:
        key = domain.config.vm_uuid, domain.config.incarnation
        self.starts[key] += 1
        self.tell(f"{host} starts {key[0][:8]} incarnation {key[1]}")
        if self.starts[key] > 1:
            self.fail(
                "6 no command is executed twice",
                f"{host} started incarnation {key[1]} of {key[0]} for the {self.starts[key]}. time",
            )

    def _domains_changed(self, vms: list[str]) -> None:
        store = self._cluster.store
        for vm_uuid in vms:
            found = [(host, store.read(host, vm_uuid)) for host in store.hosts()]
            running = [
                (host, domain)
                for host, domain in found
                if domain is not None
                and domain.state in ACTIVE_STATES
                and not domain.comes_from
                # Its VCPUs stand still at a hand-over that was cut, until somebody decides.
                and not domain.is_undecided
                # Built standing still, and not let run since: it has touched nothing.
                and domain.has_run
            ]
            self.observer.show_guest(vm_uuid, [(host, domain.state) for host, domain in running])
            shown = ", ".join(_shown(host, domain) for host, domain in found if domain)
            self.tell(f"fabric {vm_uuid[:8]}: {shown or 'gone'}")
            if len(running) > 1:
                where = ", ".join(_shown(host, domain) for host, domain in running)
                self.fail("1 at most one running incarnation", f"{vm_uuid} runs on {where}")

    def tell(self, text: str) -> None:
        """Add to the story that a failure prints."""
        self.story.append(f"{self._cluster.loop.time():.3f} {text}")

    # --- the log

    def _stored(self, subject: str, data: bytes) -> None:
        if subject != self._cluster.subjects.log:
            return
        followed = follow(self.tail, self.tail.position + 1, data)
        if isinstance(followed, Break):
            self.fail("3 one history", str(followed))
            return
        self.tail, record = followed
        self._data.append(data)
        for recorded in events_of(record):
            self._take(recorded)
        self._check_memory()

    def _take(self, recorded: ev.Recorded) -> None:
        event = recorded.event
        if self.recorded and recorded.time_us < self.recorded[-1].time_us:
            self.fail("3 one history", f"time runs backwards at event {recorded.sequence}")
        if isinstance(event, ev.MasterElected) and event.term <= self._last_elected():
            self.fail("3 one history", f"term {event.term} is elected after {self._last_elected()}")
        self.recorded.append(recorded)
        self.tell(f"log {recorded.sequence} t{recorded.term} {recorded.event}")
        match event:
            case ev.OperationAccepted(task=task):
                if task in self._accepted:
                    self.fail("5 exactly one end", f"{task} is accepted twice")
                self._accepted[task] = recorded
            case ev.TaskSucceeded(task=task) | ev.TaskFailed(task=task):
                if task in self._ends:
                    self.fail("5 exactly one end", f"{task} ends again: {event}")
                self._ends[task] = recorded
            case _:
                pass
        self.observer.see(recorded, self.pool)
        self.pool.stamp(evolve.apply(self.pool, recorded))

    def _last_elected(self) -> int:
        return self.pool.term

    def _check_memory(self) -> None:
        for host in self.pool.hosts.values():
            total = self.pool.host_metrics[host.metrics].memory_total
            promised = sum(
                memory_needed(self.pool.vms[x]) for x in self.pool.residents_of(host.ref)
            )
            if promised > total:
                text = f"{host.name_label} has promised {promised} of {total} bytes"
                self.fail("8 reservations never exceed memory", text)
        for vm in self.pool.vms.values():
            if vm.scheduled_to_be_resident_on != NULL_HOST and not self._is_reserving(vm):
                self.fail("8 no reservation outlives its operation", f"{vm.uuid}")

    def _is_reserving(self, vm: Vm) -> bool:
        return any(x.kind in RESERVING for x in self.pool.operations_of(vm))

    # --- the masters

    def check_masters(self) -> None:
        """Hold what every master has against the log."""
        for node in self._cluster.masters:
            self._check_copy(node)
            if node.is_up and node.master is not None:
                self._check_state(node)
        leader = self._cluster.leader
        if leader is not None:
            self._check_allowed(leader)

    def _check_copy(self, node: MasterHost) -> None:
        records, seen = node.disk.records, self._verified.get(node.name)
        # What was right stays right as long as the last one that was looked at is where it was, itself.
        is_longer = seen and len(records) >= seen.position and records[seen.position - 1] is seen
        first = seen.position if seen and is_longer else 0
        for position, record in enumerate(records[first:], start=first + 1):
            if position > len(self._data) or record.data != self._data[position - 1]:
                text = f"{node.name}'s copy differs at position {position}"
                self.fail("3 copies are prefixes", text)
                return
        if records:
            self._verified[node.name] = records[-1]

    def _check_state(self, node: MasterHost) -> None:
        if node.position != self.tail.position or node.pool.sequence != self.pool.sequence:
            return
        live, replayed = encode_pool(node.pool), self._replayed()
        if live != replayed:
            self.fail("4 replay(log) = live state", f"{node.name} differs: {self._differs(node)}")
        if encode_pool(decode_pool(live)) != live:
            self.fail(
                "4 snapshots", f"the snapshot of {node.name} at {node.position} is not itself"
            )

    def _replayed(self) -> bytes:
        position = self.tail.position
        if position not in self._digests:
            self._digests = {position: encode_pool(self.pool)}
        return self._digests[position]

    def _differs(self, node: MasterHost) -> str:
        names = [
            name
            for name in Pool.__slots__
            if _plain(getattr(node.pool, name)) != _plain(getattr(self.pool, name))
        ]
        return ", ".join(names) or "in order alone"

    def _check_allowed(self, leader: MasterHost) -> None:
        """Everything that is advertised would be accepted, as far as it depends on the VM alone (7)."""
        assert leader.api is not None
        reign = leader.api.reign
        if reign is None:
            return
        pool = reign.writer.pool.fork()
        for vm in pool.vms.values():
            advertised = allowed_operations(vm)
            for operation in (each for each in IMPLEMENTED if each in ADVERTISED):
                error = operation_error(vm, operation)
                if (error is None) != (operation in advertised):
                    self.fail("7 allowed_operations", f"{operation} of {vm.uuid}: {error}")
                if operation in _SIMPLE:
                    self._try(pool, vm, operation, is_advertised=operation in advertised)

    def _try(self, pool: Pool, vm: Vm, operation: VmOperation, *, is_advertised: bool) -> None:
        _, message = message_table()[f"VM.{operation.value}"]
        assert message.decide is not None
        assert message.request is not None
        context = Context(
            command_id="a question",
            now=moment_from_us(pool.time_us),
            actor=ev.Actor(ev.ActorKind.USER, "root"),
            label=operation.value,
        )
        values = {name: value for name, value in PLAIN.items() if name in parameters_of(message)}
        values["vm"] = vm.ref
        try:
            message.decide(pool, message.request(**values), context)
        except XenApiError as error:
            if is_advertised and error.wire_code in ADVERTISED_AGAINST:
                self.fail("7 allowed_operations", f"advertised and refused: {operation}: {error}")
        else:
            if not is_advertised:
                self.fail("7 allowed_operations", f"not advertised, accepted: {operation}")

    # --- what clients were told

    def acknowledge(self, told: Acknowledged) -> None:
        """A client was told that something is done: it must be in the log by now (2)."""
        self.acknowledged.append(told)
        self.tell(f"client told: {told}")
        if not self._is_in_log(told):
            self.fail("2 an acknowledged command is in the log", str(told))

    def _is_in_log(self, told: Acknowledged) -> bool:
        if told.task:
            end = self._ends.get(TaskRef(told.task))
            return end is not None and isinstance(end.event, ev.TaskSucceeded)
        new = [x for x in self.recorded[told.since :] if x.actor.session == told.session]
        match told.method:
            case "VM.create":
                return any(isinstance(x.event, ev.VmCreated) and x.event.vm == told.vm for x in new)
            case "VM.destroy":
                return any(
                    isinstance(x.event, ev.VmDestroyed) and x.event.vm == told.vm for x in new
                )
            case _:
                kind = told.method.removeprefix("VM.")
        return any(
            isinstance(x.event, ev.OperationAccepted)
            and (x.event.vm, x.event.operation.value) == (told.vm, kind)
            and (end := self._ends.get(x.event.task)) is not None
            and isinstance(end.event, ev.TaskSucceeded)
            for x in new
        )

    # --- the end

    def unsettled(self) -> list[str]:
        """Give what is not as it must be once faults have stopped (5, 9); empty when all is well."""
        pool = self.pool
        leaders = [node.name for node in self._cluster.masters if node.leads]
        lost = [host for host in pool.hosts.values() if not pool.is_live(host.ref)]
        endless = [x for task, x in self._accepted.items() if task not in self._ends]
        pending = [task for task in pool.tasks.values() if not task.is_finished]
        wrong = [
            *([] if len(leaders) == 1 else [f"leaders: {leaders}"]),
            *(f"no end: {recorded.event}" for recorded in endless),
            *(f"operation {x.kind} of {x.task}" for x in pool.operations.values()),
            *(f"stale {stale}" for stale in pool.stale_domains.values()),
            *(f"{host.name_label} is lost" for host in lost),
            *(f"task {x.name_label} {x.ref} is {x.status}" for x in pending),
        ]
        return wrong + self._drift()

    def _drift(self) -> list[str]:
        """Where pool and hosts differ."""
        names = {host.ref: host.name_label for host in self.pool.hosts.values()}
        states = {PowerState.RUNNING: DomainState.RUNNING, PowerState.PAUSED: DomainState.PAUSED}
        believed = {
            (names[vm.resident_on], vm.uuid, vm.incarnation, states[vm.power_state])
            for vm in self.pool.vms.values()
            if vm.power_state in states
        }
        fabric = self._cluster.fabric
        true = {
            # A guest that crashed and was preserved has a machine, and is Paused in XenAPI's words.
            (host, x.config.vm_uuid, x.config.incarnation, PRESERVED.get(x.state, x.state))
            for host in fabric.store.hosts()
            for x in fabric.domains(host)
            if x.domid >= 0
        }
        return [
            *(f"only the pool has {x}" for x in sorted(believed - true)),
            *(f"only the hosts have {x}" for x in sorted(true - believed)),
        ]

    def host_ref(self, name: str) -> HostRef:
        """Give a host's reference."""
        return next(host.ref for host in self.pool.hosts.values() if host.name_label == name)

    def vm(self, ref: str) -> Vm | None:
        """Give a VM as the log has it."""
        return self.pool.vms.get(VmRef(ref))


# What the parameters of simple operations are, beside the VM: whoever needs another is not tried.
PLAIN: Final[dict[str, Any]] = {"start_paused": False, "force": False}


def parameters_of(message: Message) -> tuple[str, ...]:
    """Give the names of its mandatory parameters."""
    return tuple(x.name for x in message.parameters if x.default is MANDATORY)


_SIMPLE: Final = tuple(
    operation
    for operation in IMPLEMENTED
    if (row := message_table().get(f"VM.{operation.value}")) is not None
    and row[1].kind is MessageKind.OPERATION
    and all(name in {"vm", *PLAIN} for name in parameters_of(row[1]))
)


def _plain(value: Any) -> Any:
    return list(value.items()) if hasattr(value, "items") else value


def _shown(host: str, domain: SimulatedDomain) -> str:
    marks = [
        f"from {domain.comes_from}" if domain.comes_from else "",
        f"to {domain.moves_to}" if domain.moves_to else "",
        "undecided" if domain.is_undecided else "",
    ]
    extra = " ".join(mark for mark in marks if mark)
    return f"{host}/{domain.config.incarnation} {domain.state.value} {extra}".strip()
