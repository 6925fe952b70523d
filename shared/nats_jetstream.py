"""JetStream's wire protocol: storing, reading, and the management API.

Rules:
- "Nobody is there" and "not now" mean that the server is starting or electing, and that nothing was
  stored: asking again until the deadline is safe. Every other lost answer leaves the outcome
  unknown, and is the caller's to resolve.
- What decides who leads or where the log ends is asked of the stream's leader; long reads may be
  answered by any replica.
- Never send Nats-Expected-Last-Msg-Id: a mismatch freezes a replicated stream for good.
"""

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final

import orjson

from shared.bus import BusUnavailable, MessageLost, StoredMessage, WrongLastSequence
from shared.nats_link import Link, Message, StreamRefused, status_of

PUBLISHES_MAX: Final = 1_000
READ_BYTES_MAX: Final = 16 * 1024 * 1024
NOT_READY_PAUSE_S: Final = 0.05

NO_RESPONDERS: Final = "503"
END_OF_BATCH: Final = "204"
NOT_FOUND: Final = "404"
NOT_NOW: Final = 503
# 10071 names the last sequence, 10164 does not; both mean that somebody else wrote.
WRONG_LAST_SEQUENCE_CODES: Final = (10071, 10164)
NO_MESSAGE_FOUND: Final = 10037


class JetStream:
    """The streams behind one connection."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._publishes = asyncio.Semaphore(PUBLISHES_MAX)

    async def store(
        self, subject: str, data: bytes, *, headers: dict[str, str] | None = None, timeout_s: float
    ) -> int:
        """Store a message; give its sequence once the stream has it.

        Raises:
            StreamRefused: the stream says no: it is full, or a header's condition does not hold.
            BusUnavailable: no answer in time.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        async with self._publish_slot(deadline):
            answer = await self._ask(subject, data, headers=headers, deadline=deadline)
        reply = orjson.loads(answer.data)
        if error := reply.get("error"):
            raise StreamRefused(subject, error)
        return int(reply["seq"])

    async def store_expecting(
        self, subject: str, data: bytes, *, header: str, sequence: int, timeout_s: float
    ) -> int:
        """Store a message if the sequence that `header` is about is `sequence`.

        Raises:
            WrongLastSequence: it is another.
            BusUnavailable: no answer in time.
        """
        try:
            return await self.store(
                subject, data, headers={header: str(sequence)}, timeout_s=timeout_s
            )
        except StreamRefused as refusal:
            if refusal.code in WRONG_LAST_SEQUENCE_CODES:
                raise WrongLastSequence(sequence) from refusal
            raise

    async def read(
        self, stream: str, *, after: int, limit: int, timeout_s: float
    ) -> list[StoredMessage]:
        """Read by batched direct get: no consumer to make, and any replica may answer.

        Raises:
            BusUnavailable: no answer in time, or not a whole one.
        """
        query = orjson.dumps({"seq": after + 1, "batch": limit, "max_bytes": READ_BYTES_MAX})
        deadline = asyncio.get_running_loop().time() + timeout_s
        subject = f"$JS.API.DIRECT.GET.{stream}"
        while True:
            *messages, end = await self._link.ask_until(
                subject, query, deadline=deadline, is_last=_has_status
            )
            if status_of(end) != NO_RESPONDERS:
                break
            await _pause(deadline, f"no stream answers on {subject}")
        if status_of(end) == NOT_FOUND and not messages:
            return []
        if status_of(end) != END_OF_BATCH:
            raise BusUnavailable(f"reading {stream} after {after}: {end.headers}")
        found = [_stored(message) for message in messages]
        told = int((end.headers or {}).get("Nats-Last-Sequence", 0))
        if found and found[-1].sequence != told:
            raise BusUnavailable(f"reading {stream} after {after}: the answer is not whole")
        return found

    async def last(self, stream: str, *, timeout_s: float) -> StoredMessage | None:
        """Ask the stream's leader for its last message.

        A damaged last message is answered as if there were none at all (2.15): so the count is
        asked.

        Raises:
            MessageLost: the stream counts it and does not give it.
            BusUnavailable: no answer in time.
        """
        reply = await self.api(f"STREAM.INFO.{stream}", {}, timeout_s=timeout_s)
        state = reply["state"]
        first, last = state["first_seq"], state["last_seq"]
        if not state["messages"]:
            return None
        message = await self._get(stream, {"seq": last}, timeout_s=timeout_s)
        if message is None and state["messages"] == last - first + 1:
            raise MessageLost(stream, last)
        if message is None:  # it was taken out of a work queue
            return await self.last_of(stream, ">", timeout_s=timeout_s)
        return message

    async def last_of(self, stream: str, subject: str, *, timeout_s: float) -> StoredMessage | None:
        """Ask the stream's leader for the last message on `subject` (wildcards allowed); None where
        there is none."""
        return await self._get(stream, {"last_by_subj": subject}, timeout_s=timeout_s)

    async def _get(
        self, stream: str, query: dict[str, Any], *, timeout_s: float
    ) -> StoredMessage | None:
        try:
            reply = await self.api(f"STREAM.MSG.GET.{stream}", query, timeout_s=timeout_s)
        except StreamRefused as refusal:
            if refusal.code == NO_MESSAGE_FOUND:
                return None
            raise
        message = reply["message"]
        data = base64.b64decode(message.get("data", ""))
        return StoredMessage(message["seq"], message["subject"], data)

    async def api(self, name: str, body: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Call the management API.

        Raises:
            StreamRefused: it answered with an error.
            BusUnavailable: no answer in time.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            answer = await self._ask(f"$JS.API.{name}", orjson.dumps(body), deadline=deadline)
            reply: dict[str, Any] = orjson.loads(answer.data)
            if not (error := reply.get("error")):
                return reply
            refusal = StreamRefused(name, error)
            if refusal.status != NOT_NOW:
                raise refusal
            await _pause(deadline, str(refusal))

    async def _ask(
        self, subject: str, data: bytes, *, headers: dict[str, str] | None = None, deadline: float
    ) -> Message:
        while True:
            answers = await self._link.ask_until(
                subject, data, headers=headers, deadline=deadline, is_last=_any_answer
            )
            if status_of(answers[0]) != NO_RESPONDERS:
                return answers[0]
            await _pause(deadline, f"no stream answers on {subject}")

    @contextlib.asynccontextmanager
    async def _publish_slot(self, deadline: float) -> AsyncGenerator[None, None]:
        if self._publishes.locked():
            try:
                async with asyncio.timeout_at(deadline):
                    await self._publishes.acquire()
            except TimeoutError as error:
                raise BusUnavailable("too many publishes wait for their answer") from error
        else:
            await self._publishes.acquire()  # at once: only a wait need be bounded
        try:
            yield
        finally:
            self._publishes.release()


async def _pause(deadline: float, why: str) -> None:
    if asyncio.get_running_loop().time() + NOT_READY_PAUSE_S > deadline:
        raise BusUnavailable(why)
    await asyncio.sleep(NOT_READY_PAUSE_S)


def _any_answer(_: Message) -> bool:
    return True


def _has_status(answer: Message) -> bool:
    return answer.headers is not None and "Status" in answer.headers


def _stored(message: Message) -> StoredMessage:
    headers = message.headers or {}
    return StoredMessage(int(headers["Nats-Sequence"]), headers["Nats-Subject"], message.data)
