"""The single writer: decide, append, apply, tell.

One job: take wishes from a bounded inbox, decide them one after another against the state that each would leave behind,
append all their events as one record, apply it, and only then answer everybody.

Rules: nothing is answered before the log has it; nothing is decided between an append and its apply; readers only ever
see what is in the log; a refused append means that somebody else leads, and ends this writer.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from pool_master.core import evolve
from pool_master.core.event_codec import event_to_plain
from pool_master.core.events import Actor, Event, Recorded
from pool_master.core.pool import Pool
from pool_master.core.records import Tail, UnsealedRecord, follow, seal
from pool_master.shell.event_log import EventLog, LogConflict, LogUnavailable
from shared.errors import HostStillBooting, InternalError, XenApiError

log = structlog.get_logger(__name__)

INBOX_WISHES_MAX: Final = 10_000
BATCH_WISHES_MAX: Final = 500
BATCH_EVENTS_MAX: Final = 2_000


class Deposed(Exception):
    """Somebody else leads, or may: what we would decide is not the truth any more."""


@dataclass(slots=True)
class Wish:
    """Something to be decided: `decide(pool)` gives events, or raises a XenApiError.

    `cause` says what it answers (a method, a report); a wish without events costs the log nothing.
    """

    decide: Callable[[Pool], list[Event]]
    actor: Actor
    command_id: str
    cause: str
    done: asyncio.Future[list[Recorded]] = field(init=False)


@dataclass(frozen=True, slots=True)
class Commit:
    """A record that is in the log and applied: what listeners are told; `touched` has one entry for each event."""

    position: int
    data: bytes
    tail: Tail
    events: tuple[Recorded, ...]
    touched: tuple[list[tuple[str, str]], ...]


class Writer:
    """The one writer of the log, for as long as it leads.

    `authority` says whether this master may still lead; it is asked while the log does not answer.
    """

    def __init__(
        self,
        event_log: EventLog,
        pool: Pool,
        tail: Tail,
        *,
        term: int,
        wall_clock_us: Callable[[], int],
        authority: Callable[[], bool] = lambda: True,
    ) -> None:
        self.pool = pool
        self.tail = tail
        self.term = term
        self.listeners: list[Callable[[Commit], None]] = []
        self._log = event_log
        self._wall_clock_us = wall_clock_us
        self._authority = authority
        self._inbox: asyncio.Queue[Wish] = asyncio.Queue(INBOX_WISHES_MAX)
        self.is_open = True

    def enqueue(self, wish: Wish) -> asyncio.Future[list[Recorded]]:
        """Put a wish in line; its future gives the events once they are in the log.

        Raises:
            HostStillBooting: this writer has ended.
            InternalError: the inbox is full.
        """
        if not self.is_open:
            raise HostStillBooting()
        wish.done = asyncio.get_running_loop().create_future()
        try:
            self._inbox.put_nowait(wish)
        except asyncio.QueueFull:
            raise InternalError(f"more than {INBOX_WISHES_MAX} commands are waiting") from None
        return wish.done

    async def submit(self, wish: Wish) -> list[Recorded]:
        """Decide a wish and make it durable; give its events.

        Raises:
            XenApiError: it was refused.
            HostStillBooting: this writer ended before the outcome was known.
        """
        # The wish goes on when its caller leaves: what was put in line is decided.
        return await asyncio.shield(self.enqueue(wish))

    async def run(self) -> None:
        """Write until cancelled or deposed.

        Raises:
            Deposed: somebody else leads.
        """
        batch: list[Wish] = []
        try:
            while True:
                batch = [await self._inbox.get()]
                while len(batch) < BATCH_WISHES_MAX and not self._inbox.empty():
                    batch.append(self._inbox.get_nowait())
                await self._commit(batch)
                batch = []
        finally:
            self.is_open = False
            self._abandon(batch)

    def _abandon(self, batch: list[Wish]) -> None:
        while not self._inbox.empty():
            batch.append(self._inbox.get_nowait())
        for wish in batch:
            if not wish.done.done():
                # The outcome is the next leader's to tell: the log may or may not hold it.
                wish.done.set_exception(HostStillBooting())
                wish.done.exception()

    async def _commit(self, batch: list[Wish]) -> None:
        decided, events = self._decide(batch)
        if events:
            data = seal(
                UnsealedRecord(
                    term=self.term,
                    first_sequence=self.tail.next_sequence,
                    previous_hash=self.tail.hash,
                    events=[event_to_plain(recorded) for recorded in events],
                )
            )
            await self._append(data)
            self._apply(data, events)
        for wish, own in decided:
            if not wish.done.done():
                wish.done.set_result(own)

    def _decide(
        self, batch: list[Wish]
    ) -> tuple[list[tuple[Wish, list[Recorded]]], list[Recorded]]:
        draft = self.pool.fork()
        now_us = max(self._wall_clock_us(), self.pool.time_us)
        decided: list[tuple[Wish, list[Recorded]]] = []
        events: list[Recorded] = []
        for number, wish in enumerate(batch):
            if len(events) >= BATCH_EVENTS_MAX:
                self._put_back(batch[number:])
                break
            try:
                wanted = wish.decide(draft)
            except XenApiError as error:
                _refuse(wish, error)
                continue
            except Exception as error:
                log.exception("writer.decision_failed", cause=wish.cause)
                _refuse(wish, InternalError(f"{wish.cause}: {type(error).__name__}"))
                continue
            own = []
            for event in wanted:
                recorded = Recorded(
                    draft.sequence + 1,
                    self.term,
                    now_us,
                    wish.actor,
                    wish.command_id,
                    wish.cause,
                    event,
                )
                evolve.apply(draft, recorded)
                own.append(recorded)
            events += own
            decided.append((wish, own))
        return decided, events

    def _put_back(self, wishes: list[Wish]) -> None:
        waiting = [self._inbox.get_nowait() for _ in range(self._inbox.qsize())]
        for wish in [*wishes, *waiting]:
            self._inbox.put_nowait(wish)

    async def _append(self, data: bytes) -> None:
        while True:
            try:
                await self._log.append(data, expected_position=self.tail.position)
            except LogConflict as error:
                raise Deposed(str(error)) from error
            except LogUnavailable as error:
                # Ours may be in the log: only the same bytes at the same place may be tried again.
                if not self._authority():
                    raise Deposed(f"authority ran out while the log was away: {error}") from error
                log.warning("writer.log_unavailable", position=self.tail.position, why=str(error))
            else:
                return

    def _apply(self, data: bytes, events: list[Recorded]) -> None:
        followed = follow(self.tail, self.tail.position + 1, data)
        assert isinstance(followed, tuple), followed
        self.tail = followed[0]
        touched: list[list[tuple[str, str]]] = []
        for recorded in events:
            changed = evolve.apply(self.pool, recorded)
            self.pool.stamp(changed)
            touched.append(changed)
        commit = Commit(self.tail.position, data, self.tail, tuple(events), tuple(touched))
        for listener in self.listeners:
            listener(commit)


def _refuse(wish: Wish, error: XenApiError) -> None:
    if not wish.done.done():
        wish.done.set_exception(error)
        wish.done.exception()  # A caller that has left must not make the loop complain.
