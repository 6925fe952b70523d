"""One JSON message per event, for everybody who listens on NATS.

Rules: published after the event is in the log, in order, by its sequence as message id, so that a new leader may tell again
what its predecessor may not have told; news waits a moment for what comes along; what falls behind is read again from the
log, not kept in memory. The stream of events is not synced to disk message by message, as the log is: a server that is
killed may lose its end, so the end is looked at now and then, and what is missing is told again.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
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
from shared.bus import Bus, BusUnavailable, MessageLost
from shared.subjects import Subjects

log = structlog.get_logger(__name__)

RECORDS_AT_ONCE: Final = 100
RECORDS_KEPT_MAX: Final = 1_000
EVENTS_AT_ONCE: Final = 200
# Operations go first: their listeners may wait a moment.
GATHER_S: Final = 0.25
AGAIN_S: Final = 0.5
TOLD_AGAIN: Final = (
    200  # records before the present tail that are told again where some may be missing
)
LOOK_PERIOD_S: Final = 10.0
LOOK_S_MAX: Final = 5.0


class Announcer:
    """Tells the world, for as long as its writer leads."""

    def __init__(self, bus: Bus, subjects: Subjects, event_log: EventLog, writer: Writer) -> None:
        self._bus = bus
        self._subjects = subjects
        self._log = event_log
        self._writer = writer
        self._told = max(0, writer.tail.position - TOLD_AGAIN)
        self._told_sequence = 0
        self._look_at = 0.0
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
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_PERIOD_S):
                    await self._news.wait()
            await asyncio.sleep(GATHER_S)
            self._news.clear()
            try:
                await self._look_back()
                await self._tell_new()
            except (BusUnavailable, LogUnavailable) as error:
                log.warning("announcer.behind", told=self._told, why=str(error))
                self._news.set()
                self._look_at = 0.0
                await asyncio.sleep(AGAIN_S)

    async def _look_back(self) -> None:
        """Step back where the stream lacks what it has said that it holds."""
        now = asyncio.get_running_loop().time()
        if now < self._look_at:
            return
        try:
            last = await self._bus.last(self._subjects.event_stream, timeout_s=LOOK_S_MAX)
            held = 0 if last is None else int(orjson.loads(last.data)["sequence"])
        except MessageLost:
            held = 0
        if held < self._told_sequence:
            log.warning("announcer.events_lost", held=held, told=self._told_sequence)
            self._told = max(0, self._told - TOLD_AGAIN)
        self._look_at = now + LOOK_PERIOD_S

    async def _tell_new(self) -> None:
        while self._told < self._writer.tail.position:
            records = await self._untold()
            if not records:
                # The server that was asked has yet to hear of them.
                await asyncio.sleep(AGAIN_S)
                continue
            *others, last = [recorded for _, events in records for recorded in events]
            for number in range(0, len(others), EVENTS_AT_ONCE):
                await self._publish_all(others[number : number + EVENTS_AT_ONCE])
            # By itself: where it is held, so is everything before it.
            await self._publish(last)
            self._told, self._told_sequence = records[-1][0], last.sequence

    async def _publish_all(self, events: Sequence[Recorded]) -> None:
        # A task group that is cancelled as one of its tasks fails forgets the cancellation (Python 3.11 and 3.12).
        outcomes = await asyncio.gather(*map(self._publish, events), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

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
            return stamp.object_class, pool.tables[stamp.object_class][ref].uuid
    return "pool", pool.record.uuid
