"""Whether a command runs.

Once, in its leader's term, and only on a host that is trusted with guests.

Rules, in this order: a finished command is answered from the journal, whoever asks; a command of an
older term than the highest seen, or one that would start an incarnation older than the newest seen,
is dropped, because the present leader plans it again from the log if it is still wanted; a command
that brings a guest to run needs a lease.

Without a lease such a command waits, unacknowledged: a lease that is late by a heartbeat must not
fail a start. It waits no longer than the host keeps its guests: once the host had to fence, or the
bound is over, the leader may count on the command never having run, so it ends with HOST_NOT_LIVE
and will not start later by surprise. A command that was begun before the agent died is resumed:
look at the hypervisor first, then do what is missing.
"""

from dataclasses import dataclass
from typing import Final

from shared.protocol import (
    CommandFailed,
    CommandSucceeded,
    HostAction,
    HostCommand,
    MigrateDomain,
    RestartDomain,
    ResumeDomain,
    SettleResume,
    StartDomain,
    UnpauseDomain,
)
from shared.storage_protocol import (
    DeleteDisk,
    MakeDisks,
    ResizeDisk,
)

CommandOutcome = CommandSucceeded | CommandFailed

STARTING: Final = (StartDomain, RestartDomain, ResumeDomain)
# Besides what brings a guest to run, what changes a disk: without a lease the pool may give it to a guest elsewhere.
LEASE_BOUND: Final = (
    StartDomain,
    RestartDomain,
    ResumeDomain,
    SettleResume,
    UnpauseDomain,
    MigrateDomain,
    MakeDisks,
    ResizeDisk,
    DeleteDisk,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """What the journal knows of a command: begun, and its outcome once it has one."""

    command_id: str
    outcome: CommandOutcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What a host knows when it looks at a command.

    `host_epoch` is that of the newest grant: what was sent before this host was last given up must
    not run. `newest_incarnation` is that of the command's VM, 0 where none was seen. `may_start` is a valid
    lease that no promise to a peer restrains. `lost_lease` says that the lease was lost beyond
    the fence point since the command came; `waited_long` that it has waited for a lease as long as
    it may.
    """

    highest_term: int
    host_epoch: int = 0
    newest_incarnation: int = 0
    may_start: bool = False
    lost_lease: bool = False
    waited_long: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Do it."""


@dataclass(frozen=True, slots=True)
class Resume:
    """It was begun before a crash and nobody knows how it went: look first."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again when the lease changes."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """It is done: say the same again."""

    outcome: CommandOutcome


@dataclass(frozen=True, slots=True)
class Refuse:
    """It ends here, without having run, with this failure."""

    code: str


@dataclass(frozen=True, slots=True)
class Stale:
    """It is older than what is known: drop it without a word. `reason` is for the counter."""

    reason: str


Admission = Run | Resume | Wait | Repeat | Refuse | Stale


def admit(entry: JournalEntry | None, command: HostCommand, knowledge: Knowledge) -> Admission:  # noqa: PLR0911 - one return a case
    """Say what becomes of `command`, given what the journal holds of it."""
    if entry is not None and entry.outcome is not None:
        return Repeat(entry.outcome)
    if command.term < knowledge.highest_term:
        return Stale("term")
    if command.host_epoch < knowledge.host_epoch:
        return Stale("host epoch")
    if is_older_start(command, knowledge.newest_incarnation):
        return Stale("incarnation")
    if needs_lease(command.action) and not knowledge.may_start:
        return _without_lease(knowledge)
    if needs_lease(command.action) and knowledge.lost_lease:
        return Refuse("HOST_NOT_LIVE")
    return Run() if entry is None else Resume()


def _without_lease(knowledge: Knowledge) -> Admission:
    if knowledge.lost_lease or knowledge.waited_long:
        return Refuse("HOST_NOT_LIVE")
    return Wait()


def is_older_start(command: HostCommand, newest_incarnation: int) -> bool:
    """Say whether `command` would start an incarnation that a newer one has replaced."""
    return isinstance(command.action, STARTING) and command.incarnation < newest_incarnation


def needs_lease(action: HostAction) -> bool:
    """Say whether `action` brings a guest to run, here or elsewhere.

    Stopping one is always allowed.
    """
    return isinstance(action, LEASE_BOUND)
