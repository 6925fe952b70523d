"""Checking the log: the stream and our copy of it, record by record, against the hash chain.

One job: find the first place where a history is not what was written, and say where and what, in
plain words; and rebuild a copy from the stream.

Rules: nothing is skipped: the store may leave a damaged message out silently, and then the hole is
the finding. Reading is in bounded batches, so that a log of any length can be checked.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pool_master.core.records import (
    EMPTY_TAIL,
    Break,
    CommitRecord,
    Tail,
    follow,
    unseal,
)
from pool_master.shell.event_log import EventLog, LogDamaged, LogUnavailable
from pool_master.shell.mirror import IndexRow, Mirror, MirrorError, MirrorRecord

BATCH_RECORDS_MAX: Final = 256
REPLICA_WAITS_MAX: Final = 100
REPLICA_WAIT_S: Final = 0.1
STREAM: Final = "stream"
COPY: Final = "copy"

# Told the position that has been checked.
Progress = Callable[[int], None]
# Gives the index rows of the record at a position: the caller knows what its events mean.
IndexRows = Callable[[int, CommitRecord], Sequence[IndexRow]]


class StreamBroken(Exception):
    """The stream does not join: nothing can be rebuilt from it beyond that place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The first place where one history is wrong; `where` is the stream or the copy."""

    where: str
    position: int
    sequence: int
    what: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.where}, record {self.position} (from event {self.sequence}): {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """How far each history is sound, and what is wrong; a copy may end before the stream does."""

    stream: Tail
    copy: Tail | None
    findings: tuple[Finding, ...]
    # The one thing wrong is that the stream ends too soon: all that it has is what the copy says.
    is_stream_short: bool = False

    @property
    def is_sound(self) -> bool:
        """Say whether nothing was found."""
        return not self.findings

    @property
    def told(self) -> str:
        """Say all that was found."""
        return "; ".join(map(str, self.findings))


async def verify(
    log: EventLog, mirror: Mirror | None, progress: Progress = lambda _: None
) -> VerifyReport:
    """Recompute the chain over the stream and the copy, side by side, to the end of both.

    Raises:
        LogUnavailable: the stream does not answer.
    """
    stream, copy = _Walk(STREAM), _Walk(COPY)
    copy.is_over = mirror is None
    findings: list[Finding] = []
    differs_at = 0
    while not (stream.is_over and copy.is_over):
        read_count = await _walk_stream(log, stream) if not stream.is_over else 0
        if mirror is not None and not copy.is_over:
            await _walk_copy(mirror, copy, limit=read_count or BATCH_RECORDS_MAX)
        differs_at = differs_at or _first_difference(stream, copy)
        progress(max(stream.tail.position, copy.tail.position))
    findings.extend(walk.finding for walk in (stream, copy) if walk.finding is not None)
    if differs_at:
        what = "it is sound in itself, and it is another record than the stream's"
        findings.append(Finding(where=COPY, position=differs_at, sequence=0, what=what))
    is_behind = copy.tail.position > stream.tail.position
    is_short = is_behind and stream.finding is None and not differs_at
    if is_short:
        what = f"the stream ends before it, and the copy goes on to record {copy.tail.position}"
        findings.append(stream.found(f"{what}: the store has lost records"))
    return VerifyReport(
        stream=stream.tail,
        copy=copy.tail if mirror is not None else None,
        findings=tuple(findings),
        is_stream_short=is_short and len(findings) == 1,
    )


async def repair_copy(
    log: EventLog, mirror: Mirror, index_rows: IndexRows, *, from_position: int = 1
) -> Tail:
    """Rebuild the copy from the stream, from `from_position` on; give where it ends then.

    Raises:
        StreamBroken: the stream does not join; the copy ends before that place.
        LogUnavailable: the stream does not answer.
        MirrorError: the copy cannot be written.
    """
    await mirror.truncate_from(from_position)
    tail = await copy_tail(mirror)
    while stored := await log.read(after=tail.position, limit=BATCH_RECORDS_MAX):
        rows: list[IndexRow] = []
        records: list[MirrorRecord] = []
        found: Break | None = None
        for message in stored:
            followed = follow(tail, message.sequence, message.data)
            if isinstance(followed, Break):
                found = followed
                break
            tail, record = followed
            records.append(mirror_record(tail.position, record, message.data))
            rows.extend(index_rows(tail.position, record))
        await mirror.append(records, rows)
        if found is not None:
            raise StreamBroken(str(found))
    return tail


async def copy_tail(mirror: Mirror) -> Tail:
    """Give the end of the copy, to be followed from.

    Raises:
        RecordDamaged: its last record is damaged.
    """
    last = await mirror.tail()
    if last is None:
        return EMPTY_TAIL
    return Tail(position=last.position, head=unseal(last.data).head)


def mirror_record(position: int, record: CommitRecord, data: bytes) -> MirrorRecord:
    """Give the copy's row of a record."""
    return MirrorRecord(
        position=position,
        first_sequence=record.first_sequence,
        last_sequence=record.last_sequence,
        term=record.term,
        previous_hash=record.previous_hash,
        hash=record.hash,
        data=data,
    )


class _Walk:
    """A walk along one history, up to its end or its first break."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.tail = EMPTY_TAIL
        self.is_over = False
        self.finding: Finding | None = None
        # What was checked and not yet compared with the other history.
        self.hashes: dict[int, bytes] = {}
        self._waits = 0

    def take(self, position: int, data: bytes) -> CommitRecord | None:
        """Check one more record; None where it does not join."""
        followed = follow(self.tail, position, data)
        if isinstance(followed, Break):
            self.end(f"{followed.kind}, {followed.detail}")
            return None
        self.tail, record = followed
        self.hashes[position] = record.hash
        return record

    async def wait_for(self, position: int) -> None:
        """Give a replica time to have the record at `position`; a bounded number of times.

        Raises:
            LogUnavailable: it has had enough.
        """
        self._waits += 1
        if self._waits > REPLICA_WAITS_MAX:
            raise LogUnavailable(f"record {position} is there and is not given")
        await asyncio.sleep(REPLICA_WAIT_S)

    def end(self, what: str = "") -> None:
        """Stop, at the end or because of `what`."""
        self.is_over = True
        if what:
            self.finding = self.found(what)

    def found(self, what: str) -> Finding:
        """Say that the next record is wrong."""
        return Finding(
            where=self.where,
            position=self.tail.position + 1,
            sequence=self.tail.next_sequence,
            what=what,
        )


async def _walk_stream(log: EventLog, walk: _Walk) -> int:
    stored = await log.read(after=walk.tail.position, limit=BATCH_RECORDS_MAX)
    for message in stored:
        if walk.take(message.sequence, message.data) is None:
            return len(stored)
    if not stored:
        try:
            last = await log.last()
        except LogDamaged as damage:
            walk.end(f"the store counts records up to {damage.position} and cannot give this one")
        else:
            if last is None or last.sequence <= walk.tail.position:
                walk.end()
            else:  # appended meanwhile, or on its way to the replica that answers reads
                await walk.wait_for(last.sequence)
    return len(stored)


async def _walk_copy(mirror: Mirror, walk: _Walk, *, limit: int) -> None:
    try:
        rows = await mirror.records(after=walk.tail.position, limit=limit)
    except MirrorError as error:
        walk.end(f"SQLite cannot read the copy: {error}")
        return
    for row in rows:
        before = walk.tail
        record = walk.take(row.position, row.data)
        if record is None:
            return
        if mirror_record(row.position, record, row.data) != row:
            walk.tail = before
            walk.end("the row's columns are not what its bytes say")
            return
    if not rows:
        walk.end()


def _first_difference(stream: _Walk, copy: _Walk) -> int:
    """Compare what both have checked; give the first position where they differ, 0 where none."""
    for position in sorted(stream.hashes.keys() & copy.hashes.keys()):
        if stream.hashes.pop(position) != copy.hashes.pop(position):
            return position
    if copy.is_over:
        stream.hashes.clear()
    if stream.is_over:
        copy.hashes.clear()
    return 0
