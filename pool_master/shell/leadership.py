"""Who leads: a key changed only by compare-and-set on its revision.

One job: win the key, keep it, and say how long this master may still act on having won it.

Rules: the revision at take-over is the term; clocks never decide who may write, the log does; a standby takes the key
only after it has seen no change for `silence_s` while its own probe writes succeed, since a store that is away is no
proof of a dead leader; authority counts from when the last successful renewal was sent, and is lost before a successor
may count on it.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from shared.bus import BusUnavailable, KeyValue, WrongLastSequence
from shared.codec import DecodeError, decode, encode

log = structlog.get_logger(__name__)

RENEW_S: Final = 1.0
SILENCE_S: Final = 3.0
ANSWER_S_MAX: Final = 2.0
ANYBODY_ELSE: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderKey:
    """What the key holds: who leads, and, where it ran, by which process.

    `beat` counts renewals; `released` says that the leader has stopped, and `heir` who is to follow ("": whoever is first,
    "*": anybody else); `process` is boot id, pid and start time of the
    leader's process, by which a supervisor on the same machine can tell that it is dead.
    """

    master: str
    address: str
    process: str
    beat: int = 0
    released: bool = False
    heir: str = ""


def own_process() -> str:
    """Give the identity of this process: no other process of any boot of any machine has it."""
    return process_identity(os.getpid())


def process_identity(pid: int) -> str:
    """Give a process's identity, "" where there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
    return f"{boot}/{pid}/{started}"


def is_surely_dead(process: str) -> bool:
    """Whether that process ran on this machine and is gone: then nobody need wait for it."""
    parts = process.split("/")
    if len(parts) != 3:
        return False
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return False
    return parts[0] == boot and process_identity(int(parts[1])) != process


@dataclass(frozen=True, slots=True)
class Election:
    """A won key. `grace_s` is how long the predecessor may still grant leases."""

    term: int
    grace_s: float


class Leadership:
    """One master's part in deciding who leads."""

    def __init__(
        self,
        key: KeyValue,
        probe: KeyValue,
        me: LeaderKey,
        *,
        authority_s: float,
        silence_s: float = SILENCE_S,
        may_lead: Callable[[], bool] = lambda: True,
    ) -> None:
        self.leader: LeaderKey | None = None
        self._key = key
        self._probe = probe
        self._me = me
        self._authority_s = authority_s
        self._silence_s = silence_s
        self._may_lead = may_lead
        self._revision = 0
        self._authority_until = 0.0
        self.answered_at = 0.0

    def has_authority(self) -> bool:
        """Whether this master may still grant leases and trust that nobody else does."""
        return asyncio.get_running_loop().time() < self._authority_until

    async def campaign(self) -> Election:
        """Wait until the key can be taken, and take it."""
        loop = asyncio.get_running_loop()
        seen, since = -1, loop.time()
        while True:
            try:
                held = await self._key.get(timeout_s=ANSWER_S_MAX)
                revision, value = held or (0, b"")
                self.leader = read_key(value)
                if revision != seen:
                    seen, since = revision, loop.time()
                free = self._is_free(loop.time() - since)
                if free is not None and self._may_lead() and await self._store_works():
                    return await self._take(revision, grace_s=free)
            except BusUnavailable as error:
                log.warning("leadership.store_unavailable", why=str(error))
                seen, since = -1, loop.time()
            except WrongLastSequence:
                log.info("leadership.lost_race")
            await asyncio.sleep(self._silence_s / 20)

    def _is_free(self, silent_s: float) -> float | None:
        """Say whether the key may be taken; gives the predecessor's remaining authority, None where it may not."""
        if self.leader is None:
            return 0.0
        if self.leader.released:
            # One that was named, and does not come, is waited for like a leader that has fallen silent.
            return 0.0 if self._is_heir(self.leader) or silent_s >= self._silence_s else None
        if self.leader.process == self._me.process:
            return 0.0
        if is_surely_dead(self.leader.process):
            return 0.0
        return self._authority_s if silent_s >= self._silence_s else None

    def _is_heir(self, leader: LeaderKey) -> bool:
        if leader.heir == ANYBODY_ELSE:
            return leader.process != self._me.process
        return leader.heir in {"", self._me.master}

    async def _store_works(self) -> bool:
        held = await self._probe.get(timeout_s=ANSWER_S_MAX)
        revision = held[0] if held else 0
        await self._probe.put(self._me.master.encode(), revision=revision, timeout_s=ANSWER_S_MAX)
        return True

    async def _take(self, revision: int, *, grace_s: float) -> Election:
        sent = asyncio.get_running_loop().time()
        self._revision = await self._key.put(
            encode(self._me), revision=revision, timeout_s=ANSWER_S_MAX
        )
        self._authority_until = sent + self._authority_s
        self.answered_at = asyncio.get_running_loop().time()
        self.leader = self._me
        log.info("leadership.won", term=self._revision, grace_s=grace_s)
        return Election(term=self._revision, grace_s=grace_s)

    async def keep(self) -> None:
        """Renew until the key is lost or authority runs out; then return: whoever leads now, it is not this master."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(RENEW_S)
            sent = loop.time()
            self._me = replace(self._me, beat=self._me.beat + 1)
            try:
                self._revision = await self._key.put(
                    encode(self._me), revision=self._revision, timeout_s=ANSWER_S_MAX
                )
                self._authority_until = sent + self._authority_s
                self.answered_at = loop.time()
            except WrongLastSequence:
                if not await self._was_ours(sent):
                    break
            except BusUnavailable as error:
                log.warning("leadership.renewal_unanswered", why=str(error))
                if not self.has_authority():
                    break
        self._authority_until = 0.0
        log.warning("leadership.lost")

    async def _was_ours(self, sent: float) -> bool:
        """Whether the key holds our own renewal, whose answer was lost."""
        try:
            held = await self._key.get(timeout_s=ANSWER_S_MAX)
        except BusUnavailable:
            return self.has_authority()
        if held is None or read_key(held[1]) != self._me:
            previous = None if held is None else read_key(held[1])
            is_older = previous is not None and previous.process == self._me.process
            if held is None or not is_older:
                return False
        self._revision = held[0]
        self._authority_until = sent + self._authority_s
        return True

    async def release(self, heir: str = "") -> None:
        """Say that this master has stopped, so that its successor need not wait. Best effort."""
        self._authority_until = 0.0
        try:
            await self._key.put(
                encode(replace(self._me, released=True, heir=heir)),
                revision=self._revision,
                timeout_s=ANSWER_S_MAX,
            )
        except (BusUnavailable, WrongLastSequence) as error:
            log.warning("leadership.release_failed", why=str(error))


def read_key(value: bytes) -> LeaderKey | None:
    """Give what the key holds; None where that cannot be read."""
    if not value:
        return None
    try:
        return decode(value, LeaderKey)
    except DecodeError:
        return None
