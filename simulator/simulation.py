"""One simulated scenario from its seed: build a pool, let clients work, break things, mend them, and see that all is well.

One job: the order of these; what breaks is in `faults`, what must hold in `checks`.

Rules: the same seed gives the same log, bit for bit. Bounds are virtual seconds.
"""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from pool_master.core.ha_plan import RESTART
from simulator.checks import LAST_EVENTS, Checks, Violation
from simulator.clients import Client, Gone, Refused, Watcher
from simulator.cluster import Cluster, ConnectionDropped
from simulator.draw import draw_faults
from simulator.faults import Fault, carry_out
from simulator.observer import POOL, Situation
from simulator.processes import SimulationLoop, run_world
from simulator.protection import unprotected
from simulator.setting import Setting
from simulator.timeline import Timeline

# How long after the last fault every operation has ended, hosts and pool agree, and a new VM starts.
SETTLE_S_MAX: Final = 90.0
QUIET_S: Final = 2.0
START_S_MAX: Final = 10.0
LOOK_S: Final = 2.0
READY_S: Final = 4.0
CLIENTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a seed."""

    seed: int
    faults: tuple[Fault, ...]
    violations: tuple[str, ...]
    story: tuple[str, ...]
    digest: str
    events: int
    simulated_s: float
    settled_s: float
    real_s: float
    refusals: tuple[str, ...]
    acknowledged: int
    situations: dict[Situation, int]
    timeline: Timeline
    replay: str

    def without_story(self) -> "Outcome":
        """Give what can be counted."""
        return replace(self, story=(), timeline=Timeline(float), refusals=())

    def __str__(self) -> str:
        """Say all that is needed to look into it."""
        faults = "\n".join(f"  {fault}" for fault in self.faults)
        story = "\n".join(f"  {line}" for line in self.story[-LAST_EVENTS:])
        wrong = "\n".join(f"  {violation}" for violation in self.violations)
        return f"{self.replay}\nviolates\n{wrong}\nafter\n{faults}\nlast events\n{story}"


def simulate(seed: int, setting: Setting | None = None) -> Outcome:
    """Run a seed."""
    began = time.perf_counter()
    with quiet():
        return run_world(lambda loop: _Scenario(loop, seed, setting or Setting()).run(began))


class _Scenario:
    def __init__(self, loop: SimulationLoop, seed: int, setting: Setting) -> None:
        self.loop = loop
        self.seed = seed
        self.setting = setting
        self.began_at = loop.time()
        self.faults = draw_faults(seed, setting)
        self.cluster = Cluster(loop, seed, hosts=setting.hosts, masters=setting.masters_of(seed))
        self.checks = Checks(self.cluster)
        self.clients = [
            Client(self.cluster, self.checks, f"client{n}", vms_max=setting.vms)
            for n in range(CLIENTS)
        ]
        if setting.is_protected:
            for client in self.clients:
                client.priority = RESTART
        self.watcher = Watcher(self.cluster, self.checks)
        self.settled_s = 0.0

    async def run(self, began: float) -> Outcome:
        self.cluster.start_all()
        await self._until_first_violation(self._live())
        timeline = self.checks.observer.timeline
        timeline.end()
        return Outcome(
            seed=self.seed,
            faults=self.faults,
            violations=tuple(self.checks.violations),
            story=tuple(self.checks.story),
            digest=hashlib.sha256(b"".join(self.checks._data)).hexdigest(),
            events=len(self.checks.recorded),
            simulated_s=self.loop.time() - self.began_at,
            settled_s=self.settled_s,
            real_s=time.perf_counter() - began,
            refusals=tuple(why for client in self.clients for why in client.refusals),
            acknowledged=len(self.checks.acknowledged),
            situations=dict(self.checks.observer.counts),
            timeline=timeline.detached(),
            replay=self.setting.command(self.seed),
        )

    async def _make_pool(self) -> None:
        session = self.clients[0].session
        for host in self.cluster.hosts:
            await session.call("host.create", host.uuid, host.name)
        await asyncio.sleep(READY_S)
        if self.setting.is_protected:
            await session.call("pool.enable_ha", [], {})
        if not all(self.checks.pool.is_live(ref) for ref in self.checks.pool.hosts):
            self.checks.fail(
                "liveness", f"a host does not live after {READY_S:.0f} s without faults"
            )

    async def _until_first_violation(self, life: Any) -> None:
        living = asyncio.ensure_future(life)
        looking = asyncio.ensure_future(self._look())
        try:
            await asyncio.wait({living, looking}, return_when=asyncio.FIRST_COMPLETED)
            for task in (living, looking):
                if task.done():
                    task.result()
        except Violation:
            pass
        except (Refused, ConnectionDropped, Gone) as error:
            self.checks.fail("no pool can be made", repr(error))
        finally:
            living.cancel()
            looking.cancel()

    async def _look(self) -> None:
        """Look often whether something was found, and now and then at every master."""
        looked_at = 0.0
        while True:
            if self.loop.time() - looked_at >= LOOK_S:
                looked_at = self.loop.time()
                self.checks.check_masters()
            self.checks.observer.poll(self.checks.pool)
            for defect in self.cluster.defects:
                self.checks.fail("no defect", defect)
            self._stop_if_violated()
            await asyncio.sleep(0.25)

    def _stop_if_violated(self) -> None:
        if self.checks.violations:
            raise Violation

    async def _live(self) -> None:
        await self._make_pool()
        watching = asyncio.ensure_future(self.watcher.watch())
        until = self.loop.time() + self.setting.scenario_s
        self.checks.observer.timeline.mark(POOL, "faults begin")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(carry_out(self.cluster, self.faults))
                working = [group.create_task(x.work(until=until)) for x in self.clients]
                settled = group.create_task(self._settle(until, working))
                await settled
        finally:
            watching.cancel()
        await self._start_a_new_one()
        await self.watcher.check()
        self.checks.check_masters()
        self._stop_if_violated()

    async def _settle(self, until: float, working: list[asyncio.Task[None]]) -> None:
        """Wait until all has been well for a moment after the last fault (5, 9)."""
        await asyncio.sleep(until - self.loop.time())
        deadline = self.loop.time() + SETTLE_S_MAX
        well_since = None
        while True:
            wrong = self.checks.unsettled() + unprotected(self.checks.pool)
            wrong += [f"{x.name} is not done" for x in self.clients if not x.is_done]
            now = self.loop.time()
            if wrong:
                well_since = None
            elif well_since is None:
                well_since = now
                self.settled_s = now - until
            elif now - well_since >= QUIET_S:
                return
            if now > deadline:
                for text in wrong:
                    self.checks.fail(f"5, 9 all is well {SETTLE_S_MAX:.0f} s after faults", text)
                for task in working:
                    task.cancel()
                return
            await asyncio.sleep(0.5)

    async def _start_a_new_one(self) -> None:
        """A pool that has recovered works: room is made, and a fresh VM starts."""
        client = self.clients[0]
        try:
            async with asyncio.timeout(START_S_MAX):
                vm = await client.create(
                    memory_static_min="1", memory_dynamic_min="1", memory_dynamic_max="1"
                )
                await client.operate("VM.start", vm, False, False)
        except (Refused, ConnectionDropped, TimeoutError) as error:
            self.checks.fail("liveness", f"a fresh VM does not start: {error!r}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Say nothing unless asked to: VMPOOL_SIM_LOG=1."""
    before = structlog.get_config()
    if not os.environ.get("VMPOOL_SIM_LOG"):
        structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[_drop])
    try:
        yield
    finally:
        structlog.configure(**before)


def _drop(_logger: Any, _name: str, _event: Any) -> Any:
    raise structlog.DropEvent
