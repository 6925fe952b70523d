"""What goes wrong in one simulated scenario: a schedule, as data; and the hand that carries it out.

Rules: times are seconds from the scenario's beginning; a fault that lasts ends by itself, and none outlives the scenario.
Printed, a schedule says all that was done to the pool.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from simulator.cluster import Cluster, Host, MasterHost
from simulator.memory_broker import LinkFaults
from simulator.ports import BadLink


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
class MigrationTrouble(HypervisorTrouble):
    """The same at a point of a migration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestActs(Fault):
    """A running guest powers itself off, reboots or crashes; `which` picks it."""

    act: str
    which: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientDrops(Fault):
    """Clients lose this share of their answers."""

    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJump(Fault):
    """A master's wall clock is off by this much, until it is set right again."""

    master: int
    by_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowDisk(Fault):
    """Each flush to a master's or host's disk takes so long."""

    who: str
    flush_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStall(Fault):
    """One stream of the messaging system has no leader: nobody who publishes to it is answered."""

    stream: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsLost(Fault):
    """The messaging system is killed, and the stream of events, which is not synced, loses its end."""

    count: int


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
        case ClockJump():
            return _jump(cluster.masters[fault.master - 1], fault.by_s)
        case SlowDisk():
            return _slow(cluster, fault)
        case StreamStall() | EventsLost():
            return _begin_at_streams(cluster, fault)
        case _:
            raise AssertionError(f"nobody knows how to do {fault}")


def _jump(node: MasterHost, by_s: float) -> Callable[[], None]:
    by = timedelta(seconds=by_s)
    node.skew += by

    def set_right() -> None:
        node.skew -= by

    return set_right


def _slow(cluster: Cluster, fault: SlowDisk) -> Callable[[], None]:
    disks = {x.name: x.disk for x in cluster.masters} | {x.name: x.disk for x in cluster.hosts}
    disk = disks[fault.who]
    disk.flush_s += fault.flush_s

    def be_quick_again() -> None:
        disk.flush_s -= fault.flush_s

    return be_quick_again


def _begin_at_streams(cluster: Cluster, fault: StreamStall | EventsLost) -> Callable[[], None]:
    subjects = cluster.subjects
    if isinstance(fault, EventsLost):
        cluster.links.stop_broker()
        cluster.broker.lose_the_last(subjects.event_stream, fault.count)
        return cluster.links.start_broker
    patterns = {
        "log": [subjects.log, subjects.log_stream],
        "commands": [subjects.every_command, subjects.command_stream],
        "reports": [subjects.every_report, subjects.report_stream],
        "events": [subjects.every_event, subjects.event_stream],
        "leader": [subjects.leader_bucket],
    }[fault.stream]
    cluster.broker.stalled += patterns

    def elect() -> None:
        for pattern in patterns:
            cluster.broker.stalled.remove(pattern)

    return elect


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
    cluster.on_guest_acts()
    vm_uuid = running[fault.which % len(running)].vm_uuid
    match fault.act:
        case "power_off":
            cluster.fabric.guest_power_off(vm_uuid)
        case "reboot":
            cluster.fabric.guest_reboot(vm_uuid)
        case _:
            cluster.fabric.guest_crash(vm_uuid)
