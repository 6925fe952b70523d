"""The port through which master and agent reach the messaging system.

One job: say what both programs need from NATS, in a form that a simulator can offer too. `shared.nats_bus` is the real
one; the simulator's has the same contract tests.

Rules: every call has a deadline of its own; a call that cannot be answered raises BusUnavailable; nothing here retries
for ever. Durable publishing is answered only when the stream has stored the message.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


class BusUnavailable(OSError):
    """No answer in time: the message may or may not have arrived."""


class WrongLastSequence(Exception):
    """The stream's last sequence is not the one that the publisher expected: somebody else wrote."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"the stream's last sequence is not {expected}")


class MessageLost(Exception):
    """The stream counts a message that it cannot give any more: its store is damaged."""

    def __init__(self, stream: str, sequence: int) -> None:
        super().__init__(f"stream {stream} has lost its message {sequence}")
        self.sequence = sequence


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the stream holds it."""

    sequence: int
    subject: str
    data: bytes


class Delivery(Protocol):
    """A message handed to a durable consumer; redelivered until it is acknowledged."""

    @property
    def subject(self) -> str:
        """Where it was published."""
        ...

    @property
    def data(self) -> bytes:
        """What was published."""
        ...

    async def ack(self) -> None:
        """Say that it need not come again. Best effort: a lost ack means a redelivery."""
        ...

    async def in_progress(self) -> None:
        """Ask for more time before it is redelivered."""
        ...


Handler = Callable[[str, bytes], Awaitable[bytes | None]]


class Bus(Protocol):
    """A connection to the messaging system."""

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        """Ask whoever serves `subject`; core messaging, no stream.

        Raises:
            BusUnavailable: nobody answered in time.
        """
        ...

    async def serve(self, subject: str, handler: Handler) -> "Subscription":
        """Answer requests on `subject` (wildcards allowed) with what `handler(subject, data)` returns; None is silence."""
        ...

    async def publish(
        self, subject: str, data: bytes, *, message_id: str = "", timeout_s: float = 5.0
    ) -> int:
        """Store a message in the stream that listens on `subject`; give its stream sequence.

        A message with a `message_id` that the stream has seen within two minutes is not stored again.

        Raises:
            BusUnavailable: no answer in time.
        """
        ...

    async def publish_expecting(
        self, subject: str, data: bytes, *, last_sequence: int, timeout_s: float = 5.0
    ) -> int:
        """Store a message only if the stream's last sequence is `last_sequence` (compare-and-set).

        Raises:
            WrongLastSequence: somebody else wrote; nothing was stored.
            BusUnavailable: no answer in time; read the tail to learn what happened.
        """
        ...

    async def read(
        self, stream: str, *, after: int, limit: int, timeout_s: float = 5.0
    ) -> list[StoredMessage]:
        """Give up to `limit` messages with sequences above `after`, in order; empty where there are none.

        Gaps that the store has are visible in the sequences: it is the reader who must notice.
        """
        ...

    async def last(self, stream: str, *, timeout_s: float = 5.0) -> StoredMessage | None:
        """Give the last message of the stream, as its leader has it; None where it is empty.

        Raises:
            MessageLost: there is one, and it cannot be read.
            BusUnavailable: no answer in time.
        """
        ...

    def consume(
        self, stream: str, *, durable: str, filter_subject: str, pending_max: int
    ) -> AsyncIterator[Delivery]:
        """Hand out messages of a durable pull consumer, made where missing, until the iterator is closed.

        Survives disconnections: it waits and goes on. At most `pending_max` are handed out unacknowledged.
        """
        ...

    async def wait_connected(self, *, timeout_s: float) -> None:
        """Wait until the connection is up.

        Raises:
            BusUnavailable: it is not, in time.
        """
        ...


class Subscription(Protocol):
    """A running `serve`."""

    async def close(self) -> None:
        """Stop answering."""
        ...


class KeyValue(Protocol):
    """One key with compare-and-set on its revision: where leadership is decided."""

    async def get(self, *, timeout_s: float) -> tuple[int, bytes] | None:
        """Give (revision, value), None where the key was never written."""
        ...

    async def put(self, value: bytes, *, revision: int, timeout_s: float) -> int:
        """Write if the key's revision is still `revision` (0: never written); give the new one.

        Raises:
            WrongLastSequence: somebody else wrote.
            BusUnavailable: no answer in time; read to learn.
        """
        ...
