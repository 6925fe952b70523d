"""What every event log must keep: JetStream's on a real nats-server, JetStream's on the simulated bus, and in memory."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from pool_master.shell.event_log import EventLog, JetStreamLog, LogConflict, LogUnavailable
from shared.subjects import Subjects
from simulator.memory_broker import LinkFaults, MemoryBroker
from simulator.memory_bus import MemoryBus
from simulator.memory_log import Fate, Fault, MemoryLog, MemoryRecords
from simulator.virtual_time import run_virtual
from tests.support.nats import connected, frozen, running_nats

SUBJECTS = Subjects("contract")
WAIT_S = 20.0

# Two masters' views of one log.
Logs = Callable[[], AbstractAsyncContextManager[tuple[EventLog, EventLog]]]


@pytest.fixture(params=[pytest.param("nats", marks=pytest.mark.nats), "simulated bus", "memory"])
def running_logs(request: pytest.FixtureRequest, tmp_path: Path) -> Logs:
    if request.param == "nats":
        return lambda: nats_logs(tmp_path)
    return simulated_logs if request.param == "simulated bus" else memory_logs


@asynccontextmanager
async def nats_logs(folder: Path) -> AsyncIterator[tuple[EventLog, EventLog]]:
    async with running_nats(folder) as server, connected(server) as one, connected(server) as two:
        await one.ensure_streams(SUBJECTS)
        yield JetStreamLog(one, SUBJECTS), JetStreamLog(two, SUBJECTS)


def simulated(broker: MemoryBroker) -> tuple[EventLog, EventLog]:
    broker.ensure_streams(SUBJECTS)
    one, two = (JetStreamLog(MemoryBus(broker, name), SUBJECTS) for name in ("one", "two"))
    return one, two


@asynccontextmanager
async def simulated_logs() -> AsyncIterator[tuple[EventLog, EventLog]]:
    yield simulated(MemoryBroker(random.Random(1)))


@asynccontextmanager
async def memory_logs() -> AsyncIterator[tuple[EventLog, EventLog]]:
    records = MemoryRecords()
    yield MemoryLog(records), MemoryLog(records)


async def test_an_empty_log_has_nothing(running_logs: Logs) -> None:
    async with running_logs() as (log, _):
        assert await log.last() is None
        assert await log.read(after=0, limit=10) == []


async def test_records_are_read_back_in_order_with_their_positions(running_logs: Logs) -> None:
    async with running_logs() as (log, other):
        for n in range(5):
            assert await log.append(f"{n}".encode(), expected_position=n) == n + 1
        everything = await other.read(after=0, limit=100)
        part = await other.read(after=2, limit=2)
        last = await other.last()

    assert [(r.sequence, r.data) for r in everything] == [
        (n + 1, f"{n}".encode()) for n in range(5)
    ]
    assert [r.sequence for r in part] == [3, 4]
    assert last == everything[-1]


async def test_a_deposed_writer_is_refused(running_logs: Logs) -> None:
    async with running_logs() as (old, new):
        await old.append(b"old 1", expected_position=0)
        await new.append(b"new 2", expected_position=1)
        with pytest.raises(LogConflict):
            await old.append(b"old 2", expected_position=1)
        assert [r.data for r in await old.read(after=0, limit=9)] == [b"old 1", b"new 2"]


async def test_an_append_beyond_the_end_is_refused(running_logs: Logs) -> None:
    async with running_logs() as (log, _):
        with pytest.raises(LogConflict):
            await log.append(b"1", expected_position=3)
        assert await log.last() is None


async def test_the_same_record_again_at_the_same_position_is_the_same_append(
    running_logs: Logs,
) -> None:
    async with running_logs() as (log, other):
        assert await log.append(b"1", expected_position=0) == 1
        assert await log.append(b"1", expected_position=0) == 1
        await other.append(b"2", expected_position=1)
        assert await log.append(b"1", expected_position=0) == 1
        assert len(await log.read(after=0, limit=9)) == 2


async def test_two_writers_at_once_make_one_history(running_logs: Logs) -> None:
    async with running_logs() as logs:

        async def write(log: EventLog, name: str) -> list[int]:
            position, written = 0, []
            while position < 20:
                try:
                    position = await log.append(
                        f"{name} {position}".encode(), expected_position=position
                    )
                    written.append(position)
                except LogConflict:
                    last = await log.last()
                    assert last is not None
                    position = last.sequence
                await asyncio.sleep(0)
            return written

        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            one, two = (
                group.create_task(write(log, name))
                for log, name in zip(logs, ("one", "two"), strict=True)
            )
        stored = await logs[0].read(after=0, limit=100)

    writers = {r.sequence: r.data.decode().split()[0] for r in stored}
    assert sorted(one.result() + two.result()) == list(range(1, len(stored) + 1))
    assert {position for position, who in writers.items() if who == "one"} == set(one.result())


@pytest.mark.nats
async def test_appends_go_on_through_the_death_of_the_nats_server(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
        log = JetStreamLog(bus, SUBJECTS)
        async with asyncio.timeout(60):
            for position in range(120):
                if position % 40 == 20:
                    os.kill(server.pid, signal.SIGKILL)
                assert await log.append(b"%d" % position, expected_position=position) == (
                    position + 1
                )
        stored = await log.read(after=0, limit=1_000)

    assert [r.data for r in stored] == [b"%d" % n for n in range(120)]
    assert server.restarts == 3


@pytest.mark.nats
async def test_an_append_that_cannot_be_resolved_says_so(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
        log = JetStreamLog(bus, SUBJECTS, append_wait_s_max=0.5)
        await log.append(b"1", expected_position=0)
        async with frozen(server.pid):
            with pytest.raises(LogUnavailable):
                await log.append(b"2", expected_position=1)
        # The frozen server may have taken it, late; the same append settles it either way.
        settled = JetStreamLog(bus, SUBJECTS)
        assert await settled.append(b"2", expected_position=1) == 2
        assert [r.data for r in await settled.read(after=0, limit=9)] == [b"1", b"2"]


@pytest.mark.parametrize("seed", range(20))
def test_lost_and_doubled_messages_neither_lose_nor_double_a_record(seed: int) -> None:
    async def append_over_bad_links() -> list[bytes]:
        broker = MemoryBroker(random.Random(seed))
        log, reader = simulated(broker)
        bad = LinkFaults(loss=0.3, duplication=0.2, delay_s=(0.0, 0.2))
        broker.set_faults(bad, client="one")
        position = 0
        while position < 30:
            try:
                position = await log.append(b"%d" % position, expected_position=position)
            except LogUnavailable:
                await asyncio.sleep(1.0)
        return [record.data for record in await reader.read(after=0, limit=100)]

    assert run_virtual(append_over_bad_links()) == [b"%d" % n for n in range(30)]


def test_a_cut_writer_learns_that_another_wrote() -> None:
    async def depose_behind_a_cut() -> None:
        broker = MemoryBroker(random.Random(1))
        old, new = simulated(broker)
        await old.append(b"old 1", expected_position=0)
        broker.set_faults(LinkFaults(is_cut_down=True), client="one")
        with pytest.raises(LogUnavailable):
            await old.append(b"old 2", expected_position=1)
        # One-way: the record has landed, only its answer was lost.
        with pytest.raises(LogConflict):
            await new.append(b"new 2", expected_position=1)
        await new.append(b"new 3", expected_position=2)
        broker.clear_faults()
        assert await old.append(b"old 2", expected_position=1) == 2
        with pytest.raises(LogConflict):
            await old.append(b"old 3", expected_position=2)

    run_virtual(depose_behind_a_cut())


@pytest.mark.parametrize(
    ("fault", "is_landed_at_once"),
    [
        (Fault.LOST_ANSWER, True),
        (Fault.LOST_REQUEST, False),
        (Fault.UNAVAILABLE, False),
        (Fault.LATE_LANDING, False),
    ],
)
def test_the_log_in_memory_has_the_faults_of_a_real_one(
    fault: Fault, is_landed_at_once: bool
) -> None:
    async def fail_once() -> None:
        records = MemoryRecords()
        fates = iter([Fate(fault=fault, landing_s=5.0)])
        log = MemoryLog(records, lambda _: next(fates, Fate()))
        with pytest.raises(LogUnavailable):
            await log.append(b"1", expected_position=0)
        assert bool(records.records) is is_landed_at_once
        await asyncio.sleep(10.0)
        assert bool(records.records) is (fault in {Fault.LOST_ANSWER, Fault.LATE_LANDING})
        assert await log.append(b"1", expected_position=0) == 1
        assert records.records == [b"1"]

    run_virtual(fail_once())


def test_a_record_that_lands_late_does_not_replace_another() -> None:
    async def land_late() -> list[bytes]:
        records = MemoryRecords()
        old = MemoryLog(records, lambda _: Fate(fault=Fault.LATE_LANDING, landing_s=5.0))
        with pytest.raises(LogUnavailable):
            await old.append(b"old", expected_position=0)
        await MemoryLog(records).append(b"new", expected_position=0)
        await asyncio.sleep(10.0)
        return records.records

    assert run_virtual(land_late()) == [b"new"]
