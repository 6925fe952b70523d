"""A journal without a disk, for the simulator: survives the agent, and can lose what was not
flushed."""

import anyio

from host_agent.core.journal_state import JOURNAL_CHANGE, AgentStarted, JournalChange, JournalState
from shared.codec import decode, encode


class MemoryJournalDisk:
    """What is on one host's disk: the durable changes, as bytes, so that nothing is shared by
    accident.

    `flush_s` is how long a flush takes.
    """

    def __init__(self, name: str, *, flush_s: float = 0.0, commands_max: int = 1_000) -> None:
        self.name = name
        self.flush_s = flush_s
        self.commands_max = commands_max
        self.changes: list[bytes] = []

    def wipe(self) -> None:
        """The disk is lost; the next journal on it has another name."""
        self.changes.clear()
        self.name += "+"


async def open_memory_journal(disk: MemoryJournalDisk) -> "MemoryJournal":
    """Read what the disk holds and count this start of the agent."""
    state = JournalState(commands_max=disk.commands_max)
    for data in disk.changes:
        state.apply(decode(data, JOURNAL_CHANGE))
    journal = MemoryJournal(disk, state)
    await journal.write(AgentStarted(journal=state.journal or disk.name, epoch=state.epoch + 1))
    return journal


class MemoryJournal:
    """`host_agent.shell.journal.Journal` in memory; an agent that dies without `close` loses its
    tail."""

    def __init__(self, disk: MemoryJournalDisk, state: JournalState) -> None:
        self._disk = disk
        self._state = state
        self._waiting: list[bytes] = []
        self._made = 0
        self._flushed = 0
        self._flushing = anyio.Lock()
        self._durable_sequence = state.last_sequence

    @property
    def state(self) -> JournalState:
        return self._state

    @property
    def durable_sequence(self) -> int:
        return self._durable_sequence

    async def write(self, *changes: JournalChange) -> None:
        self.write_behind(*changes)
        ticket = self._made
        async with self._flushing:
            if self._flushed < ticket:
                await self._flush()

    async def _flush(self) -> None:
        batch, made, sequence = list(self._waiting), self._made, self._state.last_sequence
        await anyio.sleep(self._disk.flush_s)
        self._disk.changes += batch
        del self._waiting[: len(batch)]
        self._flushed, self._durable_sequence = made, sequence

    def write_behind(self, *changes: JournalChange) -> None:
        for change in changes:
            self._state.apply(change)
            self._waiting.append(encode(change, JournalChange))
        self._made += len(changes)

    async def close(self) -> None:
        with anyio.CancelScope(shield=True):
            await self.write()
