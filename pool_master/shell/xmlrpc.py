"""XML-RPC: bytes to a call, an outcome to bytes.

Rules of the writer: no whitespace between elements (a common client's parser dies on it);
integers are decimal strings, as XenAPI has them, except a `WireInt`; strings are bare in
`<value>`; what XML cannot carry (control characters, lone surrogates) is replaced by U+FFFD, so
no reply kills a client's parser.

Rules of the reader: DTDs, entities and external references are refused before anything is
expanded; nesting is bounded; numbers are 64 bits. Two kinds of wrong, because clients' libraries
tell them apart: what is no XML raises `XmlSyntaxError` (HTTP 400: this is no XML-RPC client at
all), XML that is no XML-RPC call raises `XmlRpcError` (a fault, which every XML-RPC library turns
into a readable error).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, TypeAlias
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pool_master.shell.calls import (
    INT64_MAX,
    INT64_MIN,
    NESTING_MAX,
    Call,
    Failure,
    JsonLike,
    Success,
    WireError,
    WireInt,
    WireValue,
    format_datetime,
    parse_datetime,
)
from shared.refs import REF_PREFIX

# The one message that xapi answers without the Status envelope.
LIST_METHODS: Final = "system.listMethods"
FAULT_NOT_A_CALL: Final = -32600  # the XML-RPC fault-code convention's "invalid XML-RPC"


class XmlSyntaxError(WireError):
    """The body is not XML, or is XML that nobody should parse."""


class XmlRpcError(WireError):
    """The body is XML, but no XML-RPC call."""


# Reading


def parse(body: bytes) -> Call:
    """Read one call, or raise `XmlSyntaxError` or `XmlRpcError`."""
    try:
        root: Element = fromstring(body, forbid_dtd=True)
    except DefusedXmlException as error:
        raise XmlSyntaxError("document type declarations and entities are refused") from error
    except (ParseError, ValueError, LookupError) as error:
        raise XmlSyntaxError(f"not well-formed XML: {error}") from error
    try:
        return _call(root)
    except XmlRpcError:
        raise
    except WireError as error:
        raise XmlRpcError(str(error)) from error


def _call(root: Element) -> Call:
    if _tag(root) != "methodCall":
        raise XmlRpcError(f"expected methodCall, not {_tag(root)}")
    children = {_tag(child): child for child in _children(root)}
    if len(children) != len(root) or not children.keys() <= {"methodName", "params"}:
        raise XmlRpcError("methodCall holds one methodName and one params")
    method = children["methodName"].text if "methodName" in children else None
    if method is None or not method.strip():
        raise XmlRpcError("methodName is missing")
    params = children.get("params")
    return Call(
        method=method.strip(),
        parameters=[] if params is None else [_param(child) for child in _children(params)],
    )


def _param(element: Element) -> JsonLike:
    if _tag(element) != "param":
        raise XmlRpcError(f"expected param, not {_tag(element)}")
    return _value(_only_child(element, "value"), 0)


def _value(element: Element, depth: int) -> JsonLike:
    if _tag(element) != "value":
        raise XmlRpcError(f"expected value, not {_tag(element)}")
    if depth > NESTING_MAX:
        raise XmlRpcError(f"values are nested deeper than {NESTING_MAX}")
    if len(element) == 0:
        return element.text or ""
    if len(element) > 1:
        raise XmlRpcError("a value holds one element")
    [typed] = _children(element)
    kind = _tag(typed)
    if kind == "array":
        return [_value(child, depth + 1) for child in _children(_only_child(typed, "data"))]
    if kind == "struct":
        return dict(_member(child, depth + 1) for child in _children(typed))
    read = _SCALARS.get(kind)
    if read is None:
        raise XmlRpcError(f"values of type {kind} are not accepted")
    if len(typed) > 0:
        raise XmlRpcError(f"{kind} holds text only")
    return read(typed.text or "")


def _member(element: Element, depth: int) -> tuple[str, JsonLike]:
    parts = {_tag(child): child for child in _children(element)}
    if _tag(element) != "member" or len(element) != 2 or parts.keys() != {"name", "value"}:
        raise XmlRpcError("a struct holds members of one name and one value")
    return parts["name"].text or "", _value(parts["value"], depth)


def _only_child(element: Element, name: str) -> Element:
    children = _children(element)
    if len(children) != 1 or _tag(children[0]) != name:
        raise XmlRpcError(f"{_tag(element)} holds one {name}")
    return children[0]


def _children(element: Element) -> list[Element]:
    """Give the elements in `element`, which holds no text beside them."""
    children = list(element)
    if any(text and not text.isspace() for text in [element.text, *(c.tail for c in children)]):
        raise XmlRpcError(f"{_tag(element)} holds stray text")
    return children


def _tag(element: Element) -> str:
    # Extensions (ex:i8, ex:nil) come with a namespace; the local name says it all.
    return element.tag.rpartition("}")[2]


_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_DOUBLE: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII)
_BOOLEANS: Final = {"1": True, "0": False, "true": True, "false": False}


def _integer(text: str) -> int:
    # int() alone would take "1_000", other scripts' digits, and a megabyte of them.
    if not _INTEGER.fullmatch(text.strip()):
        raise XmlRpcError(f"{text[:40]!r} is not an integer")
    number = int(text)
    if not INT64_MIN <= number <= INT64_MAX:
        raise XmlRpcError(f"{text.strip()} does not fit 64 bits")
    return number


def _double(text: str) -> float:
    number = float(text) if _DOUBLE.fullmatch(text.strip()) else math.inf
    if math.isinf(number):
        raise XmlRpcError(f"{text[:40]!r} is not a finite double")
    return number


def _boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.strip()]
    except KeyError as error:
        raise XmlRpcError(f"{text[:40]!r} is not a boolean") from error


def _nil(_text: str) -> str:
    return ""


def _base64(_text: str) -> JsonLike:
    raise XmlRpcError("base64 is not accepted: XenAPI has no binary type")


_SCALARS: Final[Mapping[str, Callable[[str], JsonLike]]] = {
    "string": str,
    "int": _integer,
    "i4": _integer,
    "i8": _integer,
    "boolean": _boolean,
    "double": _double,
    "dateTime.iso8601": parse_datetime,
    "nil": _nil,
    "base64": _base64,
}


# Writing

_HEAD: Final = '<?xml version="1.0"?><methodResponse>'
_SUCCESS: Final = (
    "<params><param><value><struct><member><name>Status</name><value>Success</value></member>"
    "<member><name>Value</name>"
)
_FAILURE: Final = (
    "<params><param><value><struct><member><name>Status</name><value>Failure</value></member>"
    "<member><name>ErrorDescription</name>"
)
_ENVELOPE_END: Final = "</member></struct></value></param></params></methodResponse>"


def answer(method: str, outcome: Success | Failure) -> bytes:
    """Write the reply to a call of `method`; a value that is no wire value raises TypeError."""
    pieces: list[str] = [_HEAD]
    match outcome:
        case Success(value=value) if method == LIST_METHODS:
            pieces.append("<params><param>")
            _write(value, pieces.append)
            pieces.append("</param></params></methodResponse>")
        case Success(value=value):
            pieces.append(_SUCCESS)
            _write(value, pieces.append)
            pieces.append(_ENVELOPE_END)
        case Failure(description=description):
            pieces.append(_FAILURE)
            _write(description, pieces.append)
            pieces.append(_ENVELOPE_END)
    return "".join(pieces).encode()


def fault(text: str, *, code: int = FAULT_NOT_A_CALL) -> bytes:
    """Write an XML-RPC fault: the answer to what is XML but no call."""
    pieces: list[str] = [_HEAD, "<fault>"]
    _write({"faultCode": WireInt(code), "faultString": text}, pieces.append)
    pieces.append("</fault></methodResponse>")
    return "".join(pieces).encode()


def value_text(value: WireValue) -> str:
    """Give `<value>...</value>` for one value, the form in which a task keeps its result."""
    pieces: list[str] = []
    _write(value, pieces.append)
    return "".join(pieces)


_Put: TypeAlias = Callable[[str], object]


def _write(value: WireValue, put: _Put) -> None:
    put("<value>")
    (_WRITERS.get(type(value)) or _writer_of_subclass(value))(value, put)
    put("</value>")


# A pool's records are millions of values, and a call for each of them is where the time goes: so
# the two loops below write the frequent types in place, and know them by exact type.


def _write_struct(value: Mapping[object, WireValue], put: _Put) -> None:
    heads = _MEMBER_HEADS
    put("<struct>")
    for key, item in value.items():
        kind = type(item)
        if kind is str:
            put(f"{heads[key]}{_escaped(item)}</value></member>")  # type: ignore[arg-type]
        elif kind is int:
            put(f"{heads[key]}{item}</value></member>")
        elif kind is bool:
            put(f"{heads[key]}<boolean>{item:d}</boolean></value></member>")
        else:
            put(heads[key])
            (_WRITERS.get(kind) or _writer_of_subclass(item))(item, put)
            put("</value></member>")
    put("</struct>")


def _write_array(value: Sequence[WireValue], put: _Put) -> None:
    put("<array><data>")
    for item in value:
        if type(item) is str:
            put(f"<value>{_escaped(item)}</value>")
        else:
            put("<value>")
            (_WRITERS.get(type(item)) or _writer_of_subclass(item))(item, put)
            put("</value>")
    put("</data></array>")


# Records come by reference, each once: keeping those would drive out the fields.
_REF_MEMBER: Final = f"<member><name>{REF_PREFIX}"


class _MemberHeads(dict[object, str]):
    """The beginning of a member, by its name: fields are few and recur in every record."""

    ENTRIES_MAX: Final = 4096

    def __missing__(self, key: object) -> str:
        if not isinstance(key, str | int):
            raise TypeError(f"{type(key).__name__} cannot be a member's name")
        head = f"<member><name>{_escaped(str(key))}</name><value>"
        if not head.startswith(_REF_MEMBER):
            # Maps have keys of clients' making too: those must not fill the memory.
            if len(self) >= self.ENTRIES_MAX:
                self.clear()
            self[key] = head
        return head


_MEMBER_HEADS: Final = _MemberHeads()


def _write_double(value: float, put: _Put) -> None:
    text = repr(value)
    # XML-RPC's doubles have no exponent, and not every client's parser knows one.
    if "e" in text:
        text = format(Decimal(text), "f")
    put(f"<double>{text}</double>")


_WRITERS: Final[dict[type, Callable[..., object]]] = {
    str: lambda value, put: put(_escaped(value)),
    dict: _write_struct,
    list: _write_array,
    tuple: _write_array,
    int: lambda value, put: put(f"{value:d}"),
    WireInt: lambda value, put: put(f"<int>{value:d}</int>"),
    bool: lambda value, put: put(f"<boolean>{value:d}</boolean>"),
    float: _write_double,
    datetime: lambda value, put: put(
        f"<dateTime.iso8601>{format_datetime(value)}</dateTime.iso8601>"
    ),
    type(None): lambda _value, _put: None,
}


def _writer_of_subclass(value: object) -> Callable[..., object]:
    """Find the writer of an enumeration or other subclass; the next is found by exact type."""
    for kind in (str, WireInt, int, float, datetime, list, tuple, dict):
        if isinstance(value, kind):
            _WRITERS[type(value)] = _WRITERS[kind]
            return _WRITERS[kind]
    if isinstance(value, Mapping):
        return _write_struct
    raise TypeError(f"{type(value).__name__} is no wire value")


# Carriage return is legal but would be read back as a line feed, so it goes as a reference.
_SPECIAL: Final = re.compile("[&<>\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_REPLACEMENTS: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}


def _escaped(text: str) -> str:
    # What is printable holds no control character and no surrogate; asking is far faster than the
    # pattern.
    if text.isprintable() and "&" not in text and "<" not in text and ">" not in text:
        return text
    return _SPECIAL.sub(lambda match: _REPLACEMENTS.get(match[0], "\ufffd"), text)
