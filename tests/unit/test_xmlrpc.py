"""XML-RPC, reading: what clients' bytes mean, and what is refused."""

import time
import xmlrpc.client
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_master.shell import xmlrpc as wire
from pool_master.shell.calls import NESTING_MAX, Call

NOON = datetime(2024, 4, 20, 12, 0, 0, tzinfo=UTC)


def request(value: str) -> bytes:
    return (
        "<methodCall><methodName>a.b</methodName><params><param>"
        f"<value>{value}</value></param></params></methodCall>"
    ).encode()


def parsed(value: str) -> object:
    [parameter] = wire.parse(request(value)).parameters
    return parameter


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        ("", ""),
        ("<string>text</string>", "text"),
        ("<string> kept \n</string>", " kept \n"),
        ("<string/>", ""),
        ("a &amp; b &#13;", "a & b \r"),
        ("<int>-5</int>", -5),
        ("<i4>5</i4>", 5),
        ("<i8>9223372036854775807</i8>", 2**63 - 1),
        ("\n <int> 7 </int>\n", 7),
        ("<boolean>1</boolean>", True),
        ("<boolean>0</boolean>", False),
        ("<double>-1.5e3</double>", -1500.0),
        ("<dateTime.iso8601>20240420T12:00:00Z</dateTime.iso8601>", NOON),
        ("<dateTime.iso8601>20240420T12:00:00</dateTime.iso8601>", NOON),
        ("<dateTime.iso8601>2024-04-20T12:00:00</dateTime.iso8601>", NOON),
        ("<dateTime.iso8601>2024-04-20T14:00:00+02:00</dateTime.iso8601>", NOON),
        ("<nil/>", ""),
        ('<x:nil xmlns:x="http://ws.apache.org/xmlrpc/namespaces/extensions"/>', ""),
        ("<array><data/></array>", []),
        ("<array><data><value>a</value><value><int>1</int></value></data></array>", ["a", 1]),
        ("<struct/>", {}),
        ("<struct><member><name>k</name><value>v</value></member></struct>", {"k": "v"}),
    ],
)
def test_every_type_a_client_sends_is_read(value: str, expected: object) -> None:
    got = parsed(value)
    assert (got, type(got)) == (expected, type(expected))


def test_a_date_without_zone_is_utc() -> None:
    got = parsed("<dateTime.iso8601>20240420T12:00:00</dateTime.iso8601>")
    assert isinstance(got, datetime)
    assert got.tzinfo is UTC


def test_what_pythons_client_writes_is_read() -> None:
    parameters = ("OpaqueRef:1", {"a": ["1", True, 1.5]}, None, "x & <y>\u00e9")
    body = xmlrpc.client.dumps(parameters, "VM.create", allow_none=True).encode()
    assert wire.parse(body) == Call(
        method="VM.create", parameters=["OpaqueRef:1", {"a": ["1", True, 1.5]}, "", "x & <y>\u00e9"]
    )


def test_a_call_without_params_has_none() -> None:
    body = b"<methodCall><methodName> system.listMethods </methodName></methodCall>"
    assert wire.parse(body) == Call(method="system.listMethods", parameters=[])


@pytest.mark.parametrize(
    "value",
    [
        "<int>1_000</int>",
        "<int>\u0661</int>",
        "<int></int>",
        "<int>9223372036854775808</int>",
        f"<int>{'9' * 5000}</int>",
        "<int>1<b/></int>",
        "<double>nan</double>",
        "<double>1e999</double>",
        "<boolean>yes</boolean>",
        "<dateTime.iso8601>yesterday</dateTime.iso8601>",
        "<dateTime.iso8601>0001-01-01T00:00:00+14:00</dateTime.iso8601>",
        "<base64>aGVsbG8=</base64>",
        "<blob/>",
        "<string>a</string><string>b</string>",
        "stray<int>1</int>",
        "<int>1</int>stray",
        "<array/>",
        "<array><data>stray</data></array>",
        "<array><data/><data/></array>",
        "<array><value>1</value></array>",
        "<struct><member><name>k</name></member></struct>",
        "<struct><member><value>k</value><value>k</value></member></struct>",
        "<struct><entry><name>k</name><value>v</value></entry></struct>",
    ],
)
def test_a_malformed_value_is_a_fault_and_nothing_else(value: str) -> None:
    with pytest.raises(wire.XmlRpcError):
        wire.parse(request(value))


@pytest.mark.parametrize(
    "body",
    [
        b"<html/>",
        b"<methodCall/>",
        b"<methodCall><methodName/></methodCall>",
        b"<methodCall><methodName>a</methodName><methodName>b</methodName></methodCall>",
        b"<methodCall><methodName>a</methodName><other/></methodCall>",
        b"<methodCall><methodName>a</methodName><params><value>1</value></params></methodCall>",
        b"<methodCall><methodName>a</methodName><params><param/></params></methodCall>",
        b"<methodResponse><params/></methodResponse>",
    ],
)
def test_xml_that_is_no_call_is_a_fault(body: bytes) -> None:
    with pytest.raises(wire.XmlRpcError):
        wire.parse(body)


BILLION_LAUGHS = (
    b'<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    b'<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>'
    b"<methodCall><methodName>&c;</methodName></methodCall>"
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"{}",
        b"<methodCall>",
        b"<methodCall></methodcall>",
        b"\xff\xfe\x00",
        b'<?xml version="1.0" encoding="klingon"?><methodCall/>',
        b'<?xml version="1.0" encoding="shift_jis"?><methodCall/>',
        b"<methodCall><methodName>\x01</methodName></methodCall>",
        b"<methodCall><methodName>\xff</methodName></methodCall>",
        b"<methodCall><methodName>&unknown;</methodName></methodCall>",
        b"<!DOCTYPE methodCall><methodCall/>",
        b'<!DOCTYPE m SYSTEM "http://localhost/x.dtd"><methodCall/>',
        b'<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/passwd">]><methodCall>&x;</methodCall>',
        b'<!DOCTYPE m [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]><methodCall/>',
        BILLION_LAUGHS,
    ],
)
def test_what_is_no_xml_or_dangerous_xml_is_refused(body: bytes) -> None:
    with pytest.raises(wire.XmlSyntaxError):
        wire.parse(body)


def nested(depth: int) -> str:
    return "<array><data><value>" * depth + "x" + "</value></data></array>" * depth


def test_nesting_is_read_to_the_bound_and_refused_beyond() -> None:
    parsed(nested(NESTING_MAX))
    with pytest.raises(wire.XmlRpcError, match="nested deeper"):
        parsed(nested(NESTING_MAX + 1))


@pytest.mark.parametrize(
    "body",
    [
        request(nested(20_000)),
        b"<a>" * 170_000 + b"</a>" * 170_000,
        b"<methodCall>" + b"<a/>" * 250_000 + b"</methodCall>",
        request("<array><data>" + "<value/>" * 120_000 + "<oops/></data></array>"),
    ],
    ids=["deep values", "deep elements", "many elements", "many values"],
)
def test_a_hostile_megabyte_costs_little(body: bytes) -> None:
    begin = time.process_time()
    with pytest.raises(wire.XmlRpcError):
        wire.parse(body)
    assert time.process_time() - begin < 20.0


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_escape_the_two_kinds_of_wrong(body: bytes) -> None:
    with pytest.raises((wire.XmlSyntaxError, wire.XmlRpcError)):
        wire.parse(body)


PIECES = st.sampled_from(
    [
        "<value>",
        "</value>",
        "<int>",
        "</int>",
        "<array>",
        "</array>",
        "<data>",
        "</data>",
        "<struct>",
        "</struct>",
        "<member>",
        "</member>",
        "<name>",
        "</name>",
        "<nil/>",
        "1",
        "-",
        "x",
    ]
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_no_scrambled_call_escapes_the_two_kinds_of_wrong(value: str) -> None:
    try:
        call = wire.parse(request(value))
    except (wire.XmlSyntaxError, wire.XmlRpcError):
        return
    assert call.method == "a.b"


def test_no_password_shows_in_a_calls_text() -> None:
    call = Call(method="session.login_with_password", parameters=["root", "secret"])
    assert "secret" not in repr(call)
