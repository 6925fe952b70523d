"""uvicorn's HTTP protocol, with the bounds and manners that uvicorn leaves to a proxy in front.

Rules: a connection that sends nothing, or sends its header too slowly or without end, or does not
read its answers, is closed after a bound; headers and body of an answer leave in one write; a
connection with a request in hand is never closed by a drain.
"""

import asyncio
from dataclasses import dataclass
from typing import Final, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

_UPGRADE_HEADERS: Final = (b"connection", b"upgrade", b"http2-settings")
_HEADER_TOO_LARGE: Final = "The request's header is too large."


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """The bounds of the HTTP server."""

    body_bytes_max: int = 1024 * 1024
    # A body over the limit is still read and thrown away up to here, so that its sender, who reads
    # only after writing, sees the refusal instead of a reset.
    discard_bytes_max: int = 64 * 1024 * 1024
    header_bytes_max: int = 32 * 1024
    # For the header, and again for the body: what a slow sender may take.
    request_read_s_max: float = 30.0
    # Without a request in hand; clients keep connections for their next call.
    idle_s_max: float = 300.0
    tls_handshake_s_max: float = 10.0
    drain_s_max: float = 20.0
    connections_max: int = 10_000
    backlog: int = 1024


class OneWriteTransport(asyncio.Transport):
    """A transport that sends what was written in one turn of the loop as one segment."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._pending: list[bytes | bytearray | memoryview] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` at the end of this turn of the loop."""
        if not self._pending:
            self._loop.call_soon(self.flush)
        self._pending.append(data)

    def flush(self) -> None:
        """Send what is pending."""
        pending, self._pending = self._pending, []
        if pending and not self._transport.is_closing():
            self._transport.writelines(pending)

    def close(self) -> None:
        """Send what is pending and close."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._pending.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        """Say whether the connection is closed or about to be."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Ask the connection itself."""
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        """Count the bytes that the client has not taken yet."""
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Take nothing more from the client for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the client again."""
        self._transport.resume_reading()


class Connections(ServerState):
    """All connections and requests of one server, on all its listeners."""

    def __init__(self, limits: HttpLimits) -> None:
        super().__init__()
        self.limits = limits
        self.draining = asyncio.Event()
        self.empty = asyncio.Event()


class HeaderTooLargeError(Exception):
    """The header is larger than `header_bytes_max`."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config, connections, {"draining": connections.draining})
        self._all: Final = connections
        self._limits: Final = connections.limits
        self._reads_header = False
        self._header_bytes = 0
        self._fed_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0
        self.timeout_keep_alive: float = connections.limits.idle_s_max  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many or the server is stopping."""
        # uvloop's transports do not inherit from asyncio's, so this cannot be asserted.
        stream = cast("asyncio.Transport", transport)
        super().connection_made(OneWriteTransport(stream, self.loop))
        if self._all.draining.is_set():
            self.transport.close()
        elif len(self.connections) > self._limits.connections_max:
            self._refuse(503, "Too many connections.")
        else:
            self._watch_idleness()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_header_timer()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if not self.connections:
            self._all.empty.set()

    # Idle and slow clients

    def _watch_idleness(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one that still takes a long answer is not idle."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0:
            super().timeout_keep_alive_handler()
        elif unsent == self._unsent_bytes:
            # Nothing was taken for a whole period: an orderly close would wait for ever.
            self.transport.abort()
        else:
            self._unsent_bytes = unsent
            self._watch_idleness()

    def _header_too_slow(self) -> None:
        self._refuse(408, "The request's header took too long.")

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _refuse(self, status: int, text: str) -> None:
        self._stop_header_timer()
        body = text.encode()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: text/plain\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()

    # What the parser tells

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and bound what it keeps."""
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        is_body_pending = not (self._reads_header or self._is_idle())
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse_malformed(error)
        if self.transport.is_closing():
            return
        if self._reads_header and not is_body_pending:
            # The parser keeps an unfinished line to itself, so the bytes are counted here too.
            self._fed_bytes += len(data)
            if self._fed_bytes > self._limits.header_bytes_max:
                self._refuse(431, _HEADER_TOO_LARGE)
        elif self.timeout_keep_alive_task is None and self._is_idle():
            # Blank lines between requests start none.
            self._watch_idleness()

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Read a request again as if it had not offered another protocol: Java's client always does.

        The parser stops behind the header of such a request, and would lose its body.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(405, "This is no proxy.")
            return
        head = [method + b" " + self.url + b" HTTP/1.1"]
        head += [b"%s: %s" % (k, v) for k, v in self.headers if k not in _UPGRADE_HEADERS]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*head, b"", rest]))

    def _is_idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def on_message_begin(self) -> None:
        """Start the clock for the header."""
        super().on_message_begin()
        self._reads_header = True
        self._header_bytes = 0
        self._fed_bytes = 0
        self._unsent_bytes = 0
        self._header_timer = self.loop.call_later(
            self._limits.request_read_s_max, self._header_too_slow
        )

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header or trailer."""
        self._count_header(len(name) + len(value))
        super().on_header(name, value)

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self._limits.header_bytes_max:
            # The parser stops at this, with an error of its own.
            raise HeaderTooLargeError(_HEADER_TOO_LARGE)

    def _refuse_malformed(self, error: httptools.HttpParserError) -> None:
        if self._header_bytes > self._limits.header_bytes_max:
            self._refuse(431, _HEADER_TOO_LARGE)
        else:
            self._refuse(400, f"This is no HTTP request: {error}")

    def on_headers_complete(self) -> None:
        """Stop the clock; the request is handed to the application."""
        self._reads_header = False
        self._stop_header_timer()
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Take the end of the body."""
        if not self.parser.should_upgrade():
            super().on_message_complete()
