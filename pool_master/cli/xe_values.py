"""xe's texts to the API's values and back, as the datamodel's types say.

Rules: what xe accepts is accepted (sizes for memory, yes and no, names and uuids for references); what is shown reads as
xe shows it: references by uuid, sets and maps joined with semicolons, power states in lower case.
"""

from typing import Any, Final

from pool_master.cli.client import NULL, PoolClient
from pool_master.cli.failures import Misused
from pool_master.cli.lookup import find
from pool_master.cli.sizes import parse_size
from pool_master.core.classes import CLASS_BY_NAME
from pool_master.core.datamodel import STRING, Kind, WireType

NOT_IN_DATABASE: Final = "<not in database>"
_BOOLS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def fold(name: str) -> str:
    """Give a name as xe spells it, without its case: VCPUs_max is vcpus-max."""
    return name.replace("_", "-").lower()


def parse(client: PoolClient, text: str, wire_type: WireType, name: str) -> Any:  # noqa: PLR0911 - one arm per kind
    """Give the value that a text means.

    Raises:
        Misused: none of that type.
        NotFound: no such object.
    """
    match wire_type.kind:
        case Kind.INT:
            return int(text) if text.startswith("-") and text[1:].isdecimal() else parse_size(text)
        case Kind.FLOAT:
            return _float(text, name)
        case Kind.BOOL:
            return _bool(text, name)
        case Kind.ENUM:
            return _enum(text, wire_type, name)
        case Kind.REF:
            if not text:
                return NULL
            return find(client, wire_type.name, text) if wire_type.name in CLASS_BY_NAME else text
        case Kind.SET:
            parts = text.replace(";", ",").split(",")
            item = wire_type.item or STRING
            return [parse(client, part.strip(), item, name) for part in parts if part.strip()]
        case Kind.MAP:
            return _map(client, text, wire_type, name)
        case _:
            return text


def _float(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Misused(f"{name}={text}: not a number") from None


def _bool(text: str, name: str) -> bool:
    if text.lower() not in _BOOLS:
        raise Misused(f"{name}={text}: true or false")
    return _BOOLS[text.lower()]


def _enum(text: str, wire_type: WireType, name: str) -> str:
    assert wire_type.enum is not None
    known = {fold(member.value): member.value for member in wire_type.enum}
    if fold(text) not in known:
        raise Misused(f"{name}={text}: one of {', '.join(known.values())}")
    return str(known[fold(text)])


def _map(client: PoolClient, text: str, wire_type: WireType, name: str) -> dict[str, Any]:
    held = {}
    for part in text.replace(";", ",").split(","):
        if not part.strip():
            continue
        key, found, value = part.partition("=" if "=" in part else ":")
        if not found:
            raise Misused(f"{name}={text}: write a map as {name}:KEY=VALUE")
        held[key.strip()] = parse(client, value.strip(), wire_type.item or STRING, name)
    return held


class Shower:
    """Shows values; looks up the uuids of references once per class."""

    def __init__(self, client: PoolClient) -> None:
        self._client = client
        self._uuids: dict[str, dict[str, str]] = {}

    def show(self, value: Any, wire_type: WireType) -> str:  # noqa: PLR0911 - one arm per kind
        """Give a value as xe shows it."""
        match wire_type.kind:
            case Kind.BOOL:
                return str(value).lower()
            case Kind.FLOAT:
                return f"{float(value):.3f}"
            case Kind.ENUM:
                return value.lower() if wire_type.name == "vm_power_state" else str(value)
            case Kind.REF:
                return self._uuid(str(value), wire_type.name)
            case Kind.SET:
                return "; ".join(self.show(item, wire_type.item or STRING) for item in value)
            case Kind.MAP:
                key, item = wire_type.key or STRING, wire_type.item or STRING
                pairs = [(self.show(k, key), self.show(v, item)) for k, v in value.items()]
                return "; ".join(f"{k}: {v}" for k, v in sorted(pairs))
            case _:
                return "" if value is None else str(value)

    def _uuid(self, ref: str, class_name: str) -> str:
        if ref == NULL or class_name not in CLASS_BY_NAME:
            return NOT_IN_DATABASE
        if class_name not in self._uuids:
            has_all = CLASS_BY_NAME[class_name].has_get_all
            records = self._client.call(f"{class_name}.get_all_records") if has_all else {}
            self._uuids[class_name] = {held: record["uuid"] for held, record in records.items()}
        return self._uuids[class_name].get(ref, NOT_IN_DATABASE)
