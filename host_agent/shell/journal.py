"""The agent's memory across its own death: the port, and SQLite behind it.

One job: make changes durable, many at a time.

Rules: a change is applied to the state at once and is durable when `write` returns; changes become
durable in the order in which they were made. Writers that come while a flush runs share the next
one. A write that fails ends the agent: its state would be ahead of its memory.

Durable means: it outlives the agent, not the host's power. A power cut takes the guests with it, so
what it takes of the journal's end describes nothing that is still there, and the disk is not waited
for; the start of an agent is, since report numbers go on from it (`journal_state.EPOCH_REPORTS`).
"""

import uuid
from pathlib import Path
from typing import Final, Protocol

import aiosqlite
import anyio

from host_agent.core.journal_state import JOURNAL_CHANGE, AgentStarted, JournalChange, JournalState
from shared.codec import DecodeError, decode, encode

SCHEMA_VERSION: Final = 1
ROWS_AT_ONCE_MAX: Final = 100
_INSERT: Final = "INSERT INTO changes (data) VALUES"


class Journal(Protocol):
    """What the agent must not forget."""

    @property
    def state(self) -> JournalState:
        """The sum of all changes, the ones that are not durable yet included."""
        ...

    @property
    def durable_sequence(self) -> int:
        """The number of the last report that is durable; later ones must not be published."""
        ...

    async def write(self, *changes: JournalChange) -> None:
        """Apply changes at once and return when they, and all before them, are durable."""
        ...

    def write_behind(self, *changes: JournalChange) -> None:
        """Apply changes at once; they become durable with the next `write`, or are lost."""
        ...

    async def close(self) -> None:
        """Make everything durable and let go of the store."""
        ...


class JournalDamagedError(OSError):
    """The journal cannot be read; the host must not guess what it did."""


async def open_journal(path: Path, *, commands_max: int, changes_max: int) -> "SqliteJournal":
    """Open the journal at `path`, made where missing, and count this start of the agent.

    Raises:
        JournalDamagedError: it is not a journal, or of a newer version.
    """
    connection = await aiosqlite.connect(path, isolation_level=None)
    try:
        state, count = await _read(connection, JournalState(commands_max=commands_max))
        journal = SqliteJournal(connection, state, stored=count, changes_max=changes_max)
        started = AgentStarted(journal=state.journal or str(uuid.uuid4()), epoch=state.epoch + 1)
        await journal.write(started)
        await connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException as error:
        await connection.close()
        if isinstance(error, (aiosqlite.DatabaseError, DecodeError)):
            raise JournalDamagedError(f"the journal {path} cannot be read: {error}") from error
        raise
    return journal


async def _read(connection: aiosqlite.Connection, state: JournalState) -> tuple[JournalState, int]:
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        await connection.execute(f"PRAGMA {pragma}")
    async with connection.execute("PRAGMA user_version") as cursor:
        row = await cursor.fetchone()
    if row is not None and row[0] > SCHEMA_VERSION:
        raise JournalDamagedError(f"the journal is of version {row[0]}, newer than this agent")
    await connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS changes (id INTEGER PRIMARY KEY, data BLOB NOT NULL)"
    )
    count = 0
    async with connection.execute("SELECT data FROM changes ORDER BY id") as rows:
        async for row in rows:
            state.apply(decode(row[0], JOURNAL_CHANGE))
            count += 1
    return state, count


class SqliteJournal:
    """A journal in a SQLite file; make it with `open_journal`.

    `changes_max` bounds the file: beyond it, the state is written anew in the fewest changes.
    `flushes` counts the waits for the disk.
    """

    def __init__(
        self,
        connection: aiosqlite.Connection,
        state: JournalState,
        *,
        stored: int,
        changes_max: int,
    ) -> None:
        self._connection = connection
        self._state = state
        self._stored = stored
        self._changes_max = changes_max
        self._waiting: list[bytes] = []
        self._made = 0
        self._flushed = 0
        self._flushing = anyio.Lock()
        self.flushes = 0
        self._durable_sequence = state.last_sequence

    @property
    def state(self) -> JournalState:
        """The sum of all changes."""
        return self._state

    @property
    def durable_sequence(self) -> int:
        """The number of the last durable report."""
        return self._durable_sequence

    async def write(self, *changes: JournalChange) -> None:
        """Apply and make durable."""
        self.write_behind(*changes)
        ticket = self._made
        async with self._flushing:
            if self._flushed < ticket:
                # A flush that a cancellation cut in two would lose changes that are applied.
                with anyio.CancelScope(shield=True):
                    await self._flush()

    def write_behind(self, *changes: JournalChange) -> None:
        """Apply, and leave the flush to the next write."""
        for change in changes:
            self._state.apply(change)
            self._waiting.append(encode(change, JournalChange))
        self._made += len(changes)

    async def close(self) -> None:
        """Flush what is left and close the file."""
        with anyio.CancelScope(shield=True):
            await self.write()
            await self._connection.close()

    async def _flush(self) -> None:
        rows, self._waiting = self._waiting, []
        made, sequence = self._made, self._state.last_sequence
        if self._stored + len(rows) > self._changes_max:
            rows = [encode(change, JournalChange) for change in self._state.changes()]
            # The state may itself be larger than the bound: then double it before the next time.
            self._changes_max = max(self._changes_max, 2 * len(rows))
            self._stored = 0
            await self._store(["DELETE FROM changes"], rows)
        elif len(rows) <= ROWS_AT_ONCE_MAX:
            # One statement is a transaction of its own: one way to the database's thread and back.
            places = ",".join(["(?)"] * len(rows))
            await self._connection.execute(f"{_INSERT} {places}", rows)
        else:
            await self._store([], rows)
        self.flushes += 1
        self._stored += len(rows)
        self._flushed = made
        self._durable_sequence = sequence

    async def _store(self, first: list[str], rows: list[bytes]) -> None:
        for statement in ("BEGIN", *first):
            await self._connection.execute(statement)
        await self._connection.executemany(f"{_INSERT} (?)", [(row,) for row in rows])
        await self._connection.execute("COMMIT")
