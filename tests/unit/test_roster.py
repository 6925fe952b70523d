"""Who may lead through a rolling upgrade: a master whose log every living one reads."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from pool_master.shell.roster import LIVING_S, TELL_S, MasterLine, Roster
from shared.subjects import Subjects
from simulator.memory_broker import MemoryBroker
from simulator.memory_bus import MemoryBus, MemoryKeyValue
from simulator.virtual_time import run_virtual

BUCKET = Subjects("sim").leader_bucket


def on_one_key(story: Callable[[Callable[[str, int], Roster]], Awaitable[None]]) -> None:
    """Tell a story with rosters of masters, by name and format."""

    async def tell() -> None:
        broker = MemoryBroker(random.Random(1), ack_wait_s=30.0)
        broker.ensure_streams(Subjects("sim"))

        def roster(name: str, reads: int) -> Roster:
            key = MemoryKeyValue(MemoryBus(broker, name), BUCKET, "masters")
            return Roster(key, MasterLine(name=name, address=name, reads=reads))

        await story(roster)

    run_virtual(tell())


def test_a_newer_master_waits_until_no_older_one_lives() -> None:
    async def story(roster: Callable[[str, int], Roster]) -> None:
        old, new = roster("old", 1), roster("new", 2)
        telling = [asyncio.create_task(each.keep()) for each in (old, new)]
        await asyncio.sleep(3 * TELL_S)
        assert [line.name for line in new.living()] == ["old"]
        assert (old.may_lead(), new.may_lead()) == (True, False)
        telling[0].cancel()
        await asyncio.sleep(LIVING_S + 2 * TELL_S)
        assert new.living() == []
        assert new.may_lead()
        telling[1].cancel()

    on_one_key(story)


def test_one_that_leaves_is_not_waited_for() -> None:
    async def story(roster: Callable[[str, int], Roster]) -> None:
        old, new = roster("old", 1), roster("new", 2)
        await old.tell()
        await new.tell()
        assert not new.may_lead()
        await old.leave()
        await new.tell()
        assert new.may_lead()

    on_one_key(story)


def test_nobody_leads_before_it_has_told_of_itself() -> None:
    async def story(roster: Callable[[str, int], Roster]) -> None:
        alone = roster("alone", 1)
        assert not alone.may_lead()
        await alone.tell()
        assert alone.may_lead()

    on_one_key(story)


def test_lines_that_are_told_at_once_are_all_kept() -> None:
    async def story(roster: Callable[[str, int], Roster]) -> None:
        all_of_them = [roster(f"m{number}", 1) for number in range(4)]
        await asyncio.gather(*(each.tell() for each in all_of_them))
        await all_of_them[0].tell()
        assert sorted(all_of_them[0].lines) == ["m0", "m1", "m2", "m3"]

    on_one_key(story)
