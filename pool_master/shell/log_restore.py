"""Restoring the stream from a copy, when the store has lost it or its end.

One job: say whether copies and stream are one history, and append to the stream what only a copy has.

Rules: history is never forked. The stream is only ever made longer, with the same bytes at the same positions; a stream
that goes on after the copy, or has another record at any place, is refused, and so are copies that are not prefixes of each
other. Nothing is restored under a master that leads: it may have promised what has not reached its copy yet.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pool_master.core.records import Tail
from pool_master.shell.event_log import EventLog, LogConflict
from pool_master.shell.leadership import ANSWER_S_MAX, RENEW_S, LeaderKey, read_key
from pool_master.shell.log_verify import BATCH_RECORDS_MAX, Progress, verify
from pool_master.shell.mirror import Mirror
from shared.bus import KeyValue

# A leader that renews is seen to; one that cannot reach the store does not lead for long.
LEADER_LOOK_S: Final = 2.5 * RENEW_S


class RestoreRefused(Exception):
    """These are not one history, or somebody leads; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """The stream as it is, and the longest copy, `copies[source]`, that it is a part of."""

    stream: Tail
    copy: Tail
    source: int

    @property
    def missing(self) -> int:
        """How many records the stream lacks."""
        return self.copy.position - self.stream.position


async def plan_restore(
    log: EventLog, copies: Sequence[Mirror], progress: Progress = lambda _: None
) -> RestorePlan:
    """Hold the stream and all copies against each other, record by record.

    Raises:
        RestoreRefused: they are not one history, or the stream has more than any copy.
        LogUnavailable: the stream does not answer.
    """
    assert copies
    tails: list[Tail] = []
    stream = Tail()
    for number, copy in enumerate(copies, start=1):
        report = await verify(log, copy, progress)
        assert report.copy is not None
        if not (report.is_sound or report.is_stream_short):
            raise RestoreRefused(f"copy {number} and the stream are not one history: {report.told}")
        tails.append(report.copy)
        stream = report.stream
    source = max(range(len(copies)), key=lambda number: tails[number].position)
    await _one_history(copies, tails, source)
    if tails[source].position < stream.position:
        raise RestoreRefused(
            f"the stream has {stream.position} records, and the copy {tails[source].position}:"
            " nothing is lost that it could give back; a master's copy is completed when it starts"
        )
    return RestorePlan(stream=stream, copy=tails[source], source=source)


async def _one_history(copies: Sequence[Mirror], tails: Sequence[Tail], source: int) -> None:
    """Each copy must end with a record that the longest has: by the chain, all before it are the same."""
    for number, tail in enumerate(tails):
        if not tail.position:
            continue
        held = await copies[source].records(after=tail.position - 1, limit=1)
        if held[0].hash != tail.hash:
            raise RestoreRefused(
                f"copies {source + 1} and {number + 1} differ at record {tail.position} or before it:"
                " the pool has had two histories, and a person must choose"
            )


async def living_leader(key: KeyValue) -> str:
    """Give the name of the master that renews its leadership now, "" where none does.

    Raises:
        BusUnavailable: the store does not answer.
    """
    before = await key.get(timeout_s=ANSWER_S_MAX)
    leader: LeaderKey | None = read_key(before[1]) if before is not None else None
    if before is None or leader is None or leader.released:
        return ""
    await asyncio.sleep(LEADER_LOOK_S)
    after = await key.get(timeout_s=ANSWER_S_MAX)
    if after is None or after[0] == before[0]:
        return ""
    renewed = read_key(after[1])
    return "" if renewed is None or renewed.released else renewed.master


async def restore(
    log: EventLog, copy: Mirror, plan: RestorePlan, progress: Progress = lambda _: None
) -> int:
    """Append what the stream lacks; give how many records that was. Broken off, it can be done again.

    Raises:
        RestoreRefused: somebody else writes.
        LogUnavailable: the stream does not answer any more.
    """
    position = plan.stream.position
    while position < plan.copy.position:
        limit = min(BATCH_RECORDS_MAX, plan.copy.position - position)
        for record in await copy.records(after=position, limit=limit):
            try:
                position = await log.append(record.data, expected_position=position)
            except LogConflict as error:
                raise RestoreRefused(f"somebody else writes: {error}") from error
            progress(position)
    return position - plan.stream.position
