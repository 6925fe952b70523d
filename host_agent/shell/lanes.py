"""Runs commands: those of different VMs side by side, those of one VM in their order, each once.

Rules: a command that is known and not finished is the same turn, however often it is delivered; the
newest term of its deliveries counts. What is begun is journaled first, with the term and
incarnation that it brings; how it ended is journaled together with its report. A lane exists while
its VM has commands.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
from anyio.abc import TaskGroup

from host_agent.core.admit import (
    STARTING,
    Admission,
    CommandOutcome,
    Knowledge,
    Refuse,
    Repeat,
    Resume,
    Run,
    Stale,
    Wait,
    admit,
)
from host_agent.core.journal_state import CommandBegun, IncarnationSeen, JournalChange, TermSeen
from host_agent.core.overtaking import is_patient, overtakes
from host_agent.shell.commands import CommandRunner
from host_agent.shell.journal import Journal
from host_agent.shell.metrics import Metrics
from host_agent.shell.reporter import Reporter
from host_agent.shell.turn import Turn
from shared.errors import ReportedError, TaskCancelled
from shared.protocol import CancelCommand, CommandFailed, HostCommand

STALE: Final = 0

log = structlog.get_logger(__name__)


class Lease(Protocol):
    """What a lane asks about the lease."""

    def may_start(self) -> bool:
        """Whether a guest may be brought to run now."""
        ...

    def host_epoch(self) -> int:
        """Count how often the leader has given this host up."""
        ...

    def losses(self) -> int:
        """How often the lease has been lost."""
        ...

    async def wait_changed(self, *, timeout_s: float) -> None:
        """Wait until it may have changed."""
        ...


@dataclass(slots=True)
class Lane:
    """The commands of one VM: the one that runs, those that go first, those that wait."""

    running: Turn | None = None
    first: deque[Turn] = field(default_factory=deque)
    waiting: deque[Turn] = field(default_factory=deque)

    def next(self) -> Turn | None:
        """Take the next turn, None where there is none."""
        if self.first:
            return self.first.popleft()
        return self.waiting.popleft() if self.waiting else None


class Lanes:
    """All lanes of one host; turns run in `tasks`."""

    def __init__(
        self,
        *,
        tasks: TaskGroup,
        journal: Journal,
        reporter: Reporter,
        runner: CommandRunner,
        lease: Lease,
        metrics: Metrics,
        clock: Callable[[], float],
        lease_wait_s_max: float,
    ) -> None:
        self._tasks = tasks
        self._journal = journal
        self._reporter = reporter
        self._runner = runner
        self._lease = lease
        self._metrics = metrics
        self._clock = clock
        self._lease_wait_s_max = lease_wait_s_max
        self._lanes: dict[str, Lane] = {}
        self._turns: dict[str, Turn] = {}

    def submit(self, command: HostCommand) -> Turn:
        """Put a command in its lane; one that is there already keeps its place."""
        known = self._turns.get(command.command_id)
        if known is not None:
            known.deliveries += 1
            if command.term > known.command.term:
                known.command = command
            return known
        turn = Turn(command=command, losses=self._lease.losses(), arrived_at=self._clock())
        self._turns[command.command_id] = turn
        if isinstance(command.action, CancelCommand):
            self._tasks.start_soon(self._cancel, turn, command.action)
        else:
            self._enqueue(turn)
        return turn

    def _enqueue(self, turn: Turn) -> None:
        vm_uuid = turn.command.vm_uuid
        lane = self._lanes.get(vm_uuid)
        if lane is None:
            lane = self._lanes[vm_uuid] = Lane()
            self._tasks.start_soon(self._run_lane, vm_uuid, lane)
        if not overtakes(turn.command.action, (ahead.command.action for ahead in lane.waiting)):
            lane.waiting.append(turn)
            return
        lane.first.append(turn)
        for overtaken in (lane.running, *lane.waiting):
            if overtaken is not None and is_patient(overtaken.command.action):
                overtaken.overtake()

    async def _run_lane(self, vm_uuid: str, lane: Lane) -> None:
        async def let_pass() -> bool:
            has_passed = False
            while lane.first:
                await self._carry_out(lane.first.popleft())
                has_passed = True
            return has_passed

        while turn := lane.next():
            lane.running = turn
            turn.let_pass = let_pass
            await self._carry_out(turn)
            lane.running = None
        del self._lanes[vm_uuid]

    async def _cancel(self, turn: Turn, action: CancelCommand) -> None:
        if not isinstance(self._admit(turn), Stale):
            target = self._turns.get(action.cancelled_command_id)
            if target is not None:
                target.cancel()
        await self._carry_out(turn)

    async def _carry_out(self, turn: Turn) -> None:
        sequence = await self._settle(turn, await self._admission(turn))
        del self._turns[turn.command.command_id]
        turn.end(sequence)

    async def _admission(self, turn: Turn) -> Admission:
        """Admit the turn, waiting for the lease where that may help."""
        while True:
            admission = self._admit(turn)
            if not isinstance(admission, Wait):
                return admission
            if turn.must_give_up:
                return Refuse(TaskCancelled.code)
            left_s = turn.arrived_at + self._lease_wait_s_max - self._clock()
            await self._lease.wait_changed(timeout_s=min(1.0, max(0.0, left_s)))

    def _admit(self, turn: Turn) -> Admission:
        command, state = turn.command, self._journal.state
        knowledge = Knowledge(
            highest_term=state.highest_term,
            host_epoch=self._lease.host_epoch(),
            newest_incarnation=state.incarnations.get(command.vm_uuid, 0),
            may_start=self._lease.may_start(),
            lost_lease=self._lease.losses() != turn.losses,
            waited_long=self._clock() >= turn.arrived_at + self._lease_wait_s_max,
        )
        return admit(state.entry(command.command_id), command, knowledge)

    async def _settle(self, turn: Turn, admission: Admission) -> int:
        outcome: CommandOutcome
        match admission:
            case Repeat(outcome=outcome):
                self._metrics.commands.labels("repeated").inc()
                return await self._reporter.repeat(outcome)
            case Stale(reason=reason):
                self._metrics.commands.labels("stale").inc()
                log.info("command.stale", command=turn.command.command_id, reason=reason)
                return STALE
            case Refuse(code=code):
                parameters = (turn.command.task,) if code == TaskCancelled.code else ()
                outcome = await self._runner.refuse(turn, ReportedError(code, *parameters))
            case Run():
                await self._begin(turn.command)
                outcome = await self._runner.run(turn, is_resumed=False)
            case Resume():
                outcome = await self._runner.run(turn, is_resumed=True)
            case _:
                raise AssertionError("a turn that waits is not settled")
        word = "failed" if isinstance(outcome, CommandFailed) else "succeeded"
        self._metrics.commands.labels(word).inc()
        return await self._reporter.report_end(outcome)

    async def _begin(self, command: HostCommand) -> None:
        """Journal that the hypervisor may be touched from now on, before it is."""
        changes: list[JournalChange] = [CommandBegun(command_id=command.command_id)]
        if command.term > self._journal.state.highest_term:
            changes.append(TermSeen(term=command.term))
        if isinstance(command.action, STARTING):
            seen = IncarnationSeen(vm_uuid=command.vm_uuid, incarnation=command.incarnation)
            changes.append(seen)
        await self._journal.write(*changes)
