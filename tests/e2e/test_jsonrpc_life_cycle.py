"""The life of a VM over JSON-RPC 2.0 and 1.0, as a client without any SDK sees it on the wire."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.support.pool import RunningPool, until, vm_record

NULL = "OpaqueRef:NULL"


@dataclass
class Caller:
    """A client that sends requests of one version, and looks at every byte of the answers' form."""

    http: httpx.Client
    version: str
    session: str = ""
    ids: list[int | str] = field(default_factory=lambda: [0, "an-id", 7])

    def answer(self, method: str, *parameters: Any) -> dict[str, Any]:
        self.ids.append(self.ids.pop(0))
        request = {"method": method, "params": parameters, "id": self.ids[0]}
        if self.version == "2.0":
            request["jsonrpc"] = "2.0"
        response = self.http.post("/jsonrpc", json=request)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        answer: dict[str, Any] = response.json()
        assert answer.pop("id") == self.ids[0]
        if self.version == "2.0":
            assert answer.pop("jsonrpc") == "2.0"
            assert len(answer) == 1, "either a result or an error, not both"
        else:
            assert set(answer) == {"result", "error"}
        return answer

    def call(self, method: str, *parameters: Any) -> Any:
        """Call within the session; give the value."""
        answer = self.answer(method, self.session, *parameters)
        assert answer.get("error") is None, answer
        return answer["result"]

    def refusal(self, method: str, *parameters: Any) -> list[str]:
        """Call within the session; give the code and its parameters."""
        error = self.answer(method, self.session, *parameters)["error"]
        if self.version == "1.0":
            assert isinstance(error, list)
            return error
        assert isinstance(error["code"], int)
        return [error["message"], *error["data"]]


@pytest.fixture(params=["2.0", "1.0"])
def caller(request: pytest.FixtureRequest, pool: RunningPool) -> Iterator[Caller]:
    with httpx.Client(base_url=pool.server, timeout=60) as http:
        caller = Caller(http, request.param)
        answer = caller.answer("session.login_with_password", pool.user, pool.password)
        caller.session = answer["result"]
        yield caller
        caller.call("session.logout")


@pytest.fixture
def vm(caller: Caller) -> Iterator[str]:
    """A halted VM that is gone afterwards."""
    vm = caller.call("VM.create", vm_record("by-json"))
    yield vm
    for method in ("VM.hard_shutdown", "VM.destroy"):
        caller.answer(method, caller.session, vm)


def test_a_vm_lives_its_life(caller: Caller) -> None:
    record = {**vm_record("json 🚀 \u0007 bell"), "VCPUs_max": 2, "user_version": 7}
    hosts = sorted(caller.call("host.get_all"))

    vm = caller.call("VM.create", record)
    made = caller.call("VM.get_record", vm)
    assert made["name_label"] == "json 🚀 \u0007 bell"
    assert (made["VCPUs_max"], made["user_version"], made["domid"]) == (2, 7, -1)
    assert isinstance(made["memory_static_max"], int)
    assert made["is_a_template"] is False

    caller.call("VM.start_on", vm, hosts[0], False, False)
    assert caller.call("VM.get_resident_on", vm) == hosts[0]
    caller.call("VM.pause", vm)
    assert caller.call("VM.get_power_state", vm) == "Paused"
    caller.call("VM.unpause", vm)
    caller.call("VM.pool_migrate", vm, hosts[1], {})
    assert caller.call("VM.get_resident_on", vm) == hosts[1]
    caller.call("VM.clean_reboot", vm)
    caller.call("VM.clean_shutdown", vm)
    assert caller.call("VM.get_power_state", vm) == "Halted"
    assert caller.call("VM.get_resident_on", vm) == NULL
    caller.call("VM.destroy", vm)
    assert caller.refusal("VM.get_record", vm) == ["HANDLE_INVALID", "VM", vm]


def test_an_async_call_ends_in_its_task(caller: Caller, vm: str) -> None:
    task = caller.call("Async.VM.start", vm, False, False)
    until(
        lambda: caller.call("task.get_status", task) == "success",
        what="the task ends",
    )
    record = caller.call("task.get_record", task)
    assert (record["progress"], record["result"], record["error_info"]) == (1.0, "", [])
    assert caller.call("VM.get_power_state", vm) == "Running"


def test_refusals_carry_their_code_and_parameters(caller: Caller, vm: str) -> None:
    assert caller.refusal("VM.pause", vm) == ["VM_BAD_POWER_STATE", vm, "running", "halted"]
    assert caller.refusal("VM.start", vm) == [
        *("MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.start", "3", "1")
    ]
    assert caller.refusal("VM.dance", vm) == ["MESSAGE_METHOD_UNKNOWN", "VM.dance"]
    assert caller.refusal("VM.set_user_version", vm, str(2**65))[0] == "INVALID_VALUE"
    assert caller.refusal("VM.set_user_version", vm, 1.5)[0] == "FIELD_TYPE_ERROR"
    assert caller.refusal("VM.set_name_label", vm, {})[0] == "FIELD_TYPE_ERROR"
    assert caller.call("VM.get_user_version", vm) == 1


def test_integers_may_come_as_strings_too(caller: Caller, vm: str) -> None:
    caller.call("VM.set_user_version", vm, "9007199254740993")
    assert caller.call("VM.get_user_version", vm) == 9007199254740993


def test_events_are_followed_by_token(caller: Caller, vm: str) -> None:
    token = caller.call("event.from", [f"vm/{vm}"], "", 0.0)["token"]
    caller.call("VM.start", vm, False, False)
    batch = caller.call("event.from", [f"vm/{vm}"], token, 20.0)
    (event,) = batch["events"]
    assert (event["class"], event["operation"], event["ref"]) == ("vm", "mod", vm)
    assert event["snapshot"]["power_state"] == "Running"
    assert event["snapshot"] == caller.call("VM.get_record", vm)


def test_what_json_can_say_and_xml_cannot_is_still_readable_by_xml_clients(
    pool: RunningPool, caller: Caller, vm: str
) -> None:
    for name in ("bell \u0007", "nul \u0000", "\ufffe", "<&>"):
        caller.call("VM.set_name_label", vm, name)
        assert caller.call("VM.get_name_label", vm) == name
        with pool.session() as xenapi:
            assert isinstance(xenapi.VM.get_record(vm)["name_label"], str)


def test_a_number_beyond_64_bits_is_no_parameter(caller: Caller, vm: str) -> None:
    # Not every parser of JSON keeps such a number, so it is refused before it can become another one.
    request = {"jsonrpc": "2.0", "id": 1, "method": "VM.set_user_version"}
    answer = caller.http.post(
        "/jsonrpc", json={**request, "params": [caller.session, vm, 2**65]}
    ).json()
    assert answer["error"]["code"] == -32602
    assert caller.call("VM.get_user_version", vm) == 1


@pytest.mark.parametrize("body", ["", "{", "[]", "7", '{"method": 7}', '{"jsonrpc": "2.0"}'])
def test_what_is_no_call_is_answered_as_an_error(pool: RunningPool, body: str) -> None:
    response = httpx.post(f"{pool.server}/jsonrpc", content=body, timeout=20)
    assert response.status_code < 500
    if response.status_code == 200:
        assert response.json()["error"] is not None
