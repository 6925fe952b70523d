"""The ports of a simulated world that know of processes: what is on its way outlives whoever sent it, what arrives does not.

One job: tie the ports in memory to `simulator.processes`, and let a checker look at what passes.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final, cast

from host_agent.core.lease_guard import PeerAnswer, PeerQuestion
from host_agent.shell.fabric_store import MemoryStore, SimulatedDomain
from host_agent.shell.peers import Answerer
from simulator.memory_broker import Client, LinkFaults, MemoryBroker, matches
from simulator.memory_bus import MemoryBus
from simulator.memory_peers import MemoryPeers, PeerNetwork
from simulator.memory_watchdog import MemoryWatchdog
from simulator.processes import Process, in_world

KILL_PAUSE_S: Final = 0.2


class WorldBroker(MemoryBroker):
    """The messaging system between processes: what is on its way belongs to nobody, what arrives to its receiver."""

    def __init__(self, randomness: random.Random) -> None:
        super().__init__(randomness)
        self.on_store: Callable[[str, bytes], None] = lambda _subject, _data: None
        self.stalled: list[str] = []

    def carry_up(self, client: Client, subject: str, arrive: Callable[[], None]) -> None:
        # A stream without a leader: who publishes to it, or reads it, is not answered.
        if any(matches(pattern, subject) for pattern in self.stalled):
            return
        in_world(super().carry_up, client, subject, arrive)

    def carry_down(self, client: Client, subject: str, arrive: Callable[[], None]) -> None:
        process = cast("ProcessBus", client).process
        in_world(super().carry_down, client, subject, lambda: process.call(arrive))

    def store(
        self, subject: str, data: bytes, *, message_id: str = "", expected: int | None = None
    ) -> int:
        sequence = super().store(subject, data, message_id=message_id, expected=expected)
        self.on_store(subject, data)
        return sequence


class ProcessBus(MemoryBus):
    """A connection that dies with its process."""

    def __init__(self, broker: MemoryBroker, name: str, process: Process) -> None:
        super().__init__(broker, name)
        self.process = process
        process.on_death.append(self.die)

    def die(self) -> None:
        """Be gone, without a word."""
        self._is_closed = True
        if self in self.broker.clients:
            self.broker.clients.remove(self)
        self.broker.servers[:] = [s for s in self.broker.servers if s.client is not self]
        for stream in self.broker.streams.values():
            for consumer in stream.consumers.values():
                consumer.readers[:] = [r for r in consumer.readers if r.client is not self]


class WatchedStore(MemoryStore):
    """The hypervisors' domains; tells when a step that changed some is done."""

    def __init__(self) -> None:
        super().__init__()
        self.on_changed: Callable[[list[str]], None] = lambda _vms: None
        self.on_started: Callable[[str, SimulatedDomain], None] = lambda _host, _domain: None
        self._depth = 0
        self._touched: dict[str, None] = {}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth and self._touched:
                touched, self._touched = list(self._touched), {}
                self.on_changed(touched)

    def lock(self) -> AbstractContextManager[None]:
        return self._locked()

    def write(self, host: str, domain: SimulatedDomain) -> None:
        before = self.read(host, domain.config.vm_uuid)
        was_here = before is not None and before.domid >= 0
        is_same = before is not None and before.config.incarnation == domain.config.incarnation
        # What has its number from `new_domid` was built here; a guest that moves in has a later one.
        is_built = domain.domid >= 0 and domain.domid % 1_000 == 0
        super().write(host, domain)
        self._touched[domain.config.vm_uuid] = None
        if is_built and not (was_here and is_same):
            self.on_started(host, domain)

    def remove(self, host: str, vm_uuid: str) -> None:
        super().remove(host, vm_uuid)
        self._touched[vm_uuid] = None

    def move(self, source: str, destination: str, vm_uuid: str) -> None:
        super().move(source, destination, vm_uuid)
        self._touched[vm_uuid] = None


@dataclass(frozen=True, slots=True)
class BadLink:
    """What holds for one client's link for a while."""

    client: str
    faults: LinkFaults


class Links:
    """All that is wrong with links now; several troubles of one link add up."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._bad: list[BadLink] = []
        self.outages = 0

    def add(self, bad: BadLink) -> None:
        self._bad.append(bad)
        self._apply(bad.client)

    def remove(self, bad: BadLink) -> None:
        self._bad.remove(bad)
        self._apply(bad.client)

    def _apply(self, client: str) -> None:
        here = [bad.faults for bad in self._bad if bad.client == client]
        self._broker.set_faults(
            LinkFaults(
                loss=max((x.loss for x in here), default=0.0),
                duplication=max((x.duplication for x in here), default=0.0),
                delay_s=max((x.delay_s for x in here), default=(0.0005, 0.003)),
                is_cut_up=any(x.is_cut_up for x in here),
                is_cut_down=any(x.is_cut_down for x in here),
            ),
            client=client,
        )

    def stop_broker(self) -> None:
        self.outages += 1
        self._broker.stop()

    def start_broker(self) -> None:
        self.outages -= 1
        if not self.outages:
            self._broker.start()


class ProcessPeers(MemoryPeers):
    """Peers whose answers are given by the process that is asked: one that is stopped is silent."""

    def __init__(self, network: PeerNetwork, name: str, process: Process) -> None:
        super().__init__(network, name)
        self._process = process

    @asynccontextmanager
    async def serving(self, answer: Answerer) -> AsyncIterator[None]:
        async def answer_there(question: PeerQuestion) -> PeerAnswer:
            answered: asyncio.Future[PeerAnswer] = asyncio.get_running_loop().create_future()

            async def work() -> None:
                found = await answer(question)
                if not answered.done():
                    answered.set_result(found)

            self._process.spawn(work())
            return await answered

        async with super().serving(answer_there):
            yield


class WorldWatchdog(MemoryWatchdog):
    """A watchdog that dies with its host alone, and goes on killing until it is wound up again, as the real one."""

    def _fire(self) -> None:
        super()._fire()
        self._timer = asyncio.get_running_loop().call_later(KILL_PAUSE_S, self._fire)

    async def wind(self, deadline: float) -> None:
        winding = super().wind(deadline)

        def step() -> None:
            try:
                winding.send(None)
            except StopIteration:
                return
            raise AssertionError("winding took more than a step")

        in_world(step)
