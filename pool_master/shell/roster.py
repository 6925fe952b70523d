"""Which masters there are, and which log format each reads: one key that every master keeps its line in.

One job: tell the others of this master, and say who else lives.

Rules: a line's owner alone changes it, by compare-and-set on the key; another counts as living for `LIVING_S` after its line
last changed, by the reader's own clock. A master leads only while no living one reads an older log than it writes: so the
new version is written only once every living master reads it (docs/adr/0016-rolling-upgrade.md).
"""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from shared.bus import BusUnavailable, KeyValue, WrongLastSequence
from shared.codec import DecodeError, decode, encode

log = structlog.get_logger(__name__)

TELL_S: Final = 1.0
LIVING_S: Final = 5.0
ANSWER_S_MAX: Final = 2.0
TRIES_MAX: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterLine:
    """One master: where it answers, and the newest log format that it reads. `beat` counts its tellings.

    `reads` has no default: what equals one is left out of the bytes, and a newer reader's default is another.
    """

    name: str
    address: str
    reads: int
    beat: int = 0


@dataclass(frozen=True, slots=True)
class _Lines:
    masters: dict[str, MasterLine] = field(default_factory=dict)


class Roster:
    """This master's line, and what it has seen of the others'."""

    def __init__(self, key: KeyValue, me: MasterLine) -> None:
        self.me = me
        self.lines: dict[str, MasterLine] = {}
        self._key = key
        self._changed_at: dict[str, float] = {}
        self._is_told = False

    def living(self) -> list[MasterLine]:
        """Give the other masters that have told of themselves lately."""
        now = asyncio.get_running_loop().time()
        return [
            line
            for name, line in self.lines.items()
            if name != self.me.name and now - self._changed_at[name] < LIVING_S
        ]

    def may_lead(self) -> bool:
        """Whether every living master can read what this one would write."""
        return self._is_told and all(line.reads >= self.me.reads for line in self.living())

    async def keep(self) -> None:
        """Tell of this master until cancelled."""
        while True:
            await self.tell()
            await asyncio.sleep(TELL_S)

    async def tell(self) -> None:
        """Read the others' lines and write our own; where the store is away, next time."""
        for _ in range(TRIES_MAX):
            try:
                revision = await self._read()
                self.me = replace(self.me, beat=self.me.beat + 1)
                await self._write({**self.lines, self.me.name: self.me}, revision)
            except WrongLastSequence:
                continue
            except BusUnavailable as error:
                log.info("roster.untold", why=str(error))
            else:
                self._is_told = True
            return

    async def leave(self) -> None:
        """Take our line out: nobody need wait for this master. Best effort."""
        for _ in range(TRIES_MAX):
            try:
                revision = await self._read()
                others = {n: line for n, line in self.lines.items() if n != self.me.name}
                await self._write(others, revision)
            except WrongLastSequence:
                continue
            except BusUnavailable as error:
                log.info("roster.not_left", why=str(error))
            return

    async def _read(self) -> int:
        held = await self._key.get(timeout_s=ANSWER_S_MAX)
        revision, lines = (0, _Lines()) if held is None else (held[0], _decoded(held[1]))
        now = asyncio.get_running_loop().time()
        for name, line in lines.masters.items():
            if self.lines.get(name) != line:
                self._changed_at[name] = now
        self.lines = lines.masters
        return revision

    async def _write(self, lines: dict[str, MasterLine], revision: int) -> None:
        await self._key.put(encode(_Lines(lines)), revision=revision, timeout_s=ANSWER_S_MAX)


def _decoded(value: bytes) -> _Lines:
    try:
        return decode(value, _Lines)
    except DecodeError:
        return _Lines()
