"""HTTP clients and an API for tests: real sockets, a scripted API, a client that sends exactly what it is told."""

import asyncio
import contextlib
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import XenAPI
from prometheus_client import CollectorRegistry

from pool_master.shell.calls import Call, Failure, Success
from pool_master.shell.http_app import Health, Peer, make_app
from pool_master.shell.http_protocol import HttpLimits
from pool_master.shell.http_server import RunningHttp, TcpListener, running_http

LOOPBACK = "127.0.0.1"
LIMITS = HttpLimits()
WAIT_S = 20.0  # for what must happen, however slow the machine
BLOCKED = ("event.from", "VM.start")  # the fake API holds these until it is told


class FakeApi:
    """An API that answers from a script, and holds some calls until `release` is set."""

    def __init__(self, script: dict[str, Success | Failure | Exception] | None = None) -> None:
        self.script = script or {}
        self.calls: list[tuple[Call, Peer]] = []
        self.is_leader = True
        self.entered = 0
        self.finished: list[str] = []
        self.cancelled: list[str] = []
        self.release = asyncio.Event()

    async def call(self, call: Call, peer: Peer) -> Success | Failure:
        self.calls.append((call, peer))
        if call.method in BLOCKED:
            self.entered += 1
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.append(call.method)
                raise
        self.finished.append(call.method)
        answer = self.script.get(call.method, Success("OpaqueRef:answer"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def health(self) -> Health:
        return Health(is_leader=self.is_leader, details={"term": 7})


@contextlib.asynccontextmanager
async def serving(api: FakeApi, limits: HttpLimits = LIMITS) -> AsyncIterator[RunningHttp]:
    app = make_app(api, limits, registry=CollectorRegistry())
    async with running_http(app, [TcpListener(host=LOOPBACK)], limits) as server:
        yield server


@contextlib.contextmanager
def sdk(url: str, **options: object) -> Iterator[XenAPI.Session]:
    session = XenAPI.Session(url, **options)
    try:
        yield session
    finally:
        session("close")()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for what the server does without telling its client."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for raises no event
            await asyncio.sleep(0.001)


def post(method: str, *, path: str = "/", headers: str = "") -> bytes:
    body = f"<methodCall><methodName>{method}</methodName></methodCall>"
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


class RawClient:
    """A client that sends exactly what a test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(WAIT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status_line, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(status_line.split()[1]), headers, body

    async def is_closed(self) -> bool:
        async with asyncio.timeout(WAIT_S):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def raw(port: int) -> AsyncIterator[RawClient]:
    client = RawClient(*await asyncio.open_connection(LOOPBACK, port))
    try:
        yield client
    finally:
        await client.close()


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder without underscores in its path: the SDK writes slashes as underscores."""
    folder = Path(tempfile.gettempdir()) / uuid.uuid4().hex
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
