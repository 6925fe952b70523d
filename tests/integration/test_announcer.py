"""Everybody who listens hears every event, also those that a killed messaging server had acknowledged and lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import orjson

from pool_master.core import events as ev
from pool_master.core.pool import Pool
from pool_master.core.records import Tail
from pool_master.shell.announcer import LOOK_PERIOD_S, Announcer
from pool_master.shell.writer import Wish, Writer
from shared.subjects import Subjects
from simulator.memory_broker import MemoryBroker
from simulator.memory_bus import MemoryBus
from simulator.memory_log import MemoryLog, MemoryRecords
from simulator.virtual_time import virtual
from tests.support.facts import MASTER, a_pool, pool_created

NOW_US = 1_713_614_400 * 1_000_000


@dataclass
class Stage:
    """A leader that tells."""

    broker: MemoryBroker
    subjects: Subjects
    writer: Writer

    async def happens(self, *events: ev.Event) -> None:
        await self.writer.submit(Wish(lambda _: list(events), MASTER, "facts", "facts"))

    def heard(self) -> list[int]:
        """The sequences of the events; those of one record may come in any order."""
        messages = self.broker.read(self.subjects.event_stream, 0, 1_000)
        return sorted(int(orjson.loads(message.data)["sequence"]) for message in messages)

    def lose_the_last(self, count: int) -> None:
        """What a server that is killed may do with what it has not synced."""
        self.broker.lose_the_last(self.subjects.event_stream, count)


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    broker, subjects = MemoryBroker(Random(1)), Subjects("pool")
    broker.ensure_streams(subjects)
    event_log = MemoryLog(MemoryRecords())
    writer = Writer(event_log, Pool(), Tail(), term=1, wall_clock_us=lambda: NOW_US)
    announcer = Announcer(MemoryBus(broker, "leader"), subjects, event_log, writer)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each.run()) for each in (writer, announcer)]
        yield Stage(broker, subjects, writer)
        for each in running:
            each.cancel()


@virtual
async def test_every_event_is_told_once() -> None:
    async with stage() as leader:
        await leader.happens(pool_created())
        await leader.happens(*a_pool()[1:])
        await asyncio.sleep(3 * LOOK_PERIOD_S)
        assert leader.heard() == list(range(1, leader.writer.pool.sequence + 1))


@virtual
async def test_what_the_messaging_server_has_lost_is_told_again_though_nothing_new_happens() -> (
    None
):
    async with stage() as leader:
        await leader.happens(pool_created())
        await leader.happens(*a_pool()[1:])
        await asyncio.sleep(1.0)

        leader.lose_the_last(3)
        await asyncio.sleep(2 * LOOK_PERIOD_S)

        assert leader.heard() == list(range(1, leader.writer.pool.sequence + 1))
