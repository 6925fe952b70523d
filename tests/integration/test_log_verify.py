"""A flipped byte, in the stream's file or in the copy, is found, located, and where possible healed."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pool_master.core.records import CommitRecord, Tail, UnsealedRecord, hash_of, seal
from pool_master.shell.event_log import JetStreamLog, LogDamaged
from pool_master.shell.log_restore import plan_restore, restore
from pool_master.shell.log_verify import (
    StreamBroken,
    VerifyReport,
    copy_tail,
    repair_copy,
    verify,
)
from pool_master.shell.mirror import AuditQuery, IndexRow, Mirror
from shared.subjects import Subjects
from simulator.memory_log import MemoryLog, MemoryRecords
from tests.support.nats import connected, running_nats

SUBJECTS = Subjects("verify")
RECORDS = 20
EVENTS_EACH = 3


def history(count: int = RECORDS, *, marker: str = "event") -> list[bytes]:
    sealed: list[bytes] = []
    previous_hash = bytes(32)
    for position in range(1, count + 1):
        first_sequence = (position - 1) * EVENTS_EACH + 1
        events = [f"{marker}-{first_sequence + n:04}-" + "x" * 100 for n in range(EVENTS_EACH)]
        sealed.append(
            seal(
                UnsealedRecord(
                    term=1,
                    first_sequence=first_sequence,
                    previous_hash=previous_hash,
                    events=list(events),
                )
            )
        )
        previous_hash = hash_of(sealed[-1])
    return sealed


def index_rows(position: int, record: CommitRecord) -> list[IndexRow]:
    return [
        IndexRow(
            sequence=record.first_sequence + n,
            position=position,
            time_us=0,
            type="Tested",
            actor_kind="master",
            actor_name="",
            command_id="",
            cause="",
            object_refs=("vm",),
        )
        for n in range(len(record.events))
    ]


def flip(file: Path, marker: bytes) -> None:
    content = bytearray(file.read_bytes())
    content[content.index(marker) + len(marker) + 5] ^= 1
    file.write_bytes(content)


def stream_file(folder: Path) -> Path:
    (file,) = folder.rglob(f"{SUBJECTS.log_stream}/msgs/1.blk")
    return file


@asynccontextmanager
async def open_log(folder: Path) -> AsyncIterator[JetStreamLog]:
    async with running_nats(folder) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
        yield JetStreamLog(bus, SUBJECTS)


@asynccontextmanager
async def open_mirror(folder: Path) -> AsyncIterator[Mirror]:
    mirror = await Mirror.open(folder / "log.sqlite")
    try:
        yield mirror
    finally:
        await mirror.close()


async def write(folder: Path, *, is_copied: bool = True) -> None:
    async with open_log(folder) as log, open_mirror(folder) as mirror:
        for position, data in enumerate(history()):
            await log.append(data, expected_position=position)
        if is_copied:
            await repair_copy(log, mirror, index_rows)


async def check(folder: Path) -> VerifyReport:
    async with open_log(folder) as log, open_mirror(folder) as mirror:
        return await verify(log, mirror)


@pytest.mark.nats
async def test_a_sound_log_and_copy_are_found_sound(tmp_path: Path) -> None:
    await write(tmp_path)
    seen: list[int] = []
    async with open_log(tmp_path) as log, open_mirror(tmp_path) as mirror:
        report = await verify(log, mirror, seen.append)
        without_copy = await verify(log, None)

    assert report.is_sound
    assert report.copy == report.stream
    assert report.stream.position == RECORDS
    assert report.stream.next_sequence == RECORDS * EVENTS_EACH + 1
    assert seen[-1] == RECORDS
    assert without_copy.is_sound
    assert without_copy.copy is None


@pytest.mark.nats
@pytest.mark.parametrize("position", [1, 10])
async def test_a_flipped_byte_in_the_stream_is_located_although_the_store_is_silent(
    tmp_path: Path, position: int
) -> None:
    await write(tmp_path)
    first_event = (position - 1) * EVENTS_EACH + 1
    flip(stream_file(tmp_path), f"event-{first_event:04}-".encode())
    report = await check(tmp_path)

    (finding,) = report.findings
    assert (finding.where, finding.position, finding.sequence) == ("stream", position, first_event)
    assert "position gap" in str(finding)
    assert report.copy is not None
    assert report.copy.position == RECORDS


@pytest.mark.nats
async def test_a_flipped_byte_in_the_last_record_does_not_pass_for_an_empty_log(
    tmp_path: Path,
) -> None:
    await write(tmp_path)
    flip(stream_file(tmp_path), f"event-{(RECORDS - 1) * EVENTS_EACH + 1:04}-".encode())
    async with open_log(tmp_path) as log, open_mirror(tmp_path) as mirror:
        with pytest.raises(LogDamaged):
            await log.last()
        report = await verify(log, mirror)

    (finding,) = report.findings
    assert (finding.where, finding.position) == ("stream", RECORDS)
    assert "cannot give" in finding.what


@pytest.mark.nats
async def test_a_stream_that_was_cut_off_is_found_and_made_whole_from_the_copy(
    tmp_path: Path,
) -> None:
    # given: a flipped byte, and no index any more, as after a kill: JetStream cuts the stream there
    await write(tmp_path)
    flip(stream_file(tmp_path), f"event-{9 * EVENTS_EACH + 1:04}-".encode())
    (stream_file(tmp_path).parent / "index.db").unlink()
    # when
    async with open_log(tmp_path) as log, open_mirror(tmp_path) as mirror:
        report = await verify(log, mirror)
        added = await restore(log, mirror, await plan_restore(log, [mirror]))
        healed = await verify(log, mirror)
    # then
    (finding,) = report.findings
    assert (finding.where, finding.position) == ("stream", 10)
    assert "lost records" in finding.what
    assert report.is_stream_short
    assert added == 11
    assert healed.is_sound
    assert healed.stream.position == RECORDS


@pytest.mark.nats
async def test_a_flipped_byte_in_the_copy_is_located_and_the_copy_rebuilt(tmp_path: Path) -> None:
    await write(tmp_path)
    first_event = 6 * EVENTS_EACH + 1
    flip(tmp_path / "log.sqlite", f"event-{first_event:04}-".encode())
    async with open_log(tmp_path) as log, open_mirror(tmp_path) as mirror:
        report = await verify(log, mirror)
        (finding,) = report.findings
        tail = await repair_copy(log, mirror, index_rows, from_position=finding.position)
        healed = await verify(log, mirror)
        audited = await mirror.audit(AuditQuery(object_ref="vm", limit=1_000))

    assert (finding.where, finding.position, finding.sequence) == ("copy", 7, first_event)
    assert "damaged" in finding.what
    assert healed.is_sound
    assert tail == healed.stream
    assert [row.sequence for row in audited] == list(range(1, RECORDS * EVENTS_EACH + 1))


def change(sql: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        with sqlite3.connect(folder / "log.sqlite") as connection:
            connection.execute(sql)
        connection.close()

    return apply


@pytest.mark.parametrize(
    ("damage", "position", "what"),
    [
        (change("DELETE FROM records WHERE position = 5"), 5, "position gap"),
        (change("UPDATE records SET term = 9 WHERE position = 5"), 5, "columns"),
        (change("UPDATE records SET hash = x'00' WHERE position = 5"), 5, "columns"),
        (change("UPDATE records SET data = x'00' WHERE position = 5"), 5, "damaged"),
        (
            change(
                "UPDATE records SET data = (SELECT data FROM records WHERE position = 4)"
                " WHERE position = 5"
            ),
            5,
            "sequence gap",
        ),
    ],
)
async def test_any_difference_of_the_copy_is_located(
    tmp_path: Path, damage: Callable[[Path], None], position: int, what: str
) -> None:
    log = MemoryLog(MemoryRecords(history()))
    async with open_mirror(tmp_path) as mirror:
        await repair_copy(log, mirror, index_rows)
    damage(tmp_path)
    async with open_mirror(tmp_path) as mirror:
        report = await verify(log, mirror)

    (finding,) = report.findings
    assert (finding.where, finding.position) == ("copy", position)
    assert what in finding.what


async def test_a_copy_of_another_history_is_located(tmp_path: Path) -> None:
    async with open_mirror(tmp_path) as mirror:
        await repair_copy(MemoryLog(MemoryRecords(history(marker="other"))), mirror, index_rows)
        report = await verify(MemoryLog(MemoryRecords(history())), mirror)

    (finding,) = report.findings
    assert (finding.where, finding.position) == ("copy", 1)
    assert "another record" in finding.what


async def test_a_copy_that_is_behind_is_sound(tmp_path: Path) -> None:
    records = MemoryRecords(history(5))
    async with open_mirror(tmp_path) as mirror:
        await repair_copy(MemoryLog(records), mirror, index_rows)
        report = await verify(MemoryLog(MemoryRecords(history())), mirror)

    assert report.is_sound
    assert report.copy is not None
    assert (report.copy.position, report.stream.position) == (5, RECORDS)


async def test_a_broken_stream_is_copied_up_to_the_break(tmp_path: Path) -> None:
    records = history()
    records[8] = b"no record"
    async with open_mirror(tmp_path) as mirror:
        with pytest.raises(StreamBroken, match="position 9"):
            await repair_copy(MemoryLog(MemoryRecords(records)), mirror, index_rows)
        tail = await copy_tail(mirror)

    assert isinstance(tail, Tail)
    assert tail.position == 8


async def test_a_long_log_is_checked_in_batches(tmp_path: Path) -> None:
    log = MemoryLog(MemoryRecords(history(1_000)))
    async with open_mirror(tmp_path) as mirror:
        await repair_copy(log, mirror, index_rows)
        report = await verify(log, mirror)

    assert report.is_sound
    assert report.copy == report.stream
