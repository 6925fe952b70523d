"""The past: how events of older versions read today. The only place that knows it.

Rules: an event type whose meaning changed gets the next version in EVENT_VERSIONS and a step in UPCASTS from the one
before; a field that was merely added has a default and needs neither.
"""

from collections.abc import Callable
from typing import Any, Final

from shared.codec import DecodeError

EVENT_VERSIONS: Final[dict[str, int]] = {}  # types that are past version 1
UPCASTS: Final[dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]]] = {}


def upcast(name: str, version: int, payload: dict[str, Any]) -> dict[str, Any]:
    """Give the payload of an older version as today's.

    Raises:
        DecodeError: a version that nobody knows, a newer one for instance.
    """
    newest = EVENT_VERSIONS.get(name, 1)
    while version < newest:
        payload = UPCASTS[name, version](payload)
        version += 1
    if version != newest:
        raise DecodeError(f"{name} version {version} is newer than this program's {newest}")
    return payload
