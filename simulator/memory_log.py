"""The log in memory, with the faults that a real one has.

One job: `EventLog` for the simulator: many masters share one `MemoryRecords`, each through a
`MemoryLog` of its own.

Rules: the same contract tests as JetStreamLog's; only the loop's clock; what happens to a call is
decided by the hook alone, so that a seed replays it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from pool_master.shell.event_log import LogConflict, LogUnavailable
from shared.bus import StoredMessage

SUBJECT = "log"


class Fault(Enum):
    """What happens to one call."""

    NONE = auto()
    LOST_ANSWER = auto()  # an append lands, and its caller does not learn it
    LOST_REQUEST = auto()  # nothing lands
    LATE_LANDING = auto()  # the caller gives up, and then it lands, if nobody was there before it
    UNAVAILABLE = auto()  # nobody answers at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What happens to one call, how long it takes, and when a late append lands."""

    fault: Fault = Fault.NONE
    latency_s: float = 0.0
    landing_s: float = 1.0


NO_FAULT = Fate()


@dataclass(slots=True)
class MemoryRecords:
    """The stream itself: what is durable."""

    records: list[bytes] = field(default_factory=list)

    def land(self, data: bytes, expected_position: int) -> bool:
        """Store if nobody has been there; a record that is already there has landed, too."""
        if len(self.records) == expected_position:
            self.records.append(data)
        return len(self.records) > expected_position and self.records[expected_position] == data


class MemoryLog:
    """`EventLog` over shared records; `fate(operation)` is asked once a call: append, read or
    last."""

    def __init__(
        self, records: MemoryRecords, fate: Callable[[str], Fate] = lambda _: NO_FAULT
    ) -> None:
        self._records = records
        self._fate = fate

    async def append(self, data: bytes, *, expected_position: int) -> int:
        """Append by compare-and-set."""
        fate = self._fate("append")
        await asyncio.sleep(fate.latency_s)
        unknown = LogUnavailable(f"after position {expected_position}: {fate.fault.name}")
        match fate.fault:
            case Fault.LOST_REQUEST | Fault.UNAVAILABLE:
                raise unknown
            case Fault.LATE_LANDING:
                loop = asyncio.get_running_loop()
                loop.call_later(fate.landing_s, self._records.land, data, expected_position)
                raise unknown
            case Fault.LOST_ANSWER:
                self._records.land(data, expected_position)
                raise unknown
            case Fault.NONE:
                if expected_position > len(self._records.records) or not self._records.land(
                    data, expected_position
                ):
                    raise LogConflict(expected_position)
                return expected_position + 1

    async def read(self, *, after: int, limit: int) -> list[StoredMessage]:
        """Read records in order."""
        await self._pass("read")
        found = self._records.records[after : after + limit]
        return [
            StoredMessage(position, SUBJECT, data)
            for position, data in enumerate(found, start=after + 1)
        ]

    async def last(self) -> StoredMessage | None:
        """Read the last record."""
        await self._pass("last")
        records = self._records.records
        return StoredMessage(len(records), SUBJECT, records[-1]) if records else None

    async def _pass(self, operation: str) -> None:
        fate = self._fate(operation)
        await asyncio.sleep(fate.latency_s)
        if fate.fault is not Fault.NONE:
            raise LogUnavailable(f"{operation}: {fate.fault.name}")
