"""The port to the log of commit records, and the log on JetStream.

One job: append at an expected position or say that it did not happen; read back in order.

Rules: a position is the stream's sequence, 1 and up. An append is a compare-and-set. Its lost
answer is resolved by reading the tail, never guessed; the same bytes are sent again only at the
same position, where they cannot land twice.
"""

import asyncio
from typing import Final, Protocol

import structlog

from shared.bus import Bus, BusUnavailable, MessageLost, StoredMessage, WrongLastSequence
from shared.subjects import Subjects

# An election of the stream's leader takes 5 to 8 s; a call waits through it instead of failing.
APPEND_WAIT_S_MAX: Final = 12.0
# One try: a lost answer is looked into after that.
TRY_WAIT_S_MAX: Final = 3.0
READ_WAIT_S_MAX: Final = 5.0
PAUSE_S_MIN: Final = 0.05
PAUSE_S_MAX: Final = 0.5
READ_RECORDS_MAX: Final = 1_000

log = structlog.get_logger(__name__)


class LogConflict(Exception):
    """Somebody else wrote at that position: we are deposed, and what we decided on is not the truth
    any more."""

    def __init__(self, expected_position: int) -> None:
        super().__init__(f"the log has gone on after position {expected_position}")


class LogUnavailable(OSError):
    """No answer before the deadline. After an append the outcome is unknown: it may have landed, or
    may land yet."""


class LogDamaged(Exception):
    """The store has lost a record: an alarm, and a repair from a copy; nothing may be built on
    it."""

    def __init__(self, position: int) -> None:
        super().__init__(f"the log's record {position} cannot be read")
        self.position = position


class EventLog(Protocol):
    """The log of commit records: one history, appended to by compare-and-set."""

    async def append(self, data: bytes, *, expected_position: int) -> int:
        """Append a record if the last position is `expected_position`; give its own, one more, once
        it is durable.

        Raises:
            LogConflict: somebody else wrote there; the record is not in the log.
            LogDamaged: the answer was lost, and the tail cannot be read.
            LogUnavailable: the outcome is unknown.
        """
        ...

    async def read(self, *, after: int, limit: int) -> list[StoredMessage]:
        """Give up to `limit` records with positions above `after`, in order; empty where there are
        none yet.

        A gap in the positions is the reader's to notice (`pool_master.core.records.follow`).

        Raises:
            LogUnavailable: no answer in time.
        """
        ...

    async def last(self) -> StoredMessage | None:
        """Give the last record, None where there is none.

        Raises:
            LogDamaged: there is one, and it cannot be read.
            LogUnavailable: no answer in time.
        """
        ...


class JetStreamLog:
    """`EventLog` on the pool's stream."""

    def __init__(
        self, bus: Bus, subjects: Subjects, *, append_wait_s_max: float = APPEND_WAIT_S_MAX
    ) -> None:
        self._bus = bus
        self._subject = subjects.log
        self._stream = subjects.log_stream
        self._append_wait_s_max = append_wait_s_max

    async def append(self, data: bytes, *, expected_position: int) -> int:
        """Append by compare-and-set; a lost answer is resolved here."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._append_wait_s_max
        pause_s = PAUSE_S_MIN
        while True:
            try:
                return await self._try_append(data, expected_position, deadline)
            except BusUnavailable as error:
                if loop.time() + pause_s >= deadline:
                    raise LogUnavailable(f"after position {expected_position}: {error}") from error
                log.info("log.append_again", after=expected_position, why=str(error))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def read(self, *, after: int, limit: int) -> list[StoredMessage]:
        """Read records in order."""
        try:
            return await self._bus.read(
                self._stream,
                after=after,
                limit=min(limit, READ_RECORDS_MAX),
                timeout_s=READ_WAIT_S_MAX,
            )
        except BusUnavailable as error:
            raise LogUnavailable(str(error)) from error

    async def last(self) -> StoredMessage | None:
        """Read the last record, from the stream's leader."""
        try:
            return await self._bus.last(self._stream, timeout_s=READ_WAIT_S_MAX)
        except MessageLost as error:
            raise LogDamaged(error.sequence) from error
        except BusUnavailable as error:
            raise LogUnavailable(str(error)) from error

    async def _try_append(self, data: bytes, expected_position: int, deadline: float) -> int:
        """Send once, and say what came of it.

        Raises:
            LogConflict: somebody else's record is there.
            BusUnavailable: it is not there, as far as can be seen now: it may be sent again.
        """
        try:
            return await self._bus.publish_expecting(
                self._subject,
                data,
                last_sequence=expected_position,
                timeout_s=self._patience_s(deadline),
            )
        except WrongLastSequence as error:
            # Also when it is ours, from a try whose answer was lost.
            if await self._is_there(data, expected_position, deadline):
                return expected_position + 1
            raise LogConflict(expected_position) from error
        except BusUnavailable:
            if await self._is_there(data, expected_position, deadline):
                return expected_position + 1
            raise

    async def _is_there(self, data: bytes, expected_position: int, deadline: float) -> bool:
        """Say whether our record is where it should be; False where nothing is.

        Raises:
            LogConflict: another record is there.
            LogDamaged: the last record cannot be read.
            BusUnavailable: the tail cannot be read now.
        """
        timeout_s = self._patience_s(deadline)
        try:
            last = await self._bus.last(self._stream, timeout_s=timeout_s)
        except MessageLost as error:
            raise LogDamaged(error.sequence) from error
        if last is None or last.sequence <= expected_position:
            return False
        position = expected_position + 1
        if last.sequence == position:
            ours = last
        else:
            found = await self._bus.read(
                self._stream, after=expected_position, limit=1, timeout_s=timeout_s
            )
            if not found or found[0].sequence != position:
                raise LogConflict(expected_position)
            ours = found[0]
        if ours.data != data:
            raise LogConflict(expected_position)
        return True

    @staticmethod
    def _patience_s(deadline: float) -> float:
        left_s = deadline - asyncio.get_running_loop().time()
        return max(0.05, min(TRY_WAIT_S_MAX, left_s))
