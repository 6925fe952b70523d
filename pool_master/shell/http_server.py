"""Listening: TCP with and without TLS, Unix sockets, start and drain.

Rules: a stopping server closes idle connections, answers every request in hand, and only after
its bound cancels what is left. A Unix socket belongs to its owner alone, from the moment it can
be found.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from pool_master.shell.http_app import LocalRootApp
from pool_master.shell.http_protocol import BoundedHttpProtocol, Connections, HttpLimits

CUT_S_MAX: Final = 1.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpListener:
    """An address to listen on; port 0 takes a free one. Without `tls` it is plain HTTP."""

    host: str
    port: int = 0
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixListener:
    """A socket in the file system, for this machine's root."""

    path: Path


class RunningHttp:
    """A server that listens."""

    def __init__(self, limits: HttpLimits) -> None:
        self.ports: list[int] = []
        self.connections = Connections(limits)
        self._limits = limits
        self._servers: list[asyncio.Server] = []
        self._unix_paths: list[Path] = []

    @property
    def port(self) -> int:
        """The first TCP listener's port."""
        return self.ports[0]

    async def listen(self, app: ASGIApp, listener: TcpListener | UnixListener) -> None:
        """Listen on one address."""
        loop = asyncio.get_running_loop()
        match listener:
            case TcpListener(host=host, port=port, tls=tls):
                bound = _bind_tcp(host, port, self._limits.backlog)
                self.ports.append(bound.getsockname()[1])
                self._servers.append(
                    await loop.create_server(
                        self.protocol_factory(app),
                        sock=bound,
                        ssl=tls,
                        backlog=self._limits.backlog,
                        ssl_handshake_timeout=self._limits.tls_handshake_s_max if tls else None,
                    )
                )
            case UnixListener(path=path):
                bound = _bind_unix(path, self._limits.backlog)
                self._unix_paths.append(path)
                self._servers.append(
                    await loop.create_unix_server(
                        self.protocol_factory(LocalRootApp(app)),
                        sock=bound,
                        backlog=self._limits.backlog,
                    )
                )

    def protocol_factory(self, app: ASGIApp) -> Callable[[], BoundedHttpProtocol]:
        """Give what makes the protocol of each new connection to `app`."""
        config = uvicorn.Config(
            app,
            interface="asgi3",
            http=BoundedHttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
        config.load()
        return partial(BoundedHttpProtocol, config, self.connections)

    async def drain(self) -> None:
        """Answer the requests in hand and end; what is left after the bound is cut."""
        for server in self._servers:
            server.close()
        for path in self._unix_paths:
            path.unlink(missing_ok=True)
        self.connections.draining.set()
        for connection in list(self.connections.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self._limits.drain_s_max):
                await self._idle()
        except TimeoutError:
            log.warning("http_drain_cut", requests=len(self.connections.tasks))
            await self._cut()

    async def _idle(self) -> None:
        if self.connections.connections:
            self.connections.empty.clear()
            await self.connections.empty.wait()
        # A call whose client has left still runs to its end.
        while self.connections.tasks:
            await asyncio.wait(self.connections.tasks)

    async def _cut(self) -> None:
        for task in self.connections.tasks:
            task.cancel()
        if self.connections.tasks:
            # They still tell their clients, those that read.
            await asyncio.wait(self.connections.tasks, timeout=CUT_S_MAX)
        for connection in list(self.connections.connections):
            connection.transport.abort()
        if self.connections.tasks:
            await asyncio.wait(self.connections.tasks)


@contextlib.asynccontextmanager
async def running_http(
    app: ASGIApp, listeners: Sequence[TcpListener | UnixListener], limits: HttpLimits
) -> AsyncIterator[RunningHttp]:
    """Serve `app` on all `listeners` within the block; drain at its end."""
    server = RunningHttp(limits)
    try:
        for listener in listeners:
            await server.listen(app, listener)
        yield server
    finally:
        await server.drain()


def _bind_tcp(host: str, port: int, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.create_server((host, port), family=family, backlog=backlog)
    # Inherited by every accepted connection: a delayed last segment costs a call 40 ms.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.setblocking(False)
    return bound


def _bind_unix(path: Path, backlog: int) -> socket.socket:
    """Bind under another name first, so that nobody meets the socket before its mode is set."""
    if path.exists() and not path.is_socket():
        raise FileExistsError(f"{path} is there and is no socket")
    if path.is_socket() and _answers(path):
        raise OSError(f"{path} is served by another process")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(draft))
    os.chmod(draft, 0o600)
    bound.listen(backlog)
    draft.rename(path)
    bound.setblocking(False)
    return bound


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0
