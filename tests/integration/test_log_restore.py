"""A stream that the store has lost, or lost the end of, is given back by a copy; history is never forked by it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pool_master.shell.event_log import JetStreamLog
from pool_master.shell.follower import RESTORE, Follower, HistoryBroken
from pool_master.shell.leadership import LeaderKey, Leadership
from pool_master.shell.log_restore import RestoreRefused, living_leader, plan_restore, restore
from pool_master.shell.log_verify import repair_copy, verify
from pool_master.shell.mirror import Mirror
from shared.nats_bus import NatsBus, NatsKeyValue
from shared.nats_jetstream import JetStream
from simulator.memory_log import MemoryLog, MemoryRecords
from tests.integration.test_log_verify import RECORDS, SUBJECTS, history, index_rows
from tests.support.nats import connected, running_nats


@asynccontextmanager
async def messaging(folder: Path) -> AsyncIterator[tuple[NatsBus, JetStreamLog]]:
    async with running_nats(folder) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
        yield bus, JetStreamLog(bus, SUBJECTS)


@asynccontextmanager
async def copy_of(folder: Path, records: list[bytes]) -> AsyncIterator[Mirror]:
    mirror = await Mirror.open(folder / "log.sqlite")
    try:
        await repair_copy(MemoryLog(MemoryRecords(list(records))), mirror, index_rows)
        yield mirror
    finally:
        await mirror.close()


async def lose(bus: NatsBus) -> None:
    """Delete the stream, and make it anew as a master's start does."""
    await JetStream(bus).api(f"STREAM.DELETE.{SUBJECTS.log_stream}", {}, timeout_s=5.0)
    await bus.ensure_streams(SUBJECTS)


async def write(log: JetStreamLog, records: list[bytes]) -> None:
    for position, data in enumerate(records):
        await log.append(data, expected_position=position)


@pytest.mark.nats
@pytest.mark.parametrize("left", [0, 1, RECORDS - 1])
async def test_a_stream_that_was_lost_or_cut_off_is_given_back(tmp_path: Path, left: int) -> None:
    records = history()
    async with messaging(tmp_path) as (bus, log), copy_of(tmp_path, records) as copy:
        await write(log, records)
        await lose(bus)
        await write(log, records[:left])

        with pytest.raises(HistoryBroken, match=RESTORE):
            await Follower(log, copy).load()
        plan = await plan_restore(log, [copy])
        told: list[int] = []
        count = await restore(log, copy, plan, told.append)
        after = await verify(log, copy)
        again = await plan_restore(log, [copy])

    assert plan.missing == count == RECORDS - left
    assert told == list(range(left + 1, RECORDS + 1))
    assert after.is_sound
    assert after.copy == after.stream
    assert again.missing == 0


@pytest.mark.nats
@pytest.mark.parametrize("foreign", [1, RECORDS - 1])
async def test_a_stream_with_another_history_is_left_alone(tmp_path: Path, foreign: int) -> None:
    async with messaging(tmp_path) as (_, log), copy_of(tmp_path, history()) as copy:
        await write(log, history(foreign, marker="other"))
        with pytest.raises(RestoreRefused, match="not one history"):
            await plan_restore(log, [copy])
        last = await log.last()

    assert last is not None
    assert last.sequence == foreign


@pytest.mark.nats
async def test_what_is_written_meanwhile_ends_the_restoration(tmp_path: Path) -> None:
    async with messaging(tmp_path) as (_, log), copy_of(tmp_path, history()) as copy:
        plan = await plan_restore(log, [copy])
        await write(log, history(1, marker="other"))
        with pytest.raises(RestoreRefused, match="somebody else writes"):
            await restore(log, copy, plan)


@pytest.mark.nats
async def test_a_leader_that_renews_is_seen_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    async with messaging(tmp_path) as (bus, _):
        key = NatsKeyValue(bus, SUBJECTS.leader_bucket, "leader")
        probe = NatsKeyValue(bus, SUBJECTS.leader_bucket, "probe")
        me = LeaderKey(master="m1", address="", process="boot/1/1")
        assert await living_leader(key) == ""
        leadership = Leadership(key, probe, me, authority_s=12.0)
        await leadership.campaign()
        renewing = asyncio.create_task(leadership.keep())
        assert await living_leader(key) == "m1"
        renewing.cancel()
        assert await living_leader(key) == ""
        assert await living_leader(key) == ""


async def test_a_stream_that_is_longer_than_the_copy_is_not_touched(tmp_path: Path) -> None:
    log = MemoryLog(MemoryRecords(history()))
    async with copy_of(tmp_path, history(5)) as copy:
        with pytest.raises(RestoreRefused, match="nothing is lost"):
            await plan_restore(log, [copy])


async def test_of_several_copies_of_one_history_the_longest_is_taken(tmp_path: Path) -> None:
    log = MemoryLog(MemoryRecords(history(3)))
    async with (
        copy_of(tmp_path / "a", history(5)) as short,
        copy_of(tmp_path / "b", history()) as whole,
        copy_of(tmp_path / "c", []) as empty,
    ):
        plan = await plan_restore(log, [short, whole, empty])
        assert (plan.source, plan.missing) == (1, RECORDS - 3)
        assert await restore(log, whole, plan) == RECORDS - 3


async def test_copies_that_differ_are_refused_although_each_continues_the_stream(
    tmp_path: Path,
) -> None:
    first, second = history(), history(marker="other")
    async with copy_of(tmp_path / "a", first) as one, copy_of(tmp_path / "b", second[:9]) as other:
        with pytest.raises(RestoreRefused, match="differ at record 9"):
            await plan_restore(MemoryLog(MemoryRecords([])), [one, other])


async def test_a_sound_copy_is_never_made_anew_from_a_stream_that_differs(tmp_path: Path) -> None:
    async with copy_of(tmp_path, history(5)) as copy:
        log = MemoryLog(MemoryRecords(history(9, marker="other")))
        with pytest.raises(HistoryBroken, match="the copy's record is sound"):
            await Follower(log, copy).load()
        kept = await copy.tail()

    assert kept is not None
    assert kept.position == 5
