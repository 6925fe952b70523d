"""What goes wrong in one simulated scenario: a schedule, as data, drawn from a seed; and the hand that carries it out.

Rules: times are seconds from the scenario's beginning; a fault that lasts ends by itself, and none outlives the scenario.
Printed, a schedule says all that was done to the pool.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from simulator.cluster import BadLink, Cluster, Host, MasterHost
from simulator.memory_broker import LinkFaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that begins at `at` and lasts `lasts` seconds."""

    at: float
    lasts: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOff(Fault):
    """A client's link to the messaging system is dead, one way or both."""

    who: str
    up: bool = True
    down: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FlakyLink(Fault):
    """A client's link loses, doubles and delays messages."""

    who: str
    loss: float
    duplication: float
    delay_s_max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BusOutage(Fault):
    """The messaging system answers nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterCrash(Fault):
    """A master is killed, and started again at the end; its copy may lose its end."""

    master: int
    loses_records: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterStop(Fault):
    """A master is asked to step down, and started again at the end."""

    master: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterPause(Fault):
    """A master is stopped as by SIGSTOP."""

    master: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCrash(Fault):
    """An agent is killed, and started again at the end; guests run on, what the journal had not flushed is lost."""

    host: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPause(Fault):
    """An agent is stopped as by SIGSTOP; its watchdog is not."""

    host: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCut(Fault):
    """A host is without power, and comes back with its disk and without guests."""

    host: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersCut(Fault):
    """A host cannot reach other hosts directly, nor they it."""

    host: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervisorTrouble(Fault):
    """Calls to all hypervisors fail at a point of theirs with this probability."""

    point: str
    chance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestActs(Fault):
    """A running guest powers itself off, reboots or crashes; `which` picks it."""

    act: str
    which: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientDrops(Fault):
    """Clients lose this share of their answers."""

    share: float


POINTS: Final = (
    "start",
    "start.answer",
    "pause.answer",
    "destroy",
    "destroy.answer",
    "request_shutdown.answer",
    "observe",
    "inventory",
    "migrate",
    "migrate.copy",
    "migrate.answer",
    "migrate.hand_over.arrived",
    "migrate.hand_over.lost",
    "migration_status",
    "settle_incoming",
)
ACTS: Final = ("power_off", "reboot", "crash")


def draw_faults(seed: int, *, scenario_s: float, hosts: int, masters: int) -> tuple[Fault, ...]:
    """Give the faults of a seed, in the order of their beginnings."""
    chance = random.Random(f"faults/{seed}")
    draw = _Draw(chance, scenario_s=scenario_s, hosts=hosts, masters=masters)
    faults = [draw.one() for _ in range(chance.randint(2, 14))]
    return tuple(sorted(faults, key=lambda fault: fault.at))


class _Draw:
    def __init__(
        self, chance: random.Random, *, scenario_s: float, hosts: int, masters: int
    ) -> None:
        self._chance = chance
        self._scenario_s = scenario_s
        self._hosts = hosts
        self._masters = masters

    def one(self) -> Fault:
        chance = self._chance
        at = round(chance.uniform(0.0, self._scenario_s * 0.9), 3)
        longest = chance.choice((0.5, 3.0, 12.0, 30.0))
        lasts = round(min(chance.uniform(0.0, longest), self._scenario_s - at), 3)
        makers: tuple[tuple[int, Callable[[float, float], Fault]], ...] = (
            (3, self._cut_off),
            (3, self._flaky),
            (2, lambda at, lasts: BusOutage(at=at, lasts=lasts)),
            (3, self._master_crash),
            (1, lambda at, lasts: MasterStop(at=at, lasts=lasts, master=self._master())),
            (2, lambda at, lasts: MasterPause(at=at, lasts=lasts, master=self._master())),
            (3, lambda at, lasts: AgentCrash(at=at, lasts=lasts, host=self._host())),
            (2, lambda at, lasts: AgentPause(at=at, lasts=lasts, host=self._host())),
            (2, lambda at, lasts: PowerCut(at=at, lasts=lasts, host=self._host())),
            (1, lambda at, lasts: PeersCut(at=at, lasts=lasts, host=self._host())),
            (2, self._trouble),
            (2, self._guest_acts),
            (1, self._drops),
        )
        weights = [weight for weight, _ in makers]
        _, make = chance.choices(makers, weights)[0]
        return make(at, lasts)

    def _master(self) -> int:
        return self._chance.randint(1, self._masters)

    def _host(self) -> int:
        return self._chance.randint(1, self._hosts)

    def _anyone(self) -> str:
        names = [f"master{n}" for n in range(1, self._masters + 1)]
        return self._chance.choice(names + [f"host{n}" for n in range(1, self._hosts + 1)])

    def _cut_off(self, at: float, lasts: float) -> Fault:
        up, down = self._chance.choice(((True, True), (True, False), (False, True)))
        return CutOff(at=at, lasts=lasts, who=self._anyone(), up=up, down=down)

    def _flaky(self, at: float, lasts: float) -> Fault:
        return FlakyLink(
            at=at,
            lasts=lasts,
            who=self._anyone(),
            loss=self._chance.choice((0.0, 0.02, 0.2)),
            duplication=self._chance.choice((0.0, 0.1, 0.5)),
            delay_s_max=self._chance.choice((0.01, 0.5, 4.0)),
        )

    def _master_crash(self, at: float, lasts: float) -> Fault:
        loses = self._chance.choice((0, 0, 1, 5, 1_000))
        return MasterCrash(at=at, lasts=lasts, master=self._master(), loses_records=loses)

    def _trouble(self, at: float, lasts: float) -> Fault:
        point = self._chance.choice(POINTS)
        return HypervisorTrouble(
            at=at, lasts=lasts, point=point, chance=self._chance.choice((0.1, 0.5, 1.0))
        )

    def _guest_acts(self, at: float, _lasts: float) -> Fault:
        return GuestActs(at=at, act=self._chance.choice(ACTS), which=self._chance.randint(0, 99))

    def _drops(self, at: float, lasts: float) -> Fault:
        return ClientDrops(at=at, lasts=lasts, share=self._chance.choice((0.05, 0.3)))


# --- the hand


async def carry_out(cluster: Cluster, faults: tuple[Fault, ...]) -> None:
    """Do all this to a pool; returns when the last fault has ended."""
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            group.create_task(_do(cluster, fault))


async def _do(cluster: Cluster, fault: Fault) -> None:
    await asyncio.sleep(fault.at)
    undo = _begin(cluster, fault)
    await asyncio.sleep(fault.lasts)
    undo()


def _nothing() -> None:
    pass


def _begin(cluster: Cluster, fault: Fault) -> Callable[[], None]:  # noqa: PLR0911 - one arm per kind
    match fault:
        case CutOff() | FlakyLink():
            bad = _bad_link(fault)
            cluster.links.add(bad)
            return lambda: cluster.links.remove(bad)
        case BusOutage():
            cluster.links.stop_broker()
            return cluster.links.start_broker
        case MasterCrash() | MasterStop() | MasterPause():
            return _begin_at_master(cluster, cluster.masters[fault.master - 1], fault)
        case AgentCrash() | AgentPause() | PowerCut():
            return _begin_at_host(cluster, cluster.hosts[fault.host - 1], fault)
        case PeersCut():
            name = cluster.hosts[fault.host - 1].name
            cluster.silent_peers.append(name)
            return lambda: cluster.silent_peers.remove(name)
        case HypervisorTrouble():
            cluster.trouble.chances[fault.point] = fault.chance
            return lambda: cluster.trouble.chances.update({fault.point: 0.0})
        case GuestActs():
            _act(cluster, fault)
            return _nothing
        case ClientDrops():
            cluster.client_drops = fault.share
            return lambda: setattr(cluster, "client_drops", 0.0)
        case _:
            raise AssertionError(f"nobody knows how to do {fault}")


def _bad_link(fault: CutOff | FlakyLink) -> BadLink:
    if isinstance(fault, CutOff):
        return BadLink(fault.who, LinkFaults(is_cut_up=fault.up, is_cut_down=fault.down))
    delay_s = (0.0005, fault.delay_s_max)
    faults = LinkFaults(loss=fault.loss, duplication=fault.duplication, delay_s=delay_s)
    return BadLink(fault.who, faults)


def _begin_at_master(
    cluster: Cluster, node: MasterHost, fault: MasterCrash | MasterStop | MasterPause
) -> Callable[[], None]:
    process = node.process
    if process is None or process.is_dead or process.is_stopped:
        return _nothing

    def start_again() -> None:
        if node.process is process:
            process.kill()  # One that was asked to stop may have hung: its supervisor loses patience.
            cluster.start_master(node)

    match fault:
        case MasterPause():
            process.stop()
            return process.go_on
        case MasterStop():
            if node.master is not None:
                process.call(node.master.stop)
        case MasterCrash():
            cluster.kill_master(node, loses_records=fault.loses_records)
    return start_again


def _begin_at_host(
    cluster: Cluster, host: Host, fault: AgentCrash | AgentPause | PowerCut
) -> Callable[[], None]:
    process = host.process
    if process is None or process.is_dead or process.is_stopped:
        return _nothing
    match fault:
        case AgentPause():
            process.stop()
            return process.go_on
        case AgentCrash():
            cluster.kill_agent(host)
            return lambda: cluster.start_agent(host)
        case PowerCut():
            cluster.cut_power(host)
            return lambda: cluster.give_power(host)


def _act(cluster: Cluster, fault: GuestActs) -> None:
    running = cluster.fabric.running()
    if not running:
        return
    vm_uuid = running[fault.which % len(running)].vm_uuid
    match fault.act:
        case "power_off":
            cluster.fabric.guest_power_off(vm_uuid)
        case "reboot":
            cluster.fabric.guest_reboot(vm_uuid)
        case _:
            cluster.fabric.guest_crash(vm_uuid)
