"""The real bus against what happens to a real nats-server: killed, frozen, its consumers and
streams gone."""

import asyncio
import os
import signal
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

from shared.bus import BusUnavailable, Delivery
from shared.nats_bus import NatsBus, connect
from shared.nats_jetstream import JetStream
from shared.nats_streams import WrongStream
from shared.subjects import Subjects
from tests.support.nats import connected, frozen, running_nats

pytestmark = pytest.mark.nats

SUBJECTS = Subjects("bus")
HOST = "11111111-0000-0000-0000-000000000000"
WAIT_S = 20.0


def commands(bus: NatsBus) -> Any:
    return bus.consume(
        SUBJECTS.command_stream,
        durable=f"agent-{HOST}",
        filter_subject=SUBJECTS.command(HOST),
        pending_max=64,
    )


async def publish_surely(bus: NatsBus, data: bytes, *, message_id: str = "") -> None:
    """Publish until the stream has it; once, unless a kill of the server took it back."""
    message_id = message_id or data.decode()
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await bus.publish(SUBJECTS.command(HOST), data, message_id=message_id)
            except BusUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


async def take(deliveries: Any) -> Delivery:
    async with asyncio.timeout(WAIT_S):
        delivery: Delivery = await anext(deliveries)
        return delivery


async def api(bus: NatsBus, name: str) -> None:
    await JetStream(bus).api(name, {}, timeout_s=WAIT_S)


async def test_a_reader_survives_the_deaths_of_the_server(tmp_path: Path) -> None:
    async with (
        running_nats(tmp_path) as server,
        connected(server) as leader,
        connected(server) as agent,
    ):
        await leader.ensure_streams(SUBJECTS)
        unseen = set(range(200))
        all_seen = asyncio.Event()

        async def read() -> None:
            async with aclosing(commands(agent)) as deliveries:
                async for delivery in deliveries:
                    unseen.discard(int(delivery.data))
                    await delivery.ack()
                    if not unseen:
                        all_seen.set()
                        return

        async with asyncio.timeout(2 * WAIT_S), asyncio.TaskGroup() as group:
            group.create_task(read())
            for number in range(200):
                if number % 80 == 40:
                    os.kill(server.pid, signal.SIGKILL)
                await publish_surely(leader, b"%d" % number)
            # What the server had not written when it was killed is planned again, as a leader does.
            round_number = 0
            while not all_seen.is_set():
                round_number += 1
                for number in sorted(unseen):
                    again = f"{number} in round {round_number}"
                    await publish_surely(leader, b"%d" % number, message_id=again)
                with suppress(TimeoutError):
                    await asyncio.wait_for(all_seen.wait(), 0.5)

    assert server.restarts == 2


async def test_a_reader_survives_a_frozen_server(tmp_path: Path) -> None:
    async with (
        running_nats(tmp_path) as server,
        connected(server) as leader,
        connected(server) as agent,
    ):
        await leader.ensure_streams(SUBJECTS)
        async with aclosing(commands(agent)) as deliveries:
            await publish_surely(leader, b"before")
            await (await take(deliveries)).ack()
            async with frozen(server.pid):
                with pytest.raises(BusUnavailable):
                    await leader.publish(SUBJECTS.command(HOST), b"frozen")
            await publish_surely(leader, b"after")
            while (await take(deliveries)).data != b"after":
                pass


async def test_a_reader_makes_its_consumer_anew_where_it_is_gone(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
        async with aclosing(commands(bus)) as deliveries:
            await publish_surely(bus, b"1")
            await (await take(deliveries)).ack()
            await api(bus, f"CONSUMER.DELETE.{SUBJECTS.command_stream}.agent-{HOST}")
            await publish_surely(bus, b"2")
            while (await take(deliveries)).data != b"2":  # 1 may come again: its ack may be late
                pass


async def test_a_reader_waits_for_its_stream(tmp_path: Path) -> None:
    async with (
        running_nats(tmp_path) as server,
        connected(server) as bus,
        aclosing(commands(bus)) as deliveries,
        asyncio.TaskGroup() as group,
    ):
        waiting = group.create_task(take(deliveries))
        await asyncio.wait([waiting], timeout=0.3)
        await bus.ensure_streams(SUBJECTS)
        await publish_surely(bus, b"1")
        assert (await waiting).data == b"1"


async def test_a_reader_goes_on_when_its_stream_was_made_anew(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
        async with aclosing(commands(bus)) as deliveries:
            await publish_surely(bus, b"1")
            await (await take(deliveries)).ack()
            await api(bus, f"STREAM.DELETE.{SUBJECTS.command_stream}")
            await bus.ensure_streams(SUBJECTS)
            await publish_surely(bus, b"2")
            assert (await take(deliveries)).data == b"2"


async def test_two_readers_of_one_consumer_do_not_starve_each_other(tmp_path: Path) -> None:
    async with (
        running_nats(tmp_path) as server,
        connected(server) as old,
        connected(server) as new,
    ):
        await new.ensure_streams(SUBJECTS)
        seen: set[int] = set()
        all_seen = asyncio.Event()

        async def read(bus: NatsBus) -> None:
            async with aclosing(commands(bus)) as deliveries:
                async for delivery in deliveries:
                    seen.add(int(delivery.data))
                    await delivery.ack()
                    if len(seen) == 100:
                        all_seen.set()

        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            readers = [group.create_task(read(bus)) for bus in (old, new)]
            for number in range(100):
                await publish_surely(new, b"%d" % number)
            await all_seen.wait()
            for reader in readers:
                reader.cancel()


async def test_a_request_under_way_fails_at_once_when_the_connection_is_lost(
    tmp_path: Path,
) -> None:
    async with (
        running_nats(tmp_path) as server,
        connected(server) as leader,
        connected(server) as agent,
    ):
        asked = asyncio.Event()

        async def never_answer(_subject: str, _data: bytes) -> None:
            asked.set()
            await asyncio.Event().wait()

        service = await leader.serve(SUBJECTS.every_lease, never_answer)
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(failing_request(agent))
            await asked.wait()
            os.kill(server.pid, signal.SIGKILL)
            killed_at = loop.time()
            await asking
        assert loop.time() - killed_at < 30.0  # far below the request's own time
        await service.close()


async def failing_request(bus: NatsBus) -> None:
    with pytest.raises(BusUnavailable):
        await bus.request(SUBJECTS.lease(HOST), b"", timeout_s=600.0)


async def test_a_service_answers_again_after_the_death_of_the_server(tmp_path: Path) -> None:
    async with (
        running_nats(tmp_path) as server,
        connected(server) as leader,
        connected(server) as agent,
    ):

        async def grant(_subject: str, _data: bytes) -> bytes:
            return b"granted"

        service = await leader.serve(SUBJECTS.every_lease, grant)
        os.kill(server.pid, signal.SIGKILL)
        answer = b""
        async with asyncio.timeout(WAIT_S):
            while answer != b"granted":
                try:
                    answer = await agent.request(SUBJECTS.lease(HOST), b"", timeout_s=0.5)
                except BusUnavailable:
                    await asyncio.sleep(0.02)
        await service.close()


async def test_a_handler_that_fails_does_not_end_its_service(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server, connected(server) as bus:

        async def fail_on_bad(_subject: str, data: bytes) -> bytes:
            assert data != b"bad"
            return b"good"

        service = await bus.serve(SUBJECTS.every_lease, fail_on_bad)
        with pytest.raises(BusUnavailable):
            await bus.request(SUBJECTS.lease(HOST), b"bad", timeout_s=0.3)
        assert await bus.request(SUBJECTS.lease(HOST), b"", timeout_s=WAIT_S) == b"good"
        await service.close()


async def test_a_cancelled_publish_is_cancelled(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
        for _ in range(200):
            publishing = asyncio.ensure_future(bus.publish(SUBJECTS.command(HOST), b"x"))
            await asyncio.sleep(0)
            publishing.cancel()
            await asyncio.wait([publishing])
            assert publishing.cancelled()


async def test_nothing_is_sent_late_by_who_was_told_that_it_failed(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
    with pytest.raises(BusUnavailable):
        await bus.publish(SUBJECTS.command(HOST), b"late", timeout_s=0.2)
    async with running_nats(tmp_path) as server, connected(server) as bus:
        assert await bus.last(SUBJECTS.command_stream) is None


async def test_a_server_that_is_not_there_is_told_in_time() -> None:
    with pytest.raises(BusUnavailable, match="no connection"):
        await connect(["nats://127.0.0.1:9"], name="test", timeout_s=0.5)


async def test_unread_commands_and_full_reports_are_bounded(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
        configs = {
            name: (await JetStream(bus).api(f"STREAM.INFO.{name}", {}, timeout_s=WAIT_S))["config"]
            for name in (
                SUBJECTS.log_stream,
                SUBJECTS.command_stream,
                SUBJECTS.report_stream,
                SUBJECTS.event_stream,
            )
        }
    log, command, report, event = configs.values()
    assert (log["max_bytes"], log["max_msgs"], log["max_age"]) == (-1, -1, 0)
    assert log["deny_delete"]
    assert log["deny_purge"]
    assert (command["discard"], report["discard"], event["discard"]) == ("old", "new", "old")
    assert all(config["max_bytes"] > 0 for config in (command, report, event))
    assert command["max_age"] > 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [("storage", "memory"), ("deny_delete", False), ("max_msgs", 5), ("persist_mode", "async")],
)
async def test_a_log_that_would_break_a_promise_is_refused(
    tmp_path: Path, setting: str, value: object
) -> None:
    good = {
        "name": SUBJECTS.log_stream,
        "subjects": [SUBJECTS.log],
        "storage": "file",
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
        "num_replicas": 1,
    }
    async with running_nats(tmp_path) as server, connected(server) as bus:
        streams = JetStream(bus)
        name = f"STREAM.CREATE.{SUBJECTS.log_stream}"
        await streams.api(name, {**good, setting: value}, timeout_s=WAIT_S)
        with pytest.raises(WrongStream, match=setting):
            await bus.ensure_streams(SUBJECTS)


async def test_the_log_keeps_what_it_acknowledged_when_the_server_is_killed(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
        acknowledged = 0
        for _ in range(5):
            async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
                killing = group.create_task(kill_soon(server.pid))
                while not killing.done():
                    with suppress(BusUnavailable):
                        acknowledged = await bus.publish_expecting(
                            SUBJECTS.log, b"%d" % acknowledged, last_sequence=acknowledged
                        )
            last = await last_surely(bus)
            # One more may have landed, with its answer lost.
            assert last in {acknowledged, acknowledged + 1}
            acknowledged = last


async def kill_soon(pid: int) -> None:
    await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGKILL)


async def last_surely(bus: NatsBus) -> int:
    while True:
        try:
            last = await bus.last(SUBJECTS.log_stream)
        except BusUnavailable:
            continue
        return last.sequence if last is not None else 0
