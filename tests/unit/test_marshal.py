"""Values to and from the wire: every type both ways, as existing clients send and expect them."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from pool_master.core import events as ev
from pool_master.core.classes import CLASS_BY_NAME, CLASSES, RECORD_BUILDERS
from pool_master.core.datamodel import (
    BOOL,
    DATETIME,
    FLOAT,
    INT,
    STRING,
    VOID,
    Kind,
    WireType,
    map_of,
    record_of,
    ref_to,
    set_of,
    wire_type,
)
from pool_master.core.marshal import constructor_values, field_value, from_wire, to_wire
from shared.enums import PowerState, VmOperation
from shared.errors import InvalidValue, XenApiError
from shared.refs import NULL, HostRef
from tests.support.facts import HOST_2, VM, a_pool, accepted, running
from tests.support.spec import Scenario, given

POWER_STATE: Final = wire_type(PowerState)
OPERATIONS: Final = wire_type(dict[VmOperation, str])
NOON: Final = datetime(2024, 4, 20, 12, tzinfo=UTC)
LARGEST, SMALLEST = 2**63 - 1, -(2**63)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("x", STRING, "x"),
        ("", STRING, ""),
        ("ü\U0001f600", STRING, "ü\U0001f600"),
        (3, INT, 3),
        ("3", INT, 3),
        ("-3", INT, -3),
        (3.0, INT, 3),
        (str(LARGEST), INT, LARGEST),
        (SMALLEST, INT, SMALLEST),
        (1.5, FLOAT, 1.5),
        (2, FLOAT, 2.0),
        ("1.5", FLOAT, 1.5),
        (True, BOOL, True),
        ("true", BOOL, True),
        ("false", BOOL, False),
        (NOON, DATETIME, NOON),
        (NOON.replace(tzinfo=None), DATETIME, NOON),
        ("20240420T12:00:00Z", DATETIME, NOON),
        ("2024-04-20T12:00:00Z", DATETIME, NOON),
        ("OpaqueRef:x", ref_to("VM"), "OpaqueRef:x"),
        ("", ref_to("VM"), NULL),
        (NULL, ref_to("VM"), NULL),
        ("Running", POWER_STATE, PowerState.RUNNING),
        ([], set_of(STRING), ()),
        (["a", "b"], set_of(STRING), ("a", "b")),
        (["1", 2], set_of(INT), (1, 2)),
        ({}, map_of(STRING, STRING), {}),
        ({"a": "1"}, map_of(STRING, INT), {"a": 1}),
        ({"start": "why"}, OPERATIONS, {VmOperation.START: "why"}),
        ({"a": []}, record_of("VM"), {"a": []}),
        ("anything", VOID, None),
    ],
)
def test_what_clients_send_is_taken(value: Any, kind: WireType, expected: Any) -> None:
    taken = from_wire(value, kind, "x")
    assert taken == expected
    assert type(taken) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "description"),
    [
        (3, STRING, ["FIELD_TYPE_ERROR", "x"]),
        (None, STRING, ["FIELD_TYPE_ERROR", "x"]),
        ("\ud800", STRING, ["INVALID_VALUE", "x", "\\ud800"]),
        ("three", INT, ["FIELD_TYPE_ERROR", "x"]),
        ("", INT, ["FIELD_TYPE_ERROR", "x"]),
        (3.5, INT, ["FIELD_TYPE_ERROR", "x"]),
        (True, INT, ["FIELD_TYPE_ERROR", "x"]),
        (None, INT, ["FIELD_TYPE_ERROR", "x"]),
        (LARGEST + 1, INT, ["INVALID_VALUE", "x", str(LARGEST + 1)]),
        (str(SMALLEST - 1), INT, ["INVALID_VALUE", "x", str(SMALLEST - 1)]),
        ("9" * 100, INT, ["INVALID_VALUE", "x", "9" * 40]),
        (float("inf"), INT, ["FIELD_TYPE_ERROR", "x"]),
        ("much", FLOAT, ["FIELD_TYPE_ERROR", "x"]),
        (True, FLOAT, ["FIELD_TYPE_ERROR", "x"]),
        (10**400, FLOAT, ["FIELD_TYPE_ERROR", "x"]),
        ("nan", FLOAT, ["INVALID_VALUE", "x", "nan"]),
        (float("-inf"), FLOAT, ["INVALID_VALUE", "x", "-inf"]),
        ("True", BOOL, ["FIELD_TYPE_ERROR", "x"]),
        (1, BOOL, ["FIELD_TYPE_ERROR", "x"]),
        ([], BOOL, ["FIELD_TYPE_ERROR", "x"]),
        ({}, BOOL, ["FIELD_TYPE_ERROR", "x"]),
        ("yesterday", DATETIME, ["FIELD_TYPE_ERROR", "x"]),
        (5, DATETIME, ["FIELD_TYPE_ERROR", "x"]),
        (5, ref_to("VM"), ["FIELD_TYPE_ERROR", "x"]),
        ("running", POWER_STATE, ["INVALID_VALUE", "x", "running"]),
        (["Running"], POWER_STATE, ["FIELD_TYPE_ERROR", "x"]),
        ("a", set_of(STRING), ["FIELD_TYPE_ERROR", "x"]),
        ([1], set_of(STRING), ["FIELD_TYPE_ERROR", "x"]),
        ([["a"]], map_of(STRING, STRING), ["FIELD_TYPE_ERROR", "x"]),
        ({"a": 1}, map_of(STRING, STRING), ["FIELD_TYPE_ERROR", "x:a"]),
        ({"fly": "why"}, OPERATIONS, ["INVALID_VALUE", "x", "fly"]),
        ([], record_of("VM"), ["FIELD_TYPE_ERROR", "x"]),
    ],
)
def test_the_wrong_type_is_refused_by_name(
    value: Any, kind: WireType, description: list[str]
) -> None:
    with pytest.raises(XenApiError) as refused:
        from_wire(value, kind, "x")
    assert refused.value.description == description


def test_a_time_of_another_zone_stays_that_moment() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=2)))
    assert from_wire(there.isoformat(), DATETIME, "x") == NOON


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=25),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
every_type = st.sampled_from(
    [
        STRING,
        INT,
        FLOAT,
        BOOL,
        DATETIME,
        ref_to("VM"),
        POWER_STATE,
        set_of(INT),
        map_of(STRING, INT),
        OPERATIONS,
        record_of("VM"),
    ]
)


@given_any(value=anything, kind=every_type)
def test_whatever_comes_is_taken_or_refused_as_a_xenapi_failure(value: Any, kind: WireType) -> None:
    try:
        taken = from_wire(value, kind, "x")
    except XenApiError:
        return
    if kind.kind not in {Kind.RECORD, Kind.DATETIME}:
        # What was taken goes out, and comes in again as the same.
        assert from_wire(to_wire(taken, kind), kind, "x") == taken


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (PowerState.RUNNING, POWER_STATE, "Running"),
        ((VmOperation.START,), wire_type(tuple[VmOperation, ...]), ["start"]),
        (
            {"t": VmOperation.START, "u": VmOperation.PAUSE},
            wire_type(dict[str, VmOperation]),
            {"t": "start", "u": "pause"},
        ),
        ({VmOperation.START: "x"}, OPERATIONS, {"start": "x"}),
        (("a",), set_of(STRING), ["a"]),
        (5, INT, 5),
        (None, VOID, None),
        (7, VOID, None),
        (HostRef(NULL), ref_to("host"), NULL),
    ],
)
def test_what_goes_out_is_plain(value: Any, kind: WireType, expected: Any) -> None:
    given_out = to_wire(value, kind)
    assert given_out == expected
    assert type(given_out) is type(expected)


# --- records


def full() -> Scenario:
    """A pool with at least one object of every class that can have one."""
    scenario = given(
        *a_pool(2),
        *running(),
        ev.VmStarted(vm=VM, host=HOST_2, incarnation=2, domid=3, console_rfb="x"),
        accepted(VmOperation.CLEAN_SHUTDOWN, host=HOST_2, incarnation=2),
    )
    scenario.skip_commands(2)
    scenario.when_called("VM.add_to_blocked_operations", VM, "start", "because").then_so()
    scenario.when_called("VM.set_tags", VM, ["a", "b"]).then_so()
    return scenario


@pytest.mark.parametrize("name", RECORD_BUILDERS)
def test_a_compiled_record_is_its_fields(name: str) -> None:
    """The hot path says exactly what every getter says."""
    scenario, model = full(), CLASS_BY_NAME[name]
    for record in getattr(scenario.pool, model.table).values():
        built = RECORD_BUILDERS[name](scenario.pool, record)
        assert built == {
            field.name: field_value(scenario.pool, record, field) for field in model.fields
        }
        assert list(built) == [field.name for field in model.fields]
        assert all(is_plain(value) for value in built.values()), name


def is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(each) for key, each in value.items())
    return type(value) in {str, int, float, bool, datetime}


def test_every_class_with_records_has_a_builder() -> None:
    assert [model.name for model in CLASSES if model.table] == list(RECORD_BUILDERS)


def test_constructor_values_name_what_is_missing() -> None:
    model = CLASS_BY_NAME["VM"]
    assert constructor_values(model, ("name_label", "order"), {"order": "3"}) == {"order": 3}
    with pytest.raises(InvalidValue) as refused:
        constructor_values(model, ("user_version",), {})
    assert refused.value.parameters == ("user_version", "(missing)")
