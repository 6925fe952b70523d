"""One JSON message per event, for everybody who listens on NATS.

Rules: published after the event is in the log, in order, by its sequence as message id, so that a new leader may tell again
what its predecessor may not have told; news waits a moment for what comes along; what falls behind is read again from the
log, not kept in memory.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import orjson
import structlog

from pool_master.core.event_codec import refs_of
from pool_master.core.events import Recorded
from pool_master.core.pool import TABLE_OF_CLASS, Pool
from pool_master.core.records import unseal
from pool_master.core.table import Records
from pool_master.shell.audit import tell
from pool_master.shell.event_log import EventLog, LogUnavailable
from pool_master.shell.follower import events_of
from pool_master.shell.writer import Commit, Writer
from shared.bus import Bus, BusUnavailable
from shared.subjects import Subjects

log = structlog.get_logger(__name__)

RECORDS_AT_ONCE: Final = 100
RECORDS_KEPT_MAX: Final = 1_000
GATHER_S: Final = 0.02
AGAIN_S: Final = 0.5
TOLD_AGAIN: Final = 50  # records before the present tail that a new leader tells again


class Announcer:
    """Tells the world, for as long as its writer leads."""

    def __init__(self, bus: Bus, subjects: Subjects, event_log: EventLog, writer: Writer) -> None:
        self._bus = bus
        self._subjects = subjects
        self._log = event_log
        self._writer = writer
        self._told = max(0, writer.tail.position - TOLD_AGAIN)
        self._fresh: deque[Commit] = deque(maxlen=RECORDS_KEPT_MAX)
        self._news = asyncio.Event()
        self._news.set()
        writer.listeners.append(self._tell)

    def _tell(self, commit: Commit) -> None:
        self._fresh.append(commit)
        self._news.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER_S)
            self._news.clear()
            try:
                await self._tell_new()
            except* (BusUnavailable, LogUnavailable) as group:  # the task group's, or the log's own
                log.warning("announcer.behind", told=self._told, why=str(group.exceptions[0]))
                self._news.set()
                await asyncio.sleep(AGAIN_S)

    async def _tell_new(self) -> None:
        while self._told < self._writer.tail.position:
            for position, events in await self._untold():
                async with asyncio.TaskGroup() as group:
                    for recorded in events:
                        group.create_task(self._publish(recorded))
                self._told = position

    async def _untold(self) -> list[tuple[int, Sequence[Recorded]]]:
        """Give the next records: those just committed, or, where there is a gap before them, from the log."""
        while self._fresh and self._fresh[0].position <= self._told:
            self._fresh.popleft()
        if self._fresh and self._fresh[0].position == self._told + 1:
            commits = list(self._fresh)[:RECORDS_AT_ONCE]
            return [(commit.position, commit.events) for commit in commits]
        stored = await self._log.read(after=self._told, limit=RECORDS_AT_ONCE)
        return [(each.sequence, events_of(unseal(each.data))) for each in stored]

    async def _publish(self, recorded: Recorded) -> None:
        object_class, uuid = _object_of(self._writer.pool, recorded)
        subject = self._subjects.event(object_class, uuid, type(recorded.event).__name__)
        await self._bus.publish(
            subject, orjson.dumps(tell(recorded)), message_id=str(recorded.sequence)
        )


def _object_of(pool: Pool, recorded: Recorded) -> tuple[str, str]:
    """Give class and uuid of the first object that an event names; the pool where it names none that is left."""
    for ref in refs_of(recorded.event):
        stamp = pool.stamps.get(ref)
        if stamp is not None and stamp.object_class in {"VM", "host", "task"}:
            records: Records[str, Any] = getattr(pool, TABLE_OF_CLASS[stamp.object_class])
            return stamp.object_class, records[ref].uuid
    return "pool", pool.record.uuid
