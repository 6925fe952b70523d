"""A stage for host agents on virtual time.

A pool's messaging, hosts that pretend, and a leader without a log.

Rules: the leader here decides nothing; it grants, sends what the test tells it to and notes what it
hears.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio

from host_agent.config import AgentConfig
from host_agent.shell.agent import Agent
from host_agent.shell.simulated_fabric import SimulatedFabric
from host_agent.shell.simulated_hypervisor import (
    IGNORES_SHUTDOWN,
    Faults,
    SimulatedHypervisor,
    SimulatedTimings,
)
from host_agent.shell.simulated_hypervisor import no_faults as never_fails
from host_agent.shell.simulated_storage import SimulatedStorage
from shared.codec import decode, encode
from shared.nats_bus import NatsBus
from shared.protocol import (
    CommandBatch,
    CommandFailed,
    CommandSucceeded,
    DomainConfig,
    HostAction,
    HostCommand,
    HostReport,
    LeaseGranted,
    LeaseRefused,
    LeaseReply,
    LeaseRequest,
    MigrateDomain,
    ReportBatch,
    StartDomain,
)
from shared.subjects import Subjects
from simulator.memory_broker import LinkFaults, MemoryBroker
from simulator.memory_bus import MemoryBus
from simulator.memory_journal import MemoryJournalDisk, open_memory_journal
from simulator.memory_peers import MemoryPeers, PeerNetwork
from simulator.memory_watchdog import MemoryWatchdog

POOL = "lab"
VM = "11111111-1111-1111-1111-111111111111"
HOST = "aaaaaaaa-0000-0000-0000-000000000001"
LEASE_S = 6.0
FENCE_S = 3.0


def host_uuid(number: int) -> str:
    return f"aaaaaaaa-0000-0000-0000-{number:012d}"


def domain(
    vm_uuid: str = VM, *, incarnation: int = 1, platform: dict[str, str] | None = None
) -> DomainConfig:
    return DomainConfig(
        vm_uuid=vm_uuid,
        name_label="guest",
        incarnation=incarnation,
        memory_static_max=1 << 30,
        memory_target=1 << 30,
        vcpus_max=1,
        vcpus_at_startup=1,
        platform=platform or {},
    )


def command(
    command_id: str,
    action: HostAction,
    *,
    vm_uuid: str = VM,
    incarnation: int = 1,
    term: int = 1,
) -> HostCommand:
    return HostCommand(
        command_id=command_id,
        task=f"task of {command_id}",
        term=term,
        vm_uuid=vm_uuid,
        incarnation=incarnation,
        action=action,
    )


START = command("start", StartDomain(config=domain()))
STUBBORN = domain(platform={IGNORES_SHUTDOWN: "true"})


class Leader:
    """Grants while `grants`, to all but those in `refused`.

    Notes every report batch it finds in the stream.
    """

    def __init__(self, bus: MemoryBus | NatsBus) -> None:
        self.host_epoch = 0
        self.bus = bus
        self.subjects = Subjects(POOL)
        self.term = 1
        self.is_silent = False
        self.peers: dict[str, str] = {}
        self.refused: set[str] = set()
        self.requests: list[LeaseRequest] = []
        self.batches: list[tuple[HostReport, ...]] = []
        self._read_up_to = 0
        self._messages = 0

    async def serve(self) -> None:
        await self.bus.serve(self.subjects.every_lease, self._grant)

    async def _grant(self, _: str, data: bytes) -> bytes | None:
        request = decode(data, LeaseRequest)
        self.requests.append(request)
        if self.is_silent:
            return None
        if request.host in self.refused:
            refusal = LeaseRefused(term=self.term, reason="no_authority")
            return encode(refusal, LeaseReply)
        granted = LeaseGranted(
            term=self.term,
            lease_s=LEASE_S,
            fence_s=FENCE_S,
            peers=dict(self.peers),
            host_epoch=self.host_epoch,
        )
        return encode(granted, LeaseReply)

    async def send(self, host: str, *commands: HostCommand) -> None:
        await self.send_bytes(host, encode(CommandBatch(commands=commands)))

    async def send_bytes(self, host: str, data: bytes) -> None:
        self._messages += 1
        await self.bus.publish(self.subjects.command(host), data, message_id=f"c{self._messages}")

    async def reports(self) -> list[HostReport]:
        """Give all reports in the stream so far."""
        while messages := await self.bus.read(
            self.subjects.report_stream, after=self._read_up_to, limit=100
        ):
            for message in messages:
                self._read_up_to = message.sequence
                self.batches.append(decode(message.data, ReportBatch).reports)
        return [report for batch in self.batches for report in batch]

    async def outcomes(self) -> dict[str, CommandSucceeded | CommandFailed]:
        found: dict[str, CommandSucceeded | CommandFailed] = {}
        for report in await self.reports():
            if isinstance(report.body, CommandSucceeded | CommandFailed):
                found[report.body.command_id] = report.body
        return found

    async def outcome(
        self, command_id: str, *, within_s: float = 30.0
    ) -> CommandSucceeded | CommandFailed:
        with anyio.fail_after(within_s):
            while True:
                found = await self.outcomes()
                if command_id in found:
                    return found[command_id]
                await anyio.sleep(0.05)


class Stage:
    """One pool. Hosts are numbered from 1."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(random.Random(1))
        self.broker.ensure_streams(Subjects(POOL))
        self.fabric = SimulatedFabric()
        self.storage: dict[str, bytes] = {}
        self.network = PeerNetwork()
        self.leader = Leader(MemoryBus(self.broker, "leader"))
        self.disks: dict[int, MemoryJournalDisk] = {}
        self.watchdogs: dict[int, MemoryWatchdog] = {}
        self.timings = SimulatedTimings()
        self.faults: Faults = never_fails
        self.hypervisor: type[SimulatedHypervisor] = SimulatedHypervisor
        self.config = AgentConfig(pool=POOL, nats_urls=("memory",), host_uuid=host_uuid(1))

    def _fault_at(self, point: str) -> Exception | None:
        return self.faults(point)

    def running(self) -> list[str]:
        return [guest.vm_uuid for guest in self.fabric.running()]

    @asynccontextmanager
    async def agent(self, number: int = 1) -> AsyncIterator[Agent]:
        """Run an agent until the block ends, which kills it.

        Its journal's tail is lost, its guests are not.
        """
        name = f"host{number}"
        bus = MemoryBus(self.broker, name)
        disk = self.disks.setdefault(number, MemoryJournalDisk(f"journal{number}"))
        hypervisor = self.hypervisor(self.fabric, name, timings=self.timings, faults=self._fault_at)
        watchdog = self.watchdogs.setdefault(number, MemoryWatchdog(_killer(hypervisor)))
        agent = Agent(
            replace(self.config, host_uuid=host_uuid(number)),
            bus=bus,
            journal=await open_memory_journal(disk),
            hypervisor=hypervisor,
            storage=SimulatedStorage(self.storage, name),
            peers=MemoryPeers(self.network, name),
            watchdog=watchdog,
            wall_clock=lambda: 0,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.run)
            try:
                yield agent
            finally:
                tasks.cancel_scope.cancel()
        await bus.close()

    def cut(self, number: int) -> None:
        """Cut the host off from the messaging system."""
        faults = LinkFaults(is_cut_up=True, is_cut_down=True)
        self.broker.set_faults(faults, client=f"host{number}")

    def mend(self) -> None:
        self.broker.clear_faults()


def _killer(hypervisor: SimulatedHypervisor) -> Callable[[], object]:
    def kill() -> None:
        destroying = hypervisor.destroy_all_fast()
        # The simulated one never waits: one step kills all.
        try:
            destroying.send(None)
        except StopIteration:
            return
        raise AssertionError("killing took more than a step")

    return kill


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """A pool with a leader that serves."""
    pool = Stage()
    await pool.leader.serve()
    yield pool
    await pool.leader.bus.close()


@asynccontextmanager
async def one_host() -> AsyncIterator[Stage]:
    async with stage() as pool, pool.agent():
        yield pool


@asynccontextmanager
async def two_hosts(*, migrate_s: float) -> AsyncIterator[Stage]:
    async with stage() as pool:
        pool.timings = SimulatedTimings(migrate_s=migrate_s)
        async with pool.agent(1), pool.agent(2):
            await pool.leader.send(HOST, START)
            await pool.leader.outcome("start")
            yield pool


@asynccontextmanager
async def pool_of(count: int) -> AsyncIterator[Stage]:
    """A pool whose hosts know of each other; a guest runs on the first."""
    async with stage() as pool, AsyncExitStack() as agents:
        pool.leader.peers = {host_uuid(each): f"host{each}" for each in range(1, count + 1)}
        for number in range(1, count + 1):
            await agents.enter_async_context(pool.agent(number))
        await anyio.sleep(2.0)
        await pool.leader.send(HOST, START)
        await pool.leader.outcome("start")
        yield pool


async def fenced_after(pool: Stage, *, within_s: float = 30.0) -> float:
    began = anyio.current_time()
    with anyio.fail_after(within_s):
        while True:
            if not pool.running():
                break
            await anyio.sleep(0.01)
    return anyio.current_time() - began


def bodies(reports: list[HostReport], kind: type) -> list[Any]:
    return [report.body for report in reports if isinstance(report.body, kind)]


def migrate(number: int) -> MigrateDomain:
    uri = f"simulated://host{number}"
    return MigrateDomain(destination_host=host_uuid(number), destination_uri=uri, migrate_uri=uri)
