"""The HTTP server with clients that are malformed, greedy, slow or idle."""

import asyncio
import contextlib

import httpx
import pytest

from pool_master.shell.calls import Success
from pool_master.shell.http_protocol import HttpLimits
from tests.support.http import LIMITS, LOOPBACK, FakeApi, eventually, post, raw, serving


async def test_what_is_no_xml_is_a_bad_request_in_plain_words() -> None:
    async with serving(FakeApi()) as server, httpx.AsyncClient() as client:
        reply = await client.post(f"http://{LOOPBACK}:{server.port}/", content=b"{}")
    assert (reply.status_code, reply.headers["content-type"]) == (400, "text/plain")
    assert "no XML-RPC request" in reply.text


async def test_what_is_no_http_is_refused_and_closed() -> None:
    async with serving(FakeApi()) as server, raw(server.port) as client:
        await client.send(b"\x16\x03\x01 hello\r\n\r\n")
        status, _headers, _body = await client.answer()
        assert status == 400
        assert await client.is_closed()


async def test_what_is_no_proxy_says_so() -> None:
    async with serving(FakeApi()) as server, raw(server.port) as client:
        await client.send(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert (await client.answer())[0] == 405
        assert await client.is_closed()


@pytest.mark.parametrize("split", [10, 60, 150, 1000])
async def test_a_client_that_offers_http_2_keeps_its_call(split: int) -> None:
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    api = FakeApi()
    request = post("pool.get_all", headers=offer)
    async with serving(api) as server, raw(server.port) as client:
        for part in (
            request[:split],
            request[split:],
            post("second", headers=offer),
            post("third"),
        ):
            await client.send(part)
            await asyncio.sleep(0)
        assert [(await client.answer())[0] for _ in range(3)] == [200, 200, 200]
    assert [call.method for call, _peer in api.calls] == ["pool.get_all", "second", "third"]


@pytest.mark.parametrize("path", ["/", "/jsonrpc"])
async def test_a_body_over_the_limit_is_refused_to_one_who_writes_before_reading(path: str) -> None:
    api = FakeApi()
    async with serving(api) as server, raw(server.port) as client:
        body = b"x" * (LIMITS.body_bytes_max * 4)
        await client.send(b"POST %s HTTP/1.1\r\nHost: x\r\n" % path.encode())
        await client.send(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        status, headers, text = await client.answer()
        assert (status, headers["connection"]) == (413, "close")
        assert str(LIMITS.body_bytes_max).encode() in text
        assert await client.is_closed()
    assert api.calls == []


async def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    call = b"<methodCall><methodName>a</methodName></methodCall>"
    limits = HttpLimits(body_bytes_max=len(call))
    async with serving(FakeApi(), limits) as server, httpx.AsyncClient() as client:
        url = f"http://{LOOPBACK}:{server.port}/"
        assert (await client.post(url, content=call)).status_code == 200
        assert (await client.post(url, content=call + b" ")).status_code == 413


@pytest.mark.parametrize(
    ("length", "expect"),
    [(LIMITS.body_bytes_max + 1, "Expect: 100-continue\r\n"), (LIMITS.discard_bytes_max + 1, "")],
)
async def test_a_body_announced_too_large_is_refused_unsent(length: int, expect: str) -> None:
    async with serving(FakeApi()) as server, raw(server.port) as client:
        head = f"POST / HTTP/1.1\r\nHost: x\r\n{expect}Content-Length: {length}\r\n\r\n"
        await client.send(head.encode())
        assert (await client.answer())[0] == 413


async def test_an_endless_chunked_body_is_cut_off() -> None:
    limits = HttpLimits(body_bytes_max=1000, discard_bytes_max=100_000)
    async with serving(FakeApi(), limits) as server, raw(server.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                await client.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        await eventually(lambda: not server.connections.connections)


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 40_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n" + b"A: xxxxxx\r\n" * 5_000 + b"\r\n",
        b"POST /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 40_000,
        b"P" * 40_000,
    ],
    ids=["long line", "many lines", "long path", "unfinished line", "endless method"],
)
async def test_a_header_over_the_limit_is_refused(head: bytes) -> None:
    async with serving(FakeApi()) as server, raw(server.port) as client:
        await client.send(head)
        status, _headers, _body = await client.answer()
        assert status in {400, 431}
        assert status == 431 or head.startswith(b"PP")
        assert await client.is_closed()


async def test_a_header_that_dribbles_is_closed() -> None:
    limits = HttpLimits(request_read_s_max=0.05)
    async with serving(FakeApi(), limits) as server, raw(server.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHos")
        assert (await client.answer())[0] == 408
        assert await client.is_closed()


async def test_a_body_that_dribbles_is_closed() -> None:
    limits = HttpLimits(request_read_s_max=0.05)
    async with serving(FakeApi(), limits) as server, raw(server.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n<meth")
        assert (await client.answer())[0] == 408
        assert await client.is_closed()


@pytest.mark.parametrize(
    "sent", [b"", b"\r\n", post("a")], ids=["nothing", "a blank line", "a call"]
)
async def test_a_connection_without_request_is_closed_after_its_time(sent: bytes) -> None:
    async with (
        serving(FakeApi(), HttpLimits(idle_s_max=0.05)) as server,
        raw(server.port) as client,
    ):
        await client.send(sent)
        if sent.startswith(b"POST"):
            assert (await client.answer())[0] == 200
        assert await client.is_closed()


async def test_a_client_that_never_reads_its_answer_is_dropped() -> None:
    api = FakeApi({"huge": Success("x" * 50_000_000)})
    async with serving(api, HttpLimits(idle_s_max=0.05)) as server, raw(server.port) as client:
        await client.send(post("huge"))
        await eventually(lambda: api.finished == ["huge"])
        await eventually(lambda: not server.connections.connections)


async def test_a_connection_over_the_limit_is_told_so() -> None:
    async with serving(FakeApi(), HttpLimits(connections_max=1)) as server:
        async with raw(server.port) as first:
            await first.send(post("a"))
            await first.answer()
            async with raw(server.port) as second:
                assert (await second.answer())[0] == 503
                assert await second.is_closed()
        await eventually(lambda: not server.connections.connections)
        async with raw(server.port) as third:
            await third.send(post("a"))
            assert (await third.answer())[0] == 200
