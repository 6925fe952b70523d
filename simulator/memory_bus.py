"""A client of the messaging system in memory: the Bus and KeyValue ports for the simulator.

Rules: every call takes the way up and the way down through the broker's faulty links, and has a
deadline on the loop's clock; a lost answer is BusUnavailable, exactly as over NATS. A closed client
is a crashed one: nothing reaches it any more.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import TypeVar

from shared.bus import BusUnavailable, Delivery, Handler, StoredMessage, WrongLastSequence
from simulator.memory_broker import MemoryBroker, Reader, Server, Want, matches

T = TypeVar("T")

API_WAIT_S_MAX = 5.0
RETRY_PAUSE_S = 0.5


class MemoryDelivery:
    """A message of a durable consumer."""

    __slots__ = ("_message", "_reading")

    def __init__(self, message: StoredMessage, reading: "MemoryReading") -> None:
        self._message = message
        self._reading = reading

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
        self._reading.acknowledge(self._message)

    async def in_progress(self) -> None:
        """Ask for more time."""
        self._reading.give_time(self._message)


class MemoryReading:
    """A running `consume`."""

    def __init__(
        self, bus: "MemoryBus", where: tuple[str, str], pattern: str, *, pending_max: int
    ) -> None:
        self._bus = bus
        self._stream, self._durable = where
        self._pattern = pattern
        self._pending_max = pending_max
        self._reader = Reader(bus, self._deliver)
        self._arrived: deque[StoredMessage] = deque()
        self._unacknowledged: dict[int, StoredMessage] = {}
        self._must_attach = True
        self._has_ended = False
        self._wake = asyncio.Event()

    async def attach_if_needed(self) -> None:
        """Have the broker send; tries until the link lets it."""
        while self._must_attach and not self._bus.is_closed:
            self._must_attach = False
            # Before the question: what comes after it belongs to the new start.
            self._arrived.clear()
            self._unacknowledged.clear()
            try:
                await self._bus.ask(self._stream, self._attach, API_WAIT_S_MAX)
            except BusUnavailable:
                self._must_attach = True
                await asyncio.sleep(RETRY_PAUSE_S)

    def take(self) -> Iterator[MemoryDelivery]:
        """Give what has come in."""
        while self._arrived:
            message = self._arrived.popleft()
            self._unacknowledged[message.sequence] = message
            yield MemoryDelivery(message, self)

    async def wait(self) -> None:
        """Wait until something comes, or the link is another."""
        self._wake.clear()
        if not self._arrived and not self._must_attach and not self._bus.is_closed:
            await self._wake.wait()

    def on_link_up(self) -> None:
        """Start anew: what was under way is lost."""
        self._must_attach = True
        self._wake.set()

    def acknowledge(self, message: StoredMessage) -> None:
        """Tell the broker, if the link does."""
        self._unacknowledged.pop(message.sequence, None)
        self._tell(self._bus.broker.acknowledge, message)

    def give_time(self, message: StoredMessage) -> None:
        """Tell the broker, if the link does."""
        self._tell(self._bus.broker.give_time, message)

    def end(self) -> None:
        """Stop reading, and hand back what was not acknowledged."""
        self._has_ended = True
        self._bus.broker.detach(self._stream, self._durable, self._reader)
        for message in (*self._unacknowledged.values(), *self._arrived):
            self._tell(self._bus.broker.hand_back, message)

    def _attach(self) -> None:
        if self._has_ended:
            return  # The question was still under way when the reader left.
        self._bus.broker.attach(
            self._stream, self._durable, self._reader, Want(self._pattern, self._pending_max)
        )

    def _deliver(self, message: StoredMessage) -> None:
        self._arrived.append(message)
        self._wake.set()

    def _tell(self, word: Callable[[str, str, int], None], message: StoredMessage) -> None:
        self._bus.broker.carry_up(
            self._bus,
            message.subject,
            lambda: word(self._stream, self._durable, message.sequence),
        )


class MemoryService:
    """A running `serve`."""

    def __init__(self, bus: "MemoryBus", subject: str, handler: Handler) -> None:
        self._bus = bus
        self._handler = handler
        self._answers: set[asyncio.Task[None]] = set()
        self._server = Server(bus, subject, self._on_request)
        bus.broker.servers.append(self._server)

    async def close(self) -> None:
        """Stop answering."""
        if self._server in self._bus.broker.servers:
            self._bus.broker.servers.remove(self._server)
        answers = tuple(self._answers)
        for answer in answers:
            answer.cancel()
        if answers:
            await asyncio.wait(answers)

    def _on_request(self, subject: str, data: bytes, reply: Callable[[bytes], None]) -> None:
        answer = asyncio.create_task(self._answer(subject, data, reply))
        self._answers.add(answer)
        answer.add_done_callback(self._ended)

    def _ended(self, answer: asyncio.Task[None]) -> None:
        self._answers.discard(answer)
        if not answer.cancelled() and (defect := answer.exception()):
            self._bus.broker.defects.append(defect)

    async def _answer(self, subject: str, data: bytes, reply: Callable[[bytes], None]) -> None:
        answer = await self._handler(subject, data)
        if answer is not None:
            self._bus.broker.carry_up(self._bus, subject, lambda: reply(answer))


class MemoryBus:
    """`shared.bus.Bus` on a MemoryBroker; `name` is what the broker's fault rules call it."""

    def __init__(self, broker: MemoryBroker, name: str) -> None:
        self.broker = broker
        self._name = name
        self._is_closed = False
        self._link_came_up = asyncio.Event()
        self._services: list[MemoryService] = []
        self._readings: list[MemoryReading] = []
        broker.clients.append(self)

    @property
    def name(self) -> str:
        """Who this is."""
        return self._name

    @property
    def is_closed(self) -> bool:
        """Say whether this client is gone."""
        return self._is_closed

    def on_link_up(self) -> None:
        """The broker says that the link works again."""
        self._link_came_up.set()
        for reading in self._readings:
            reading.on_link_up()

    async def close(self) -> None:
        """Crash, as seen by everybody else."""
        self._is_closed = True
        self.on_link_up()
        if self in self.broker.clients:
            self.broker.clients.remove(self)
        for service in self._services:
            await service.close()

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        """Ask whoever serves `subject`."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def reply(reply_data: bytes) -> None:
            self.broker.carry_down(self, subject, lambda: _resolve(answer, reply_data))

        def arrive() -> None:
            servers = [s for s in self.broker.servers if matches(s.pattern, subject)]
            if not servers:
                nobody = BusUnavailable(f"nobody serves {subject}")
                self.broker.carry_down(self, subject, lambda: _fail(answer, nobody))
            for server in servers:
                ask = partial(server.on_request, subject, data, reply)
                self.broker.carry_down(server.client, subject, ask)

        self.broker.carry_up(self, subject, arrive)
        return await self._answered(answer, subject, timeout_s)

    async def serve(self, subject: str, handler: Handler) -> MemoryService:
        """Answer requests on `subject`."""
        service = MemoryService(self, subject, handler)
        self._services.append(service)
        return service

    async def publish(
        self, subject: str, data: bytes, *, message_id: str = "", timeout_s: float = 5.0
    ) -> int:
        """Store a message."""
        return await self.ask(
            subject, lambda: self.broker.store(subject, data, message_id=message_id), timeout_s
        )

    async def publish_expecting(
        self, subject: str, data: bytes, *, last_sequence: int, timeout_s: float = 5.0
    ) -> int:
        """Store a message by compare-and-set."""
        return await self.ask(
            subject, lambda: self.broker.store(subject, data, expected=last_sequence), timeout_s
        )

    async def read(
        self, stream: str, *, after: int, limit: int, timeout_s: float = 5.0
    ) -> list[StoredMessage]:
        """Read messages in order."""
        return await self.ask(stream, lambda: self.broker.read(stream, after, limit), timeout_s)

    async def last(self, stream: str, *, timeout_s: float = 5.0) -> StoredMessage | None:
        """Read the last message."""
        return await self.ask(stream, lambda: self.broker.last(stream), timeout_s)

    async def consume(
        self, stream: str, *, durable: str, filter_subject: str, pending_max: int
    ) -> AsyncGenerator[Delivery, None]:
        """Hand out a work queue's messages, in order; after a cut, all that is unacknowledged
        again."""
        reading = MemoryReading(self, (stream, durable), filter_subject, pending_max=pending_max)
        self._readings.append(reading)
        try:
            while not self._is_closed:
                await reading.attach_if_needed()
                for delivery in reading.take():
                    yield delivery
                await reading.wait()
            raise BusUnavailable("the connection was closed")
        finally:
            self._readings.remove(reading)
            reading.end()

    async def wait_connected(self, *, timeout_s: float) -> None:
        """Wait until the link works."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.broker.is_connected(self):
                    self._link_came_up.clear()
                    await self._link_came_up.wait()
        except TimeoutError as error:
            raise BusUnavailable("not connected") from error

    async def ask(self, subject: str, compute: Callable[[], T], timeout_s: float) -> T:
        """Have the broker compute something, over the link and back."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def arrive() -> None:
            try:
                result = compute()
            except (BusUnavailable, WrongLastSequence) as error:
                refusal = error
                self.broker.carry_down(self, subject, lambda: _fail(answer, refusal))
            else:
                self.broker.carry_down(self, subject, lambda: _resolve(answer, result))

        self.broker.carry_up(self, subject, arrive)
        return await self._answered(answer, subject, timeout_s)

    async def _answered(self, answer: asyncio.Future[T], subject: str, timeout_s: float) -> T:
        late = BusUnavailable(f"no answer on {subject} in time")
        timer = asyncio.get_running_loop().call_later(timeout_s, _fail, answer, late)
        try:
            return await answer
        finally:
            timer.cancel()


def _resolve(answer: asyncio.Future[T], value: T) -> None:
    if not answer.done():
        answer.set_result(value)


def _fail(answer: asyncio.Future[T], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


class MemoryKeyValue:
    """`shared.bus.KeyValue`: one key of a bucket on the broker."""

    def __init__(self, bus: MemoryBus, bucket: str, key: str) -> None:
        self._bus = bus
        self._bucket = bucket
        self._key = key

    async def get(self, *, timeout_s: float) -> tuple[int, bytes] | None:
        """Give (revision, value), None where the key was never written."""
        where = (self._bucket, self._key)
        return await self._bus.ask(
            self._bucket, lambda: self._bus.broker.keys.get(where), timeout_s
        )

    async def put(self, value: bytes, *, revision: int, timeout_s: float) -> int:
        """Write if the key's revision is still `revision`; give the new one."""
        return await self._bus.ask(
            self._bucket,
            lambda: self._bus.broker.put((self._bucket, self._key), value, revision=revision),
            timeout_s,
        )
