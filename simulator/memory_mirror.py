"""A master's copy of the log without SQLite, for the simulator: survives the master, and can lose its end."""

import asyncio
from collections.abc import Sequence

from pool_master.shell.mirror import (
    AUDIT_ROWS_MAX,
    BATCH_RECORDS_MAX,
    READ_RECORDS_MAX,
    SNAPSHOTS_KEPT,
    AuditQuery,
    AuditRow,
    IndexRow,
    MirrorDamaged,
    MirrorRecord,
    Snapshot,
)


class MemoryMirrorDisk:
    """What is on one master's disk; `flush_s` is how long a transaction takes."""

    def __init__(self, *, flush_s: float = 0.0) -> None:
        self.flush_s = flush_s
        self.records: list[MirrorRecord] = []
        self.rows: list[IndexRow] = []
        self.snapshots: dict[int, Snapshot] = {}

    def truncate_from(self, position: int) -> None:
        del self.records[max(0, position - 1) :]
        self.rows = [row for row in self.rows if row.position < position]
        self.snapshots = {at: kept for at, kept in self.snapshots.items() if at < position}

    def lose_end(self, count: int) -> None:
        """A power cut took the last transactions."""
        self.truncate_from(max(1, len(self.records) + 1 - count))


class MemoryMirror:
    """`pool_master.shell.mirror.Mirror` in memory."""

    def __init__(self, disk: MemoryMirrorDisk) -> None:
        self._disk = disk
        self._write_lock = asyncio.Lock()

    async def close(self) -> None:
        pass

    async def append(self, records: Sequence[MirrorRecord], index_rows: Sequence[IndexRow]) -> None:
        assert len(records) <= BATCH_RECORDS_MAX, "split it: a batch is held in memory whole"
        async with self._write_lock:
            await asyncio.sleep(self._disk.flush_s)
            expected = len(self._disk.records) + 1
            for position, record in enumerate(records, start=expected):
                assert record.position == position, f"{record.position} is not next: {position} is"
            if not records:
                return
            known = {row.sequence for row in self._disk.rows[-len(index_rows) :]}
            new = {row.sequence for row in index_rows}
            if len(new) < len(index_rows) or known & new:
                raise MirrorDamaged("an event has two index rows")
            self._disk.records += records
            self._disk.rows += index_rows

    async def tail(self) -> MirrorRecord | None:
        await asyncio.sleep(0)
        return self._disk.records[-1] if self._disk.records else None

    async def records(self, *, after: int, limit: int) -> list[MirrorRecord]:
        await asyncio.sleep(0)
        return self._disk.records[max(0, after) : max(0, after) + min(limit, READ_RECORDS_MAX)]

    async def audit(self, query: AuditQuery) -> list[AuditRow]:
        await asyncio.sleep(0)
        found = [
            AuditRow(row.position, row.sequence) for row in self._disk.rows if _fits(row, query)
        ]
        return sorted(found, key=lambda row: row.sequence)[: min(query.limit, AUDIT_ROWS_MAX)]

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        async with self._write_lock:
            await asyncio.sleep(self._disk.flush_s)
            self._disk.snapshots[snapshot.position] = snapshot
            for position in sorted(self._disk.snapshots)[:-SNAPSHOTS_KEPT]:
                del self._disk.snapshots[position]

    async def snapshots(self) -> list[Snapshot]:
        await asyncio.sleep(0)
        return [self._disk.snapshots[at] for at in sorted(self._disk.snapshots, reverse=True)]

    async def latest_snapshot(self) -> Snapshot | None:
        found = await self.snapshots()
        return found[0] if found else None

    async def truncate_from(self, position: int) -> None:
        async with self._write_lock:
            await asyncio.sleep(self._disk.flush_s)
            self._disk.truncate_from(position)


def _fits(row: IndexRow, query: AuditQuery) -> bool:
    return (
        row.sequence > query.after_sequence
        and (not query.object_ref or query.object_ref in row.object_refs)
        and (not query.actor or row.actor_name == query.actor)
        and (not query.event_type or row.type == query.event_type)
        and (not query.command_id or row.command_id == query.command_id)
        and (not query.since_us or row.time_us >= query.since_us)
        and (not query.until_us or row.time_us < query.until_us)
    )
