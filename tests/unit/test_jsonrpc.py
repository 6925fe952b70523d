"""JSON-RPC: what clients' bytes mean, and the exact bytes they get."""

import contextlib
import json
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_master.shell import jsonrpc as wire
from pool_master.shell.calls import (
    NESTING_MAX,
    Call,
    Failure,
    JsonLike,
    Success,
    WireInt,
    WireValue,
)

NOON = datetime(2024, 4, 20, 12, 0, 0, tzinfo=UTC)


def request(**members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "a.b", "params": []} | members).encode()


def asked(request_id: wire.RequestId = 1, *, is_version_2: bool = True) -> wire.JsonRequest:
    return wire.JsonRequest(
        call=Call(method="a.b", parameters=[]), request_id=request_id, is_version_2=is_version_2
    )


def refusal(body: bytes) -> dict[str, object]:
    with pytest.raises(wire.JsonRpcError) as caught:
        wire.parse(body)
    answer: dict[str, object] = json.loads(caught.value.answer)
    assert answer["jsonrpc"] == "2.0"
    assert "result" not in answer
    return answer


def code(answer: dict[str, object]) -> object:
    error = answer["error"]
    assert isinstance(error, dict)
    assert error["message"]
    return error["code"]


# Reading


def test_a_request_is_read_as_it_was_written() -> None:
    parameters: list[JsonLike] = ["OpaqueRef:1", 2**63 - 1, -(2**63), 1.5, True, {"a": ["b", {}]}]
    assert wire.parse(request(params=parameters)) == wire.JsonRequest(
        call=Call(method="a.b", parameters=parameters), request_id=1, is_version_2=True
    )


def test_null_is_read_as_the_empty_string() -> None:
    assert wire.parse(request(params=[None, {"a": None}])).call.parameters == ["", {"a": ""}]


def test_params_may_be_absent() -> None:
    body = b'{"jsonrpc": "2.0", "id": 1, "method": "system.listMethods"}'
    assert wire.parse(body).call.parameters == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"jsonrpc": "2.0", "id": 1, "method": "a"}', True),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "a"}', False),
        (b'{"id": 1, "method": "a"}', False),
    ],
)
def test_the_version_is_told_by_the_jsonrpc_member(body: bytes, *, expected: bool) -> None:
    assert wire.parse(body).is_version_2 is expected


@pytest.mark.parametrize("body", [b"", b"{", b"<methodCall/>", b'{"a": \xff}', b"NaN", b"[1,]"])
def test_what_is_no_json_is_a_parse_error(body: bytes) -> None:
    answer = refusal(body)
    assert (code(answer), answer["id"]) == (-32700, None)


@pytest.mark.parametrize("depth", [2_000, 500_000])
def test_json_nested_without_end_is_a_parse_error(depth: int) -> None:
    assert code(refusal(b"[" * depth + b"]" * depth)) == -32700


def test_values_are_read_to_the_bound_and_refused_beyond() -> None:
    def nested(depth: int) -> bytes:
        return b'{"id":1,"method":"a","params":[' + b"[" * depth + b"]" * depth + b"]}"

    wire.parse(nested(NESTING_MAX))
    assert code(refusal(nested(NESTING_MAX + 2))) == -32602


@pytest.mark.parametrize("body", [b"1", b'"text"', b"null", b"[]", b"[%s]" % request()])
def test_what_is_no_single_object_is_an_invalid_request(body: bytes) -> None:
    assert code(refusal(body)) == -32600


@pytest.mark.parametrize("request_id", [None, True, [1], {"a": 1}])
def test_an_id_that_cannot_be_echoed_is_refused(request_id: object) -> None:
    answer = refusal(request(id=request_id))
    assert (code(answer), answer["id"]) == (-32600, None)


def test_a_notification_is_refused() -> None:
    assert code(refusal(b'{"jsonrpc": "2.0", "method": "a", "params": []}')) == -32600


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"jsonrpc": "3.0"}, -32600),
        ({"jsonrpc": 2.0}, -32600),
        ({"jsonrpc": []}, -32600),
        ({"method": 5}, -32600),
        ({"method": ""}, -32600),
        ({"params": {"session": "x"}}, -32602),
        ({"params": "x"}, -32602),
        ({"params": [2**63]}, -32602),
        ({"params": [-(2**63) - 1]}, -32602),
        ({"params": [{"a": [10**30]}]}, -32602),
    ],
)
def test_a_malformed_request_is_refused_with_its_id(
    members: dict[str, object], expected: int
) -> None:
    answer = refusal(request(id="mine", **members))
    assert (code(answer), answer["id"]) == (expected, "mine")


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_no_bytes_escape_the_refusal(body: bytes) -> None:
    assert code(refusal(body)) in {-32700, -32600}


JSON_TREES = st.recursive(
    st.text(max_size=20)
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(-1e15, 1e15)
    | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["id", "jsonrpc", "method", "params", "x"]), JSON_TREES))
def test_no_json_object_escapes_the_refusal(message: dict[str, object]) -> None:
    with contextlib.suppress(wire.JsonRpcError):
        assert wire.parse(json.dumps(message).encode()).call.method == message["method"]


# Writing


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text\u00e9", '"text\u00e9"'),
        (Colour.RED, '"red"'),
        (None, '""'),
        (2**63 - 1, "9223372036854775807"),
        (WireInt(7), "7"),
        (True, "true"),
        (0.5, "0.5"),
        (NOON, '"20240420T12:00:00Z"'),
        (["a", (1, NOON)], '["a",[1,"20240420T12:00:00Z"]]'),
        (
            {"a": False, Colour.RED: 1, 0: {}, "d": NOON},
            '{"a":false,"red":1,"0":{},"d":"20240420T12:00:00Z"}',
        ),
        (MappingProxyType({"vm": WireInt(3)}), '{"vm":3}'),
    ],
)
def test_every_type_is_written_exactly(value: object, expected: str) -> None:
    written = wire.answer(asked(), Success(value))  # type: ignore[arg-type]
    assert written == f'{{"jsonrpc":"2.0","result":{expected},"id":1}}'.encode()


@pytest.mark.parametrize("request_id", [0, -1, "0", "b7c5-uuid", "", 2**53 + 1, 1.5])
def test_the_id_comes_back_as_it_was(request_id: wire.RequestId) -> None:
    parsed = wire.parse(request(id=request_id))
    got = json.loads(wire.answer(parsed, Success("")))["id"]
    assert (got, type(got)) == (request_id, type(request_id))


def test_a_success_of_version_2_has_no_error_member() -> None:
    assert wire.answer(asked(0), Success("x")) == b'{"jsonrpc":"2.0","result":"x","id":0}'


def test_a_failure_of_version_2_has_a_code_of_its_own_and_no_result() -> None:
    assert wire.answer(asked("u"), Failure(["VM_IS_TEMPLATE", "OpaqueRef:1", "start"])) == (
        b'{"jsonrpc":"2.0","error":{"code":1,"message":"VM_IS_TEMPLATE",'
        b'"data":["OpaqueRef:1","start"]},"id":"u"}'
    )


def test_version_1_always_has_both_members() -> None:
    old = asked(7, is_version_2=False)
    assert wire.answer(old, Success("x")) == b'{"result":"x","error":null,"id":7}'
    assert wire.answer(old, Failure(["CODE", "p"])) == (
        b'{"result":null,"error":["CODE","p"],"id":7}'
    )


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, object(), {"a": {1, 2}}, {(1, 2): "x"}])
def test_what_json_cannot_hold_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError):
        wire.answer(asked(), Success(value))  # type: ignore[arg-type]


def test_a_lone_surrogate_is_replaced_and_hides_nothing() -> None:
    value: WireValue = {"\ud800key": ["a\udfffb", "\U0001f600"], "n": 2**63 - 1}
    assert json.loads(wire.answer(asked(), Success(value)))["result"] == {
        "\ufffdkey": ["a\ufffdb", "\U0001f600"],
        "n": 2**63 - 1,
    }


@settings(deadline=None)
@given(JSON_TREES.filter(lambda value: value is not None))
def test_what_was_written_is_json_of_the_same_value(value: object) -> None:
    written = wire.answer(asked(), Success(value))  # type: ignore[arg-type]
    assert json.loads(written)["result"] == value
