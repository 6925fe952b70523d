"""What a master's copy of the log promises, for SQLite's and for the simulator's in memory."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import cast

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
from simulator.memory_mirror import MemoryMirror, MemoryMirrorDisk

EVENTS_EACH = 2
Opener = Callable[[], AbstractAsyncContextManager[Mirror]]


@pytest.fixture(params=["sqlite", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    disk = MemoryMirrorDisk()

    @asynccontextmanager
    async def sqlite() -> AsyncIterator[Mirror]:
        mirror = await Mirror.open(tmp_path / "log.sqlite")
        try:
            yield mirror
        finally:
            await mirror.close()

    @asynccontextmanager
    async def memory() -> AsyncIterator[Mirror]:
        yield cast("Mirror", MemoryMirror(disk))

    return sqlite if request.param == "sqlite" else memory


def history(count: int) -> list[MirrorRecord]:
    records: list[MirrorRecord] = []
    previous_hash = GENESIS_HASH
    for position in range(1, count + 1):
        first = (position - 1) * EVENTS_EACH + 1
        events = [["e", position, n] for n in range(EVENTS_EACH)]
        data = seal(
            UnsealedRecord(term=1, first_sequence=first, previous_hash=previous_hash, events=events)
        )
        previous_hash = hash_of(data)
        records.append(mirror_record(position, unseal(data), data))
    return records


def row(sequence: int, *refs: str, actor: str = "root", kind: str = "VmStarted") -> IndexRow:
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


def snapshot(position: int) -> Snapshot:
    return Snapshot(position=position, sequence=2 * position, schema=1, data=b"%d" % position)


async def test_an_empty_copy_has_nothing(opened: Opener) -> None:
    async with opened() as mirror:
        assert await mirror.tail() is None
        assert await mirror.records(after=0, limit=10) == []
        assert await mirror.latest_snapshot() is None
        assert await mirror.audit(AuditQuery()) == []


async def test_records_survive_reopening(opened: Opener) -> None:
    records = history(5)
    async with opened() as mirror:
        await mirror.append(records[:3], [])
        await mirror.append(records[3:], [])
        await mirror.append([], [])
    async with opened() as mirror:
        assert await mirror.tail() == records[-1]
        assert await mirror.records(after=0, limit=100) == records
        assert await mirror.records(after=1, limit=2) == records[1:3]
        assert await mirror.records(after=-1, limit=1) == records[:1]


async def test_a_record_that_is_not_next_is_refused_and_nothing_is_added(opened: Opener) -> None:
    records = history(4)
    async with opened() as mirror:
        await mirror.append(records[:1], [])
        for wrong in ([records[2]], [records[1], records[3]], [records[0]]):
            with pytest.raises(AssertionError):
                await mirror.append(wrong, [])
        assert await mirror.records(after=0, limit=100) == records[:1]
        await mirror.append(records[1:], [])


async def test_a_batch_comes_whole_or_not_at_all(opened: Opener) -> None:
    async with opened() as mirror:
        with pytest.raises(MirrorDamaged):
            await mirror.append(history(1), [row(1), row(1)])
        assert await mirror.tail() is None
        assert await mirror.audit(AuditQuery()) == []
        await mirror.append(history(1), [row(1)])


@pytest.mark.parametrize(
    ("query", "sequences"),
    [
        (AuditQuery(), [1, 2, 3, 4, 5, 6]),
        (AuditQuery(limit=2), [1, 2]),
        (AuditQuery(after_sequence=2, limit=2), [3, 4]),
        (AuditQuery(object_ref="vm-1"), [1, 3, 4]),
        (AuditQuery(actor="alice", object_ref="vm-1"), [4]),
        (AuditQuery(event_type="VmHalted"), [5]),
        (AuditQuery(command_id="command-6"), [6]),
        (AuditQuery(since_us=3_000, until_us=5_000), [3, 4]),
    ],
)
async def test_audit_questions_find_their_events(
    opened: Opener, query: AuditQuery, sequences: list[int]
) -> None:
    rows = [
        row(1, "vm-1"),
        row(2, "vm-2", actor="alice"),
        row(3, "vm-1", "host-1", "vm-1"),
        row(4, "vm-1", actor="alice"),
        row(5, "vm-2", kind="VmHalted"),
        row(6),
    ]
    async with opened() as mirror:
        await mirror.append(history(3), rows)
        found = await mirror.audit(query)

    assert found == [AuditRow((n + 1) // EVENTS_EACH, n) for n in sequences]


async def test_only_the_last_snapshots_are_kept(opened: Opener) -> None:
    async with opened() as mirror:
        await mirror.append(history(9), [])
        for position in (3, 6, 9):
            await mirror.save_snapshot(snapshot(position))
        assert await mirror.latest_snapshot() == snapshot(9)
        assert await mirror.snapshots() == [snapshot(9), snapshot(6)]


async def test_truncating_forgets_what_was_made_from_the_records(opened: Opener) -> None:
    records = history(3)
    async with opened() as mirror:
        await mirror.append(records, [row(n, "vm-1") for n in range(1, 7)])
        for position in (1, 3):
            await mirror.save_snapshot(snapshot(position))
        await mirror.truncate_from(2)
        assert await mirror.records(after=0, limit=10) == records[:1]
        assert [x.sequence for x in await mirror.audit(AuditQuery(object_ref="vm-1"))] == [1, 2]
        assert [s.position for s in await mirror.snapshots()] == [1]
        await mirror.append(records[1:], [row(n, "vm-1") for n in range(3, 7)])
