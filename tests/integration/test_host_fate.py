"""A host is given up on a proof alone: its lease and fence time, its power switched off, or an operator's recorded word."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.events import Actor, ActorKind
from pool_master.core.lease import LeaseTable, LeaseTimes
from pool_master.core.pool import Pool
from pool_master.core.records import Tail
from pool_master.shell.fencing import FenceDevice, Fencing
from pool_master.shell.host_fate import WATCH_S, HostFate
from pool_master.shell.writer import Commit, Wish, Writer
from shared.codec import moment_from_us
from shared.enums import PowerState
from shared.errors import HostIsLive
from simulator.memory_log import MemoryLog, MemoryRecords
from simulator.virtual_time import virtual
from tests.support.facts import HOST, MASTER, VM, a_pool, host_uuid, running

TIMES = LeaseTimes()
NOW_US = 1_713_614_400 * 1_000_000
OPERATOR = Context(
    command_id="word",
    now=moment_from_us(NOW_US),
    actor=Actor(ActorKind.USER, "root"),
    label="host.declare_dead",
)


class FakeFencing(Fencing):
    """A device for host 1, which takes a second."""

    def __init__(self, evidence: str) -> None:
        super().__init__({host_uuid(1): FenceDevice(agent="fake", parameters={})}, wait_s_max=1.0)
        self.evidence = evidence
        self.shots: list[float] = []

    async def power_off(self, _host_uuid: str) -> str:
        self.shots.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1.0)
        return self.evidence


@dataclass
class Stage:
    """A leader that watches two hosts; the second always has its lease, unless it is taken away."""

    writer: Writer
    leases: LeaseTable
    fate: HostFate
    lost: list[tuple[float, str]] = field(default_factory=list)
    is_second_alive: bool = True

    def told(self, commit: Commit) -> None:
        now = asyncio.get_running_loop().time()
        for recorded in commit.events:
            if isinstance(recorded.event, ev.HostLost):
                self.lost.append((now, recorded.event.evidence))

    async def renew(self) -> None:
        while True:
            if self.is_second_alive:
                self.leases.grant(host_uuid(2), asyncio.get_running_loop().time())
            await asyncio.sleep(1.0)


@asynccontextmanager
async def stage(fencing: Fencing, *, grace_s: float = 0.0) -> AsyncIterator[Stage]:
    loop = asyncio.get_running_loop()
    writer = Writer(
        MemoryLog(MemoryRecords()), Pool(), Tail(), term=1, wall_clock_us=lambda: NOW_US
    )
    leases = LeaseTable(TIMES, since=loop.time(), grace_s=grace_s)
    fate = HostFate(
        writer,
        leases,
        fencing,
        has_authority=lambda: True,
        heard_at=loop.time,
        forget=lambda _: None,
    )
    made = Stage(writer, leases, fate)
    writer.listeners.append(made.told)
    work = [asyncio.create_task(each) for each in (writer.run(), made.renew())]
    facts = [*a_pool(), *running()]
    await writer.submit(Wish(lambda _: facts, MASTER, "facts", "facts"))
    leases.grant(host_uuid(1), loop.time())
    work.append(asyncio.create_task(fate.watch()))
    try:
        yield made
    finally:
        for each in work:
            each.cancel()
        await asyncio.gather(*work, return_exceptions=True)


@virtual
async def test_a_host_whose_power_is_cut_is_lost_as_soon_as_its_lease_is_over() -> None:
    fencing = FakeFencing("fence_fake has switched its power off, in 1.0 s")
    async with stage(fencing) as pool:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(TIMES.lease_s - WATCH_S)
        assert fencing.shots == []
        await asyncio.sleep(2 * WATCH_S + 0.5)
        # Its agent may ask, and gets nothing, while the power is being cut.
        assert pool.fate.refuses(host_uuid(1))
        await asyncio.sleep(1.0)
        ((lost_at, evidence),) = pool.lost
        assert evidence == fencing.evidence
        assert lost_at - began < TIMES.lease_s + 1.0 + 2 * WATCH_S < TIMES.dead_after_s
        assert not pool.fate.refuses(host_uuid(1))
        await asyncio.sleep(60.0)
        assert len(fencing.shots) == len(pool.lost) == 1


@virtual
async def test_a_fence_agent_that_fails_changes_nothing_of_the_lease() -> None:
    fencing = FakeFencing("")
    async with stage(fencing) as pool:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(TIMES.dead_after_s + 2 * WATCH_S)
        ((lost_at, evidence),) = pool.lost
        assert lost_at - began >= TIMES.dead_after_s
        assert "no lease since" in evidence
        assert len(fencing.shots) == 1


@virtual
async def test_nobody_is_shot_where_every_host_is_silent() -> None:
    fencing = FakeFencing("off")
    async with stage(fencing) as pool:
        pool.is_second_alive = False
        await asyncio.sleep(60.0)
        assert fencing.shots == []
        assert len(pool.lost) == 2


@virtual
async def test_nobody_is_shot_whom_the_predecessor_may_have_given_a_lease() -> None:
    fencing = FakeFencing("off")
    async with stage(fencing, grace_s=12.0) as pool:
        await asyncio.sleep(12.0 + TIMES.lease_s - WATCH_S)
        assert (fencing.shots, pool.lost) == ([], [])
        await asyncio.sleep(2 * WATCH_S + 1.0)
        assert [evidence for _, evidence in pool.lost] == ["off"]


@virtual
async def test_an_operators_word_counts_once_the_lease_is_over_and_is_kept() -> None:
    async with stage(Fencing({}, wait_s_max=1.0)) as pool:
        with pytest.raises(HostIsLive):
            await pool.fate.declare_dead(HOST, "the rack burns", OPERATOR)
        await asyncio.sleep(TIMES.lease_s)
        await pool.fate.declare_dead(HOST, "the rack burns", OPERATOR)
        ((_, evidence),) = pool.lost
        assert evidence == "root declares it dead: the rack burns"
        vm = pool.writer.pool.vms[VM]
        assert vm.power_state is PowerState.HALTED
        assert not pool.writer.pool.hosts[HOST].enabled
        await pool.fate.declare_dead(HOST, "again", OPERATOR)
        assert len(pool.lost) == 1
