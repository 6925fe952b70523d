"""The pull loop behind `Bus.consume`.

One job: hand out a work queue's messages, in order, for as long as somebody iterates.

Rules:
- The durable consumer is made anew when the loop starts and after every disconnection: all that is
  not acknowledged then comes again, at once and in order. Otherwise what a dead reader or a dead
  connection had taken would come `ACK_WAIT_S` later, behind what was published since.
- So a message may come again while it is still being handled: handlers are idempotent.
- One pull is open at a time, for as many messages as may be pending; the first comes as soon as it
  is there.
- The iterator ends by being closed or cancelled; what was not acknowledged is handed back.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Final

import orjson
import structlog

from shared.bus import BusUnavailable, Delivery
from shared.nats_jetstream import JetStream
from shared.nats_link import Link, Message, StreamRefused, Unsubscribable, status_of

ACK_WAIT_S: Final = 30.0
PULL_S: Final = 30.0
HEARTBEAT_S: Final = 1.0
SILENCE_S_MAX: Final = 3.0
# An election leaves questions unanswered: asked again soon, the answer is there soon after it.
API_WAIT_S_MAX: Final = 2.0
RETRY_PAUSE_S_MIN: Final = 0.05
RETRY_PAUSE_S_MAX: Final = 1.0
# A consumer that nobody asks for that long belongs to a host that is gone.
CONSUMER_UNUSED_S_MAX: Final = 24 * 3600
NANOSECONDS: Final = 1_000_000_000

CONSUMER_NOT_FOUND: Final = 10014
HEARTBEAT: Final = "100"
PULL_ENDED: Final = ("404", "408")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConsumerNames:
    """Which consumer of which stream."""

    stream: str
    durable: str
    filter_subject: str


class _Trouble(Exception):
    """The pull cannot go on; `has_rival` where another reader has just made the consumer anew."""

    def __init__(self, why: str, *, has_rival: bool = False) -> None:
        super().__init__(why)
        self.has_rival = has_rival


class PulledDelivery:
    """`shared.bus.Delivery`: a message, and the subject that acknowledges it."""

    __slots__ = ("_message", "_puller")

    def __init__(self, message: Message, puller: "_Puller") -> None:
        self._message = message
        self._puller = puller

    @property
    def subject(self) -> str:
        """Where it was published."""
        return self._message.subject

    @property
    def data(self) -> bytes:
        """What was published."""
        return self._message.data

    async def ack(self) -> None:
        """Say that it need not come again."""
        self._puller.unacknowledged.pop(self._message.reply, None)
        await self._puller.tell(self._message.reply, b"+ACK")

    async def in_progress(self) -> None:
        """Ask for another `ACK_WAIT_S`."""
        await self._puller.tell(self._message.reply, b"+WPI")


async def pull(
    link: Link, streams: JetStream, names: ConsumerNames, *, pending_max: int
) -> AsyncGenerator[Delivery, None]:
    """Yield deliveries until closed or cancelled."""
    puller = _Puller(link, streams, names, pending_max=pending_max)
    pause_s, is_fresh = RETRY_PAUSE_S_MIN, True
    try:
        while not link.is_closed:
            try:
                await puller.prepare(is_fresh=is_fresh)
                while True:
                    for delivery in puller.arrived():
                        pause_s = RETRY_PAUSE_S_MIN
                        yield delivery
                    await puller.more()
            except (_Trouble, BusUnavailable) as trouble:
                log.info("bus.pull_again", durable=names.durable, why=str(trouble))
                # Two readers that each delete the other's consumer would never get anything.
                is_fresh = not (isinstance(trouble, _Trouble) and trouble.has_rival)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_PAUSE_S_MAX)
        raise BusUnavailable("the connection was closed")
    finally:
        await puller.close()


class _Puller:
    """One inbox, what came in on it, and the one open pull."""

    def __init__(
        self, link: Link, streams: JetStream, names: ConsumerNames, *, pending_max: int
    ) -> None:
        self._link = link
        self._streams = streams
        self._names = names
        self._pending_max = pending_max
        self._inbox = f"{link.new_inbox()}."
        self._subscription: Unsubscribable | None = None
        self._arrived: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._has_reconnected = False
        self._pulls = 0
        self._still_to_come = 0
        self.unacknowledged: dict[str, None] = {}
        self._forget_me = link.add_reconnect_listener(self._on_reconnect)

    async def prepare(self, *, is_fresh: bool) -> None:
        """Subscribe, and have the consumer there: made anew if `is_fresh`, else only where it is
        missing."""
        if self._subscription is None:
            self._subscription = await self._link.listen(f"{self._inbox}*", self._on_message)
        self._has_reconnected = False
        stream, durable, subject = (
            self._names.stream,
            self._names.durable,
            self._names.filter_subject,
        )
        if is_fresh:
            await self._delete_consumer()
        config = {
            "name": durable,
            "durable_name": durable,
            "filter_subject": subject,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT_S * NANOSECONDS),
            "max_deliver": -1,
            "max_ack_pending": self._pending_max,
            "inactive_threshold": CONSUMER_UNUSED_S_MAX * NANOSECONDS,
        }
        # The filter is in the API's subject, so that a host may be allowed no consumer but its own.
        await self._streams.api(
            f"CONSUMER.CREATE.{stream}.{durable}.{subject}",
            {"stream_name": stream, "config": config},
            timeout_s=API_WAIT_S_MAX,
        )
        self._arrived.clear()
        self.unacknowledged.clear()
        self._still_to_come = 0

    def arrived(self) -> Iterator[Delivery]:
        """Give what has come in.

        Raises:
            _Trouble: the server said that the pull cannot go on.
        """
        while self._arrived:
            message = self._arrived.popleft()
            if message.subject.startswith(self._inbox):
                self._heed(message)
                continue
            self._still_to_come -= 1
            self.unacknowledged[message.reply] = None
            yield PulledDelivery(message, self)

    async def more(self) -> None:
        """Have a pull open, and wait until something comes.

        Raises:
            _Trouble: the connection was another meanwhile, or the server is silent.
        """
        if self._has_reconnected:
            raise _Trouble("reconnected")
        if self._still_to_come <= 0:
            await self._open_pull()
        self._wake.clear()
        if self._arrived or self._has_reconnected:
            return
        try:
            async with asyncio.timeout(SILENCE_S_MAX):
                await self._wake.wait()
        except TimeoutError as error:
            raise _Trouble("no heartbeat") from error

    async def tell(self, subject: str, word: bytes) -> None:
        """Acknowledge, or ask for time; a word that is lost costs a redelivery."""
        with contextlib.suppress(BusUnavailable):
            await self._link.send(subject, word)

    async def close(self) -> None:
        """Hand back what was not acknowledged, and stop listening."""
        self._forget_me()
        if self._subscription is not None:
            with contextlib.suppress(Exception):  # a closed connection has no subscriptions left
                await self._subscription.unsubscribe()
        taken = [message.reply for message in self._arrived if message.reply]
        for reply in (*self.unacknowledged, *taken):
            await self.tell(reply, b"-NAK")

    def _heed(self, message: Message) -> None:
        """Take the server's word about a pull; words about earlier pulls say nothing."""
        status = status_of(message)
        if status == HEARTBEAT or message.subject != f"{self._inbox}{self._pulls}":
            return
        self._still_to_come = 0
        if status in PULL_ENDED:
            return
        description = (message.headers or {}).get("Description", "")
        has_rival = description == "Consumer Deleted"
        raise _Trouble(f"{status} {description}", has_rival=has_rival)

    async def _open_pull(self) -> None:
        stream, durable = self._names.stream, self._names.durable
        self._pulls += 1
        self._still_to_come = self._pending_max
        request = {
            "batch": self._pending_max,
            "expires": int(PULL_S * NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_S * NANOSECONDS),
        }
        await self._link.send(
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}",
            orjson.dumps(request),
            reply=f"{self._inbox}{self._pulls}",
        )

    async def _delete_consumer(self) -> None:
        name = f"CONSUMER.DELETE.{self._names.stream}.{self._names.durable}"
        try:
            await self._streams.api(name, {}, timeout_s=API_WAIT_S_MAX)
        except StreamRefused as refusal:
            if refusal.code != CONSUMER_NOT_FOUND:
                raise

    async def _on_message(self, message: Message) -> None:
        self._arrived.append(message)
        self._wake.set()

    def _on_reconnect(self) -> None:
        self._has_reconnected = True
        self._wake.set()
