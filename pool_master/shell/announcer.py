"""One JSON message per event, for everybody who listens on NATS.

Rules: published after the event is in the log, in order, by its sequence as message id, so that a new leader may tell again
what its predecessor may not have told; what falls behind is read again from the log, not kept in memory.
"""

import asyncio
from typing import Final

import orjson
import structlog

from pool_master.core.event_codec import refs_of
from pool_master.core.events import Recorded
from pool_master.core.pool import Pool
from pool_master.core.records import unseal
from pool_master.shell.audit import tell
from pool_master.shell.event_log import EventLog, LogUnavailable
from pool_master.shell.follower import events_of
from pool_master.shell.writer import Commit, Writer
from shared.bus import Bus, BusUnavailable
from shared.subjects import Subjects

log = structlog.get_logger(__name__)

RECORDS_AT_ONCE: Final = 100
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
        self._news = asyncio.Event()
        self._news.set()
        writer.listeners.append(self._tell)

    def _tell(self, _commit: Commit) -> None:
        self._news.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._tell_new()
            except (BusUnavailable, LogUnavailable) as error:
                log.warning("announcer.behind", told=self._told, why=str(error))
                await asyncio.sleep(AGAIN_S)
                self._news.set()

    async def _tell_new(self) -> None:
        while self._told < self._writer.tail.position:
            for stored in await self._log.read(after=self._told, limit=RECORDS_AT_ONCE):
                events = events_of(unseal(stored.data))
                async with asyncio.TaskGroup() as group:
                    for recorded in events:
                        group.create_task(self._publish(recorded))
                self._told = stored.sequence

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
        if stamp is not None:
            table = {"VM": pool.vms, "host": pool.hosts, "task": pool.tasks}.get(stamp.object_class)
            record = table.get(ref) if table is not None else None  # type: ignore[attr-defined]
            if record is not None:
                return stamp.object_class, record.uuid
    return "pool", pool.record.uuid
