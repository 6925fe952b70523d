"""What is wrong with a call is said by XenAPI's code for it, and changes nothing."""

import http.client
from typing import Any
from urllib.parse import urlsplit

import pytest
import XenAPI

from tests.e2e.conftest import MakeVm
from tests.support.pool import RunningPool, refusal, vm_record

NOPE = "OpaqueRef:00000000-0000-0000-0000-000000000000"
NULL = "OpaqueRef:NULL"
LONGEST = str(2**63 - 1)


@pytest.fixture
def vm(make_vm: MakeVm) -> str:
    return make_vm()


def test_a_wrong_password_opens_nothing(pool: RunningPool) -> None:
    session = XenAPI.Session(pool.server)
    login = session.xenapi.login_with_password
    assert refusal(login, pool.user, "wrong")[0] == "SESSION_AUTHENTICATION_FAILED"
    assert refusal(login, "nobody", pool.password)[0] == "SESSION_AUTHENTICATION_FAILED"
    session("close")()


def test_a_dead_session_is_told_so(pool: RunningPool) -> None:
    session = pool.log_in()
    assert isinstance(pool.call("VM.get_all", session), list)
    pool.call("session.logout", session)
    assert refusal(pool.call, "VM.get_all", session) == ["SESSION_INVALID", session]
    assert refusal(pool.call, "VM.get_all", NOPE) == ["SESSION_INVALID", NOPE]
    assert refusal(pool.call, "VM.get_all", "") == ["SESSION_INVALID", ""]


def test_dangling_references(xenapi: Any, vm: str, hosts: dict[str, str]) -> None:
    invalid_vm, invalid_host = ["HANDLE_INVALID", "VM", NOPE], ["HANDLE_INVALID", "host", NOPE]
    assert refusal(xenapi.VM.get_record, NOPE) == invalid_vm
    assert refusal(xenapi.VM.get_record, NULL) == ["HANDLE_INVALID", "VM", NULL]
    assert refusal(xenapi.VM.start, NOPE, False, False) == invalid_vm
    assert refusal(xenapi.VM.destroy, NOPE) == invalid_vm
    assert refusal(xenapi.VM.set_name_label, NOPE, "name") == invalid_vm
    assert refusal(xenapi.VM.power_state_reset, NOPE) == invalid_vm
    assert refusal(xenapi.VM.start_on, vm, NOPE, False, False) == invalid_host
    assert refusal(xenapi.VM.start_on, vm, NULL, False, False) == ["HANDLE_INVALID", "host", NULL]
    assert refusal(xenapi.VM.assert_can_boot_here, vm, NOPE) == invalid_host
    # A reference of another class is no reference of this one.
    host = hosts["host1"]
    assert refusal(xenapi.VM.get_record, host) == ["HANDLE_INVALID", "VM", host]
    assert refusal(xenapi.VM.get_by_uuid, "nope") == ["UUID_INVALID", "VM", "nope"]
    assert xenapi.VM.get_by_name_label("nobody has this name") == []


def test_wrong_numbers_of_parameters(xenapi: Any, vm: str) -> None:
    code = "MESSAGE_PARAMETER_COUNT_MISMATCH"
    assert refusal(xenapi.VM.start, vm) == [code, "VM.start", "3", "1"]
    assert refusal(xenapi.VM.pause) == [code, "VM.pause", "1", "0"]
    assert refusal(xenapi.VM.pause, vm, vm) == [code, "VM.pause", "1", "2"]
    assert refusal(xenapi.VM.create) == [code, "VM.create", "1", "0"]


@pytest.mark.parametrize(
    "method", ["VM.frobnicate", "Nothing.get_all", "VM.set_power_state", "VM.set_uuid", "Async."]
)
def test_unknown_methods(pool: RunningPool, vm: str, method: str) -> None:
    unknown = ["MESSAGE_METHOD_UNKNOWN", method]
    assert refusal(pool.call, method, pool.log_in(), vm, "value") == unknown


@pytest.mark.parametrize(
    ("member", "value", "code"),
    [
        ("actions_after_crash", "explode", "INVALID_VALUE"),
        ("actions_after_shutdown", "", "INVALID_VALUE"),
        ("VCPUs_max", str(2**65), "INVALID_VALUE"),
        ("memory_static_max", str(-(2**63) - 1), "INVALID_VALUE"),
        ("memory_static_max", "1e9", "FIELD_TYPE_ERROR"),
        ("memory_static_max", "lots", "FIELD_TYPE_ERROR"),
        ("user_version", [], "FIELD_TYPE_ERROR"),
        ("is_a_template", "perhaps", "FIELD_TYPE_ERROR"),
        ("other_config", "text", "FIELD_TYPE_ERROR"),
        ("platform", {"nested": {"map": "x"}}, "FIELD_TYPE_ERROR"),
        ("name_label", ["list"], "FIELD_TYPE_ERROR"),
    ],
)
def test_a_vm_is_not_made_from_values_of_the_wrong_kind(
    xenapi: Any, member: str, value: Any, code: str
) -> None:
    before = set(xenapi.VM.get_all())
    refused = refusal(xenapi.VM.create, vm_record("wrong", **{member: value}))
    assert refused[0] == code
    assert refused[1].startswith(member)
    assert set(xenapi.VM.get_all()) == before


def test_a_vm_is_not_made_without_what_has_no_default(xenapi: Any) -> None:
    record = vm_record("half")
    del record["memory_static_max"]
    assert refusal(xenapi.VM.create, record) == ["INVALID_VALUE", "memory_static_max", "(missing)"]
    assert refusal(xenapi.VM.create, "no record")[0] == "FIELD_TYPE_ERROR"


def test_bad_enums_and_booleans_of_messages(xenapi: Any, vm: str) -> None:
    assert refusal(xenapi.VM.assert_operation_valid, vm, "dance") == [
        "INVALID_VALUE",
        "op",
        "dance",
    ]
    assert refusal(xenapi.VM.start, vm, "maybe", False) == ["FIELD_TYPE_ERROR", "start_paused"]
    assert refusal(xenapi.VM.set_actions_after_crash, vm, "explode")[0] == "INVALID_VALUE"
    assert xenapi.VM.get_power_state(vm) == "Halted"


def test_integers_are_64_bits_wide(xenapi: Any, vm: str) -> None:
    xenapi.VM.set_user_version(vm, LONGEST)
    assert xenapi.VM.get_user_version(vm) == LONGEST
    for too_long in (str(2**63), str(2**65), str(-(2**63) - 1)):
        refused = refusal(xenapi.VM.set_user_version, vm, too_long)
        assert refused == ["INVALID_VALUE", "value", too_long]
    assert refusal(xenapi.VM.set_user_version, vm, "seven") == ["FIELD_TYPE_ERROR", "value"]
    assert xenapi.VM.get_user_version(vm) == LONGEST


@pytest.mark.parametrize(
    "name",
    [
        "snow ☃ and a rocket 🚀",
        "tab\tand\nline",
        "<b>&amp;</b>",
        "]]>",
        " spaces ",
        "",
        "\x85\u2028",
    ],
)
def test_names_come_back_as_they_were_given(xenapi: Any, make_vm: MakeVm, name: str) -> None:
    vm = make_vm(name)
    assert xenapi.VM.get_name_label(vm) == name
    assert vm in xenapi.VM.get_by_name_label(name)
    xenapi.VM.start(vm, False, False)
    assert xenapi.VM.get_power_state(vm) == "Running"


def test_a_map_takes_a_key_once(xenapi: Any, vm: str) -> None:
    xenapi.VM.add_to_other_config(vm, "key", "value")
    duplicate = ["MAP_DUPLICATE_KEY", "VM", "other_config", vm, "key"]
    assert refusal(xenapi.VM.add_to_other_config, vm, "key", "value") == duplicate
    xenapi.VM.remove_from_other_config(vm, "key")
    xenapi.VM.remove_from_other_config(vm, "key")
    assert "key" not in xenapi.VM.get_other_config(vm)


def test_a_blocked_operation_is_refused_with_its_reason(xenapi: Any, vm: str) -> None:
    xenapi.VM.add_to_blocked_operations(vm, "start", "until Monday")
    blocked = ["OPERATION_BLOCKED", vm, "until Monday"]
    assert refusal(xenapi.VM.start, vm, False, False) == blocked
    assert "start" not in xenapi.VM.get_allowed_operations(vm)
    xenapi.VM.remove_from_blocked_operations(vm, "start")
    xenapi.VM.start(vm, False, False)


def test_a_template_is_not_started(xenapi: Any, make_vm: MakeVm) -> None:
    template = make_vm("template", is_a_template=True)
    refused = refusal(xenapi.VM.start, template, False, False)
    assert refused == ["VM_IS_TEMPLATE", template, "start"]
    assert template in xenapi.VM.get_all()


def test_vms_are_found_by_what_they_are(xenapi: Any, make_vm: MakeVm) -> None:
    one, _other = make_vm('"quoted"'), make_vm("plain")
    xenapi.VM.start(one, False, False)

    def found(expression: str) -> set[str]:
        return set(xenapi.VM.get_all_records_where(expression))

    running = 'field "power_state" = "Running"'
    assert one in found(running)
    assert found(f'({running}) and (field "name_label" = "\\"quoted\\"")') == {one}
    assert one not in found(f"not ({running})")
    assert found("true") == set(xenapi.VM.get_all())
    assert refusal(xenapi.VM.get_all_records_where, 'field "power_state')[0] == "INVALID_VALUE"


def test_wrong_tokens_and_subscriptions(xenapi: Any) -> None:
    assert refusal(xenapi.event_from, ["vm"], "yesterday", 0.0) == [
        *("EVENT_FROM_TOKEN_PARSE_FAILURE", "yesterday")
    ]
    assert refusal(xenapi.event_from, ["a/b/c"], "", 0.0) == [
        *("EVENT_SUBSCRIPTION_PARSE_FAILURE", "a/b/c")
    ]


@pytest.mark.parametrize("body", [b"", b"<methodCall>", b"\x00\xff", b"{}", b"<a/>" * 1000])
def test_what_is_no_call_at_all_is_a_bad_request_and_hurts_nobody(
    pool: RunningPool, xenapi: Any, body: bytes
) -> None:
    where = urlsplit(pool.server)
    assert where.hostname
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=20)
    try:
        connection.request("POST", "/", body, {"Content-Type": "text/xml"})
        assert connection.getresponse().status == 400
    finally:
        connection.close()
    assert isinstance(xenapi.VM.get_all(), list)
