"""Who looks on: how often each interesting situation came up, and what a picture of it all shows.

One job: tell that the simulation gets to where the dangerous code is; a test fails when a situation no longer occurs.

Rules: looks, and changes nothing; draws no random numbers.
"""

from collections import Counter
from enum import StrEnum
from functools import partial
from typing import Final

from host_agent.core.lease_guard import Expiring, Failsafe, Lapsed, MustFence, Valid
from host_agent.shell.simulated_fabric import ACTIVE_STATES
from pool_master.core import events as ev
from pool_master.core.pool import Pool
from shared.enums import VmOperation
from shared.refs import NULL_HOST, HostRef
from simulator.cluster import Cluster, Host, MasterHost
from simulator.timeline import Timeline

STARTS: Final = (VmOperation.START, VmOperation.START_ON)
LOST_LEASE: Final = ("failsafe", "lapsed", "fencing")
HELD: Final = ("lease", "expiring")
POOL: Final = "pool"


class Situation(StrEnum):
    """What should come up now and then, or it is not tried."""

    LEADER_CHANGED_UNDER_OPERATION = "the leader changed with operations under way"
    LEADER_CHANGED_UNDER_START = "the leader changed during a start"
    LEADER_CHANGED_UNDER_MIGRATION = "the leader changed during a migration"
    MIGRATION_REFUSED = "a migration failed before it began"
    MIGRATION_CUT_IN_COPY = "a migration was cut while it copied"
    MIGRATION_CUT_AT_ARRIVAL = "a migration was cut at its hand-over, the guest had arrived"
    MIGRATION_LOST_AT_HAND_OVER = "a migration was cut at its hand-over, the guest had not arrived"
    MIGRATION_UNANSWERED = "a migration was done and its answer was lost"
    AGENT_DIED_IN_MIGRATION = "the source's agent died during a migration"
    SOURCE_DIED_IN_MIGRATION = "the source lost power during a migration"
    DESTINATION_DIED_IN_MIGRATION = "the destination lost power during a migration"
    LEASE_LOST_DURING_START = "a host's lease ran out while it started a guest"
    HOST_LOST_DURING_START = "a host was given up while it started a guest"
    HOST_LOST_DURING_MIGRATION = "a host was given up during a migration"
    HOST_BACK_WITH_STALE_GUEST = "a host came back with a guest that the pool had moved past"
    FAILSAFE_ENTERED = "a host without a lease went on, as no other host had one"
    FAILSAFE_LEFT = "such a host got a lease again"
    FENCED_BY_AGENT = "an agent killed its host's guests"
    FENCED_BY_WATCHDOG = "a watchdog killed a host's guests"
    GUEST_ENDED_ITSELF = "a guest ended or crashed by itself"
    OPERATION_CANCELLED = "somebody cancelled an operation"


_CUTS: Final = {
    "migrate": Situation.MIGRATION_REFUSED,
    "migrate.copy": Situation.MIGRATION_CUT_IN_COPY,
    "migrate.hand_over.arrived": Situation.MIGRATION_CUT_AT_ARRIVAL,
    "migrate.hand_over.lost": Situation.MIGRATION_LOST_AT_HAND_OVER,
    "migrate.answer": Situation.MIGRATION_UNANSWERED,
}
_VERDICTS: Final = {
    Valid: "lease",
    Expiring: "expiring",
    Failsafe: "failsafe",
    Lapsed: "lapsed",
    MustFence: "fencing",
}


class Observer:
    """Looks at one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.counts: Counter[Situation] = Counter()
        self.timeline = Timeline(cluster.loop.time)
        self._cluster = cluster
        self._standing: dict[str, str] = {}
        self._in_failsafe: set[str] = set()
        cluster.on_trouble = self._trouble
        cluster.on_death = self._death
        cluster.on_guest_acts = self._guest_acts
        for host in cluster.hosts:
            host.watchdog.on_kill = partial(self._watchdog, host)

    def poll(self, pool: Pool) -> None:
        """Look at who stands how."""
        for node in self._cluster.masters:
            self.timeline.become(node.name, _standing_of(node))
        for host in self._cluster.hosts:
            self._look_at(host, pool)

    def _look_at(self, host: Host, pool: Pool) -> None:
        before, now = self._standing.get(host.name, ""), self._standing_of(host)
        if before == now:
            return
        self._standing[host.name] = now
        self.timeline.become(host.name, now)
        if now in LOST_LEASE and before not in LOST_LEASE and _works(pool, host.name, STARTS):
            self._count(Situation.LEASE_LOST_DURING_START, host.name)
        if now == "failsafe" and before in HELD:
            self._in_failsafe.add(host.name)
            self._count(Situation.FAILSAFE_ENTERED, host.name)
        if now == "fencing":
            self._count(Situation.FENCED_BY_AGENT, host.name)
        if now in HELD and host.name in self._in_failsafe:
            self._count(Situation.FAILSAFE_LEFT, host.name)
        if now != "failsafe":
            self._in_failsafe.discard(host.name)

    def _standing_of(self, host: Host) -> str:
        if self._cluster.store.is_dead(host.name):
            return "off"
        process = host.process
        if process is None or process.is_dead or host.agent is None:
            return "no agent"
        if process.is_stopped:
            return "stopped"
        return _VERDICTS[type(host.agent.lease.guard.verdict(self._cluster.loop.time()))]

    def _count(self, situation: Situation, lane: str) -> None:
        self.counts[situation] += 1
        self.timeline.mark(lane, situation.name.lower(), situation.value)

    # --- the fabric

    def show_guest(self, vm_uuid: str, places: list[tuple[str, str]]) -> None:
        """A guest is active at these hosts, in these states."""
        text = ", ".join(f"{host} {state}" for host, state in places)
        kind = "twice" if len(places) > 1 else places[0][0] if places else ""
        self.timeline.become(vm_uuid[:8], kind, text)

    def _trouble(self, point: str, host: str) -> None:
        if (situation := _CUTS.get(point)) is not None:
            self._count(situation, host)

    def _death(self, host: str, *, has_power: bool) -> None:
        for domain in self._cluster.store.domains(host):
            if domain.moves_to and has_power:
                self._count(Situation.AGENT_DIED_IN_MIGRATION, host)
            elif domain.moves_to:
                self._count(Situation.SOURCE_DIED_IN_MIGRATION, host)
            elif domain.comes_from and not has_power:
                self._count(Situation.DESTINATION_DIED_IN_MIGRATION, host)

    def _watchdog(self, host: Host) -> None:
        if any(x.state in ACTIVE_STATES for x in self._cluster.store.domains(host.name)):
            self._count(Situation.FENCED_BY_WATCHDOG, host.name)

    # --- the log

    def see(self, recorded: ev.Recorded, pool: Pool) -> None:
        """An event is about to change the pool."""
        match recorded.event:
            case ev.MasterElected(term=term, master=master):
                self.timeline.mark(master, "elected", f"{master} is elected in term {term}")
                self._see_election(master, pool)
            case ev.HostLost(host=host, evidence=evidence):
                self._see_loss(host, evidence, pool)
            case ev.HostCameAlive(host=host):
                self.timeline.mark(_name(pool, host), "alive", "the pool counts on it")
            case ev.StaleDomainFound(host=host):
                self._count(Situation.HOST_BACK_WITH_STALE_GUEST, _name(pool, host))
            case ev.VmMigrated(vm=vm, host=host) if vm in pool.vms:
                text = f"arrived at {_name(pool, host)}"
                self.timeline.mark(pool.vms[vm].uuid[:8], "migrated", text)
            case ev.VmHalted(vm=vm, reason=reason) if vm in pool.vms:
                self.timeline.mark(pool.vms[vm].uuid[:8], "halted", reason)
            case ev.CancelRequested():
                self._count(Situation.OPERATION_CANCELLED, POOL)
            case _:
                pass

    def _guest_acts(self) -> None:
        """A guest did something by itself."""
        self._count(Situation.GUEST_ENDED_ITSELF, POOL)

    def _see_election(self, master: str, pool: Pool) -> None:
        kinds = {operation.kind for operation in pool.operations.values()}
        if kinds:
            self._count(Situation.LEADER_CHANGED_UNDER_OPERATION, master)
        if kinds & {*STARTS}:
            self._count(Situation.LEADER_CHANGED_UNDER_START, master)
        if VmOperation.POOL_MIGRATE in kinds:
            self._count(Situation.LEADER_CHANGED_UNDER_MIGRATION, master)

    def _see_loss(self, host: HostRef, evidence: str, pool: Pool) -> None:
        name = _name(pool, host)
        self.timeline.mark(name, "lost", f"given up: {evidence}")
        if _works(pool, name, STARTS):
            self._count(Situation.HOST_LOST_DURING_START, name)
        if _works(pool, name, (VmOperation.POOL_MIGRATE,)):
            self._count(Situation.HOST_LOST_DURING_MIGRATION, name)


def _standing_of(node: MasterHost) -> str:
    if not node.is_up or node.process is None:
        return ""
    if node.process.is_stopped:
        return "stopped"
    return "leads" if node.leads else "follows"


def _name(pool: Pool, host: HostRef) -> str:
    found = pool.hosts.get(host)
    return POOL if found is None else found.name_label


def _works(pool: Pool, name: str, kinds: tuple[VmOperation, ...]) -> bool:
    """Say whether an operation of these kinds concerns the host."""
    return any(
        operation.kind in kinds
        and name
        in {_name(pool, x) for x in (operation.host, operation.destination) if x != NULL_HOST}
        for operation in pool.operations.values()
    )
