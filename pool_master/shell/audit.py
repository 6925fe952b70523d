"""The audit trail: events of the log as the copy's index finds them, in plain maps for clients.

Rules: what is told is read from the records themselves, so it is the log and nothing else; an answer is bounded, and
continued by the sequence of its last event.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from pool_master.core.event_codec import refs_of
from pool_master.core.events import Recorded
from pool_master.core.records import unseal
from pool_master.shell.changes import ANY, Changes
from pool_master.shell.follower import events_of
from pool_master.shell.mirror import AuditQuery, Mirror
from pool_master.shell.writer import Writer
from shared.codec import moment_from_us, moment_to_us, to_plain
from shared.errors import HostStillBooting, InvalidValue

LIMIT_MAX: Final = 1_000
WAIT_S_MAX: Final = 60.0
POLL_S: Final = 0.05
COPY_S_MAX: Final = 5.0
KEYS: Final = ("ref", "actor", "since", "until", "type", "command_id", "after", "limit", "wait")


class Audit:
    """Answers event.get_log."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    async def find(
        self, wanted: Mapping[str, str], changes: Changes, writer: Writer
    ) -> list[dict[str, str]]:
        """Give the events that fit, oldest first; with `wait`, not before there is one, or the time is up.

        What is in the log now is found: a client reads what it has just done.

        Raises:
            InvalidValue: an unknown key, or a value that means nothing.
            HostStillBooting: this master has stopped leading meanwhile.
        """
        query, wait_s = _parse(wanted)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            position = writer.tail.position
            await self._copied(position)
            found = await self._find(query)
            left_s = deadline - loop.time()
            if found or left_s <= 0:
                return found
            if not writer.is_open:
                raise HostStillBooting()
            if writer.tail.position == position:
                await changes.wait(ANY, left_s)

    async def _copied(self, position: int) -> None:
        """Wait, within bounds, until the copy has the record at `position`: it follows the log by a moment."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + COPY_S_MAX
        while loop.time() < deadline:
            tail = await self._mirror.tail()
            if tail is not None and tail.position >= position:
                return
            await asyncio.sleep(POLL_S)

    async def _find(self, query: AuditQuery) -> list[dict[str, str]]:
        told, cached = [], (0, [])  # type: tuple[list[dict[str, str]], tuple[int, list[Recorded]]]
        for row in await self._mirror.audit(query):
            if cached[0] != row.position:
                records = await self._mirror.records(after=row.position - 1, limit=1)
                cached = (row.position, events_of(unseal(records[0].data)))
            told.append(tell(cached[1][row.sequence - cached[1][0].sequence]))
        return told


def tell(recorded: Recorded) -> dict[str, str]:
    """Give one event of the log as a map of strings."""
    actor = recorded.actor
    return {
        "sequence": str(recorded.sequence),
        "id": recorded.event_id,
        "term": str(recorded.term),
        "time": moment_from_us(recorded.time_us).isoformat(timespec="milliseconds"),
        "type": type(recorded.event).__name__,
        "actor": f"{actor.kind}:{actor.name}",
        "session": actor.session,
        "cause": recorded.cause,
        "command_id": recorded.command_id,
        "refs": " ".join(refs_of(recorded.event)),
        "detail": orjson.dumps(to_plain(recorded.event), default=str).decode(),
    }


def _parse(wanted: Mapping[str, str]) -> tuple[AuditQuery, float]:
    for key in wanted:
        if key not in KEYS:
            raise InvalidValue(key, f"unknown; known are {', '.join(KEYS)}")
    query = AuditQuery(
        object_ref=wanted.get("ref", ""),
        actor=wanted.get("actor", "").rpartition(":")[2],
        event_type=wanted.get("type", ""),
        command_id=wanted.get("command_id", ""),
        since_us=_moment(wanted, "since"),
        until_us=_moment(wanted, "until"),
        after_sequence=_number(wanted, "after", 0, 2**62),
        limit=_number(wanted, "limit", 100, LIMIT_MAX),
    )
    return query, float(_number(wanted, "wait", 0, int(WAIT_S_MAX)))


def _moment(wanted: Mapping[str, str], key: str) -> int:
    text = wanted.get(key, "")
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidValue(key, text) from None
    return moment_to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _number(wanted: Mapping[str, str], key: str, default: int, most: int) -> int:
    text: Any = wanted.get(key, default)
    try:
        number = int(text)
    except ValueError:
        raise InvalidValue(key, text) from None
    if not 0 <= number <= most:
        raise InvalidValue(key, f"{text}, at most {most}")
    return number
