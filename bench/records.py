"""VM.get_all_records of many VMs, over both transports, beside serialising the same records with other libraries."""

import time
import xmlrpc.client
from pathlib import Path

import httpx
import orjson

from bench.figures import Figure
from tests.support.pool import running_pool
from tests.support.vms import vm_record

VMS = 10_000
CREATED_AT_ONCE = 500
TRIES = 3


def records(data: Path) -> list[Figure]:
    """From sending the call to having the whole answer, unparsed."""
    with (
        running_pool(data, hosts=1, hypervisor="simulated") as pool,
        httpx.Client(timeout=60) as http,
    ):
        session = _json(
            http, pool.server, "session.login_with_password", [pool.user, pool.password]
        )
        for number in range(VMS):
            _json(http, pool.server, "VM.create", [session, vm_record(f"vm{number}")])
        json_s, body = _fastest(
            http, f"{pool.server}/jsonrpc", _json_call("VM.get_all_records", [session])
        )
        xml = xmlrpc.client.dumps((session,), "VM.get_all_records").encode()
        xml_s, _ = _fastest(http, pool.server, xml)
    found = orjson.loads(body)["result"]
    assert len(found) == VMS
    began = time.perf_counter()
    orjson.dumps(found)
    json_floor = time.perf_counter() - began
    began = time.perf_counter()
    xmlrpc.client.dumps((found,), methodresponse=True, allow_none=True)
    xml_floor = time.perf_counter() - began
    return [
        Figure(
            name=f"VM.get_all_records of {VMS:,} VMs, JSON-RPC",
            value=json_s,
            unit="s",
            floor_name="orjson alone",
            floor=json_floor,
            goal=0.5,
        ),
        Figure(
            name=f"VM.get_all_records of {VMS:,} VMs, XML-RPC",
            value=xml_s,
            unit="s",
            floor_name="xmlrpc.client alone",
            floor=xml_floor,
            goal=1.5,
        ),
    ]


def _json_call(method: str, parameters: list[object]) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters})


def _json(http: httpx.Client, server: str, method: str, parameters: list[object]) -> str:
    answer = http.post(f"{server}/jsonrpc", content=_json_call(method, parameters)).json()
    assert "error" not in answer, answer
    result: str = answer["result"]
    return result


def _fastest(http: httpx.Client, url: str, body: bytes) -> tuple[float, bytes]:
    took = []
    answer = b""
    for _ in range(TRIES):
        began = time.perf_counter()
        answer = http.post(url, content=body).content
        took.append(time.perf_counter() - began)
    return sorted(took)[TRIES // 2], answer
