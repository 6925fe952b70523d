"""Given / when / then over the pure core: events in, a wish or a host's word, events out.

One job: let a test say which facts there are, what somebody asks or reports, and which facts follow. Every event that is
given or decided goes through the codec and evolve, as it does in a master, so that no test can rest on a state that no
log could make.

Rules: a chain goes on after `then`, on the state that the events made; command ids are "c1", "c2"... in the order of
`when`, so that a test can name the tasks (`task(1)`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from pool_master.core import events as ev
from pool_master.core import evolve
from pool_master.core.classes import message_table
from pool_master.core.context import Context
from pool_master.core.datamodel import Kind, Message
from pool_master.core.event_codec import event_from_plain, event_to_plain
from pool_master.core.host import Host
from pool_master.core.host_reports import command_id_of, decide_report
from pool_master.core.implied import Implied
from pool_master.core.marshal import constructor_type, constructor_value, from_wire
from pool_master.core.pool import Pool
from pool_master.core.reconcile import decide_host_lost
from pool_master.core.task import Operation
from pool_master.core.vm import Vm
from shared import protocol as says
from shared.codec import moment_from_us, pack, unpack
from shared.enums import PowerState
from shared.errors import XenApiError
from shared.protocol import DomainObservation, HostReport, ReportBody
from shared.refs import NULL_HOST, HostRef, VmRef
from tests.support.facts import (
    ALICE,
    BEGINNING_US,
    HOST,
    VM,
    host_ref,
    host_uuid,
    task,
)


@functools.cache
def _deciders() -> dict[type, Message]:
    return {
        message.request: message
        for _, message in message_table().values()
        if message.decide is not None and message.request not in {None, Implied}
    }


def bind(method: str, *arguments: Any) -> tuple[Message, Any]:
    """Give the message and the request that a call with these wire values makes."""
    model, message = message_table()[method]
    assert message.request is not None
    values: dict[str, Any] = {}
    for parameter, argument in zip(message.parameters, arguments, strict=True):
        value = from_wire(argument, parameter.type, parameter.name)
        if parameter.type.kind is Kind.RECORD:
            record_type = constructor_type(message.request, parameter.name)
            value = constructor_value(model, record_type, value)
        values[parameter.name] = value
    return message, message.request(**values)


class Scenario:
    """A log so far, and the pool that it makes."""

    def __init__(self, events: Sequence[ev.Event]) -> None:
        self.pool = Pool()
        self.log: list[ev.Recorded] = []
        self._commands = 0
        self._reports: dict[str, int] = {}
        self._elapsed_s = 0.0
        self.record(events)

    # --- circumstances

    @property
    def now_us(self) -> int:
        """The time of this moment."""
        return BEGINNING_US + int(self._elapsed_s * 1_000_000)

    def after(self, seconds: float) -> "Scenario":
        """Let time pass."""
        self._elapsed_s += seconds
        return self

    def and_given(self, *events: ev.Event) -> "Scenario":
        """More facts."""
        self.record(events)
        return self

    def record(self, events: Sequence[ev.Event], actor: ev.Actor = ALICE) -> None:
        """Write events and make them true, as a master does."""
        for event in events:
            recorded = ev.Recorded(
                self.pool.sequence + 1, 1, self.now_us, actor, "given", "test", event
            )
            again = event_from_plain(
                unpack(pack(event_to_plain(recorded))), sequence=recorded.sequence, term=1
            )
            self.pool.stamp(evolve.apply(self.pool, again))
            self.log.append(again)

    # --- what is there

    def vm(self, ref: VmRef = VM) -> Vm:
        """The VM now."""
        return self.pool.vms[ref]

    def host(self, ref: HostRef = HOST) -> Host:
        """The host now."""
        return self.pool.hosts[ref]

    def operation(self, number: int = 1) -> Operation:
        """The operation under the task of command `number`."""
        return self.pool.operations[task(number)]

    # --- what happens

    def _next_context(self, label: str) -> Context:
        self._commands += 1
        return Context(
            command_id=f"c{self._commands}",
            now=moment_from_us(self.now_us),
            actor=ALICE,
            label=label,
        )

    def skip_commands(self, count: int) -> "Scenario":
        """Let the next command be number `count` + 1: given events used the tasks before, or a client asks again."""
        self._commands = count
        return self

    def when(self, request: object) -> "Outcome":
        """Somebody asks this, or a host says it (a HostReport)."""
        if isinstance(request, HostReport):
            return self._outcome(lambda c: decide_report(self.pool, request, c), "report")
        message = _deciders()[type(request)]
        decide = message.decide
        assert decide is not None
        return self._outcome(lambda c: decide(self.pool, request, c), f"VM.{message.name}")

    def when_called(self, method: str, *arguments: Any) -> "Outcome":
        """A client calls this method with these wire values (without the session)."""

        def decide(context: Context) -> list[ev.Event]:
            message, request = bind(method, *arguments)
            assert message.decide is not None
            return message.decide(self.pool, request, context)

        return self._outcome(decide, method)

    def answer(self, method: str, *arguments: Any) -> Any:
        """What a query gives for these wire values."""
        message, request = bind(method, *arguments)
        assert message.answer is not None
        return message.answer(self.pool, request)

    def when_lost(self, host: HostRef = HOST, evidence: str = "lease expired") -> "Outcome":
        """A host is surely dead."""
        return self._outcome(lambda _c: decide_host_lost(self.pool, host, evidence), "lost")

    def when_host_says(
        self,
        body: ReportBody,
        *,
        number: int = 1,
        journal: str = "j1",
        epoch: int = 1,
        sequence: int | None = None,
    ) -> "Outcome":
        """A host reports, with the next sequence of its journal unless one is given."""
        uuid = host_uuid(number)
        last = self._reports.get(f"{uuid}/{journal}", 0)
        sequence = last + 1 if sequence is None else sequence
        self._reports[f"{uuid}/{journal}"] = max(last, sequence)
        return self.when(
            HostReport(
                host=uuid, journal=journal, epoch=epoch, sequence=sequence, time_us=0, body=body
            )
        )

    def when_done(
        self,
        operation: int = 1,
        observation: DomainObservation | None = None,
        *,
        command_id: str = "",
        number: int | None = None,
    ) -> "Outcome":
        """The host that is to carry out the operation's present step says that it has."""
        running = self.operation(operation)
        vm = self.pool.vms[running.vm]
        body = says.CommandSucceeded(
            command_id=command_id or command_id_of(running),
            task=running.task,
            vm_uuid=vm.uuid,
            incarnation=running.incarnation,
            observation=observation,
        )
        return self.when_host_says(body, number=number or self._number_of(running.host))

    def when_failed(
        self,
        operation: int = 1,
        code: str = "INTERNAL_ERROR",
        *parameters: str,
        observation: DomainObservation | None = None,
        was_begun: bool = True,
    ) -> "Outcome":
        """That host says that it could not."""
        running = self.operation(operation)
        vm = self.pool.vms[running.vm]
        body = says.CommandFailed(
            command_id=command_id_of(running),
            task=running.task,
            vm_uuid=vm.uuid,
            incarnation=running.incarnation,
            code=code,
            parameters=parameters,
            observation=observation,
            was_begun=was_begun,
        )
        return self.when_host_says(body, number=self._number_of(running.host))

    def _number_of(self, host: HostRef) -> int:
        return next(number for number in range(1, 100) if host_ref(number) == host)

    def _outcome(self, decide: Callable[[Context], list[ev.Event]], label: str) -> "Outcome":
        context = self._next_context(label)
        try:
            return Outcome(self, decide(context), None)
        except XenApiError as refusal:
            return Outcome(self, [], refusal)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a decision came to."""

    scenario: Scenario
    events: list[ev.Event]
    refusal: XenApiError | None

    def then(self, *events: ev.Event) -> Scenario:
        """Exactly these events follow; of a host's report, its marks (seen, agent started) are left out."""
        assert self.refusal is None, self.refusal
        assert self.told() == list(events)
        return self.then_so()

    def then_refused(self, code: str, *parameters: str) -> Scenario:
        """It is refused with this code and these parameters."""
        assert self.refusal is not None, f"was not refused, but made {self.events}"
        assert self.refusal.description == [code, *parameters]
        return self.scenario

    def then_nothing_new(self) -> Scenario:
        """Not a single event follows, not even a mark."""
        assert self.refusal is None, self.refusal
        assert self.events == []
        return self.scenario

    def then_so(self) -> Scenario:
        """Whatever followed is true now."""
        assert self.refusal is None, self.refusal
        self.scenario.record(self.events)
        return self.scenario

    def told(self) -> list[ev.Event]:
        """The events without a report's marks."""
        return [
            event
            for event in self.events
            if not isinstance(event, ev.HostReportsSeen | ev.HostAgentStarted)
        ]


def given(*events: ev.Event) -> Scenario:
    """A log with these facts."""
    return Scenario(events)


def halted_after(scenario: Scenario, vm: VmRef = VM) -> None:
    """Assert that nothing of a domain is left in the VM's record (XenAPI reference 1.0.3)."""
    record = scenario.pool.vms[vm]
    assert record.power_state is PowerState.HALTED
    assert (record.resident_on, record.domid, record.incarnation) == (NULL_HOST, -1, 0)
    assert record.consoles == ()
