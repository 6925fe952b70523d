"""Recorded events to plain values and back, as commit records hold them.

Rules: the shape of one event is a list, [type, version, time_us, actor kind, actor name, session, command id, cause,
payload]; its sequence and term come from the record around it. What an older version wrote passes through upcast first.
"""

import functools
from typing import Any, Final

import msgspec

from pool_master.core.events import EVENT_TYPES, Actor, ActorKind, Event, Recorded
from pool_master.core.upcast import EVENT_VERSIONS, upcast
from shared.codec import DecodeError

EVENT_VERSION_DEFAULT: Final = 1


class UnknownEvent(DecodeError):
    """An event type that this version does not know: a newer master wrote it."""


def event_to_plain(recorded: Recorded) -> list[Any]:
    """Give an event as a commit record holds it."""
    name = type(recorded.event).__name__
    return [
        name,
        EVENT_VERSIONS.get(name, EVENT_VERSION_DEFAULT),
        recorded.time_us,
        recorded.actor.kind.value,
        recorded.actor.name,
        recorded.actor.session,
        recorded.command_id,
        recorded.cause,
        msgspec.to_builtins(recorded.event),
    ]


def event_from_plain(plain: list[Any], *, sequence: int, term: int) -> Recorded:
    """Give the event in a commit record's list.

    Raises:
        UnknownEvent: a type of a newer version.
        DecodeError: not an event.
    """
    try:
        name, version, time_us, kind, actor, session, command_id, cause, payload = plain
        if version != EVENT_VERSIONS.get(name, EVENT_VERSION_DEFAULT):
            payload = upcast(name, version, payload)
        event: Event = msgspec.convert(payload, _type_of(name))
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"event {sequence} does not decode: {error!r}") from error
    return Recorded(sequence, term, time_us, _actor(kind, actor, session), command_id, cause, event)


@functools.cache
def _type_of(name: str) -> type[Event]:
    if name not in EVENT_TYPES:
        raise UnknownEvent(f"event type {name} is of a newer version")
    return EVENT_TYPES[name]


@functools.lru_cache(maxsize=4096)
def _actor(kind: str, name: str, session: str) -> Actor:
    return Actor(ActorKind(kind), name, session)


def refs_of(event: Event) -> tuple[str, ...]:
    """Give the references of all objects that an event names, for the audit index."""
    return tuple(
        dict.fromkeys(
            value
            for name in event.__struct_fields__
            if isinstance(value := getattr(event, name), str)
            and value.startswith("OpaqueRef:")
            and value != "OpaqueRef:NULL"
        )
    )
