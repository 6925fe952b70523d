"""What every bus must keep: the real one on a real nats-server, and the simulator's."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from shared.bus import Bus, BusUnavailable, Delivery, KeyValue, WrongLastSequence
from shared.nats_bus import NatsBus, NatsKeyValue, connect
from shared.subjects import Subjects
from simulator.memory_broker import MemoryBroker
from simulator.memory_bus import MemoryBus, MemoryKeyValue
from tests.support.nats import running_nats

SUBJECTS = Subjects("contract")
HOST = "11111111-0000-0000-0000-000000000000"
OTHER_HOST = "22222222-0000-0000-0000-000000000000"
WAIT_S = 10.0


class World(Protocol):
    """A messaging system with the pool's streams."""

    async def connect(self, name: str) -> Bus: ...
    def key(self, bus: Any) -> KeyValue: ...
    async def close(self, bus: Any) -> None: ...


class NatsWorld:
    def __init__(self, url: str) -> None:
        self._url = url
        self.connections: list[NatsBus] = []

    async def connect(self, name: str) -> Bus:
        bus = await connect([self._url], name=name)
        self.connections.append(bus)
        return bus

    def key(self, bus: NatsBus) -> KeyValue:
        return NatsKeyValue(bus, SUBJECTS.leader_bucket, "leader")

    async def close(self, bus: NatsBus) -> None:
        await bus.close()


class MemoryWorld:
    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def connect(self, name: str) -> Bus:
        return MemoryBus(self._broker, name)

    def key(self, bus: MemoryBus) -> KeyValue:
        return MemoryKeyValue(bus, SUBJECTS.leader_bucket, "leader")

    async def close(self, bus: MemoryBus) -> None:
        await bus.close()


Worlds = Callable[[], AbstractAsyncContextManager[World]]


@pytest.fixture(params=[pytest.param("nats", marks=pytest.mark.nats), "memory"])
def running_world(request: pytest.FixtureRequest, tmp_path: Path) -> Worlds:
    return (lambda: nats_world(tmp_path)) if request.param == "nats" else memory_world


@asynccontextmanager
async def nats_world(folder: Path) -> AsyncIterator[World]:
    async with running_nats(folder) as server:
        world = NatsWorld(server.url)
        setup = await world.connect("setup")
        assert isinstance(setup, NatsBus)
        await setup.ensure_streams(SUBJECTS)
        try:
            yield world
        finally:
            for bus in world.connections:
                await bus.close()


@asynccontextmanager
async def memory_world() -> AsyncIterator[World]:
    broker = MemoryBroker(random.Random(1))
    broker.ensure_streams(SUBJECTS)
    yield MemoryWorld(broker)
    assert broker.defects == []


def commands(bus: Bus, host: str = HOST, pending_max: int = 100) -> Any:
    return bus.consume(
        SUBJECTS.command_stream,
        durable=f"agent-{host}",
        filter_subject=SUBJECTS.command(host),
        pending_max=pending_max,
    )


async def take(deliveries: Any, count: int) -> list[Delivery]:
    async with asyncio.timeout(WAIT_S):
        return [await anext(deliveries) for _ in range(count)]


def texts(deliveries: list[Delivery]) -> list[str]:
    return [delivery.data.decode() for delivery in deliveries]


async def test_a_request_is_answered_by_who_serves_the_subject(running_world: Worlds) -> None:
    async with running_world() as world:
        leader, agent = await world.connect("leader"), await world.connect("agent")

        async def grant(subject: str, data: bytes) -> bytes:
            return subject.encode() + b" " + data

        service = await leader.serve(SUBJECTS.every_lease, grant)
        answer = await agent.request(SUBJECTS.lease(HOST), b"please", timeout_s=WAIT_S)
        await service.close()

    assert answer == f"{SUBJECTS.lease(HOST)} please".encode()


async def test_a_request_that_nobody_serves_fails(running_world: Worlds) -> None:
    async with running_world() as world:
        agent = await world.connect("agent")
        with pytest.raises(BusUnavailable):
            await agent.request(SUBJECTS.lease(HOST), b"please", timeout_s=WAIT_S)


async def test_a_server_that_stays_silent_lets_the_asker_run_out_of_time(
    running_world: Worlds,
) -> None:
    async with running_world() as world:
        leader, agent = await world.connect("leader"), await world.connect("agent")

        async def stay_silent(_subject: str, _data: bytes) -> None:
            return None

        service = await leader.serve(SUBJECTS.every_lease, stay_silent)
        with pytest.raises(BusUnavailable):
            await agent.request(SUBJECTS.lease(HOST), b"please", timeout_s=0.2)
        await service.close()


async def test_a_closed_service_answers_no_more(running_world: Worlds) -> None:
    async with running_world() as world:
        leader, agent = await world.connect("leader"), await world.connect("agent")

        async def grant(_subject: str, _data: bytes) -> bytes:
            return b"granted"

        service = await leader.serve(SUBJECTS.every_lease, grant)
        await agent.request(SUBJECTS.lease(HOST), b"", timeout_s=WAIT_S)
        await service.close()
        with pytest.raises(BusUnavailable):
            await agent.request(SUBJECTS.lease(HOST), b"", timeout_s=0.2)


async def test_published_messages_are_read_back_in_order(running_world: Worlds) -> None:
    async with running_world() as world:
        bus = await world.connect("leader")
        sequences = [
            await bus.publish(SUBJECTS.event("VM", "v", f"e{n}"), f"{n}".encode()) for n in range(5)
        ]
        everything = await bus.read(SUBJECTS.event_stream, after=0, limit=100)
        middle = await bus.read(SUBJECTS.event_stream, after=1, limit=2)
        nothing = await bus.read(SUBJECTS.event_stream, after=5, limit=100)
        last = await bus.last(SUBJECTS.event_stream)

    assert sequences == [1, 2, 3, 4, 5]
    assert [(m.sequence, m.data) for m in everything] == [
        (n + 1, f"{n}".encode()) for n in range(5)
    ]
    assert [m.sequence for m in middle] == [2, 3]
    assert nothing == []
    assert last == everything[-1]
    assert last.subject == SUBJECTS.event("VM", "v", "e4")


async def test_an_empty_stream_has_no_last_message(running_world: Worlds) -> None:
    async with running_world() as world:
        bus = await world.connect("leader")
        assert await bus.last(SUBJECTS.log_stream) is None
        assert await bus.read(SUBJECTS.log_stream, after=0, limit=10) == []


async def test_a_message_id_seen_before_is_not_stored_again(running_world: Worlds) -> None:
    async with running_world() as world:
        bus = await world.connect("leader")
        subject = SUBJECTS.event("VM", "v", "VmStarted")
        first = await bus.publish(subject, b"once", message_id="7")
        again = await bus.publish(subject, b"once", message_id="7")
        stored = await bus.read(SUBJECTS.event_stream, after=0, limit=10)

    assert (first, again) == (1, 1)
    assert len(stored) == 1


async def test_compare_and_set_lets_one_of_two_writers_win(running_world: Worlds) -> None:
    async with running_world() as world:
        one, two = await world.connect("one"), await world.connect("two")
        assert await one.publish_expecting(SUBJECTS.log, b"one", last_sequence=0) == 1
        with pytest.raises(WrongLastSequence):
            await two.publish_expecting(SUBJECTS.log, b"two", last_sequence=0)
        with pytest.raises(WrongLastSequence):
            await two.publish_expecting(SUBJECTS.log, b"two", last_sequence=2)
        stored = await two.read(SUBJECTS.log_stream, after=0, limit=10)

    assert [m.data for m in stored] == [b"one"]


async def test_many_publishes_at_once_are_all_stored(running_world: Worlds) -> None:
    async with running_world() as world:
        bus = await world.connect("leader")
        async with asyncio.TaskGroup() as group:
            publishes = [
                group.create_task(bus.publish(SUBJECTS.command(HOST), f"{n}".encode()))
                for n in range(300)
            ]
        assert sorted(p.result() for p in publishes) == list(range(1, 301))


async def test_commands_go_to_their_host_in_order(running_world: Worlds) -> None:
    async with running_world() as world:
        leader, agent = await world.connect("leader"), await world.connect("agent")
        for n in range(3):
            await leader.publish(SUBJECTS.command(OTHER_HOST), f"other {n}".encode())
            await leader.publish(SUBJECTS.command(HOST), f"mine {n}".encode())
        async with aclosing(commands(agent)) as deliveries:
            taken = await take(deliveries, 3)

    assert texts(taken) == ["mine 0", "mine 1", "mine 2"]
    assert {d.subject for d in taken} == {SUBJECTS.command(HOST)}


async def test_a_waiting_reader_gets_a_message_as_soon_as_it_is_there(
    running_world: Worlds,
) -> None:
    async with running_world() as world:
        leader, agent = await world.connect("leader"), await world.connect("agent")
        async with aclosing(commands(agent)) as deliveries:
            for n in range(3):
                async with asyncio.TaskGroup() as group:
                    waiting = group.create_task(take(deliveries, 1))
                    group.create_task(leader.publish(SUBJECTS.command(HOST), f"{n}".encode()))
                await waiting.result()[0].ack()
                assert texts(waiting.result()) == [f"{n}"]


async def test_what_was_not_acknowledged_comes_again_in_order_to_the_next_reader(
    running_world: Worlds,
) -> None:
    async with running_world() as world:
        leader, agent = await world.connect("leader"), await world.connect("agent")
        for n in range(5):
            await leader.publish(SUBJECTS.command(HOST), f"{n}".encode())
        async with aclosing(commands(agent)) as deliveries:
            first = await take(deliveries, 4)
            await first[0].ack()
            await first[2].ack()
        reborn = await world.connect("agent, reborn")
        async with aclosing(commands(reborn)) as deliveries:
            second = await take(deliveries, 3)

    assert texts(second) == ["1", "3", "4"]


async def test_a_dead_readers_messages_do_not_wait_for_it(running_world: Worlds) -> None:
    async with running_world() as world:
        leader, agent = await world.connect("leader"), await world.connect("agent")
        await leader.publish(SUBJECTS.command(HOST), b"start")
        dead = commands(agent)
        await take(dead, 1)
        await world.close(agent)  # as a crash: nothing is handed back

        reborn = await world.connect("agent, reborn")
        async with aclosing(commands(reborn)) as deliveries:
            again = await take(deliveries, 1)
        with pytest.raises(BusUnavailable):
            await take(dead, 1)

    assert texts(again) == ["start"]


async def test_no_more_are_handed_out_than_may_be_pending(running_world: Worlds) -> None:
    async with running_world() as world:
        leader, agent = await world.connect("leader"), await world.connect("agent")
        for n in range(5):
            await leader.publish(SUBJECTS.command(HOST), f"{n}".encode())
        async with aclosing(commands(agent, pending_max=2)) as deliveries:
            taken = await take(deliveries, 2)
            async with asyncio.TaskGroup() as group:
                third = group.create_task(take(deliveries, 1))
                done, _ = await asyncio.wait([third], timeout=0.2)
                assert not done
                await taken[0].ack()
            assert texts(third.result()) == ["2"]


async def test_a_reader_that_is_cancelled_ends(running_world: Worlds) -> None:
    async with running_world() as world:
        agent = await world.connect("agent")

        async def read_for_ever() -> None:
            async for _ in commands(agent):
                pass

        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            reader = group.create_task(read_for_ever())
            await asyncio.wait([reader], timeout=0.2)
            reader.cancel()
        assert reader.cancelled()


async def test_a_key_is_written_by_compare_and_set(running_world: Worlds) -> None:
    async with running_world() as world:
        one = world.key(await world.connect("one"))
        two = world.key(await world.connect("two"))
        assert await one.get(timeout_s=WAIT_S) is None
        revision = await one.put(b"one leads", revision=0, timeout_s=WAIT_S)
        with pytest.raises(WrongLastSequence):
            await two.put(b"two leads", revision=0, timeout_s=WAIT_S)
        assert await two.get(timeout_s=WAIT_S) == (revision, b"one leads")
        taken_over = await two.put(b"two leads", revision=revision, timeout_s=WAIT_S)
        with pytest.raises(WrongLastSequence):
            await one.put(b"one leads on", revision=revision, timeout_s=WAIT_S)

        assert taken_over > revision
        assert await one.get(timeout_s=WAIT_S) == (taken_over, b"two leads")


async def test_a_connected_bus_says_so(running_world: Worlds) -> None:
    async with running_world() as world:
        bus = await world.connect("agent")
        await bus.wait_connected(timeout_s=WAIT_S)
