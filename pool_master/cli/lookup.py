"""From what people type to what the API takes: an object by name, uuid, the beginning of its uuid, or reference."""

import difflib
import re
from typing import Any, Final

from pool_master.cli.client import REFERENCE, PoolClient
from pool_master.cli.failures import NotFound, Refused

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UUID_START: Final = re.compile(r"[0-9a-fA-F]{4,}[0-9a-fA-F-]*")
NAMES_MAX: Final = 10


def find(client: PoolClient, class_name: str, text: str) -> str:
    """Give the reference of the one object that `text` means.

    Raises:
        NotFound: none, or several.
    """
    if text.startswith(REFERENCE):
        return text
    if _UUID.fullmatch(text) and (ref := _by_uuid(client, class_name, text)):
        return ref
    named = _by_name(client, class_name, text)
    if not named:
        return _by_search(client, class_name, text)
    if len(named) > 1:
        records = {ref: client.call(f"{class_name}.get_record", ref) for ref in named[:NAMES_MAX]}
        raise NotFound(_several(class_name, text, len(named), records))
    return str(named[0])


def _by_uuid(client: PoolClient, class_name: str, uuid: str) -> str:
    try:
        return str(client.call(f"{class_name}.get_by_uuid", uuid.lower()))
    except Refused as refusal:
        if refusal.code != "UUID_INVALID":
            raise
        return ""


def _by_name(client: PoolClient, class_name: str, name: str) -> list[Any]:
    try:
        return list(client.call(f"{class_name}.get_by_name_label", name)) if name else []
    except Refused as refusal:
        # Some classes have no names.
        if refusal.code != "MESSAGE_METHOD_UNKNOWN":
            raise
        return []


def _by_search(client: PoolClient, class_name: str, text: str) -> str:
    """Look at everything: the beginning of a uuid, or else a name that is nearly right."""
    try:
        records: dict[str, Any] = client.call(f"{class_name}.get_all_records")
    except Refused as refusal:
        if refusal.code != "MESSAGE_METHOD_UNKNOWN":
            raise
        raise NotFound(f"there is no {class_name} {text!r}") from None
    if _UUID_START.fullmatch(text):
        found = {ref: x for ref, x in records.items() if x["uuid"].startswith(text.lower())}
        if len(found) == 1:
            return next(iter(found))
        if found:
            raise NotFound(_several(class_name, text, len(found), found))
    # A uuid of other than hexadecimal form: hosts may have one.
    for ref, record in records.items():
        if record["uuid"] == text:
            return ref
    names = sorted({record.get("name_label", "") for record in records.values()} - {""})
    near = difflib.get_close_matches(text, names, n=3)
    hint = f": did you mean {' or '.join(near)}?" if near else ""
    if not records:
        hint = f": there is no {class_name} at all"
    raise NotFound(f"there is no {class_name} {text!r}{hint}")


def _several(class_name: str, text: str, count: int, records: dict[str, Any]) -> str:
    shown = [
        f"{record['uuid']} ({record.get('power_state') or record.get('status') or record.get('name_label', '')})"
        for record in list(records.values())[:NAMES_MAX]
    ]
    more = f" and {count - NAMES_MAX} more" if count > NAMES_MAX else ""
    return f"{count} {class_name}s are called {text!r}, say which by uuid: {', '.join(shown)}{more}"
