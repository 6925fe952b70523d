"""The HTTP server with many clients, waiting clients and leaving clients, and while it stops."""

import asyncio
import contextlib
import logging
import resource
import socket
import time

import pytest
from prometheus_client import CollectorRegistry

from pool_master.shell.calls import Success
from pool_master.shell.http_app import make_app
from pool_master.shell.http_protocol import HttpLimits
from pool_master.shell.http_server import RunningHttp
from tests.support.http import LIMITS, LOOPBACK, WAIT_S, FakeApi, eventually, post, raw, serving


async def test_thousands_of_idle_connections_do_not_hurt() -> None:
    idle = 2_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 3 * idle)), hard))
    async with serving(FakeApi()) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(idle):
            await stack.enter_async_context(raw(server.port))
        await eventually(lambda: len(server.connections.connections) == idle)
        client = await stack.enter_async_context(raw(server.port))
        begin = time.monotonic()
        for _ in range(20):
            await client.send(post("a"))
            assert (await client.answer())[0] == 200
        assert time.monotonic() - begin < 2.0


async def test_one_connection_carries_call_after_call() -> None:
    api = FakeApi()
    async with serving(api) as server, raw(server.port) as client:
        for number in range(50):
            await client.send(post(f"call.{number}"))
            _status, headers, _body = await client.answer()
            assert headers.get("connection") != "close"
    assert [call.method for call, _peer in api.calls] == [f"call.{n}" for n in range(50)]


async def test_a_burst_of_connections_is_not_refused() -> None:
    async with serving(FakeApi()) as server:
        listening = [socket.socket() for _ in range(300)]
        try:
            # Blocking, on the loop's own thread: nothing is accepted meanwhile, all wait in the backlog.
            for client in listening:
                client.settimeout(WAIT_S)
                client.connect((LOOPBACK, server.port))
        finally:
            for client in listening:
                client.close()


async def test_calls_sent_ahead_are_answered_in_their_order() -> None:
    api = FakeApi({f"call.{n}": Success(f"OpaqueRef:{n}") for n in range(5)})
    async with serving(api) as server, raw(server.port) as client:
        await client.send(b"".join(post(f"call.{n}") for n in range(5)))
        for n in range(5):
            assert f"OpaqueRef:{n}".encode() in (await client.answer())[2]


async def test_a_call_sent_behind_a_large_body_is_not_counted_as_header() -> None:
    limits = HttpLimits(header_bytes_max=1000)
    api = FakeApi()
    large = b"<methodCall><methodName>a</methodName></methodCall>" + b" " * 50_000
    async with serving(api, limits) as server, raw(server.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(large))
        await eventually(lambda: server.connections.tasks)
        await client.send(large + post("b")[:20])
        assert (await client.answer())[0] == 200
        await client.send(post("b")[20:])
        assert (await client.answer())[0] == 200


async def test_a_call_may_take_longer_than_its_bytes_and_than_idleness_may() -> None:
    api = FakeApi()
    limits = HttpLimits(request_read_s_max=0.02, idle_s_max=0.02)
    async with serving(api, limits) as server, raw(server.port) as client:
        await client.send(post("VM.start"))
        await eventually(lambda: api.entered)
        await asyncio.sleep(0.1)
        api.release.set()
        assert (await client.answer())[0] == 200


async def test_waiting_calls_occupy_nobody() -> None:
    api = FakeApi()
    async with serving(api) as server, contextlib.AsyncExitStack() as stack:
        waiters = [await stack.enter_async_context(raw(server.port)) for _ in range(300)]
        for waiter in waiters:
            await waiter.send(post("event.from"))
        await eventually(lambda: api.entered == 300)
        client = await stack.enter_async_context(raw(server.port))
        await client.send(post("VM.get_all"))
        assert (await client.answer())[0] == 200
        api.release.set()
        for waiter in waiters:
            assert b"OpaqueRef:answer" in (await waiter.answer())[2]


async def test_a_wait_ends_when_its_client_leaves() -> None:
    api = FakeApi()
    async with serving(api) as server:
        async with raw(server.port) as client:
            await client.send(post("event.from"))
            await eventually(lambda: api.entered)
        await eventually(lambda: api.cancelled == ["event.from"])


async def test_a_change_goes_on_when_its_client_leaves() -> None:
    api = FakeApi()
    async with serving(api) as server:
        async with raw(server.port) as client:
            await client.send(post("VM.start"))
            await eventually(lambda: api.entered)
        await eventually(lambda: not server.connections.connections)
        assert (api.finished, api.cancelled) == ([], [])
        api.release.set()
        await eventually(lambda: api.finished == ["VM.start"])


class RecordingTransport(asyncio.Transport):
    """A connection that remembers what was written to it, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def test_headers_and_body_leave_in_one_write() -> None:
    transport = RecordingTransport()
    server = RunningHttp(LIMITS)
    app = make_app(FakeApi(), LIMITS, registry=CollectorRegistry())
    connection = server.protocol_factory(app)()
    assert isinstance(connection, asyncio.Protocol)
    connection.connection_made(transport)
    connection.data_received(post("pool.get_all"))
    await eventually(lambda: transport.written)
    connection.data_received(post("pool.get_all", headers="Connection: close\r\n"))
    await eventually(lambda: transport.closed)
    connection.connection_lost(None)
    assert [written.count(b"HTTP/1.1 200 OK") for written in transport.written] == [1, 1]
    assert all(written.endswith(b"</methodResponse>") for written in transport.written)


# Stopping


async def test_a_stopping_server_answers_what_it_has_in_hand() -> None:
    api = FakeApi()
    async with serving(api) as server, raw(server.port) as idle, raw(server.port) as busy:
        await busy.send(post("VM.start"))
        await eventually(lambda: api.entered and len(server.connections.connections) == 2)
        async with asyncio.TaskGroup() as group:
            drain = group.create_task(server.drain())
            assert await idle.is_closed()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(LOOPBACK, server.port)
            assert not drain.done()
            api.release.set()
            status, headers, body = await busy.answer()
            await drain
        assert (status, headers["connection"]) == (200, "close")
        assert b"OpaqueRef:answer" in body
        assert await busy.is_closed()


async def test_a_stopping_server_finishes_the_call_of_one_who_left() -> None:
    api = FakeApi()
    async with serving(api) as server:
        async with raw(server.port) as client:
            await client.send(post("VM.start"))
            await eventually(lambda: api.entered)
        await eventually(lambda: not server.connections.connections)
        async with asyncio.TaskGroup() as group:
            drain = group.create_task(server.drain())
            await eventually(server.connections.draining.is_set)
            assert not drain.done()
            api.release.set()
        assert api.finished == ["VM.start"]


async def test_a_stopping_server_ends_waits_at_once() -> None:
    api = FakeApi()
    async with serving(api) as server, raw(server.port) as client:
        await client.send(post("event.from"))
        await eventually(lambda: api.entered)
        await server.drain()
        status, _headers, body = await client.answer()
    assert status == 200
    assert b"<value>HOST_STILL_BOOTING</value>" in body
    assert api.cancelled == ["event.from"]


async def test_a_stopping_server_cuts_what_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    api = FakeApi()
    async with serving(api, HttpLimits(drain_s_max=0.05)) as server, raw(server.port) as client:
        await client.send(post("VM.start"))
        await eventually(lambda: api.entered)
        async with asyncio.timeout(WAIT_S):
            await server.drain()
        assert (await client.answer())[0] == 500
        assert await client.is_closed()
    assert api.cancelled == ["VM.start"]
