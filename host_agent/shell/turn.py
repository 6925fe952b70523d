"""A command's turn on its VM: what it is, and how others tell it to give up or to let them pass."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from host_agent.shell.bell import Bell
from shared.protocol import HostCommand


async def nobody_passes() -> bool:
    """Nobody wants to go first."""
    return False


@dataclass(slots=True, kw_only=True)
class Turn:
    """One command from its arrival to its end.

    `is_cancelled`: a CancelCommand named it. `is_overtaken`: a command that stops the guest goes
    before it. `called` rings at either. `let_pass` runs what overtakes it, in its place,
    and says whether there was anything.
    `sequence` is its report's number once `ended` is set, 0 where it was dropped. `deliveries`
    counts how often it came before that.
    """

    command: HostCommand
    losses: int
    arrived_at: float
    is_cancelled: bool = False
    is_overtaken: bool = False
    called: Bell = field(default_factory=Bell)
    let_pass: Callable[[], Awaitable[bool]] = nobody_passes
    ended: anyio.Event = field(default_factory=anyio.Event)
    sequence: int = 0
    deliveries: int = 1

    @property
    def must_give_up(self) -> bool:
        """Whether it should end without having brought its guest to run."""
        return self.is_cancelled or self.is_overtaken

    def cancel(self) -> None:
        """Ask it to end where it still waits."""
        self.is_cancelled = True
        self.called.ring()

    def overtake(self) -> None:
        """Tell it that the guest will be stopped before it is done."""
        self.is_overtaken = True
        self.called.ring()

    def end(self, sequence: int) -> None:
        """Its report has this number."""
        self.sequence = sequence
        self.ended.set()
