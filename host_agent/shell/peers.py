"""Hosts ask each other directly whether anybody still has a lease: the port, and TCP behind it.

Rules: one question and one answer per connection, each one frame (four bytes of length, msgpack);
frames, connections and waits are bounded; whatever goes wrong is silence, and silence never keeps a
guest alive. The network between hosts is trusted, as it is for live migration.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from host_agent.core.lease_guard import PeerAnswer, PeerQuestion
from shared.codec import DecodeError, decode, encode

FRAME_BYTES_MAX: Final = 4_096
SERVE_WAIT_S_MAX: Final = 2.0
CONNECTIONS_MAX: Final = 256

Answerer = Callable[[PeerQuestion], Awaitable[PeerAnswer]]


class Peers(Protocol):
    """The other hosts of the pool."""

    @property
    def address(self) -> str:
        """Where others reach this host's server; empty while it does not serve."""
        ...

    def serving(self, answer: Answerer) -> AbstractAsyncContextManager[None]:
        """Answer the others' questions while the block runs."""
        ...

    async def ask(
        self, address: str, question: PeerQuestion, *, timeout_s: float
    ) -> PeerAnswer | None:
        """Ask one host; None is silence."""
        ...


class TcpPeers:
    """Peers over TCP. `advertised_host` is what others are told; port 0 takes any free one."""

    def __init__(self, *, listen_host: str, port: int, advertised_host: str) -> None:
        self._listen_host = listen_host
        self._port = port
        self._advertised_host = advertised_host
        self._connections = 0
        self.address = ""

    @asynccontextmanager
    async def serving(self, answer: Answerer) -> AsyncIterator[None]:
        """Serve while the block runs.

        Raises:
            OSError: the port is taken.
        """

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve_one(reader, writer, answer)

        server = await asyncio.start_server(serve, self._listen_host, self._port)
        port = server.sockets[0].getsockname()[1]
        self.address = f"{self._advertised_host}:{port}"
        try:
            yield
        finally:
            self.address = ""
            server.close()

    async def _serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answerer
    ) -> None:
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_MAX:
                with contextlib.suppress(OSError, EOFError, DecodeError):
                    async with asyncio.timeout(SERVE_WAIT_S_MAX):
                        question = decode(await _read_frame(reader), PeerQuestion)
                        await _write_frame(writer, encode(await answer(question)))
        finally:
            self._connections -= 1
            writer.close()

    async def ask(
        self, address: str, question: PeerQuestion, *, timeout_s: float
    ) -> PeerAnswer | None:
        """Ask one host."""
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            return None
        with contextlib.suppress(OSError, EOFError, DecodeError):
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
                try:
                    await _write_frame(writer, encode(question))
                    return decode(await _read_frame(reader), PeerAnswer)
                finally:
                    writer.close()
        return None


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(4), "big")
    if length > FRAME_BYTES_MAX:
        raise DecodeError(f"a frame of {length} bytes")
    return await reader.readexactly(length)


async def _write_frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(len(data).to_bytes(4, "big") + data)
    await writer.drain()
