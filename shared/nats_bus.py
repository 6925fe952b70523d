"""The bus over NATS: the only file that imports nats, for both programs.

One job: one connection that heals itself, and `shared.bus`'s promises on it.

Rules, each paid for by a measured failure:
- nats-py's publish and subscribe can swallow a cancellation: every use is followed by a look at the
  task (`_cancellable`).
- A request waits on a future of ours, with a timer, never in `wait_for` around the library; a lost
  connection ends it at once.
- Pull consumers only: push consumers drop messages silently when the reader is slow.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import nats.errors
import orjson
import structlog
from nats.aio.client import Client
from nats.aio.subscription import Subscription as NatsSubscription

from shared import nats_pull, nats_streams
from shared.bus import BusUnavailable, Delivery, Handler, StoredMessage
from shared.nats_jetstream import NO_RESPONDERS, JetStream
from shared.nats_link import Message, status_of
from shared.nats_service import Service
from shared.subjects import Subjects

PING_INTERVAL_S: Final = 1
# A connection that nobody answers on is given up after this many pings: a black hole is found in 2
# to 3 s.
PINGS_UNANSWERED_MAX: Final = 2
CONNECT_WAIT_S_MAX: Final = 2
RECONNECT_PAUSE_S: Final = 0.1
CLOSE_WAIT_S_MAX: Final = 2
ECHO_WAIT_S_MAX: Final = 5
SEND_BUFFER_BYTES_MAX: Final = 16 * 1024 * 1024
ARRIVED_MESSAGES_MAX: Final = 1_000_000
ARRIVED_BYTES_MAX: Final = 256 * 1024 * 1024

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How to say who we are; empty members are not used. `nkey_seed_file` needs the package
    nkeys."""

    user: str = ""
    password: str = ""
    token: str = ""
    nkey_seed_file: str = ""
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What the server says of itself; None where only a system account may ask."""

    version: str
    sync_always: bool | None


async def connect(
    urls: Sequence[str],
    *,
    name: str,
    credentials: Credentials | None = None,
    timeout_s: float = 10.0,
) -> "NatsBus":
    """Connect to one of `urls`; from then on the connection heals itself for ever.

    Raises:
        BusUnavailable: no server let us in, in time.
    """
    bus = NatsBus(Client())
    try:
        async with asyncio.timeout(timeout_s):
            await bus.open(urls, name, credentials or Credentials())
    except TimeoutError as error:
        await bus.close()
        raise BusUnavailable(f"no connection to {', '.join(urls)}: {bus.last_error}") from error
    except BaseException:
        await bus.close()
        raise
    return bus


class NatsBus:
    """`shared.bus.Bus` over one NATS connection; make it with `connect`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = ""
        self._questions: dict[str, _Question] = {}
        self._question_count = 0
        self._up = asyncio.Event()
        self._reconnect_listeners: set[Callable[[], None]] = set()
        self._streams = JetStream(self)
        self.last_error: str = "no answer"

    # --- the Bus port -------------------------------------------------------------------------

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        """Ask whoever serves `subject`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        answers = await self.ask_until(subject, data, deadline=deadline, is_last=lambda _: True)
        if status_of(answers[0]) == NO_RESPONDERS:
            raise BusUnavailable(f"nobody serves {subject}")
        return answers[0].data

    async def serve(self, subject: str, handler: Handler) -> Service:
        """Answer requests on `subject`, a bounded number at a time."""
        service = Service(handler, self.send)
        service.subscription = await self.listen(subject, service.on_request)
        # A message to ourselves: when it is back, the server knows of the subscription, too.
        deadline = asyncio.get_running_loop().time() + ECHO_WAIT_S_MAX
        await self.ask_until("", b"", deadline=deadline, is_last=lambda _: True)
        return service

    async def publish(
        self, subject: str, data: bytes, *, message_id: str = "", timeout_s: float = 5.0
    ) -> int:
        """Store a message; many callers at once share the connection."""
        headers = {"Nats-Msg-Id": message_id} if message_id else None
        return await self._streams.store(subject, data, headers=headers, timeout_s=timeout_s)

    async def publish_expecting(
        self, subject: str, data: bytes, *, last_sequence: int, timeout_s: float = 5.0
    ) -> int:
        """Store a message only if the stream's last sequence is `last_sequence`."""
        return await self._streams.store_expecting(
            subject,
            data,
            header="Nats-Expected-Last-Sequence",
            sequence=last_sequence,
            timeout_s=timeout_s,
        )

    async def read(
        self, stream: str, *, after: int, limit: int, timeout_s: float = 5.0
    ) -> list[StoredMessage]:
        """Give up to `limit` messages with sequences above `after`; any replica may answer."""
        return await self._streams.read(stream, after=after, limit=limit, timeout_s=timeout_s)

    async def last(self, stream: str, *, timeout_s: float = 5.0) -> StoredMessage | None:
        """Ask the stream's leader for its last message."""
        return await self._streams.last(stream, timeout_s=timeout_s)

    def consume(
        self, stream: str, *, durable: str, filter_subject: str, pending_max: int
    ) -> AsyncGenerator[Delivery, None]:
        """Hand out a work queue's messages, in order; see `shared.nats_pull`."""
        names = nats_pull.ConsumerNames(stream, durable, filter_subject)
        return nats_pull.pull(self, self._streams, names, pending_max=pending_max)

    async def wait_connected(self, *, timeout_s: float) -> None:
        """Wait until the connection is up."""
        await self._wait_up(asyncio.get_running_loop().time() + timeout_s)

    # --- what a program's start and end need ---------------------------------------------------

    async def ensure_streams(
        self, subjects: Subjects, replicas: int = 1, *, timeout_s: float = 10.0
    ) -> None:
        """Make the pool's streams and the leadership bucket; check those that are there.

        Raises:
            WrongStream: one is there that would break a promise; the text says which setting.
            BusUnavailable: no answer in time.
        """
        await nats_streams.ensure(self._streams, subjects, replicas=replicas, timeout_s=timeout_s)

    async def server_settings(self, *, timeout_s: float = 1.0) -> ServerSettings:
        """Ask the server whether it syncs every message; only a system account gets an answer."""
        running = self._client.connected_server_version
        version = f"{running.major}.{running.minor}.{running.patch}"
        try:
            answer = await self.request("$SYS.REQ.SERVER.PING.JSZ", b"", timeout_s=timeout_s)
        except BusUnavailable:
            return ServerSettings(version=version, sync_always=None)
        config = orjson.loads(answer).get("data", {}).get("config", {})
        return ServerSettings(version=version, sync_always=bool(config.get("sync_always")))

    async def open(self, urls: Sequence[str], name: str, who: Credentials) -> None:
        """Connect for the first time; tries until cancelled."""
        await self._client.connect(
            list(urls),
            name=name,
            user=who.user or None,
            password=who.password or None,
            token=who.token or None,
            nkeys_seed=who.nkey_seed_file or None,
            tls=who.tls,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_PAUSE_S,  # type: ignore[arg-type]  # it only sleeps
            connect_timeout=CONNECT_WAIT_S_MAX,
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=PINGS_UNANSWERED_MAX,
            pending_size=SEND_BUFFER_BYTES_MAX,
            disconnected_cb=self._on_down,
            reconnected_cb=self._on_up,
            error_cb=self._on_error,
            closed_cb=self._on_closed,
        )
        self._inbox = f"{self.new_inbox()}."
        await self.listen(f"{self._inbox}*", self._on_answer)
        self._up.set()

    async def close(self) -> None:
        """End the connection; what waits on it fails."""
        self._up.clear()
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S_MAX):
                with _cancellable():
                    await self._client.close()
        await self._on_closed()

    # --- the Link that the JetStream parts build on ---------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Say whether the connection has ended for good."""
        return self._client.is_closed

    def new_inbox(self) -> str:
        """Give a subject that only we know."""
        return self._client.new_inbox()

    def add_reconnect_listener(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have `listener` called after every reconnection, and at the end."""
        self._reconnect_listeners.add(listener)
        return lambda: self._reconnect_listeners.discard(listener)

    async def listen(
        self, subject: str, on_message: Callable[[Any], Awaitable[None]]
    ) -> NatsSubscription:
        """Subscribe; `on_message` is awaited for one message after another."""
        try:
            with _cancellable():
                return await self._client.subscribe(
                    subject,
                    cb=on_message,
                    pending_msgs_limit=ARRIVED_MESSAGES_MAX,
                    pending_bytes_limit=ARRIVED_BYTES_MAX,
                )
        except nats.errors.Error as error:
            raise BusUnavailable(f"cannot subscribe to {subject}: {error!r}") from error

    async def send(
        self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send a core message: at most once, no answer."""
        assert len(data) <= self._client.max_payload, f"{len(data)} bytes are too many"
        try:
            with _cancellable():
                await self._client.publish(subject, data, reply=reply, headers=headers)
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailable(f"cannot send on {subject}: {error!r}") from error

    async def ask_until(
        self,
        subject: str,
        data: bytes,
        *,
        headers: dict[str, str] | None = None,
        deadline: float,
        is_last: Callable[[Message], bool],
    ) -> list[Message]:
        """Ask, and give all answers up to the last; without a subject, ourselves."""
        await self._wait_up(deadline)
        self._question_count += 1
        token = str(self._question_count)
        question = self._questions[token] = _Question(is_last)
        loop = asyncio.get_running_loop()
        timer = loop.call_at(deadline, question.fail, f"no answer on {subject} in time")
        try:
            inbox = self._inbox + token
            await self.send(subject or inbox, data, reply=inbox, headers=headers)
            await question.done
        finally:
            timer.cancel()
            del self._questions[token]
            question.drop()
        return question.answers

    # --- inside -----------------------------------------------------------------------------------

    async def _wait_up(self, deadline: float) -> None:
        if self._up.is_set():
            return
        if self.is_closed:
            raise BusUnavailable("the connection was closed")
        try:
            async with asyncio.timeout_at(deadline):
                await self._up.wait()
        except TimeoutError as error:
            raise BusUnavailable(f"not connected: {self.last_error}") from error

    async def _on_answer(self, answer: Message) -> None:
        question = self._questions.get(answer.subject[len(self._inbox) :])
        if question is not None:  # else it comes too late
            question.take(answer)

    async def _on_up(self) -> None:
        log.info("bus.reconnected")
        self._up.set()
        for listener in tuple(self._reconnect_listeners):
            listener()

    async def _on_down(self) -> None:
        if self._up.is_set():
            log.warning("bus.disconnected", error=self.last_error)
        self._up.clear()
        self._fail_questions("the connection was lost")

    async def _on_closed(self) -> None:
        self._up.clear()
        self._fail_questions("the connection was closed")
        for listener in tuple(self._reconnect_listeners):
            listener()

    async def _on_error(self, error: Exception) -> None:
        self.last_error = repr(error)
        if isinstance(error, nats.errors.SlowConsumerError):
            # Answers were dropped: a batch with a hole must not pass for a hole in the stream.
            self._fail_questions("too many answers at once")
        if self._up.is_set():
            log.warning("bus.error", error=self.last_error)

    def _fail_questions(self, why: str) -> None:
        for question in self._questions.values():
            question.fail(why)


class NatsKeyValue:
    """`shared.bus.KeyValue`: one key of a KV bucket, without a TTL, always asked of the stream's
    leader."""

    def __init__(self, bus: NatsBus, bucket: str, key: str) -> None:
        self._streams = JetStream(bus)
        self._stream = f"KV_{bucket}"
        self._subject = f"$KV.{bucket}.{key}"

    async def get(self, *, timeout_s: float) -> tuple[int, bytes] | None:
        """Give (revision, value), None where the key was never written."""
        message = await self._streams.last_of(self._stream, self._subject, timeout_s=timeout_s)
        return (message.sequence, message.data) if message is not None else None

    async def put(self, value: bytes, *, revision: int, timeout_s: float) -> int:
        """Write if the key's revision is still `revision`; give the new one."""
        return await self._streams.store_expecting(
            self._subject,
            value,
            header="Nats-Expected-Last-Subject-Sequence",
            sequence=revision,
            timeout_s=timeout_s,
        )


class _Question:
    """A request that waits for its answers."""

    __slots__ = ("answers", "done", "is_last")

    def __init__(self, is_last: Callable[[Message], bool]) -> None:
        self.answers: list[Message] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_last = is_last

    def take(self, answer: Message) -> None:
        self.answers.append(answer)
        if self.is_last(answer) and not self.done.done():
            self.done.set_result(None)

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(BusUnavailable(why))

    def drop(self) -> None:
        if not self.done.cancel() and not self.done.cancelled():
            self.done.exception()  # seen: it may have come while the sender was cancelled


@contextlib.contextmanager
def _cancellable() -> Iterator[None]:
    """Raise the cancellation that nats-py swallowed inside the block, if it did."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError
