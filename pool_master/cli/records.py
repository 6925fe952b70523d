"""Records as the wire gives them, to plain values of the types that the datamodel says.

Rules: XML-RPC carries XenAPI's integers as strings and its dates as objects; programs that read our JSON get numbers and
ISO 8601.
"""

from typing import Any

from pool_master.core.classes import CLASS_BY_NAME
from pool_master.core.datamodel import STRING, Kind, WireType


def typed(value: Any, wire_type: WireType) -> Any:
    """Give a value as the type says; one that does not fit stays as it came."""
    match wire_type.kind:
        case Kind.INT:
            return int(value) if str(value).lstrip("-").isdecimal() else value
        case Kind.DATETIME:
            return iso_of(value)
        case Kind.SET:
            return [typed(item, wire_type.item or STRING) for item in value]
        case Kind.MAP:
            item = wire_type.item or STRING
            return {key: typed(held, item) for key, held in value.items()}
        case Kind.RECORD:
            return typed_record(value, wire_type.name)
        case _:
            return value


def typed_record(record: dict[str, Any], class_name: str) -> dict[str, Any]:
    """Give a whole record; members that we do not know stay as they came."""
    model = CLASS_BY_NAME.get(class_name)
    fields = {field.name: field.type for field in model.fields} if model else {}
    return {name: typed(value, fields.get(name, STRING)) for name, value in record.items()}


def iso_of(value: Any) -> str:
    """Give a XenAPI date, 20240420T12:00:00Z, as ISO 8601."""
    text = str(getattr(value, "value", value))
    if len(text) >= 17 and text[8] == "T" and text[:8].isdecimal():
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return text
