"""The messaging system in memory: what `MemoryBus` clients are connected to.

One job: streams, work queues, request and reply, keys with revisions; and the links to the clients,
which lose, double, delay and cut messages by rules.

Rules: one loop, its clock only, randomness passed in: the same seed gives the same run. A link
keeps its order, as TCP does. What is in the streams is durable; a client's messages under way die
with it.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from shared.bus import BusUnavailable, StoredMessage, WrongLastSequence
from shared.subjects import Subjects

DUPLICATES_SEEN_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFaults:
    """What a link does: `up` is from the client to the broker, `down` the other way."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_s: tuple[float, float] = (0.0, 0.0)
    is_cut_up: bool = False
    is_cut_down: bool = False

    @property
    def is_cut(self) -> bool:
        """Say whether one direction at least is dead."""
        return self.is_cut_up or self.is_cut_down


GOOD_LINK = LinkFaults()


class Client(Protocol):
    """What the broker knows of a client."""

    @property
    def name(self) -> str: ...
    @property
    def is_closed(self) -> bool: ...
    def on_link_up(self) -> None: ...


@dataclass(slots=True, eq=False)
class Server:
    """Somebody who serves a subject."""

    client: Client
    pattern: str
    on_request: Callable[[str, bytes, Callable[[bytes], None]], None]


@dataclass(slots=True, eq=False)
class Reader:
    """Somebody who consumes."""

    client: Client
    deliver: Callable[[StoredMessage], None]


@dataclass(frozen=True, slots=True)
class Want:
    """What a reader wants of a consumer."""

    pattern: str
    pending_max: int


@dataclass(slots=True)
class Consumer:
    """A durable consumer: what waits, what is out, and who reads."""

    pattern: str
    waiting: deque[int] = field(default_factory=deque)
    out: dict[int, asyncio.TimerHandle] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    pending_max: int = 1
    readers: list[Reader] = field(default_factory=list)


@dataclass(slots=True)
class Stream:
    """One stream."""

    name: str
    pattern: str
    is_work_queue: bool
    messages: dict[int, StoredMessage] = field(default_factory=dict)
    last_sequence: int = 0
    seen: dict[str, tuple[float, int]] = field(default_factory=dict)
    consumers: dict[str, Consumer] = field(default_factory=dict)


class MemoryBroker:
    """All streams, keys, servers and links of one simulated messaging system."""

    def __init__(self, randomness: random.Random, *, ack_wait_s: float = 30.0) -> None:
        self._random = randomness
        self._ack_wait_s = ack_wait_s
        self._rules: dict[tuple[str, str], LinkFaults] = {}
        self._arrivals: dict[tuple[str, str], float] = {}
        self._is_down = False
        self.clients: list[Client] = []
        self.defects: list[BaseException] = []
        self.servers: list[Server] = []
        self.streams: dict[str, Stream] = {}
        self.keys: dict[tuple[str, str], tuple[int, bytes]] = {}
        self._revisions: dict[str, int] = {}

    # --- faults -----------------------------------------------------------------------------------

    def set_faults(self, faults: LinkFaults, *, client: str = "*", subject: str = ">") -> None:
        """Let the links of `client` treat messages on `subject` (wildcards allowed) so.

        The last rule that matches wins.
        """
        with self._links_watched():
            self._rules.pop((client, subject), None)
            self._rules[client, subject] = faults

    def clear_faults(self) -> None:
        """Make every link good."""
        with self._links_watched():
            self._rules.clear()

    def stop(self) -> None:
        """Die: nothing arrives, nothing is answered; the streams stay."""
        self._is_down = True

    def start(self) -> None:
        """Come back."""
        with self._links_watched():
            self._is_down = False

    def is_connected(self, client: Client) -> bool:
        """Say whether the client's link works in both directions for everything."""
        return not self._is_down and not self._faults(client, ">").is_cut

    @contextlib.contextmanager
    def _links_watched(self) -> Iterator[None]:
        """Tell the clients whose links work after the block and did not before."""
        cut = [client for client in self.clients if not self.is_connected(client)]
        yield
        for client in cut:
            if self.is_connected(client):
                client.on_link_up()

    def _faults(self, client: Client, subject: str) -> LinkFaults:
        for (name, pattern), faults in reversed(self._rules.items()):
            if name in {"*", client.name} and (pattern == ">" or matches(pattern, subject)):
                return faults
        return GOOD_LINK

    # --- links ------------------------------------------------------------------------------------

    def carry_up(self, client: Client, subject: str, arrive: Callable[[], None]) -> None:
        """Carry a message from the client to here, if its link does."""
        faults = self._faults(client, subject)
        if not faults.is_cut_up:
            self._carry(client, "up", faults, arrive)

    def carry_down(self, client: Client, subject: str, arrive: Callable[[], None]) -> None:
        """Carry a message from here to the client, if its link does."""
        faults = self._faults(client, subject)

        def arrive_if_alive() -> None:
            if not client.is_closed:
                arrive()

        if not faults.is_cut_down:
            self._carry(client, "down", faults, arrive_if_alive)

    def _carry(
        self, client: Client, direction: str, faults: LinkFaults, arrive: Callable[[], None]
    ) -> None:
        if self._is_down or client.is_closed or self._random.random() < faults.loss:
            return
        copies = 2 if self._random.random() < faults.duplication else 1
        loop = asyncio.get_running_loop()
        for _ in range(copies):
            at = loop.time() + self._random.uniform(*faults.delay_s)
            at = max(at, self._arrivals.get((client.name, direction), 0.0))
            self._arrivals[client.name, direction] = at
            loop.call_at(at, self._arrive, arrive)

    def _arrive(self, arrive: Callable[[], None]) -> None:
        if not self._is_down:
            arrive()

    # --- streams ----------------------------------------------------------------------------------

    def ensure_streams(self, subjects: Subjects) -> None:
        """Make the pool's streams."""
        for name, pattern, is_work_queue in (
            (subjects.log_stream, subjects.log, False),
            (subjects.command_stream, subjects.every_command, True),
            (subjects.report_stream, subjects.every_report, True),
            (subjects.event_stream, subjects.every_event, False),
        ):
            self.streams.setdefault(name, Stream(name, pattern, is_work_queue))

    def store(
        self, subject: str, data: bytes, *, message_id: str = "", expected: int | None = None
    ) -> int:
        """Store a message in the stream that listens on `subject`.

        Raises:
            WrongLastSequence: the stream's last sequence is not the expected one.
            BusUnavailable: no stream listens.
        """
        stream = next((s for s in self.streams.values() if matches(s.pattern, subject)), None)
        if stream is None:
            raise BusUnavailable(f"no stream answers on {subject}")
        now = asyncio.get_running_loop().time()
        if message_id:
            seen_at, sequence = stream.seen.get(message_id, (-DUPLICATES_SEEN_S, 0))
            if sequence and now - seen_at < DUPLICATES_SEEN_S:
                return sequence
        if expected is not None and expected != stream.last_sequence:
            raise WrongLastSequence(expected)
        stream.last_sequence += 1
        sequence = stream.last_sequence
        stream.messages[sequence] = StoredMessage(sequence, subject, data)
        if message_id:
            stream.seen[message_id] = (now, sequence)
        for consumer in stream.consumers.values():
            if matches(consumer.pattern, subject):
                consumer.waiting.append(sequence)
                self._pump(stream, consumer)
        return sequence

    def read(self, name: str, after: int, limit: int) -> list[StoredMessage]:
        """Give messages above `after`, in order."""
        stream = self.streams[name]
        if len(stream.messages) == stream.last_sequence:  # nothing was taken out: no need to look
            last = min(after + limit, stream.last_sequence)
            return [stream.messages[sequence] for sequence in range(after + 1, last + 1)]
        return [m for m in stream.messages.values() if m.sequence > after][:limit]

    def last(self, name: str) -> StoredMessage | None:
        """Give the last message."""
        messages = self.streams[name].messages
        return messages[next(reversed(messages))] if messages else None

    def lose_the_last(self, name: str, count: int) -> None:
        """Lose what was acknowledged and not synced, as a server does that is killed."""
        stream = self.streams[name]
        lost = sorted(stream.messages)[-count:]
        for sequence in lost:
            del stream.messages[sequence]
        stream.last_sequence -= len(lost)
        stream.seen = {key: value for key, value in stream.seen.items() if value[1] not in lost}

    # --- consumers --------------------------------------------------------------------------------

    def attach(self, name: str, durable: str, reader: Reader, want: Want) -> None:
        """Let `reader` have the consumer's messages; all that is not acknowledged comes again, in
        order."""
        stream = self.streams[name]
        consumer = stream.consumers.setdefault(durable, Consumer(want.pattern))
        consumer.pending_max = want.pending_max
        for timer in consumer.out.values():
            timer.cancel()
        consumer.out.clear()
        consumer.waiting = deque(
            message.sequence
            for message in stream.messages.values()
            if matches(want.pattern, message.subject)
            and message.sequence not in consumer.acknowledged
        )
        if reader in consumer.readers:
            consumer.readers.remove(reader)
        consumer.readers.append(reader)
        self._pump(stream, consumer)

    def detach(self, name: str, durable: str, reader: Reader) -> None:
        """End `reader`."""
        consumer = self.streams[name].consumers.get(durable)
        if consumer is not None and reader in consumer.readers:
            consumer.readers.remove(reader)

    def acknowledge(self, name: str, durable: str, sequence: int) -> None:
        """Do not hand out this message again."""
        stream = self.streams[name]
        consumer = stream.consumers[durable]
        if timer := consumer.out.pop(sequence, None):
            timer.cancel()
        if stream.is_work_queue:
            stream.messages.pop(sequence, None)
        else:
            consumer.acknowledged.add(sequence)
        self._pump(stream, consumer)

    def hand_back(self, name: str, durable: str, sequence: int) -> None:
        """Hand out this message again, now."""
        stream = self.streams[name]
        self._expire(stream, stream.consumers[durable], sequence)

    def give_time(self, name: str, durable: str, sequence: int) -> None:
        """Wait for another while before handing this message out again."""
        stream = self.streams[name]
        consumer = stream.consumers[durable]
        if timer := consumer.out.pop(sequence, None):
            timer.cancel()
            self._hold(stream, consumer, sequence)

    def _pump(self, stream: Stream, consumer: Consumer) -> None:
        while consumer.readers and consumer.waiting and len(consumer.out) < consumer.pending_max:
            sequence = consumer.waiting.popleft()
            message = stream.messages.get(sequence)
            if message is None or sequence in consumer.acknowledged or sequence in consumer.out:
                continue
            self._hold(stream, consumer, sequence)
            self._deliver(consumer.readers[-1], message)

    def _deliver(self, reader: Reader, message: StoredMessage) -> None:
        self.carry_down(reader.client, message.subject, lambda: reader.deliver(message))

    def _hold(self, stream: Stream, consumer: Consumer, sequence: int) -> None:
        loop = asyncio.get_running_loop()
        consumer.out[sequence] = loop.call_later(
            self._ack_wait_s, self._expire, stream, consumer, sequence
        )

    def _expire(self, stream: Stream, consumer: Consumer, sequence: int) -> None:
        if timer := consumer.out.pop(sequence, None):
            timer.cancel()
            consumer.waiting.appendleft(sequence)
            self._pump(stream, consumer)

    # --- keys -------------------------------------------------------------------------------------

    def put(self, where: tuple[str, str], value: bytes, *, revision: int) -> int:
        """Write by compare-and-set.

        Raises:
            WrongLastSequence: somebody else wrote.
        """
        if self.keys.get(where, (0, b""))[0] != revision:
            raise WrongLastSequence(revision)
        bucket, _ = where
        self._revisions[bucket] = self._revisions.get(bucket, 0) + 1
        self.keys[where] = (self._revisions[bucket], value)
        return self._revisions[bucket]


def matches(pattern: str, subject: str) -> bool:
    """Say whether a subject is among those that a NATS pattern names."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(given) > index
        if index >= len(given) or token not in {"*", given[index]}:
            return False
    return len(wanted) == len(given)
