"""What the agent needs from storage: one port, the same for directories of disk images and for the simulation.

Rules: every method may be repeated: what is done already is success. A disk is there whole under its name, or not at all.
A refusal is a XenApiError with XenAPI's code; an OSError is the storage's own failure.
"""

from collections.abc import Callable
from typing import Protocol

from shared.errors import TaskCancelled
from shared.storage_errors import SrFull
from shared.storage_protocol import (
    DiskOrder,
    StorageConfig,
    StorageObservation,
)

Progress = Callable[[float], None]


class Cancelled(TaskCancelled):
    """Somebody does not want the disk any more."""


class Work:
    """One command's way: how far it is, and whether to give up."""

    def __init__(self, on_progress: Progress, is_cancelled: Callable[[], bool]) -> None:
        self.on_progress = on_progress
        self.is_cancelled = is_cancelled

    def part(self, number: int, count: int) -> "Work":
        """Give the way of one of so many things, counted from 0, that make up this one."""

        def on_progress(share: float) -> None:
            self.on_progress((number + share) / count)

        return Work(on_progress, self.is_cancelled)

    def check(self) -> None:
        """Give up where somebody wants that.

        Raises:
            Cancelled: so it is.
        """
        if self.is_cancelled():
            raise Cancelled


class Storage(Protocol):
    """A host's way to its SRs."""

    async def attach(self, storage: StorageConfig, *, is_new: bool) -> StorageObservation:
        """Make the SR usable here; a new one begins, another must be the one that began.

        Raises:
            SrBackendFailure: it is not there, not ours, or another one.
        """
        ...

    async def detach(self, storage: StorageConfig, *, is_final: bool) -> None:
        """Let go of the SR; for good: leave nothing of it.

        Raises:
            SrNotEmpty: for good, and there are disks.
        """
        ...

    async def scan(self, storage: StorageConfig) -> StorageObservation:
        """Give all disks of the SR."""
        ...

    async def make(self, orders: tuple[DiskOrder, ...], work: Work) -> StorageObservation:
        """Make all the disks, or none; give them, and the bases that came of their sources.

        Raises:
            Cancelled: nothing is left of them.
            SrFull, SrBackendFailure: nothing is left of them.
        """
        ...

    async def delete(self, storage: StorageConfig, location: str) -> StorageObservation:
        """Delete a disk."""
        ...

    async def resize(
        self, storage: StorageConfig, location: str, *, made_as: str, size: int
    ) -> StorageObservation:
        """Make a disk larger; one that is that large already stays."""
        ...


def full(order_size: int, available: int) -> SrFull:
    """Give the failure of an SR that has no room."""
    return SrFull(str(order_size), str(available))
