"""XML-RPC, writing: the exact bytes that clients get, and that their parsers read them."""

import xmlrpc.client
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from types import MappingProxyType
from xml.etree.ElementTree import fromstring

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_master.shell import xmlrpc as wire
from pool_master.shell.calls import Failure, Success, WireInt

NOON = datetime(2024, 4, 20, 12, 0, 0, tzinfo=UTC)


def success(value: str) -> bytes:
    return (
        '<?xml version="1.0"?><methodResponse><params><param><value><struct>'
        "<member><name>Status</name><value>Success</value></member>"
        f"<member><name>Value</name>{value}</member>"
        "</struct></value></param></params></methodResponse>"
    ).encode()


def read_back(body: bytes) -> object:
    """Read a reply as Python's own client does."""
    [[reply], _method] = [*xmlrpc.client.loads(body)]
    return reply


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "<value>text</value>"),
        ("<a & b>\r\n\t\"'", "<value>&lt;a &amp; b&gt;&#13;\n\t\"'</value>"),
        (Colour.RED, "<value>red</value>"),
        (None, "<value></value>"),
        (2**63 - 1, "<value>9223372036854775807</value>"),
        (WireInt(7), "<value><int>7</int></value>"),
        (True, "<value><boolean>1</boolean></value>"),
        (False, "<value><boolean>0</boolean></value>"),
        (0.5, "<value><double>0.5</double></value>"),
        (1e-7, "<value><double>0.0000001</double></value>"),
        (NOON, "<value><dateTime.iso8601>20240420T12:00:00Z</dateTime.iso8601></value>"),
        (
            datetime(2024, 4, 20, 14, tzinfo=timezone(timedelta(hours=2))),
            "<value><dateTime.iso8601>20240420T12:00:00Z</dateTime.iso8601></value>",
        ),
        (
            datetime.fromtimestamp(0, UTC),
            "<value><dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601></value>",
        ),
        ([], "<value><array><data></data></array></value>"),
        (
            ["a", 1, Colour.RED, (True,)],
            "<value><array><data><value>a</value><value>1</value><value>red</value><value><array>"
            "<data><value><boolean>1</boolean></value></data></array></value></data></array></value>",
        ),
        ({}, "<value><struct></struct></value>"),
        (
            {"a<": "b&", Colour.RED: 1, 0: False, "d": [], "e": Colour.RED},
            "<value><struct><member><name>a&lt;</name><value>b&amp;</value></member>"
            "<member><name>red</name><value>1</value></member>"
            "<member><name>0</name><value><boolean>0</boolean></value></member>"
            "<member><name>d</name><value><array><data></data></array></value></member>"
            "<member><name>e</name><value>red</value></member></struct></value>",
        ),
        (
            MappingProxyType({"vm": WireInt(3)}),
            "<value><struct><member><name>vm</name><value><int>3</int></value></member>"
            "</struct></value>",
        ),
    ],
)
def test_every_type_is_written_exactly(value: object, expected: str) -> None:
    assert wire.answer("VM.any", Success(value)) == success(expected)  # type: ignore[arg-type]
    assert wire.value_text(value) == expected  # type: ignore[arg-type]


def test_a_failure_is_an_envelope_of_strings_and_no_fault() -> None:
    assert wire.answer("VM.start", Failure(["VM_IS_TEMPLATE", "OpaqueRef:1"])) == (
        b'<?xml version="1.0"?><methodResponse><params><param><value><struct>'
        b"<member><name>Status</name><value>Failure</value></member>"
        b"<member><name>ErrorDescription</name><value><array><data>"
        b"<value>VM_IS_TEMPLATE</value><value>OpaqueRef:1</value></data></array></value></member>"
        b"</struct></value></param></params></methodResponse>"
    )


def test_list_methods_alone_answers_the_bare_array() -> None:
    assert wire.answer("system.listMethods", Success(["VM.start"])) == (
        b'<?xml version="1.0"?><methodResponse><params><param><value><array><data>'
        b"<value>VM.start</value></data></array></value></param></params></methodResponse>"
    )


def test_a_failing_list_methods_has_its_envelope() -> None:
    reply = read_back(wire.answer("system.listMethods", Failure(["INTERNAL_ERROR", "x"])))
    assert reply == {"Status": "Failure", "ErrorDescription": ["INTERNAL_ERROR", "x"]}


def test_a_fault_is_one_to_pythons_client() -> None:
    with pytest.raises(xmlrpc.client.Fault) as caught:
        xmlrpc.client.loads(wire.fault("no <call>"))
    assert (caught.value.faultCode, caught.value.faultString) == (-32600, "no <call>")


@pytest.mark.parametrize("value", [object(), {1.5: "x"}, {"a": {2, 3}}, b"bytes"])
def test_what_is_no_wire_value_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError):
        wire.answer("VM.any", Success(value))  # type: ignore[arg-type]


def test_references_and_strange_keys_do_not_drive_out_the_fields() -> None:
    wire.value_text({"name_label": ""})
    wire.value_text(
        {f"OpaqueRef:{number}": "" for number in range(wire._MEMBER_HEADS.ENTRIES_MAX + 1)}
    )
    assert "name_label" in wire._MEMBER_HEADS


def test_strange_keys_do_not_fill_the_memory() -> None:
    for number in range(3):
        wire.value_text({f"{number}-{index}": "" for index in range(4000)})
    assert len(wire._MEMBER_HEADS) <= wire._MEMBER_HEADS.ENTRIES_MAX


# Round trips

TEXTS = st.text(st.characters(codec=None, categories=None), max_size=30)
SAFE_TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), max_size=30
)
SCALARS = (
    SAFE_TEXTS
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1).map(WireInt)
    | st.floats(allow_nan=False, allow_infinity=False)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SAFE_TEXTS, inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(TREES)
def test_pythons_client_reads_what_was_written(value: object) -> None:
    reply = read_back(wire.answer("VM.any", Success(value)))  # type: ignore[arg-type]
    assert reply == {"Status": "Success", "Value": value}


@settings(deadline=None)
@given(TREES)
def test_the_reader_reads_what_was_written(value: object) -> None:
    written = wire.value_text(value)  # type: ignore[arg-type]
    body = f"<methodCall><methodName>a</methodName><params><param>{written}</param></params></methodCall>"
    assert wire.parse(body.encode()).parameters == [value]


@settings(deadline=None)
@given(TEXTS)
def test_no_text_kills_a_clients_parser(text: str) -> None:
    reply = read_back(wire.answer("VM.any", Success({text: text, "list": [text]})))
    assert isinstance(reply, dict)
    assert len(reply["Value"]) == (1 if text == "list" else 2)


@settings(deadline=None)
@given(TEXTS.filter(lambda text: all(ord(c) >= 0x20 or c in "\t\n\r" for c in text)))
def test_text_that_xml_can_carry_comes_back_as_it_was(text: str) -> None:
    carried = "".join(
        "\ufffd" if "\ud800" <= c <= "\udfff" or c in "\ufffe\uffff" else c for c in text
    )
    assert read_back(wire.answer("VM.any", Success(text))) == {
        "Status": "Success",
        "Value": carried,
    }


@pytest.mark.parametrize("text", ["\x00", "\x0b", "\x1f", "\ud800", "\ufffe"])
def test_what_xml_cannot_carry_is_replaced(text: str) -> None:
    assert wire.value_text(f"a{text}b") == "<value>a\ufffdb</value>"


@settings(deadline=None)
@given(TREES)
def test_there_is_no_text_between_elements(value: object) -> None:
    root = fromstring(wire.answer("VM.any", Success(value)))  # type: ignore[arg-type]
    for element in root.iter():
        assert element.tail is None
        if len(element) > 0:
            assert element.text is None
