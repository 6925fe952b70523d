"""The SQLite copy: records, audit questions, snapshots, and what a broken file says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite
import pytest

from pool_master.core.records import GENESIS_HASH, UnsealedRecord, hash_of, seal, unseal
from pool_master.shell.log_verify import mirror_record
from pool_master.shell.mirror import (
    AuditQuery,
    AuditRow,
    IndexRow,
    Mirror,
    MirrorDamaged,
    MirrorRecord,
    Snapshot,
)

EVENTS_EACH = 2


@asynccontextmanager
async def open_mirror(folder: Path) -> AsyncIterator[Mirror]:
    mirror = await Mirror.open(folder / "copy" / "log.sqlite")
    try:
        yield mirror
    finally:
        await mirror.close()


def history(count: int) -> list[MirrorRecord]:
    records: list[MirrorRecord] = []
    previous_hash = GENESIS_HASH
    for position in range(1, count + 1):
        data = seal(
            UnsealedRecord(
                term=1,
                first_sequence=(position - 1) * EVENTS_EACH + 1,
                previous_hash=previous_hash,
                events=[["e", position, n] for n in range(EVENTS_EACH)],
            )
        )
        previous_hash = hash_of(data)
        records.append(mirror_record(position, unseal(data), data))
    return records


def index_row(sequence: int, *refs: str, actor: str = "root", kind: str = "VmStarted") -> IndexRow:
    return IndexRow(
        sequence=sequence,
        position=(sequence + 1) // EVENTS_EACH,
        time_us=sequence * 1_000,
        type=kind,
        actor_kind="user",
        actor_name=actor,
        command_id=f"command-{sequence}",
        cause="",
        object_refs=refs,
    )


async def test_an_empty_copy_has_nothing(tmp_path: Path) -> None:
    async with open_mirror(tmp_path) as mirror:
        assert await mirror.tail() is None
        assert await mirror.records(after=0, limit=10) == []
        assert await mirror.latest_snapshot() is None
        assert await mirror.audit(AuditQuery()) == []


async def test_records_survive_reopening(tmp_path: Path) -> None:
    records = history(5)
    async with open_mirror(tmp_path) as mirror:
        await mirror.append(records[:3], [])
        await mirror.append(records[3:], [])
        await mirror.append([], [])
    async with open_mirror(tmp_path) as mirror:
        assert await mirror.tail() == records[-1]
        assert await mirror.records(after=0, limit=100) == records
        assert await mirror.records(after=1, limit=2) == records[1:3]


async def test_a_record_that_is_not_next_is_refused_and_nothing_is_added(tmp_path: Path) -> None:
    records = history(4)
    async with open_mirror(tmp_path) as mirror:
        await mirror.append(records[:1], [])
        for wrong in ([records[2]], [records[1], records[3]], [records[0]]):
            with pytest.raises(AssertionError):
                await mirror.append(wrong, [])
        assert await mirror.records(after=0, limit=100) == records[:1]
        await mirror.append(records[1:], [])


async def test_a_batch_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    async with open_mirror(tmp_path) as mirror:
        with pytest.raises(MirrorDamaged):
            await mirror.append(history(1), [index_row(1), index_row(1)])
        assert await mirror.tail() is None
        assert await mirror.audit(AuditQuery()) == []
        await mirror.append(history(1), [index_row(1)])


async def test_appends_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    records = history(40)
    async with open_mirror(tmp_path) as mirror, asyncio.TaskGroup() as group:
        for record in records:
            group.create_task(mirror.append([record], []))
    async with open_mirror(tmp_path) as mirror:
        assert await mirror.records(after=0, limit=100) == records


async def test_a_cancelled_append_leaves_no_transaction_open(tmp_path: Path) -> None:
    records = history(3)
    async with open_mirror(tmp_path) as mirror:
        async with asyncio.TaskGroup() as group:
            appending = group.create_task(mirror.append(records, []))
            await asyncio.sleep(0)
            appending.cancel()
        tail = await mirror.tail()
        await mirror.append(records[3:] if tail else records, [])
        assert await mirror.records(after=0, limit=10) == records


@pytest.mark.parametrize(
    ("query", "sequences"),
    [
        (AuditQuery(), [1, 2, 3, 4, 5, 6]),
        (AuditQuery(limit=2), [1, 2]),
        (AuditQuery(after_sequence=2, limit=2), [3, 4]),
        (AuditQuery(object_ref="vm-1"), [1, 3, 4]),
        (AuditQuery(object_ref="host-1"), [3]),
        (AuditQuery(object_ref="nothing"), []),
        (AuditQuery(actor="alice"), [2, 4]),
        (AuditQuery(actor="alice", object_ref="vm-1"), [4]),
        (AuditQuery(event_type="VmHalted"), [5]),
        (AuditQuery(command_id="command-6"), [6]),
        (AuditQuery(since_us=3_000, until_us=5_000), [3, 4]),
        (AuditQuery(since_us=3_000, object_ref="vm-1", after_sequence=3), [4]),
    ],
)
async def test_audit_questions_find_their_events(
    tmp_path: Path, query: AuditQuery, sequences: list[int]
) -> None:
    rows = [
        index_row(1, "vm-1"),
        index_row(2, "vm-2", actor="alice"),
        index_row(3, "vm-1", "host-1", "vm-1"),
        index_row(4, "vm-1", actor="alice"),
        index_row(5, "vm-2", kind="VmHalted"),
        index_row(6),
    ]
    async with open_mirror(tmp_path) as mirror:
        await mirror.append(history(3), rows)
        found = await mirror.audit(query)

    assert found == [AuditRow((n + 1) // EVENTS_EACH, n) for n in sequences]


async def test_only_the_last_snapshots_are_kept(tmp_path: Path) -> None:
    def snapshot(position: int) -> Snapshot:
        return Snapshot(position=position, sequence=2 * position, schema=1, data=b"%d" % position)

    async with open_mirror(tmp_path) as mirror:
        await mirror.append(history(9), [])
        for position in (3, 6, 9):
            await mirror.save_snapshot(snapshot(position))
        assert await mirror.latest_snapshot() == snapshot(9)
        assert await mirror.snapshots() == [snapshot(9), snapshot(6)]


async def test_truncating_forgets_what_was_made_from_the_records(tmp_path: Path) -> None:
    records = history(3)
    async with open_mirror(tmp_path) as mirror:
        await mirror.append(records, [index_row(n, "vm-1") for n in range(1, 7)])
        for position in (1, 3):
            await mirror.save_snapshot(
                Snapshot(position=position, sequence=2 * position, schema=1, data=b"")
            )
        await mirror.truncate_from(2)
        assert await mirror.records(after=0, limit=10) == records[:1]
        assert [row.sequence for row in await mirror.audit(AuditQuery(object_ref="vm-1"))] == [1, 2]
        assert [s.position for s in await mirror.snapshots()] == [1]
        await mirror.append(records[1:], [index_row(n, "vm-1") for n in range(3, 7)])


async def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    path.write_bytes(b"this is not SQLite" * 100)
    with pytest.raises(MirrorDamaged):
        await Mirror.open(path)


async def test_a_copy_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async with open_mirror(tmp_path):
        pass
    async with aiosqlite.connect(tmp_path / "copy" / "log.sqlite") as connection:
        await connection.execute("PRAGMA user_version = 99")
        await connection.commit()
    with pytest.raises(MirrorDamaged):
        await Mirror.open(tmp_path / "copy" / "log.sqlite")
