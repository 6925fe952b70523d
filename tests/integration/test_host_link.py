"""Guests are sent, and hosts come back, only where there is a lease: whoever has none is killing its guests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from prometheus_client import CollectorRegistry

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.lease import LeaseTable, LeaseTimes
from pool_master.core.pool import Pool
from pool_master.core.records import Tail
from pool_master.core.vm_migration import PoolMigrate, decide_pool_migrate
from pool_master.shell.host_link import HostLink, HostMetricsCounters
from pool_master.shell.writer import Wish, Writer
from shared.codec import decode, encode, moment_from_us
from shared.membership import peers_digest
from shared.protocol import (
    CommandBatch,
    HostInventory,
    HostReport,
    LeaseGranted,
    LeaseRefused,
    LeaseReply,
    LeaseRequest,
    MigrateDomain,
    ReportBatch,
)
from shared.refs import HostRef
from shared.subjects import Subjects
from simulator.memory_broker import MemoryBroker
from simulator.memory_bus import MemoryBus
from simulator.memory_log import MemoryLog, MemoryRecords
from simulator.virtual_time import virtual
from tests.support.facts import (
    MASTER,
    VM,
    a_pool,
    host_joined,
    host_ref,
    host_uuid,
    inventory,
    running,
)

TIMES = LeaseTimes()
NOW_US = 1_713_614_400 * 1_000_000


@dataclass
class Stage:
    """A leader's link to hosts that the test speaks for."""

    bus: MemoryBus
    subjects: Subjects
    writer: Writer
    reports: dict[int, int] = field(default_factory=dict)

    async def happens(self, *events: ev.Event) -> None:
        await self.writer.submit(Wish(lambda _: list(events), MASTER, "facts", "facts"))

    async def migrate_to(self, number: int) -> None:
        def decide(pool: Pool) -> list[ev.Event]:
            context = Context(
                command_id="migrate",
                now=moment_from_us(NOW_US),
                actor=MASTER,
                label="VM.pool_migrate",
            )
            return decide_pool_migrate(pool, PoolMigrate(vm=VM, host=host_ref(number)), context)

        await self.writer.submit(Wish(decide, MASTER, "migrate", "VM.pool_migrate"))

    async def asks_for_a_lease(self, number: int, *, knows: tuple[int, ...] = ()) -> LeaseGranted:
        answer = await self.asks(number, knows=knows)
        assert isinstance(answer, LeaseGranted)
        return answer

    async def asks(self, number: int, *, knows: tuple[int, ...] = ()) -> LeaseReply:
        known = peers_digest(map(host_uuid, knows))
        request = LeaseRequest(host=host_uuid(number), journal="j", epoch=1, peers_known=known)
        subject = self.subjects.lease(host_uuid(number))
        reply = await self.bus.request(subject, encode(request), timeout_s=1.0)
        return decode(reply, LeaseReply)  # type: ignore[arg-type]  # a union

    async def reports_an_inventory(self, number: int, body: HostInventory) -> None:
        self.reports[number] = self.reports.get(number, 0) + 1
        report = HostReport(
            host=host_uuid(number),
            journal="j",
            epoch=1,
            sequence=self.reports[number],
            time_us=NOW_US,
            body=body,
        )
        data = encode(ReportBatch(reports=(report,)))
        subject = self.subjects.report(host_uuid(number))
        await self.bus.publish(subject, data, message_id=f"{number}/{report.sequence}")
        await asyncio.sleep(1.0)

    async def sent_guests(self) -> list[str]:
        """Where the hosts have been told to send guests, in order."""
        await asyncio.sleep(1.0)
        messages = await self.bus.read(self.subjects.command_stream, after=0, limit=100)
        batches = [decode(message.data, CommandBatch) for message in messages]
        actions = [command.action for batch in batches for command in batch.commands]
        return [x.destination_host for x in actions if isinstance(x, MigrateDomain)]

    def is_live(self, host: HostRef) -> bool:
        return self.writer.pool.is_live(host)


@asynccontextmanager
async def stage(*facts: ev.Event) -> AsyncIterator[Stage]:
    broker, subjects = MemoryBroker(Random(1)), Subjects("pool")
    broker.ensure_streams(subjects)
    bus = MemoryBus(broker, "leader")
    writer = Writer(
        MemoryLog(MemoryRecords()), Pool(), Tail(), term=1, wall_clock_us=lambda: NOW_US
    )
    running_writer = asyncio.create_task(writer.run())
    loop = asyncio.get_running_loop()
    link = HostLink(
        bus,
        subjects,
        writer,
        LeaseTable(TIMES, since=loop.time(), grace_s=0.0),
        has_authority=lambda: True,
        answered_at=loop.time,
        counters=HostMetricsCounters(CollectorRegistry()),
    )
    leading = Stage(bus, subjects, writer)
    await leading.happens(*facts)
    running_link = asyncio.create_task(link.run())
    await asyncio.sleep(0.1)
    try:
        yield leading
    finally:
        for each in (running_link, running_writer):
            each.cancel()
        await asyncio.gather(running_link, running_writer, return_exceptions=True)
        await bus.close()


@virtual
async def test_a_guest_is_sent_at_once_to_a_host_that_holds_a_lease() -> None:
    async with stage(*a_pool(), *running()) as pool:
        await pool.asks_for_a_lease(2)
        await pool.migrate_to(2)
        assert await pool.sent_guests() == [host_uuid(2)]


@virtual
async def test_a_guest_waits_for_its_destinations_lease() -> None:
    # A host that counts as live may have lost its lease: its watchdog would kill whoever arrives.
    async with stage(*a_pool(), *running()) as pool:
        await pool.asks_for_a_lease(1)
        await pool.migrate_to(2)
        assert await pool.sent_guests() == []

        await pool.asks_for_a_lease(2)
        assert await pool.sent_guests() == [host_uuid(2)]


@virtual
async def test_a_lease_that_has_run_out_is_none() -> None:
    async with stage(*a_pool(), *running()) as pool:
        await pool.asks_for_a_lease(2)
        await asyncio.sleep(TIMES.lease_s)
        await pool.migrate_to(2)
        assert await pool.sent_guests() == []


@virtual
async def test_a_destination_that_is_lost_is_not_waited_for() -> None:
    async with stage(*a_pool(), *running()) as pool:
        await pool.migrate_to(2)
        await pool.happens(ev.HostLost(host=host_ref(2), evidence="it is gone"))
        # Told again what it has not answered, the source finds out for itself that nobody is there.
        for _ in range(30):
            await pool.asks_for_a_lease(1)
            await asyncio.sleep(1.0)
        assert host_uuid(2) in await pool.sent_guests()


@virtual
async def test_a_lost_host_is_live_again_with_its_lease_and_not_by_its_word_alone() -> None:
    lost = ev.HostLost(host=host_ref(2), evidence="it is gone")
    async with stage(*a_pool(), lost) as pool:
        await pool.reports_an_inventory(2, inventory(2))
        assert not pool.is_live(host_ref(2))

        granted = await pool.asks_for_a_lease(2)
        assert granted.wants_inventory
        await pool.reports_an_inventory(2, inventory(2))
        assert pool.is_live(host_ref(2))


@virtual
async def test_a_host_that_has_just_joined_gets_a_lease_once_every_other_has_said_that_it_knows_it() -> (
    None
):
    # In failsafe they would keep guests by the promises of all peers that they know: this one has made none.
    async with stage(*a_pool(2), host_joined(3)) as pool:
        await pool.asks_for_a_lease(1, knows=(2,))
        await pool.asks_for_a_lease(2, knows=(1, 3))
        assert await pool.asks(3) == LeaseRefused(term=1, reason="not_known_to_all")

        await pool.asks_for_a_lease(1, knows=(2, 3))
        await pool.asks_for_a_lease(3)


@virtual
async def test_a_silent_host_keeps_newcomers_out_until_a_peer_of_it_has_long_had_a_lease() -> None:
    async with stage(*a_pool(2), host_joined(3)) as pool:
        for second in range(40):
            await pool.asks_for_a_lease(1, knows=(2, 3))
            refused = isinstance(await pool.asks(3), LeaseRefused)
            # Host 2 is lost after lease, fence and margin; until then it may live by what it was last granted.
            assert refused == pool.is_live(host_ref(2)), second
            await asyncio.sleep(1.0)
        assert not pool.is_live(host_ref(2))


@virtual
async def test_a_host_that_was_alone_and_is_silent_keeps_newcomers_out() -> None:
    async with stage(*a_pool(1), host_joined(3)) as pool:
        await pool.asks_for_a_lease(1)
        for _ in range(60):
            assert isinstance(await pool.asks(3), LeaseRefused)
            await asyncio.sleep(1.0)
        assert not pool.is_live(host_ref(1))
        await pool.asks_for_a_lease(1, knows=(3,))
        await pool.asks_for_a_lease(3)
