"""A map of records that can be forked.

One job: let the writer decide a whole batch of commands against what the state would become, and throw that away when
the log refuses; and let anybody ask "what if" without copying the pool.

Rules: records are immutable, so a fork shares them; iteration follows insertion, in a fork as in the original, so that
the same log gives the same order everywhere; a fork is never written through to its base.
"""

from collections.abc import Iterator, MutableMapping
from typing import Final, Generic, TypeVar, cast

K = TypeVar("K")
V = TypeVar("V")

_GONE: Final = object()


class Table(dict[K, V]):
    """The records themselves: a dict, at a dict's speed, that can be forked."""

    __slots__ = ()

    def fork(self) -> "Fork[K, V]":
        """Give a table that starts equal and goes its own way; cheap."""
        return Fork(self)


class Fork(MutableMapping[K, V], Generic[K, V]):
    """A table's fork: what differs from its base, over the base, which must not change meanwhile."""

    __slots__ = ("_base", "_changes", "_length", "_returned")

    def __init__(self, base: dict[K, V]) -> None:
        self._base = base
        self._changes: dict[K, object] = {}
        self._length = len(base)
        self._returned: dict[K, None] = {}  # Keys of the base that were deleted and set again.

    def fork(self) -> "Fork[K, V]":
        """Give a fork of this fork."""
        twin: Fork[K, V] = Fork(self._base)
        twin._changes = dict(self._changes)
        twin._length = self._length
        twin._returned = dict(self._returned)
        return twin

    def __getitem__(self, key: K) -> V:
        value = self._changes.get(key, None)
        if value is None:
            return self._base[key]
        if value is _GONE:
            raise KeyError(key)
        return cast("V", value)

    def __setitem__(self, key: K, value: V) -> None:
        if key not in self:
            self._length += 1
            if self._changes.pop(key, None) is _GONE:
                # As in a dict, what was deleted comes back at the end.
                self._returned = {**self._returned, key: None}
        self._changes[key] = value

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._length -= 1
        self._changes.pop(key, None)
        if key in self._base:
            self._changes[key] = _GONE

    def __contains__(self, key: object) -> bool:
        value = self._changes.get(cast("K", key), None)
        return key in self._base if value is None else value is not _GONE

    def __iter__(self) -> Iterator[K]:
        changes, returned = self._changes, self._returned
        for key in self._base:
            if key not in returned and changes.get(key) is not _GONE:
                yield key
        for key, value in changes.items():
            if (key not in self._base or key in returned) and value is not _GONE:
                yield key

    def __len__(self) -> int:
        return self._length


Records = Table[K, V] | Fork[K, V]  # what a Pool holds, whether it is the true one or a fork
