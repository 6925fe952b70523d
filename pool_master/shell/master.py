"""A master's life: follow, campaign, lead, step down, and again.

Rules: a master leads only on a log that it has followed to its end, and begins by writing its election into it; whatever
ends a reign (a lost key, a refused append, a defect) ends all of it together; a standby answers where the leader is.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Gauge

from pool_master.core import events as ev
from pool_master.core.events import Actor, ActorKind
from pool_master.core.lease import LeaseTable, LeaseTimes
from pool_master.core.pool import Pool
from pool_master.shell.announcer import Announcer
from pool_master.shell.api import Api, Reign
from pool_master.shell.changes import Changes
from pool_master.shell.event_log import EventLog, LogConflict, LogUnavailable
from pool_master.shell.fencing import NO_FENCING, Fencing
from pool_master.shell.follower import Follower
from pool_master.shell.ha_keeper import HaKeeper
from pool_master.shell.host_link import HostLink, HostMetricsCounters
from pool_master.shell.leadership import Election, Leadership
from pool_master.shell.mastership import Mastership
from pool_master.shell.mirror import Mirror
from pool_master.shell.roster import Roster
from pool_master.shell.sources import REAL_SOURCES, Sources
from pool_master.shell.task_keeper import keep_tasks
from pool_master.shell.writer import Deposed, Wish, Writer
from shared.bus import Bus
from shared.errors import XenApiError
from shared.refs import PoolRef, derive, derive_ref
from shared.subjects import Subjects

log = structlog.get_logger(__name__)

FOLLOW_S: Final = 0.2
AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterParts:
    """What a master is made of; the simulator swaps the ports among them."""

    name: str
    address: str
    pool_name: str
    bus: Bus
    subjects: Subjects
    event_log: EventLog
    mirror: Mirror
    leadership: Leadership
    roster: Roster
    lease_times: LeaseTimes
    api: Api
    wall_clock_us: Callable[[], int]
    registry: CollectorRegistry
    fencing: Fencing = NO_FENCING
    on_leading: Callable[[], None] = lambda: None
    sources: Sources = REAL_SOURCES


class Master:
    """One master; `run` is its life."""

    def __init__(self, parts: MasterParts) -> None:
        self._parts = parts
        self._follower = Follower(parts.event_log, parts.mirror)
        self._counters = HostMetricsCounters(parts.registry)
        self._gauge = Gauge(
            "vmpool_is_leader", "1 while this master leads", registry=parts.registry
        )
        self._is_stopping = asyncio.Event()
        self._is_yielding = asyncio.Event()
        self._heir = ""
        self._election: Election | None = None
        parts.api.leader_address = self._leader_address

    def _leader_address(self) -> str:
        leader = self._parts.leadership.leader
        is_other = leader is not None and not leader.released and leader.master != self._parts.name
        return leader.address if leader is not None and is_other else ""

    def stop(self) -> None:
        """Step down, and end `run`."""
        self._is_stopping.set()

    def step_down(self, heir: str) -> None:
        """End this reign in favour of another master, and follow."""
        self._heir = heir
        self._is_yielding.set()

    async def run(self) -> None:
        """Live until `stop`.

        Raises:
            HistoryBroken: nobody may lead on this log before an operator has looked.
        """
        await self._load()
        async with _running(self._parts.roster.keep()):
            await self._live()
        await self._parts.roster.leave()

    async def _live(self) -> None:
        while not self._is_stopping.is_set():
            try:
                await self._campaign_and_lead()
                if self._is_yielding.is_set():
                    await self._begin_again()
            except* (Deposed, LogConflict, LogUnavailable) as group:
                log.warning("master.deposed", why=str(group.exceptions[0]))
                await self._begin_again()

    async def _load(self) -> None:
        while True:
            try:
                await self._follower.load()
            except LogUnavailable as error:
                log.warning("master.log_unavailable", why=str(error))
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _begin_again(self) -> None:
        """What was decided last may or may not be in the log: only the log says."""
        await self._follower.copy_now()
        self._follower = Follower(self._parts.event_log, self._parts.mirror)
        await self._load()

    async def _campaign_and_lead(self) -> None:
        self._heir = ""
        self._is_yielding.clear()
        won = await self._campaign()
        if not won:
            return
        assert self._election is not None
        try:
            await self._lead(self._election)
        finally:
            self._gauge.set(0)
            self._parts.api.depose()
            if self._parts.leadership.has_authority():
                await self._parts.leadership.release(self._heir)

    async def _campaign(self) -> bool:
        """Follow the log until the key is won; False where this master is told to stop instead."""
        async with _running(self._follow(), self._follower.keep_copy()) as background:
            campaign = asyncio.create_task(self._parts.leadership.campaign())
            stop = asyncio.create_task(self._is_stopping.wait())
            try:
                await asyncio.wait(
                    {campaign, stop, *background}, return_when=asyncio.FIRST_COMPLETED
                )
                for task in background:
                    if task.done():
                        task.result()
                if not campaign.done():
                    return False
                self._election = campaign.result()
            finally:
                campaign.cancel()
                stop.cancel()
        return True

    async def _follow(self) -> None:
        while True:
            try:
                await self._follower.catch_up()
            except LogUnavailable as error:
                log.warning("master.log_unavailable", why=str(error))
            await asyncio.sleep(FOLLOW_S)

    async def _lead(self, election: Election) -> None:
        parts, follower = self._parts, self._follower
        await follower.catch_up()
        # A bucket that was lost and made anew begins its revisions at 1, and terms never go back.
        election = replace(election, term=max(election.term, follower.tail.term + 1))
        writer = Writer(
            parts.event_log,
            follower.pool,
            follower.tail,
            term=election.term,
            wall_clock_us=parts.wall_clock_us,
            authority=parts.leadership.has_authority,
        )
        changes = Changes()
        writer.listeners += [follower.committed, changes.tell]
        leases = LeaseTable(
            parts.lease_times, since=asyncio.get_running_loop().time(), grace_s=election.grace_s
        )
        async with _running(
            writer.run(), follower.keep_copy(), parts.leadership.keep(), self._told_to_end()
        ) as first:
            await self._begin_reign(writer, election, first)
            link = HostLink(
                parts.bus,
                parts.subjects,
                writer,
                leases,
                has_authority=parts.leadership.has_authority,
                answered_at=lambda: parts.leadership.answered_at,
                counters=self._counters,
                fencing=parts.fencing,
            )
            announcer = Announcer(parts.bus, parts.subjects, parts.event_log, writer)
            keeper = HaKeeper(writer, wall_clock_us=parts.wall_clock_us)
            async with _running(
                link.run(), announcer.run(), keeper.run(), keep_tasks(writer)
            ) as second:
                parts.api.crown(Reign(writer, changes, self._mastership(), link.fate))
                self._gauge.set(1)
                parts.on_leading()
                log.info("master.leads", term=election.term, position=writer.tail.position)
                done, _ = await asyncio.wait({*first, *second}, return_when=asyncio.FIRST_COMPLETED)
                parts.api.depose()
                # The writer first: when it is refused, everything else fails for that reason.
                for task in (*first, *second):
                    if task in done:
                        task.result()
        await follower.save_snapshot()

    async def _told_to_end(self) -> None:
        async with _running(self._is_stopping.wait(), self._is_yielding.wait()) as told:
            await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)

    def _mastership(self) -> Mastership:
        parts = self._parts
        return Mastership(parts.roster, lambda: parts.leadership.leader, self.step_down)

    async def _begin_reign(
        self, writer: Writer, election: Election, first: list[asyncio.Task[object]]
    ) -> None:
        """Write the election into the log: from here on, whoever led before is refused by it."""
        elected = asyncio.ensure_future(
            writer.submit(
                Wish(
                    lambda pool: self._election_events(pool, election),
                    Actor(ActorKind.MASTER, self._parts.name),
                    f"election/{election.term}",
                    "election",
                )
            )
        )
        await asyncio.wait({elected, *first}, return_when=asyncio.FIRST_COMPLETED)
        for task in first:
            if task.done():
                elected.cancel()
                task.result()
        try:
            await elected
        except XenApiError as error:
            raise Deposed(str(error)) from error

    def _election_events(self, pool: Pool, election: Election) -> list[ev.Event]:
        elected = ev.MasterElected(
            term=election.term, master=self._parts.name, address=self._parts.address
        )
        if pool.pools:
            return [elected]
        identity = self._parts.sources.new_id()
        created = ev.PoolCreated(
            pool=PoolRef(derive_ref(identity, "pool")),
            uuid=derive(identity, "pool"),
            name_label=self._parts.pool_name,
        )
        return [created, elected]


@contextlib.asynccontextmanager
async def _running(*work: object) -> AsyncIterator[list[asyncio.Task[object]]]:
    """Run coroutines for as long as the block lasts; the block watches them and ends them together."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]  # type: ignore[call-overload]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
