"""The simulated messaging system does what its faults say, the same way for the same seed."""

import asyncio
import random
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from shared.bus import BusUnavailable
from shared.subjects import Subjects
from simulator.memory_broker import LinkFaults, MemoryBroker, matches
from simulator.memory_bus import MemoryBus, MemoryKeyValue
from simulator.virtual_time import run_virtual

SUBJECTS = Subjects("sim")
HOST = "11111111-0000-0000-0000-000000000000"
COMMAND = SUBJECTS.command(HOST)
DEAD = LinkFaults(is_cut_up=True, is_cut_down=True)


def make(seed: int = 1, *, ack_wait_s: float = 30.0) -> tuple[MemoryBroker, MemoryBus, MemoryBus]:
    broker = MemoryBroker(random.Random(seed), ack_wait_s=ack_wait_s)
    broker.ensure_streams(SUBJECTS)
    return broker, MemoryBus(broker, "leader"), MemoryBus(broker, "agent")


def commands(bus: MemoryBus) -> Any:
    return bus.consume(
        SUBJECTS.command_stream, durable="agent", filter_subject=COMMAND, pending_max=10
    )


def run_timed(main: Coroutine[Any, Any, Any]) -> float:
    """Run `main` in virtual time; give how long it took."""

    async def timed() -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await main
        return loop.time() - started

    return run_virtual(timed())


async def grant(_subject: str, _data: bytes) -> bytes:
    return b"granted"


async def read_all(bus: MemoryBus, count: int) -> list[tuple[float, bytes]]:
    """Read and acknowledge until `count` different commands were seen."""
    seen: list[tuple[float, bytes]] = []
    async with aclosing(commands(bus)) as deliveries:
        while len({data for _, data in seen}) < count:
            delivery = await anext(deliveries)
            seen.append((asyncio.get_running_loop().time(), delivery.data))
            await delivery.ack()
    return seen


def run_over_bad_links(seed: int) -> list[tuple[float, bytes]]:
    async def main() -> list[tuple[float, bytes]]:
        broker, leader, agent = make(seed, ack_wait_s=5.0)
        broker.set_faults(LinkFaults(loss=0.3, duplication=0.3, delay_s=(0.01, 0.5)))
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_all(agent, 20))
            for number in range(20):
                await publish_surely(leader, b"%d" % number)
        return reading.result()

    return run_virtual(main())


async def publish_surely(bus: MemoryBus, data: bytes) -> None:
    while True:
        try:
            await bus.publish(COMMAND, data, message_id=data.decode(), timeout_s=1.0)
        except BusUnavailable:
            continue
        return


@pytest.mark.parametrize("seed", range(10))
def test_every_command_arrives_over_bad_links(seed: int) -> None:
    assert {data for _, data in run_over_bad_links(seed)} == {b"%d" % n for n in range(20)}


def test_the_same_seed_gives_the_same_run() -> None:
    assert run_over_bad_links(7) == run_over_bad_links(7)
    assert run_over_bad_links(7) != run_over_bad_links(8)


def test_a_link_can_be_cut_one_way() -> None:
    async def main() -> None:
        broker, leader, agent = make()
        heard: list[bytes] = []

        async def hear(_subject: str, data: bytes) -> bytes:
            heard.append(data)
            return b"granted"

        await leader.serve(SUBJECTS.every_lease, hear)
        broker.set_faults(LinkFaults(is_cut_down=True), client="agent")
        with pytest.raises(BusUnavailable):
            await agent.request(SUBJECTS.lease(HOST), b"deaf", timeout_s=1.0)
        broker.set_faults(LinkFaults(is_cut_up=True), client="agent")
        with pytest.raises(BusUnavailable):
            await agent.request(SUBJECTS.lease(HOST), b"mute", timeout_s=1.0)
        broker.clear_faults()
        assert await agent.request(SUBJECTS.lease(HOST), b"well", timeout_s=1.0) == b"granted"
        assert heard == [b"deaf", b"well"]

    run_virtual(main())


def test_one_subject_can_be_cut_alone() -> None:
    async def main() -> None:
        broker, leader, agent = make()
        await leader.serve(SUBJECTS.every_lease, grant)
        broker.set_faults(DEAD, client="agent", subject=SUBJECTS.every_lease)
        with pytest.raises(BusUnavailable):
            await agent.request(SUBJECTS.lease(HOST), b"", timeout_s=1.0)
        assert await agent.publish(SUBJECTS.report(HOST), b"report", timeout_s=1.0) == 1
        await agent.wait_connected(timeout_s=1.0)

    run_virtual(main())


def test_who_is_cut_off_waits_for_the_link() -> None:
    async def main() -> None:
        broker, _, agent = make()
        broker.set_faults(DEAD, client="agent")
        with pytest.raises(BusUnavailable):
            await agent.wait_connected(timeout_s=1.0)
        loop = asyncio.get_running_loop()
        loop.call_later(5.0, broker.clear_faults)
        await agent.wait_connected(timeout_s=60.0)

    assert run_timed(main()) == pytest.approx(6.0)


def test_after_a_cut_unacknowledged_commands_come_at_once_and_in_order() -> None:
    async def main() -> None:
        broker, leader, agent = make()
        for number in range(3):
            await leader.publish(COMMAND, b"%d" % number)
        async with aclosing(commands(agent)) as deliveries:
            taken = [await anext(deliveries) for _ in range(3)]
            await taken[1].ack()
            broker.set_faults(DEAD, client="agent")
            await leader.publish(COMMAND, b"3")
            asyncio.get_running_loop().call_later(2.0, broker.clear_faults)
            again = [(await anext(deliveries)).data for _ in range(3)]
            assert again == [b"0", b"2", b"3"]

    assert run_timed(main()) < 10.0


def test_a_lost_delivery_comes_again_after_the_ack_wait() -> None:
    async def main() -> None:
        broker, leader, agent = make(ack_wait_s=30.0)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_all(agent, 1))
            await asyncio.sleep(1.0)
            broker.set_faults(LinkFaults(loss=1.0), client="agent", subject=COMMAND)
            await leader.publish(COMMAND, b"lost once")
            await asyncio.sleep(1.0)
            broker.clear_faults()
        assert len(reading.result()) == 1

    assert run_timed(main()) == pytest.approx(31.0)


def test_time_that_was_asked_for_is_given() -> None:
    async def main() -> None:
        _, leader, agent = make(ack_wait_s=30.0)
        await leader.publish(COMMAND, b"long")
        async with aclosing(commands(agent)) as deliveries:
            delivery = await anext(deliveries)
            await asyncio.sleep(20.0)
            await delivery.in_progress()
            await anext(deliveries)

    assert run_timed(main()) == pytest.approx(50.0)


def test_a_broker_that_dies_keeps_its_streams_and_keys() -> None:
    async def main() -> None:
        broker, leader, agent = make()
        key = MemoryKeyValue(leader, SUBJECTS.leader_bucket, "leader")
        revision = await key.put(b"leads", revision=0, timeout_s=1.0)
        await leader.publish(COMMAND, b"kept")
        broker.stop()
        with pytest.raises(BusUnavailable):
            await leader.publish(COMMAND, b"lost", timeout_s=1.0)
        with pytest.raises(BusUnavailable):
            await key.get(timeout_s=1.0)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_all(agent, 1))
            await asyncio.sleep(5.0)
            broker.start()
        assert [data for _, data in reading.result()] == [b"kept"]
        assert await key.get(timeout_s=1.0) == (revision, b"leads")

    run_virtual(main())


def test_a_handlers_defect_is_kept_for_the_test_to_see() -> None:
    async def main() -> None:
        broker, leader, agent = make()

        async def fail(_subject: str, _data: bytes) -> bytes:
            raise AssertionError("a defect")

        await leader.serve(SUBJECTS.every_lease, fail)
        with pytest.raises(BusUnavailable):
            await agent.request(SUBJECTS.lease(HOST), b"", timeout_s=1.0)
        assert [str(defect) for defect in broker.defects] == ["a defect"]

    run_virtual(main())


@pytest.mark.parametrize(
    ("pattern", "subject", "is_match"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.b", "a", False),
        (">", "a", True),
    ],
)
def test_subjects_match_as_on_nats(pattern: str, subject: str, is_match: bool) -> None:
    assert matches(pattern, subject) is is_match
