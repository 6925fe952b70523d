"""Plain values to what records hold, by the annotation of the field."""

import functools
from typing import Any, get_type_hints

from pool_master.core.datamodel import EMPTY_MAP
from shared.codec import from_plain


@functools.cache
def _annotations(record: type) -> dict[str, Any]:
    return get_type_hints(record)


def stored_value(record: type, field: str, plain: Any) -> Any:
    """Give `plain`, as an event holds it, as the record's field holds it."""
    if plain == {}:
        return EMPTY_MAP
    return from_plain(plain, _annotations(record)[field])
