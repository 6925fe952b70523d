"""The HTTP server with the clients it is made for."""

import asyncio
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
import pytest
import uvloop
import XenAPI
from prometheus_client import CollectorRegistry, Counter

from pool_master.shell import xmlrpc
from pool_master.shell.calls import Call, Failure, Success, WireValue
from pool_master.shell.http_app import LocalRoot, Remote, make_app
from pool_master.shell.http_protocol import HttpLimits
from pool_master.shell.http_server import TcpListener, UnixListener, running_http
from pool_master.shell.tls import kept_or_self_signed, server_context
from tests.support.http import (
    LIMITS,
    LOOPBACK,
    FakeApi,
    eventually,
    post,
    raw,
    sdk,
    serving,
    short_folder,
)

# Real clients


def use_the_sdk(url: str, **options: object) -> None:
    with sdk(url, **options) as session:
        session.xenapi.login_with_password("root", "secret", "1.0", "test")
        assert session.handle == "OpaqueRef:session"
        assert session.xenapi.VM.get_record("OpaqueRef:vm") == {
            "name_label": "a <b> & c",
            "memory_static_max": "4294967296",
            "is_a_template": False,
            "tags": [],
        }
        with pytest.raises(XenAPI.Failure) as caught:
            session.xenapi.VM.destroy("OpaqueRef:vm")
        assert caught.value.details == ["VM_BAD_POWER_STATE", "OpaqueRef:vm", "halted", "running"]
        session.xenapi.session.logout()
        assert session.handle is None


SDK_SCRIPT: dict[str, Success | Failure | Exception] = {
    "session.login_with_password": Success("OpaqueRef:session"),
    "session.logout": Success(None),
    "VM.get_record": Success(
        {
            "name_label": "a <b> & c",
            "memory_static_max": 2**32,
            "is_a_template": False,
            "tags": [],
        }
    ),
    "VM.destroy": Failure(["VM_BAD_POWER_STATE", "OpaqueRef:vm", "halted", "running"]),
}


async def test_the_official_sdk_works_over_tcp() -> None:
    api = FakeApi(SDK_SCRIPT)
    async with serving(api) as server:
        await asyncio.to_thread(use_the_sdk, f"http://{LOOPBACK}:{server.port}/")
    assert api.calls[0] == (
        Call(method="session.login_with_password", parameters=["root", "secret", "1.0", "test"]),
        Remote(address=LOOPBACK),
    )
    assert api.calls[1][0].parameters == ["OpaqueRef:session", "OpaqueRef:vm"]


async def test_the_official_sdk_works_over_the_unix_socket_as_local_root() -> None:
    api = FakeApi(SDK_SCRIPT)
    with short_folder() as folder:
        path = folder / "xcp" / "xapi"
        app = make_app(api, LIMITS, registry=CollectorRegistry())
        async with running_http(app, [UnixListener(path=path)], LIMITS):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            url = "http://" + str(path).replace("/", "_") + "/"
            transport = XenAPI.UDSTransport()
            await asyncio.to_thread(use_the_sdk, url, transport=transport)
        assert not path.exists()
    assert {peer for _call, peer in api.calls} == {LocalRoot()}


async def test_the_official_sdk_works_over_verified_tls(tmp_path: Path) -> None:
    files = kept_or_self_signed(tmp_path, ["pool.example"])
    app = make_app(FakeApi(SDK_SCRIPT), LIMITS, registry=CollectorRegistry())
    listener = TcpListener(host=LOOPBACK, tls=server_context(files))
    async with running_http(app, [listener], LIMITS) as server:
        trusting = ssl.create_default_context(cafile=str(files.certificate))
        for host in (LOOPBACK, "localhost"):
            transport = xmlrpc_tls_transport(trusting)
            url = f"https://{host}:{server.port}/"
            await asyncio.to_thread(use_the_sdk, url, transport=transport)
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(LOOPBACK, server.port, ssl=ssl.create_default_context())
        with pytest.raises(ssl.SSLCertVerificationError, match="other"):
            await asyncio.open_connection(
                LOOPBACK, server.port, ssl=trusting, server_hostname="other.example"
            )


def xmlrpc_tls_transport(context: ssl.SSLContext) -> object:
    from xmlrpc.client import SafeTransport

    return SafeTransport(context=context)


async def test_one_server_listens_on_several_addresses(tmp_path: Path) -> None:
    tls = server_context(kept_or_self_signed(tmp_path / "tls", ["x"]))
    app = make_app(FakeApi(), LIMITS, registry=CollectorRegistry())
    listeners: list[TcpListener | UnixListener] = [
        TcpListener(host=LOOPBACK),
        TcpListener(host=LOOPBACK, tls=tls),
    ]
    async with (
        running_http(app, listeners, LIMITS) as server,
        httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=tmp_path / "tls/certificate.pem")
        ) as client,
    ):
        plain, secure = server.ports
        assert (await client.get(f"http://{LOOPBACK}:{plain}/health")).status_code == 200
        assert (await client.get(f"https://{LOOPBACK}:{secure}/health")).status_code == 200


async def test_json_rpc_is_answered_with_its_id() -> None:
    api = FakeApi({"VM.start_on": Failure(["HOST_OFFLINE", "OpaqueRef:h"])})
    async with serving(api) as server, httpx.AsyncClient() as client:
        for path in ("/jsonrpc", "/json"):
            url = f"http://{LOOPBACK}:{server.port}{path}"
            request = {"jsonrpc": "2.0", "id": 0, "method": "pool.get_all", "params": ["s", 1]}
            reply = await client.post(url, json=request)
            assert reply.json() == {"jsonrpc": "2.0", "result": "OpaqueRef:answer", "id": 0}
            reply = await client.post(url, json=request | {"method": "VM.start_on"})
            assert reply.json() == {
                "jsonrpc": "2.0",
                "error": {"code": 1, "message": "HOST_OFFLINE", "data": ["OpaqueRef:h"]},
                "id": 0,
            }
    assert api.calls[0][0] == Call(method="pool.get_all", parameters=["s", 1])


@pytest.mark.parametrize("path", ["/", "/RPC2", "/xmlrpc", "/some/where?else=1", "/health"])
async def test_every_other_post_is_xml_rpc(path: str) -> None:
    async with serving(FakeApi()) as server, raw(server.port) as client:
        await client.send(post("pool.get_all", path=path))
        status, headers, body = await client.answer()
    assert (status, headers["content-type"]) == (200, "text/xml")
    assert body == xmlrpc.answer("pool.get_all", Success("OpaqueRef:answer"))


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [
        ("/", "<methodCall><methodName>a</methodName></methodCall>", "text/xml"),
        ("/", "<methodCall><methodName>fail</methodName></methodCall>", "text/xml"),
        ("/", "<methodCall/>", "text/xml"),
        ("/jsonrpc", '{"id":1,"method":"a"}', "application/json"),
        ("/jsonrpc", '{"id":1,"method":"fail"}', "application/json"),
        ("/jsonrpc", "{", "application/json"),
    ],
)
async def test_answers_are_200_of_exactly_their_type_with_their_length(
    path: str, body: str, content_type: str
) -> None:
    api = FakeApi({"fail": Failure(["CODE"])})
    async with serving(api) as server, httpx.AsyncClient() as client:
        reply = await client.post(f"http://{LOOPBACK}:{server.port}{path}", content=body)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == content_type
    assert int(reply.headers["content-length"]) == len(reply.content) > 0
    assert "transfer-encoding" not in reply.headers
    assert reply.headers["access-control-allow-origin"] == "*"


async def test_a_large_answer_arrives_whole_on_both_transports() -> None:
    records: WireValue = {
        f"OpaqueRef:{number}": {"name_label": f"vm {number}"} for number in range(3000)
    }
    api = FakeApi({"VM.get_all_records": Success(records)})
    async with serving(api) as server, httpx.AsyncClient() as client:
        url = f"http://{LOOPBACK}:{server.port}"
        request = {"jsonrpc": "2.0", "id": 1, "method": "VM.get_all_records", "params": []}
        assert (await client.post(f"{url}/jsonrpc", json=request)).json()["result"] == records
        body = b"<methodCall><methodName>VM.get_all_records</methodName></methodCall>"
        reply = await client.post(url, content=body)
    assert reply.content == xmlrpc.answer("VM.get_all_records", Success(records))


async def test_the_address_is_the_connections_whatever_a_header_claims() -> None:
    api = FakeApi()
    async with serving(api) as server, raw(server.port) as client:
        await client.send(post("a", headers="X-Forwarded-For: 10.0.0.1\r\n"))
        await client.answer()
    assert api.calls[0][1] == Remote(address=LOOPBACK)


# The other pages


async def test_health_tells_the_leader_from_a_standby() -> None:
    api = FakeApi()
    async with serving(api) as server, httpx.AsyncClient() as client:
        url = f"http://{LOOPBACK}:{server.port}/health"
        reply = await client.get(url)
        assert (reply.status_code, reply.json()) == (200, {"is_leader": True, "term": 7})
        api.is_leader = False
        reply = await client.get(url)
        assert (reply.status_code, reply.json()) == (503, {"is_leader": False, "term": 7})


async def test_metrics_come_from_the_given_registry() -> None:
    registry = CollectorRegistry()
    Counter("vms_started", "VMs started", registry=registry).inc(3)
    app = make_app(FakeApi(), LIMITS, registry=registry)
    async with (
        running_http(app, [TcpListener(host=LOOPBACK)], LIMITS) as server,
        httpx.AsyncClient() as client,
    ):
        reply = await client.get(f"http://{LOOPBACK}:{server.port}/metrics")
    assert "vms_started_total 3.0" in reply.text


async def test_a_browser_is_told_what_this_is_and_may_call() -> None:
    async with serving(FakeApi()) as server, httpx.AsyncClient() as client:
        url = f"http://{LOOPBACK}:{server.port}/"
        page = await client.get(url)
        asked = {"Access-Control-Request-Headers": "content-type"}
        preflight = await client.options(url + "jsonrpc", headers=asked)
    assert "vmpool" in page.text
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-headers"] == "content-type, X-Requested-With"


# Our own defects


DEFECT: Final = RuntimeError("secret detail")


@pytest.mark.parametrize("method", ["VM.get_all", "event.from"])
@pytest.mark.parametrize("answer", [DEFECT, Success({1.5: ""})])
async def test_a_defect_is_an_internal_error_over_xml_rpc(
    answer: Success | Exception, method: str
) -> None:
    api = FakeApi({method: answer})
    api.release.set()
    async with serving(api) as server, raw(server.port) as client:
        await client.send(post(method))
        status, _headers, body = await client.answer()
    assert (status, b"<value>INTERNAL_ERROR</value>" in body) == (200, True)
    assert b"secret" not in body


@pytest.mark.parametrize("answer", [DEFECT, Success(2**70)])
async def test_a_defect_is_an_internal_error_over_json_rpc(answer: Success | Exception) -> None:
    async with serving(FakeApi({"bad": answer})) as server, httpx.AsyncClient() as client:
        url = f"http://{LOOPBACK}:{server.port}/jsonrpc"
        reply = await client.post(url, json={"id": 1, "method": "bad"})
    assert (reply.status_code, reply.json()["error"][0]) == (200, "INTERNAL_ERROR")
    assert "secret" not in reply.text


# Unix sockets


async def test_a_dead_servers_socket_is_replaced() -> None:
    with short_folder() as folder:
        path = folder / "xapi"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        app = make_app(FakeApi(), LIMITS, registry=CollectorRegistry())
        async with running_http(app, [UnixListener(path=path)], LIMITS):
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(transport=transport) as client:
                assert (await client.get("http://local/health")).status_code == 200


async def test_a_live_servers_socket_and_a_file_are_left_alone() -> None:
    with short_folder() as folder:
        path = folder / "xapi"
        app = make_app(FakeApi(), LIMITS, registry=CollectorRegistry())
        async with running_http(app, [UnixListener(path=path)], LIMITS):
            with pytest.raises(OSError, match="served by another process"):
                async with running_http(app, [UnixListener(path=path)], LIMITS):
                    pass
            assert path.is_socket()
        path.write_text("precious")
        with pytest.raises(FileExistsError):
            async with running_http(app, [UnixListener(path=path)], LIMITS):
                pass
        assert path.read_text() == "precious"


# Certificates


def test_a_made_certificate_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    first = kept_or_self_signed(folder, ["pool.example"])
    before = (first.certificate.read_bytes(), first.key.read_bytes())
    again = kept_or_self_signed(folder, ["other.example"])
    assert (again.certificate.read_bytes(), again.key.read_bytes()) == before
    assert stat.S_IMODE(first.key.stat().st_mode) == 0o600


def test_half_a_pair_is_made_anew(tmp_path: Path) -> None:
    files = kept_or_self_signed(tmp_path, ["pool.example"])
    key = files.key.read_bytes()
    files.certificate.unlink()
    kept_or_self_signed(tmp_path, ["pool.example"])
    assert files.key.read_bytes() != key
    server_context(files)


async def test_a_tls_handshake_that_never_comes_is_closed(tmp_path: Path) -> None:
    tls = server_context(kept_or_self_signed(tmp_path, ["x"]))
    limits = HttpLimits(tls_handshake_s_max=0.05)
    app = make_app(FakeApi(), limits, registry=CollectorRegistry())
    async with (
        running_http(app, [TcpListener(host=LOOPBACK, tls=tls)], limits) as server,
        raw(server.port) as client,
    ):
        assert await client.is_closed()


# One write, and the other event loop


async def every_kind_of_client(folder: Path) -> None:
    files = kept_or_self_signed(folder / "tls", ["x"])
    api = FakeApi(SDK_SCRIPT)
    app = make_app(api, LIMITS, registry=CollectorRegistry())
    listeners: list[TcpListener | UnixListener] = [
        TcpListener(host=LOOPBACK),
        TcpListener(host=LOOPBACK, tls=server_context(files)),
        UnixListener(path=folder / "xapi"),
    ]
    async with running_http(app, listeners, LIMITS) as server:
        await asyncio.to_thread(use_the_sdk, f"http://{LOOPBACK}:{server.port}/")
        transport = xmlrpc_tls_transport(ssl.create_default_context(cafile=files.certificate))
        url = f"https://{LOOPBACK}:{server.ports[1]}/"
        await asyncio.to_thread(use_the_sdk, url, transport=transport)
        url = "http://" + str(folder / "xapi").replace("/", "_") + "/"
        await asyncio.to_thread(use_the_sdk, url, transport=XenAPI.UDSTransport())
        async with raw(server.port) as busy, raw(server.port) as leaving:
            await busy.send(post("VM.start"))
            await leaving.send(post("event.from"))
            await eventually(lambda: api.entered == 2)
            await leaving.close()
            await eventually(lambda: api.cancelled == ["event.from"])
            async with asyncio.TaskGroup() as group:
                group.create_task(server.drain())
                await eventually(server.connections.draining.is_set)
                api.release.set()
                assert (await busy.answer())[0] == 200


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_event_loops_serve_every_kind_of_client(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with short_folder() as folder, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(every_kind_of_client(folder))
