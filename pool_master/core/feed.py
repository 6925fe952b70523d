"""event.from: what changed since a token.

Rules: state-based, as XenAPI's: several changes of one object are one event, with the state at the end; a token is a
position in the log, so it outlives sessions and masters (invariant 10). Two zero-padded numbers joined by a comma: the
first is the log's sequence, the second counts nothing and is there because clients compare tokens as strings of that form.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pool_master.core.pool import TABLE_OF_CLASS, Pool
from shared.enums import EventOperation
from shared.errors import EventFromTokenParseFailure, EventSubscriptionParseFailure

TOKEN: Final = re.compile(r"(\d{1,20}),(\d{1,20})")


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a client wants to hear of: all, classes, or single objects."""

    is_everything: bool
    classes: frozenset[str]
    objects: frozenset[tuple[str, str]]

    def covers(self, object_class: str, ref: str) -> bool:
        """Whether this object is wanted."""
        if self.is_everything:
            return True
        name = object_class.lower()
        return name in self.classes or (name, ref) in self.objects


@dataclass(frozen=True, slots=True)
class Change:
    """One object's change, as an event record tells it."""

    sequence: int
    object_class: str
    operation: EventOperation
    ref: str


def parse_subscription(names: Sequence[str]) -> Subscription:
    """Read event.from's classes: "*", a class in any case, or "class/ref".

    Raises:
        EventSubscriptionParseFailure: anything else.
    """
    classes, objects = set(), set()
    for name in names:
        match name.split("/"):
            case ["*"]:
                return Subscription(True, frozenset(), frozenset())
            case [object_class] if object_class:
                classes.add(object_class.lower())
            case [object_class, ref] if object_class and ref:
                objects.add((object_class.lower(), ref))
            case _:
                raise EventSubscriptionParseFailure(name)
    return Subscription(False, frozenset(classes), frozenset(objects))


def token_of(sequence: int) -> str:
    """Give the token for a position of the log."""
    return f"{sequence:020d},{0:020d}"


def sequence_of(token: str) -> int:
    """Read a token; "" is the beginning.

    Raises:
        EventFromTokenParseFailure: not a token.
    """
    if token == "":
        return -1
    found = TOKEN.fullmatch(token)
    if found is None:
        raise EventFromTokenParseFailure(token)
    return int(found[1])


def changes_since(pool: Pool, subscription: Subscription, since: int) -> list[Change]:
    """Give what changed after the position `since`, adds and mods first, then dels; -1 gives everything as adds.

    A position that this log has not reached (a token of another pool, of a history that was lost) gives everything.
    """
    if since > pool.sequence:
        since = -1
    found = []
    for ref, stamp in reversed(pool.stamps.items()):
        if stamp.changed <= since:
            break
        if subscription.covers(stamp.object_class, ref):
            is_new = stamp.created > since
            operation = EventOperation.ADD if is_new else EventOperation.MOD
            found.append(Change(stamp.changed, stamp.object_class, operation, ref))
    found.sort(key=lambda change: (change.operation is EventOperation.MOD, change.sequence))
    if since >= 0:
        found += _deletions(pool, subscription, since)
    return found


def _deletions(pool: Pool, subscription: Subscription, since: int) -> list[Change]:
    gone = []
    for tombstone in reversed(pool.tombstones):
        if tombstone.destroyed <= since:
            break
        # Made and destroyed between two calls: the client never knew it. Back again under its old reference, as a host
        # that rejoins is: the client hears of it as it is now, and nothing after that.
        is_known = tombstone.created <= since and tombstone.ref not in pool.stamps
        if is_known and subscription.covers(tombstone.object_class, tombstone.ref):
            change = Change(
                tombstone.destroyed, tombstone.object_class, EventOperation.DEL, tombstone.ref
            )
            gone.append(change)
    return gone[::-1]


def valid_ref_counts(pool: Pool) -> dict[str, int]:
    """Give how many objects of each class there are, by which a client sees what it missed."""
    return {name.lower(): len(getattr(pool, table)) for name, table in TABLE_OF_CLASS.items()}
