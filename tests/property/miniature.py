"""A master without its shell, and hosts that are models: the pool in miniature that random tests drive.

Decide on a fork, write through the codec, apply, plan, as the writer and the host link do. Each step is applied three
times over, to the live pool, to a fork of it and to a replay, and all must come out alike.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from hypothesis.stateful import (
    RuleBasedStateMachine,
)

from pool_master.core import events as ev
from pool_master.core import evolve
from pool_master.core.classes import CLASS_BY_NAME, RECORD_BUILDERS
from pool_master.core.context import Context
from pool_master.core.event_codec import event_from_plain, event_to_plain
from pool_master.core.host_reports import decide_report
from pool_master.core.plan import plan, plan_all
from pool_master.core.pool import TABLE_OF_CLASS, TABLES, Pool
from pool_master.core.reconcile import decide_host_lost
from pool_master.core.task import Task
from pool_master.core.vm_config import CONSTRUCTOR_MEMBERS
from shared.codec import moment_from_us, pack, unpack
from shared.errors import XenApiError
from shared.protocol import HostCommand, HostReport
from shared.refs import NULL_HOST, HostRef, TaskRef, VmRef
from tests.property.hypervisors import Hypervisor, carry_out, is_starting
from tests.support.facts import ALICE, BEGINNING_US, GIB, config, host_ref
from tests.support.spec import bind

HOSTS: Final = 3
MEMORY: Final = 4 * GIB


class PoolInMiniature(RuleBasedStateMachine):
    """A pool of three hosts, with all that it needs to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()
        self.replayed = Pool()
        self.log: list[list[Any]] = []
        self.commands = 0
        self.now_us = BEGINNING_US
        self.ends: Counter[TaskRef] = Counter()
        self.finished: dict[TaskRef, Task] = {}
        self.told: dict[str, tuple[HostRef, type, str, int]] = {}
        self.hosts = {number: Hypervisor(number, MEMORY) for number in range(1, HOSTS + 1)}
        self.by_uuid = {host.uuid: host for host in self.hosts.values()}

    def submit(
        self, decide: Callable[[Pool, Context], list[ev.Event]], label: str
    ) -> XenApiError | None:
        self.commands += 1
        context = Context(
            command_id=f"c{self.commands}",
            now=moment_from_us(self.now_us),
            actor=ALICE,
            label=label,
        )
        draft = self.pool.fork()
        try:
            events = decide(draft, context)
        except XenApiError as refusal:
            return refusal
        self.write(events, draft)
        return None

    def write(self, events: list[ev.Event], draft: Pool) -> None:
        # First all on the fork, which is over once its base goes on.
        batch = [
            ev.Recorded(self.pool.sequence + number, 1, self.now_us, ALICE, "id", "cause", event)
            for number, event in enumerate(events, 1)
        ]
        for recorded in batch:
            evolve.apply(draft, recorded)
        drafted = tables_of(draft)
        before = wire_records(self.pool)
        touched: dict[str, None] = {}
        for recorded in batch:
            plain = unpack(pack(event_to_plain(recorded)))
            self.log.append(plain)
            decoded = event_from_plain(plain, sequence=recorded.sequence, term=1)
            found = evolve.apply(self.pool, recorded)
            self.pool.stamp(found)
            touched |= dict.fromkeys(ref for _, ref in found)
            self.replayed.stamp(evolve.apply(self.replayed, decoded))
            self.note(recorded.event)
        assert drafted == tables_of(self.pool), "a fork went another way"
        after = wire_records(self.pool)
        changed = [ref for ref in {**before, **after} if before.get(ref) != after.get(ref)]
        assert [ref for ref in changed if ref not in touched] == [], "a change that no feed tells"
        self.send(events)

    def note(self, event: ev.Event) -> None:
        match event:
            case ev.TaskSucceeded() | ev.TaskFailed():
                self.ends[event.task] += 1
            case ev.OperationAccepted():
                assert event.task not in self.finished
                assert self.ends[event.task] == 0
            case _:
                pass

    def send(self, events: list[ev.Event]) -> None:
        tasks = [
            event.task
            for event in events
            if isinstance(event, ev.OperationAccepted | ev.OperationAdvanced | ev.CancelRequested)
        ]
        for host, command in plan(self.pool, tasks):
            self.tell(host, command)

    def tell(self, host: HostRef, command: HostCommand) -> None:
        # The config in it is the VM's as it is now; host, deed and incarnation are for ever.
        deed = (host, type(command.action), command.vm_uuid, command.incarnation)
        assert self.told.setdefault(command.command_id, deed) == deed, "one id for two commands"
        self.hypervisor(host).receive(command)

    def hypervisor(self, host: HostRef) -> Hypervisor:
        return next(h for h in self.hosts.values() if host_ref(h.number) == host)

    def pick_vm(self, number: int) -> VmRef:
        return list(self.pool.vms)[number % len(self.pool.vms)]

    def make(self, *, gib: int, **more: Any) -> None:
        size = gib * GIB
        wanted = config(
            memory_static_max=size, memory_dynamic_max=size, memory_dynamic_min=size, **more
        )
        members = {name: getattr(wanted, name) for name in CONSTRUCTOR_MEMBERS}
        members["tags"] = list(members["tags"])
        self.call("VM.create", members)

    def call(self, method: str, *arguments: Any) -> XenApiError | None:
        try:
            message, request = bind(method, *arguments)
        except XenApiError as refusal:
            return refusal
        decide = message.decide
        assert decide is not None
        return self.submit(lambda pool, context: decide(pool, request, context), method)

    def work_on(self, host: Hypervisor, *, goes_well: bool) -> bool:
        """Let a host carry out one command, if it may: what its lease allows is what the log says of it."""
        command = host.next_command()
        assert command is not None
        record = self.pool.hosts[host_ref(host.number)]
        if command.host_epoch < record.lost_count:
            del host.waiting[command.command_id]
            return True
        if is_starting(command) and not self.pool.is_live(record.ref):
            return False
        carry_out(host, command, self.by_uuid, goes_well=goes_well)
        return True

    def take(self, report: HostReport) -> None:
        self.submit(lambda pool, context: decide_report(pool, report, context), "report")

    def hear(self, host: Hypervisor) -> None:
        """Take the oldest report of a host."""
        report = host.outbox.pop(0)
        host.delivered.append(report)
        self.take(report)

    def give_up(self, ref: HostRef) -> None:
        """A host dies, if it has not, and is declared lost."""
        if ref != NULL_HOST:
            self.hypervisor(ref).crash()
            self.submit(lambda pool, _c: decide_host_lost(pool, ref, "no lease"), "lost")

    def settle(self) -> None:
        for host, command in plan_all(self.pool):
            self.tell(host, command)
        for _ in range(200):
            waiting = [each for each in self.hosts.values() if each.waiting]
            working = [each for each in waiting if self.work_on(each, goes_well=True)]
            speaking = [each for each in self.hosts.values() if each.outbox]
            for speaker in speaking:
                self.take(speaker.outbox.pop(0))
            if not working and not speaking:
                return
        raise AssertionError("it does not settle")


def wire_records(pool: Pool) -> dict[str, Any]:
    """Give every object as clients see it."""
    return {
        ref: RECORD_BUILDERS[name](pool, record)
        for name in TABLE_OF_CLASS
        if name in CLASS_BY_NAME
        for ref, record in getattr(pool, TABLE_OF_CLASS[name]).items()
    }


def tables_of(pool: Pool) -> dict[str, list[tuple[Any, Any]]]:
    """Give all of a pool's records, with their order: deciders iterate."""
    return {name: list(getattr(pool, name).items()) for name in TABLES}
