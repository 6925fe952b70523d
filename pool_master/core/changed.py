"""A record with some fields changed: dataclasses.replace, for the hot path.

Why not `replace`: it runs the constructor, which for a frozen class sets every field through object.__setattr__; replay
of a log is mostly this. Here the slots are copied, and only they: records have no derived state and no __post_init__.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

R = TypeVar("R")


@functools.cache
def _copier(record_type: type) -> tuple[Callable[[Any], Any], dict[str, Callable[[Any, Any], None]]]:
    names: tuple[str, ...] = tuple(record_type.__dataclass_fields__)  # type: ignore[attr-defined]
    assert not hasattr(record_type, "__post_init__"), f"{record_type} has a __post_init__"
    setters = {name: getattr(record_type, name).__set__ for name in names}
    lines = [f"  set_{number}(new, old.{name})" for number, name in enumerate(names)]
    source = "\n".join(["def copy(old):", "  new = make(record_type)", *lines, "  return new"])
    namespace: dict[str, Any] = {
        "make": object.__new__,
        "record_type": record_type,
        **{f"set_{number}": setters[name] for number, name in enumerate(names)},
    }
    exec(source, namespace)  # noqa: S102 - the source is made of the record's own field names
    return namespace["copy"], setters


def changed(record: R, **changes: Any) -> R:
    """Give a copy of a frozen slots dataclass with these fields changed.

    Raises:
        KeyError: it has no such field.
    """
    copy, setters = _copier(type(record))  # type: ignore[arg-type]
    new: R = copy(record)
    for name, value in changes.items():
        setters[name](new, value)
    return new
