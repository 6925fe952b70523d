"""Following the log: from the copy and the stream to a Pool, record by verified record.

Rules: nothing is applied that does not join (sequences and hashes); a gap is an alarm, never skipped; the stream is the
truth and the copy is made of it, but a stream that is shorter than the copy has lost history, and then this master refuses
to go on: an operator restores the stream from the copy, loudly.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from pool_master.core import evolve
from pool_master.core.event_codec import event_from_plain, refs_of
from pool_master.core.events import Recorded
from pool_master.core.evolve_vm import Touched
from pool_master.core.pool import Pool
from pool_master.core.records import (
    EMPTY_TAIL,
    Break,
    CommitRecord,
    RecordDamaged,
    Tail,
    follow,
    hash_of,
    unseal,
)
from pool_master.core.snapshot import SNAPSHOT_SCHEMA, decode_pool, encode_pool
from pool_master.shell.event_log import EventLog, LogDamaged, LogUnavailable
from pool_master.shell.mirror import IndexRow, Mirror, MirrorRecord, Snapshot
from pool_master.shell.writer import Commit
from shared.codec import DecodeError
from shared.refs import NULL

log = structlog.get_logger(__name__)

READ_RECORDS: Final = 500
COPY_RECORDS_MAX: Final = 200
SNAPSHOT_EVENTS: Final = 20_000
RESTORE: Final = "vmpool log restore --from-copy"
# Records that come within this time share a transaction: the copy is a materialisation and may lag a moment.
COPY_GATHER_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class _Uncopied:
    """A record that is applied, and not yet in the copy."""

    position: int
    data: bytes
    tail: Tail
    events: Sequence[Recorded]
    touched: Sequence[Touched]


class HistoryBroken(Exception):
    """The log does not join, or has lost what the copy still has. Nobody may lead on it before an operator looked."""


class Follower:
    """A Pool that follows the log, and the copy that follows it."""

    def __init__(self, event_log: EventLog, mirror: Mirror) -> None:
        self.pool = Pool()
        self.tail: Tail = EMPTY_TAIL
        self._log = event_log
        self._mirror = mirror
        self._uncopied: deque[_Uncopied] = deque()
        self._is_uncopied = asyncio.Event()
        self._snapshot_sequence = 0

    async def load(self) -> None:
        """Begin from the copy, as far as it goes and agrees with the stream; then follow the stream.

        Raises:
            HistoryBroken: the stream has lost records that the copy has.
        """
        # A load that was broken off has taken what would be taken, and copied, a second time.
        self.pool, self.tail, self._snapshot_sequence = Pool(), EMPTY_TAIL, 0
        self._uncopied.clear()
        await self._check_copy()
        snapshot = await self._mirror.latest_snapshot()
        if snapshot is not None and snapshot.schema == SNAPSHOT_SCHEMA:
            await self._begin_from(snapshot)
        copied = await self._mirror.tail()
        while copied is not None and self.tail.position < copied.position:
            records = await self._mirror.records(after=self.tail.position, limit=READ_RECORDS)
            for record in records:
                self._take(record.position, record.data)
        await self.catch_up()

    async def _check_copy(self) -> None:
        """Hold the end of the copy against the stream."""
        copied = await self._mirror.tail()
        if copied is None:
            return
        try:
            last = await self._log.last()
        except LogDamaged as damage:
            raise HistoryBroken(str(damage)) from damage
        if last is None or last.sequence < copied.position:
            raise HistoryBroken(
                f"the stream ends at position {last.sequence if last else 0}, the copy at {copied.position}:"
                f" the stream has lost records; stop every master, then `{RESTORE}`"
                " says what can be given back, and gives it back"
            )
        found = await self._log.read(after=copied.position - 1, limit=1)
        if not found:
            raise LogUnavailable(f"record {copied.position} is there and is not given")
        if found[0].sequence == copied.position and hash_of(found[0].data) == copied.hash:
            return
        if _is_sound(copied):
            # What was copied was in the log: it is a witness, and must not be made anew from what has lost it.
            raise HistoryBroken(
                f"stream and copy differ at position {copied.position}, and the copy's record is sound:"
                f" `{RESTORE} --dry-run` says where they part"
            )
        log.error(
            "follower.copy_damaged", position=copied.position, action="rebuilt from the stream"
        )
        await self._mirror.truncate_from(1)

    async def _begin_from(self, snapshot: Snapshot) -> None:
        found = await self._mirror.records(after=snapshot.position - 1, limit=1)
        if not found or found[0].position != snapshot.position:
            return
        try:
            pool = decode_pool(snapshot.data)
        except (DecodeError, LookupError, TypeError) as error:
            log.warning("follower.snapshot_ignored", position=snapshot.position, why=str(error))
            return
        self.pool = pool
        self.tail = Tail(position=snapshot.position, head=unseal(found[0].data).head)
        self._snapshot_sequence = snapshot.sequence

    async def catch_up(self) -> int:
        """Apply what the stream has beyond the tail; give how many records that was.

        Raises:
            HistoryBroken: a record does not join.
        """
        taken = 0
        while records := await self._log.read(after=self.tail.position, limit=READ_RECORDS):
            for stored in records:
                before = self.tail
                events, touched = self._take(stored.sequence, stored.data)
                assert self.tail.position == before.position + 1
                self._copy_later(stored.sequence, stored.data, events, touched)
            taken += len(records)
            if len(self._uncopied) >= COPY_RECORDS_MAX:
                await self.copy_now()
            await asyncio.sleep(0)  # A long replay must not starve leases and health checks.
        return taken

    def _take(self, position: int, data: bytes) -> tuple[list[Recorded], list[Touched]]:
        followed = follow(self.tail, position, data)
        if isinstance(followed, Break):
            log.critical("follower.history_broken", where=str(followed))
            raise HistoryBroken(str(followed))
        self.tail, record = followed
        events = list(events_of(record))
        touched = []
        for recorded in events:
            changed = evolve.apply(self.pool, recorded)
            self.pool.stamp(changed)
            touched.append(changed)
        return events, touched

    # --- the copy

    def committed(self, commit: Commit) -> None:
        """Copy what this master's own writer has appended and applied."""
        self.tail = commit.tail
        self._copy_later(commit.position, commit.data, commit.events, commit.touched)

    def _copy_later(
        self,
        position: int,
        data: bytes,
        events: Sequence[Recorded],
        touched: Sequence[Touched],
    ) -> None:
        self._uncopied.append(_Uncopied(position, data, self.tail, events, touched))
        self._is_uncopied.set()

    async def keep_copy(self) -> None:
        """Copy until cancelled: what came, batch by batch; a snapshot now and then."""
        try:
            while True:
                await self._is_uncopied.wait()
                await asyncio.sleep(COPY_GATHER_S)
                self._is_uncopied.clear()
                while self._uncopied:
                    await self.copy_now()
                if self.pool.sequence - self._snapshot_sequence >= SNAPSHOT_EVENTS:
                    await self.save_snapshot()
        finally:
            with contextlib.suppress(OSError):
                await self.copy_now()

    async def copy_now(self) -> None:
        """Bring a batch into the copy."""
        batch = [
            self._uncopied.popleft() for _ in range(min(len(self._uncopied), COPY_RECORDS_MAX))
        ]
        if not batch:
            return
        records, rows = [], []
        for uncopied in batch:
            tail = uncopied.tail
            assert tail.head is not None
            records.append(
                MirrorRecord(
                    position=uncopied.position,
                    first_sequence=tail.head.first_sequence,
                    last_sequence=tail.head.last_sequence,
                    term=tail.head.term,
                    previous_hash=tail.head.previous_hash,
                    hash=tail.head.hash,
                    data=uncopied.data,
                )
            )
            rows += [
                _index_row(uncopied.position, recorded, touched)
                for recorded, touched in zip(uncopied.events, uncopied.touched, strict=True)
            ]
        # What has left the queue must reach the copy, whoever is cancelled meanwhile: the next batch joins it.
        await asyncio.shield(self._mirror.append(records, rows))

    async def save_snapshot(self) -> None:
        """Keep the Pool as it is at the end of the copy."""
        while self._uncopied:
            await self.copy_now()
        if self.tail.position == 0 or self._snapshot_sequence == self.pool.sequence:
            return
        snapshot = Snapshot(
            position=self.tail.position,
            sequence=self.pool.sequence,
            schema=SNAPSHOT_SCHEMA,
            data=encode_pool(self.pool),
        )
        self._snapshot_sequence = snapshot.sequence
        await self._mirror.save_snapshot(snapshot)


def events_of(record: CommitRecord) -> "list[Recorded]":
    """Give a commit record's events, typed."""
    return [
        event_from_plain(plain, sequence=record.first_sequence + number, term=record.term)
        for number, plain in enumerate(record.events)
    ]


def _is_sound(copied: MirrorRecord) -> bool:
    try:
        return unseal(copied.data).hash == copied.hash
    except RecordDamaged:
        return False


def _index_row(position: int, recorded: Recorded, touched: Touched) -> IndexRow:
    """An event is found by what it names and by what it touched: a task's end by its VM, for instance."""
    named = (*refs_of(recorded.event), *(ref for _, ref in touched if ref != NULL))
    return IndexRow(
        sequence=recorded.sequence,
        position=position,
        time_us=recorded.time_us,
        type=type(recorded.event).__name__,
        actor_kind=recorded.actor.kind.value,
        actor_name=recorded.actor.name,
        command_id=recorded.command_id,
        cause=recorded.cause,
        object_refs=tuple(dict.fromkeys(named)),
    )
