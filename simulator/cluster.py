"""A whole pool in one process: production masters and agents on simulated ports, and handles to break it.

One job: build it, and offer what a schedule of faults and a checker need: kill, stop, cut, restart, look.

Rules: everything above the ports is production code; what happens is decided by the seed alone. A master and an agent
are processes (`simulator.processes`); their disks, the messaging system, the hypervisors and the watchdogs are the world's
and survive them.
"""

import asyncio
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, cast

from prometheus_client import CollectorRegistry

from host_agent.config import AgentConfig
from host_agent.shell.agent import Agent
from host_agent.shell.hypervisor import HypervisorUnavailable
from host_agent.shell.simulated_fabric import SimulatedFabric
from host_agent.shell.simulated_hypervisor import (
    SimulatedHypervisor,
    SimulatedMachine,
    SimulatedTimings,
)
from host_agent.shell.simulated_storage import SimulatedStorage
from pool_master.core.pool import Pool
from pool_master.shell.api import Api
from pool_master.shell.api_sessions import SessionApi
from pool_master.shell.audit import Audit
from pool_master.shell.calls import Call, Failure, Success
from pool_master.shell.event_log import JetStreamLog
from pool_master.shell.http_app import LocalRoot
from pool_master.shell.master import Master, MasterParts
from pool_master.shell.mirror import Mirror
from pool_master.shell.sessions import Sessions
from pool_master.shell.sources import Sources
from shared.errors import VmMigrateFailed, XenApiError
from shared.refs import derive
from shared.subjects import Subjects
from simulator.candidacy import LEASE_TIMES, candidacy_of
from simulator.memory_broker import LinkFaults
from simulator.memory_journal import MemoryJournalDisk, open_memory_journal
from simulator.memory_mirror import MemoryMirror, MemoryMirrorDisk
from simulator.memory_peers import PeerNetwork
from simulator.memory_watchdog import MemoryWatchdog
from simulator.ports import (
    Links,
    ProcessBus,
    ProcessPeers,
    WatchedStore,
    WorldBroker,
    WorldWatchdog,
)
from simulator.processes import Process, SimulationLoop

POOL: Final = "simulated"
MIB: Final = 1 << 20
HOST_MEMORY: Final = 2_500 * MIB
# 2024-04-20T12:00:00Z
BEGINNING: Final = datetime(2024, 4, 20, 12, tzinfo=UTC)


def host_uuid(number: int) -> str:
    return derive(f"simulated/{number}", "host")


@dataclass(slots=True)
class Host:
    """One host: its hardware and disk, which stay, and its agent's process, if any."""

    number: int
    name: str
    uuid: str
    disk: MemoryJournalDisk
    watchdog: MemoryWatchdog
    trouble: Callable[[str], Exception | None]
    process: Process | None = None
    agent: Agent | None = None


@dataclass(slots=True)
class MasterHost:
    """One master: its disk, which stays, and its process, if any."""

    name: str
    disk: MemoryMirrorDisk
    skew: timedelta
    lives: int = 0
    process: Process | None = None
    master: Master | None = None
    api: Api | None = None

    @property
    def pool(self) -> Pool:
        assert self.master is not None
        return self.master._follower.pool

    @property
    def position(self) -> int:
        assert self.master is not None
        return self.master._follower.tail.position

    @property
    def leads(self) -> bool:
        return self.is_up and self.api is not None and self.api.reign is not None

    @property
    def is_up(self) -> bool:
        return self.process is not None and not self.process.is_dead


class ConnectionDropped(Exception):
    """A client's connection broke: the call may or may not have been made."""


@dataclass(slots=True, kw_only=True)
class Trouble:
    """How likely a hypervisor's calls fail, by point; 0 for all that are not named."""

    chances: dict[str, float] = field(default_factory=dict)


class OnDeath(Protocol):
    """Is told that a host loses its agent, or all its power."""

    def __call__(self, host: str, *, has_power: bool) -> None: ...


def _nobody_looks(host: str, *, has_power: bool) -> None:
    del host, has_power


class Cluster:
    """A pool of production code on simulated ports."""

    def __init__(
        self, loop: SimulationLoop, seed: int, *, hosts: int = 3, masters: int = 2
    ) -> None:
        self.loop = loop
        self.random = random.Random(f"cluster/{seed}")
        self.subjects = Subjects(POOL)
        self.broker = WorldBroker(random.Random(f"links/{seed}"))
        self.broker.ensure_streams(self.subjects)
        self.links = Links(self.broker)
        self.store = WatchedStore()
        self.fabric = SimulatedFabric(self.store)
        self.storage: dict[str, bytes] = {}
        self.silent_peers: list[str] = []
        self.network = PeerNetwork(delay_s=0.002, reaches=self._peers_reach)
        self.defects: list[str] = []
        self.trouble, self.client_drops = Trouble(), 0.0
        self.on_trouble: Callable[[str, str], None] = lambda _point, _host: None
        self.on_death: OnDeath = _nobody_looks
        self.on_guest_acts: Callable[[], None] = lambda: None
        self.timings = SimulatedTimings(
            call_s=self.random.choice((0.0, 0.005, 0.05)),
            start_s=self.random.choice((0.05, 0.5, 2.0)),
            shutdown_s=self.random.choice((0.2, 2.0, 6.0)),
            migrate_s=self.random.choice((0.3, 2.0, 6.0)),
        )
        self.hosts = [self._host(number) for number in range(1, hosts + 1)]
        self.masters = [self._master(number) for number in range(1, masters + 1)]
        for name in [*(h.name for h in self.hosts), *(m.name for m in self.masters)]:
            self.broker.set_faults(LinkFaults(delay_s=(0.0005, 0.003)), client=name)

    def _peers_reach(self, asker: str, answerer: str) -> bool:
        return asker not in self.silent_peers and answerer not in self.silent_peers

    def _host(self, number: int) -> Host:
        name = f"host{number}"
        killer = SimulatedHypervisor(self.fabric, name)
        chance = random.Random(f"{name}/{self.random.random()}")

        def kill() -> None:
            try:
                killer.destroy_all_fast().send(None)
            except StopIteration:
                return
            raise AssertionError("killing took more than a step")

        return Host(
            number=number,
            name=name,
            uuid=host_uuid(number),
            disk=MemoryJournalDisk(f"journal{number}", flush_s=self.random.choice((0.0, 0.004))),
            watchdog=WorldWatchdog(kill),
            trouble=lambda point: self._fault_at(point, name, chance),
        )

    def _fault_at(self, point: str, host: str, chance: random.Random) -> Exception | None:
        likely = self.trouble.chances.get(point, 0.0)
        if not likely or chance.random() >= likely:
            return None
        self.on_trouble(point, host)
        if point.startswith("migrate"):
            return VmMigrateFailed("", "", "", f"simulated at {point}")
        if point.endswith(".failed"):
            return XenApiError()
        return HypervisorUnavailable(f"simulated at {point}")

    def _master(self, number: int) -> MasterHost:
        return MasterHost(
            name=f"master{number}",
            disk=MemoryMirrorDisk(flush_s=self.random.choice((0.0, 0.003))),
            skew=timedelta(seconds=self.random.uniform(-2.0, 2.0)),
        )

    # --- processes

    def start_all(self) -> None:
        for master in self.masters:
            self.start_master(master)
        for host in self.hosts:
            self.start_agent(host)

    def start_master(self, node: MasterHost) -> None:
        assert not node.is_up
        node.lives += 1
        process = node.process = Process(self.loop, node.name)
        bus = ProcessBus(self.broker, node.name, process)
        chance = random.Random(f"{node.name}/{node.lives}/{self.random.random()}")
        sources = Sources(
            now=lambda: BEGINNING + timedelta(seconds=self.loop.time()) + node.skew,
            new_id=lambda: str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            chance=chance.random,
        )
        mirror = cast("Mirror", MemoryMirror(node.disk))
        sessions = Sessions({}, sources=sources)
        node.api = Api(sessions, SessionApi(sessions, Audit(mirror)), sources=sources)
        candidacy = candidacy_of(bus, self.subjects, node.name, node.lives)
        parts = MasterParts(
            name=node.name,
            address=node.name,
            pool_name=POOL,
            bus=bus,
            subjects=self.subjects,
            event_log=JetStreamLog(bus, self.subjects),
            mirror=mirror,
            leadership=candidacy.leadership,
            roster=candidacy.roster,
            lease_times=LEASE_TIMES,
            api=node.api,
            wall_clock_us=lambda: int(sources.now().timestamp() * 1_000_000),
            registry=CollectorRegistry(),
            sources=sources,
        )
        api = node.api

        async def live() -> None:
            node.master = Master(parts)
            await node.master.run()
            api.close()

        self._watch(process, live())

    def start_agent(self, host: Host) -> None:
        assert host.process is None or host.process.is_dead
        process = host.process = Process(self.loop, host.name)
        hypervisor = SimulatedHypervisor(
            self.fabric,
            host.name,
            timings=self.timings,
            machine=SimulatedMachine(memory_total=HOST_MEMORY),
            faults=host.trouble,
        )

        async def live() -> None:
            host.agent = Agent(
                AgentConfig(pool=POOL, nats_urls=("memory",), host_uuid=host.uuid),
                bus=ProcessBus(self.broker, host.name, process),
                journal=await open_memory_journal(host.disk),
                hypervisor=hypervisor,
                storage=SimulatedStorage(self.storage, host.name),
                peers=ProcessPeers(self.network, host.name, process),
                watchdog=host.watchdog,
                wall_clock=lambda: int(self.loop.time() * 1_000_000),
            )
            await host.agent.run()

        self._watch(process, live())

    def _watch(self, process: Process, life: Any) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            if not self.loop.is_over and not task.cancelled() and (error := task.exception()):
                self.defects.append(f"{process.name} died of {error!r}")
                self.last_defect = error
            elif not self.loop.is_over:
                process.kill()

        process.spawn(life).add_done_callback(ended)

    def kill_master(self, node: MasterHost, *, loses_records: int = 0) -> None:
        if node.process is not None:
            node.process.kill()
        if loses_records:
            node.disk.lose_end(loses_records)

    def kill_agent(self, host: Host) -> None:
        self.on_death(host.name, has_power=True)
        if host.process is not None:
            host.process.kill()

    def cut_power(self, host: Host) -> None:
        """The host with all its guests and its watchdog is off; its disk stays."""
        self.on_death(host.name, has_power=False)
        if host.process is not None:
            host.process.kill()
        host.watchdog.unplug()
        self.fabric.kill_host(host.name)
        self.network.answerers.pop(host.name, None)

    def give_power(self, host: Host) -> None:
        self.fabric.revive_host(host.name)
        self.start_agent(host)

    # --- clients

    @property
    def leader(self) -> MasterHost | None:
        return next((node for node in self.masters if node.leads), None)

    async def ask(self, address: str, call: Call, *, timeout_s: float = 60.0) -> Success | Failure:
        """Make one call as a client does, over a connection that may break.

        Raises:
            ConnectionDropped: nobody there, or nobody any more.
        """
        node = next((node for node in self.masters if node.name == address), None)
        await asyncio.sleep(self.random.uniform(0.0005, 0.003))
        if node is None or not node.is_up or node.api is None or node.process is None:
            raise ConnectionDropped(address)
        answer: asyncio.Future[Success | Failure] = self.loop.create_future()
        process, api = node.process, node.api

        async def serve() -> None:
            outcome = await api.call(call, LocalRoot())
            if not answer.done():
                answer.set_result(outcome)

        def drop() -> None:
            if not answer.done():
                answer.set_exception(ConnectionDropped(address))

        process.call(lambda: self.loop.create_task(serve()))
        process.on_death.append(drop)
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await answer
        except TimeoutError:
            raise ConnectionDropped(address) from None
        finally:
            process.on_death.remove(drop)
        if self.random.random() < self.client_drops:
            raise ConnectionDropped(address)
        return outcome
