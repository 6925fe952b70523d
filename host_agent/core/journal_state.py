"""What an agent must remember across its own death, as changes and the state they add up to.

Rules: every change is safe to apply twice; the newest incarnation of a VM and the highest term are
never forgotten; finished commands are kept for repeating up to a bound, oldest out first; a report
is kept until the stream has it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

from host_agent.core.admit import CommandOutcome, JournalEntry
from shared.protocol import HostReport

# Each start of the agent numbers its reports from here on: what a power cut took of the numbers is
# never given out again, or the leader would take the new report for the old one.
EPOCH_REPORTS: Final = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStarted:
    """An agent opened the journal.

    `journal` is the id that it was given at the very first start.
    """

    journal: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TermSeen:
    """A leader of this term has spoken."""

    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandBegun:
    """From now on the hypervisor may have been touched for this command."""

    command_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnded:
    """A command has its one outcome."""

    outcome: CommandOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMade:
    """A report has its number and waits to be published."""

    report: HostReport


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportsDelivered:
    """The stream has stored every report up to `sequence`."""

    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteKept:
    """A value under a name: what the lease keeper must know after a restart."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IncarnationSeen:
    """The newest incarnation of a VM that this host was told to run."""

    vm_uuid: str
    incarnation: int


JournalChange = (
    AgentStarted
    | TermSeen
    | CommandBegun
    | CommandEnded
    | ReportMade
    | ReportsDelivered
    | NoteKept
    | IncarnationSeen
)
JOURNAL_CHANGE: Final = cast("type[JournalChange]", JournalChange)


class JournalState:
    """The sum of all changes."""

    def __init__(self, *, commands_max: int) -> None:
        self.journal = ""
        self.epoch = 0
        self.highest_term = 0
        self.last_sequence = 0
        self.delivered_sequence = 0
        self.begun: dict[str, JournalEntry] = {}
        self.ended: dict[str, JournalEntry] = {}
        self.incarnations: dict[str, int] = {}
        self.undelivered: dict[int, HostReport] = {}
        self.notes: dict[str, str] = {}
        self._commands_max = commands_max

    def entry(self, command_id: str) -> JournalEntry | None:
        """Give what is known of a command."""
        return self.ended.get(command_id) or self.begun.get(command_id)

    def apply(self, change: JournalChange) -> None:
        """Add one change."""
        match change:
            case AgentStarted(journal=journal, epoch=epoch):
                self.journal, self.epoch = journal, epoch
                self.last_sequence = max(self.last_sequence, epoch * EPOCH_REPORTS)
            case TermSeen(term=term):
                self.highest_term = max(self.highest_term, term)
            case CommandBegun(command_id=command_id):
                self._begin(command_id)
            case CommandEnded(outcome=outcome):
                self._end(outcome)
            case ReportMade(report=report):
                self._keep(report)
            case ReportsDelivered(sequence=sequence):
                self._deliver(sequence)
            case NoteKept(name=name, value=value):
                self.notes[name] = value
            case IncarnationSeen(vm_uuid=vm_uuid, incarnation=incarnation):
                self._see(vm_uuid, incarnation)

    def _begin(self, command_id: str) -> None:
        if command_id not in self.ended:
            self.begun[command_id] = JournalEntry(command_id=command_id)
            _drop_oldest(self.begun, self._commands_max)

    def _end(self, outcome: CommandOutcome) -> None:
        command_id = outcome.command_id
        self.begun.pop(command_id, None)
        self.ended[command_id] = JournalEntry(command_id=command_id, outcome=outcome)
        _drop_oldest(self.ended, self._commands_max)

    def _keep(self, report: HostReport) -> None:
        self.last_sequence = max(self.last_sequence, report.sequence)
        if report.sequence > self.delivered_sequence:
            self.undelivered[report.sequence] = report

    def _deliver(self, sequence: int) -> None:
        self.delivered_sequence = max(self.delivered_sequence, sequence)
        self.last_sequence = max(self.last_sequence, sequence)
        # Reports are numbered in order, so the delivered ones are the first.
        while self.undelivered and next(iter(self.undelivered)) <= sequence:
            del self.undelivered[next(iter(self.undelivered))]

    def _see(self, vm_uuid: str, incarnation: int) -> None:
        self.incarnations[vm_uuid] = max(self.incarnations.get(vm_uuid, 0), incarnation)

    def changes(self) -> Iterator[JournalChange]:
        """Give the fewest changes that add up to this state: what is left after compaction."""
        yield AgentStarted(journal=self.journal, epoch=self.epoch)
        yield TermSeen(term=self.highest_term)
        for vm_uuid, incarnation in self.incarnations.items():
            yield IncarnationSeen(vm_uuid=vm_uuid, incarnation=incarnation)
        for entry in self.ended.values():
            if entry.outcome is not None:
                yield CommandEnded(outcome=entry.outcome)
        for command_id in self.begun:
            yield CommandBegun(command_id=command_id)
        yield ReportsDelivered(sequence=self.delivered_sequence)
        for report in self.undelivered.values():
            yield ReportMade(report=report)
        for name, value in self.notes.items():
            yield NoteKept(name=name, value=value)


def _drop_oldest(entries: dict[str, JournalEntry], count_max: int) -> None:
    while len(entries) > count_max:
        del entries[next(iter(entries))]
