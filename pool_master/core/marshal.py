"""Values to and from the wire, as the datamodel says.

Rules: everything here is derived from a field's or a parameter's type; a value of the wrong type is refused by name;
nulls, missing members and ints as strings are taken as existing clients send them (the wire reference).
"""

import functools
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, get_type_hints

from pool_master.core.datamodel import MANDATORY, ClassModel, Field, Kind, WireType
from shared.errors import FieldTypeError, InvalidValue
from shared.refs import NULL

RecordBuilder = Callable[[Any, Any], dict[str, Any]]
INT64: Final = range(-(2**63), 2**63)


def record_builder(model: ClassModel) -> RecordBuilder:
    """Give a function (pool, record) to the wire record of a class, compiled from its fields: it is the hot path."""
    namespace: dict[str, Any] = {}
    items = []
    for number, field in enumerate(model.fields):
        if field.derive is not None:
            namespace[f"derive_{number}"] = field.derive
            expression = f"derive_{number}(pool, record)"
        elif field.path:
            expression = "record." + ".".join(field.path)
        else:
            namespace[f"default_{number}"] = to_wire(field.default, field.type)
            items.append(f"{field.name!r}: default_{number}")
            continue
        items.append(f"{field.name!r}: {_plain(expression, field.type)}")
    source = "def build(pool, record):\n return {" + ",\n".join(items) + "}"
    exec(source, namespace)  # noqa: S102 - the source is made of the datamodel's own names
    builder: RecordBuilder = namespace["build"]
    return builder


def _plain(expression: str, wire_type: WireType) -> str:
    match wire_type:
        case WireType(kind=Kind.ENUM):
            return f"{expression}.value"
        case WireType(kind=Kind.SET, item=WireType(kind=Kind.ENUM)):
            return f"[item.value for item in {expression}]"
        case WireType(kind=Kind.SET):
            return f"list({expression})"
        case WireType(kind=Kind.MAP, key=WireType(kind=Kind.ENUM)):
            return f"{{key.value: value for key, value in {expression}.items()}}"
        case WireType(kind=Kind.MAP, item=WireType(kind=Kind.ENUM)):
            return f"{{key: value.value for key, value in {expression}.items()}}"
        case _:
            return expression


def field_value(pool: Any, record: Any, field: Field) -> Any:
    """Give one field of a record as it goes on the wire."""
    if field.derive is not None:
        return to_wire(field.derive(pool, record), field.type)
    value: Any = field.default
    if field.path:
        value = functools.reduce(getattr, field.path, record)
    return to_wire(value, field.type)


def to_wire(value: Any, wire_type: WireType) -> Any:
    """Give a value as it goes on the wire."""
    match wire_type.kind:
        case Kind.ENUM:
            return str(value.value)
        case Kind.SET:
            return [to_wire(item, _of(wire_type.item)) for item in value]
        case Kind.MAP:
            item = _of(wire_type.item)
            return {str(key): to_wire(kept, item) for key, kept in value.items()}
        case Kind.VOID:
            return None
        case _:
            return value


def _of(wire_type: WireType | None) -> WireType:
    assert wire_type is not None
    return wire_type


def from_wire(value: Any, wire_type: WireType, name: str) -> Any:  # noqa: PLR0911 - one return a case
    """Give what a client sent as a plain value of the type: enums checked, refs and ints normalised.

    Raises:
        FieldTypeError: the wrong type.
        InvalidValue: no member of the enum, or an int beyond 64 bits.
    """
    match wire_type.kind:
        case Kind.STRING:
            return _expect(value, str, name)
        case Kind.REF:
            return _expect(value, str, name) or NULL
        case Kind.INT:
            return _int(value, name)
        case Kind.FLOAT:
            return _float(value, name)
        case Kind.BOOL:
            return _bool(value, name)
        case Kind.DATETIME:
            return _datetime(value, name)
        case Kind.ENUM:
            return _enum(value, wire_type, name)
        case Kind.SET:
            items = _expect(value, list, name)
            return tuple(from_wire(item, _of(wire_type.item), name) for item in items)
        case Kind.MAP | Kind.RECORD:
            return _map(value, wire_type, name)
        case Kind.VOID:
            return None


def _expect(value: Any, expected: type, name: str) -> Any:
    if not isinstance(value, expected):
        raise FieldTypeError(name)
    if isinstance(value, str):
        _check_text(value, name)
    return value


def _check_text(value: str, name: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidValue(name, value.encode("ascii", "backslashreplace").decode()) from None


def _int(value: Any, name: str) -> int:
    if isinstance(value, str) and len(value) <= 20:
        try:
            value = int(value)
        except ValueError:
            raise FieldTypeError(name) from None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, str) or (isinstance(value, int) and value not in INT64):
        raise InvalidValue(name, str(value)[:40])
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldTypeError(name)
    return value


def _float(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise FieldTypeError(name)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise FieldTypeError(name) from None
    if not math.isfinite(number):
        # Neither JSON nor XML-RPC could give it back, and it is not equal to itself in a replay.
        raise InvalidValue(name, value)
    return number


def _bool(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in {"true", "false"}:
        return value == "true"
    raise FieldTypeError(name)


def _datetime(value: Any, name: str) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise FieldTypeError(name) from None
    if not isinstance(value, datetime):
        raise FieldTypeError(name)
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _enum(value: Any, wire_type: WireType, name: str) -> Any:
    assert wire_type.enum is not None
    try:
        return wire_type.enum(_expect(value, str, name))
    except ValueError:
        raise InvalidValue(name, value) from None


def _map(value: Any, wire_type: WireType, name: str) -> Any:
    members = _expect(value, dict, name)
    if wire_type.kind is Kind.RECORD:
        return members
    key, item = _of(wire_type.key), _of(wire_type.item)
    return {from_wire(k, key, name): from_wire(v, item, f"{name}:{k}") for k, v in members.items()}


@functools.cache
def constructor_type(request: type, parameter: str) -> Any:
    """Give the type of what a request's record parameter is made into."""
    return get_type_hints(request)[parameter]


def constructor_value(model: ClassModel, record_type: Any, members: Any) -> Any:
    """Give a record that a client sent as what it makes.

    Raises:
        InvalidValue: a mandatory member is missing.
    """
    return record_type(**constructor_values(model, record_type.__struct_fields__, members))


def constructor_values(model: ClassModel, names: tuple[str, ...], members: Any) -> dict[str, Any]:
    """Give the constructor's members of a record that a client sent, with defaults where they are missing.

    Raises:
        InvalidValue: a mandatory member is missing.
    """
    values: dict[str, Any] = {}
    for name in names:
        field = model.field(name)
        assert field is not None
        if name in members:
            values[name] = from_wire(members[name], field.type, name)
        elif field.default is MANDATORY:
            raise InvalidValue(name, "(missing)")
    return values
