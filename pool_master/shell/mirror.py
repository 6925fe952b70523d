"""The master's own copy of the log in SQLite: the only file of the master that imports aiosqlite.

One job: keep records that were verified against the chain, an index of their events for audit
questions, and snapshots; and give them back.

Rules:
- The copy is a materialisation: the stream is the truth, and the copy is rebuilt from it at any
  time.
- `synchronous=NORMAL` in WAL: a power cut may take the last transactions off the copy's end, never
  from its middle, and the stream, which syncs every record, still has them. FULL would add a disk
  flush per batch to every master for records that are durable already.
- A batch is one transaction: records and their index rows come together or not at all.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import aiosqlite

SCHEMA_VERSION: Final = 1
BUSY_WAIT_S_MAX: Final = 5.0
BATCH_RECORDS_MAX: Final = 1_000
READ_RECORDS_MAX: Final = 1_000
AUDIT_ROWS_MAX: Final = 10_000
SNAPSHOTS_KEPT: Final = 2

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS records (
    position INTEGER PRIMARY KEY,
    first_sequence INTEGER NOT NULL UNIQUE,
    last_sequence INTEGER NOT NULL,
    term INTEGER NOT NULL,
    previous_hash BLOB NOT NULL,
    hash BLOB NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    type TEXT NOT NULL,
    actor_kind TEXT NOT NULL,
    actor_name TEXT NOT NULL,
    command_id TEXT NOT NULL,
    cause TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_by_time ON events (time_us);
CREATE INDEX IF NOT EXISTS events_by_actor ON events (actor_name, sequence);
CREATE TABLE IF NOT EXISTS event_objects (
    object_ref TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (object_ref, sequence)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshots (
    position INTEGER PRIMARY KEY,
    sequence INTEGER NOT NULL,
    schema INTEGER NOT NULL,
    data BLOB NOT NULL
);
"""


class MirrorError(OSError):
    """SQLite cannot do it now: no space, no rights, locked by another process."""


class MirrorDamaged(MirrorError):
    """The copy is no database, or of a version that we do not know: rebuild it from the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorRecord:
    """One commit record, as it is in the stream at `position`."""

    position: int
    first_sequence: int
    last_sequence: int
    term: int
    previous_hash: bytes
    hash: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """What can be asked of one event without decoding it."""

    sequence: int
    position: int
    time_us: int
    type: str
    actor_kind: str
    actor_name: str
    command_id: str
    cause: str
    object_refs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Which events; empty and 0 mean any. Times: from `since_us` on, before `until_us`."""

    object_ref: str = ""
    actor: str = ""
    event_type: str = ""
    command_id: str = ""
    since_us: int = 0
    until_us: int = 0
    after_sequence: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Where an event is: the event `sequence` in the record at `position`."""

    position: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The Pool after all records up to `position`, whose last event is `sequence`."""

    position: int
    sequence: int
    schema: int
    data: bytes


class Mirror:
    """An open copy; make it with `Mirror.open`. Appends are one after another, reads beside
    them."""

    def __init__(self, writing: aiosqlite.Connection, reading: aiosqlite.Connection) -> None:
        self._writing = writing
        self._reading = reading
        self._write_lock = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the copy at `path`, making it where it is missing.

        Raises:
            MirrorError: the file cannot be used.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as opened:
            with _failures_told():
                writing = await _connect(path)
                opened.push_async_callback(writing.close)
                await writing.execute("PRAGMA journal_mode=WAL")
                await writing.execute("PRAGMA synchronous=NORMAL")
                await _make_tables(writing)
                reading = await _connect(path)
                opened.push_async_callback(reading.close)
                await reading.execute("PRAGMA query_only=ON")
            opened.pop_all()
        return cls(writing, reading)

    async def close(self) -> None:
        """Close it."""
        await self._reading.close()
        await self._writing.close()

    async def append(self, records: Sequence[MirrorRecord], index_rows: Sequence[IndexRow]) -> None:
        """Add records to the end, and the index rows of their events, in one transaction.

        Raises:
            MirrorError: nothing was added.
        """
        assert len(records) <= BATCH_RECORDS_MAX, "split it: a batch is held in memory whole"
        if not records:
            return
        async with self._transaction() as connection:
            last = await _one(connection, "SELECT max(position) FROM records")
            expected = (last[0] or 0) + 1 if last else 1
            for position, record in enumerate(records, start=expected):
                assert record.position == position, f"{record.position} is not next: {position} is"
            await connection.executemany(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)",
                [_record_values(record) for record in records],
            )
            await connection.executemany(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [_event_values(row) for row in index_rows],
            )
            await connection.executemany(
                "INSERT OR IGNORE INTO event_objects VALUES (?, ?)",
                [(ref, row.sequence) for row in index_rows for ref in row.object_refs],
            )

    async def tail(self) -> MirrorRecord | None:
        """Give the last record, None where there is none."""
        with _failures_told():
            row = await _one(self._reading, "SELECT * FROM records ORDER BY position DESC LIMIT 1")
        return _record(row) if row else None

    async def records(self, *, after: int, limit: int) -> list[MirrorRecord]:
        """Give up to `limit` records with positions above `after`, in order."""
        with _failures_told():
            rows = await self._reading.execute_fetchall(
                "SELECT * FROM records WHERE position > ? ORDER BY position LIMIT ?",
                (after, min(limit, READ_RECORDS_MAX)),
            )
        return [_record(row) for row in rows]

    async def audit(self, query: AuditQuery) -> list[AuditRow]:
        """Give where the events are that fit the query, oldest first."""
        conditions = [
            ("sequence > ?", query.after_sequence),
            (
                "sequence IN (SELECT sequence FROM event_objects WHERE object_ref = ?)",
                query.object_ref,
            ),
            ("actor_name = ?", query.actor),
            ("type = ?", query.event_type),
            ("command_id = ?", query.command_id),
            ("time_us >= ?", query.since_us),
            ("time_us < ?", query.until_us),
        ]
        asked = [(text, value) for text, value in conditions if value]
        where = " AND ".join(["1", *(text for text, _ in asked)])
        sql = f"SELECT position, sequence FROM events WHERE {where} ORDER BY sequence LIMIT ?"  # noqa: S608 - texts from above
        values = [value for _, value in asked]
        with _failures_told():
            rows = await self._reading.execute_fetchall(
                sql, (*values, min(query.limit, AUDIT_ROWS_MAX))
            )
        return [AuditRow(position, sequence) for position, sequence in rows]

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot; only the last few stay."""
        async with self._transaction() as connection:
            await connection.execute(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)",
                (snapshot.position, snapshot.sequence, snapshot.schema, snapshot.data),
            )
            await connection.execute(
                "DELETE FROM snapshots WHERE position NOT IN"
                " (SELECT position FROM snapshots ORDER BY position DESC LIMIT ?)",
                (SNAPSHOTS_KEPT,),
            )

    async def snapshots(self) -> list[Snapshot]:
        """Give the snapshots, newest first: where one cannot be read, the one before it may."""
        with _failures_told():
            rows = await self._reading.execute_fetchall(
                "SELECT position, sequence, schema, data FROM snapshots ORDER BY position DESC"
            )
        return [
            Snapshot(position=position, sequence=sequence, schema=schema, data=data)
            for position, sequence, schema, data in rows
        ]

    async def latest_snapshot(self) -> Snapshot | None:
        """Give the newest snapshot, None where there is none."""
        snapshots = await self.snapshots()
        return snapshots[0] if snapshots else None

    async def truncate_from(self, position: int) -> None:
        """Forget the records at `position` and after it, and all that was made from them."""
        async with self._transaction() as connection:
            for table in ("snapshots", "records"):
                await connection.execute(
                    f"DELETE FROM {table} WHERE position >= ?",  # noqa: S608 - names from above
                    (position,),
                )
            await connection.execute(
                "DELETE FROM event_objects WHERE sequence IN"
                " (SELECT sequence FROM events WHERE position >= ?)",
                (position,),
            )
            await connection.execute("DELETE FROM events WHERE position >= ?", (position,))

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        async with self._write_lock:
            with _failures_told():
                try:
                    await self._writing.execute("BEGIN IMMEDIATE")
                    yield self._writing
                    await self._writing.execute("COMMIT")
                except BaseException:
                    # After a cancellation the thread still does what it was asked; this comes behind
                    # it. SQLite may have rolled back by itself.
                    with suppress(aiosqlite.Error):
                        await self._writing.execute("ROLLBACK")
                    raise


async def _connect(path: Path) -> aiosqlite.Connection:
    return await aiosqlite.connect(path, isolation_level=None, timeout=BUSY_WAIT_S_MAX)


async def _make_tables(connection: aiosqlite.Connection) -> None:
    row = await _one(connection, "PRAGMA user_version")
    version = row[0] if row else 0
    if version not in {0, SCHEMA_VERSION}:
        raise MirrorDamaged(f"the copy has schema {version}, and we know {SCHEMA_VERSION}")
    await connection.executescript(_TABLES)
    await connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


async def _one(connection: aiosqlite.Connection, sql: str) -> tuple[Any, ...] | None:
    async with connection.execute(sql) as cursor:
        row = await cursor.fetchone()
    return tuple(row) if row is not None else None


@contextmanager
def _failures_told() -> Iterator[None]:
    try:
        yield
    except aiosqlite.OperationalError as error:
        raise MirrorError(str(error)) from error
    except aiosqlite.DatabaseError as error:
        raise MirrorDamaged(str(error)) from error


def _record(row: Iterable[Any]) -> MirrorRecord:
    position, first_sequence, last_sequence, term, previous_hash, own_hash, data = row
    return MirrorRecord(
        position=position,
        first_sequence=first_sequence,
        last_sequence=last_sequence,
        term=term,
        previous_hash=previous_hash,
        hash=own_hash,
        data=data,
    )


def _record_values(record: MirrorRecord) -> tuple[object, ...]:
    return (
        record.position,
        record.first_sequence,
        record.last_sequence,
        record.term,
        record.previous_hash,
        record.hash,
        record.data,
    )


def _event_values(row: IndexRow) -> tuple[object, ...]:
    return (
        row.sequence,
        row.position,
        row.time_us,
        row.type,
        row.actor_kind,
        row.actor_name,
        row.command_id,
        row.cause,
    )
