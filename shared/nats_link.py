"""What the JetStream parts need of the connection, and what it gives them; `shared.nats_bus` is the
connection."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from shared.bus import BusUnavailable


class Message(Protocol):
    """A message as nats-py delivers it."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None


class Unsubscribable(Protocol):
    """A subscription."""

    async def unsubscribe(self) -> None:
        """End it."""
        ...


class Link(Protocol):
    """One connection that heals itself."""

    @property
    def is_closed(self) -> bool:
        """Say whether the connection has ended for good."""
        ...

    def new_inbox(self) -> str:
        """Give a subject that only we know."""
        ...

    def add_reconnect_listener(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have `listener` called after every reconnection and at the end; call what is returned to
        end that."""
        ...

    async def listen(
        self, subject: str, on_message: Callable[[Any], Awaitable[None]]
    ) -> Unsubscribable:
        """Subscribe; `on_message` is awaited for one message after another, also after
        reconnections."""
        ...

    async def send(
        self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send a core message: at most once, no answer."""
        ...

    async def ask_until(
        self,
        subject: str,
        data: bytes,
        *,
        headers: dict[str, str] | None = None,
        deadline: float,
        is_last: Callable[[Message], bool],
    ) -> list[Message]:
        """Ask, and give all answers up to the last; `deadline` is on the loop's clock."""
        ...


class StreamRefused(BusUnavailable):
    """JetStream answered with an error: `code` is its err_code, `status` its HTTP-like class."""

    def __init__(self, what: str, error: dict[str, Any]) -> None:
        super().__init__(f"{what}: {error.get('description', error)}")
        self.code: int = error.get("err_code", 0)
        self.status: int = error.get("code", 0)


def status_of(message: Message) -> str:
    """Give the status of a message that the server itself sent; empty for all others."""
    return (message.headers or {}).get("Status", "")
