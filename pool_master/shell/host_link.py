"""The leader's side of the conversation with hosts: commands out, reports in, leases, and who is lost.

Rules: a command is published only after the operation that needs it is in the log; a report is acknowledged only after
its events are; both may be repeated at will. A lease is granted only while this master has the authority to; who is
lost is `host_fate`'s to say.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter

from pool_master.core import events as ev
from pool_master.core import storage_events as sev
from pool_master.core.context import Context
from pool_master.core.events import Actor, ActorKind
from pool_master.core.host import Host
from pool_master.core.host_reports import UnknownHost, decide_report
from pool_master.core.lease import LeaseTable
from pool_master.core.newcomers import may_have_first_lease
from pool_master.core.plan import plan, plan_all, plan_stale
from pool_master.core.pool import Pool
from pool_master.shell.fencing import NO_FENCING, Fencing
from pool_master.shell.host_fate import HostFate
from pool_master.shell.writer import Commit, Wish, Writer
from shared.bus import Bus, BusUnavailable, Delivery
from shared.codec import DecodeError, decode, encode, moment_from_us
from shared.errors import XenApiError
from shared.membership import peers_digest
from shared.protocol import (
    CommandBatch,
    HostCommand,
    HostInventory,
    HostReport,
    LeaseGranted,
    LeaseRefused,
    LeaseReply,
    LeaseRequest,
    MigrateDomain,
    ReportBatch,
)
from shared.refs import HostRef, TaskRef
from shared.subjects import Subjects, host_of

log = structlog.get_logger(__name__)

REPLAN_S: Final = 10.0
PUBLISH_S_MAX: Final = 5.0
PUBLISH_PAUSE_S: Final = 0.2
REPORTS_PENDING_MAX: Final = 512
CONSUMER: Final = "leader"


class HostMetricsCounters:
    """What is counted of hosts' words."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "vmpool_reports_refused",
            "Reports that were not taken, by reason",
            ["reason"],
            registry=registry,
        )
        self.reports = Counter("vmpool_reports", "Reports that were taken", registry=registry)
        self.commands = Counter("vmpool_commands", "Commands sent to hosts", registry=registry)
        self.leases = Counter(
            "vmpool_leases", "Lease requests, by answer", ["answer"], registry=registry
        )


class HostLink:
    """Talks to all hosts, for as long as its writer leads."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        writer: Writer,
        leases: LeaseTable,
        *,
        has_authority: Callable[[], bool],
        answered_at: Callable[[], float],
        counters: HostMetricsCounters,
        fencing: Fencing = NO_FENCING,
    ) -> None:
        self._bus = bus
        self._subjects = subjects
        self._writer = writer
        self._leases = leases
        self._has_authority = has_authority
        self._asked_at = 0.0
        self._inventories: set[str] = set()
        self.fate = HostFate(
            writer,
            leases,
            fencing,
            has_authority=has_authority,
            heard_at=lambda: max(answered_at(), self._asked_at),
            forget=self._inventories.discard,
        )
        self._counters = counters
        self._owed: dict[HostRef, dict[str, HostCommand]] = {}
        self._is_owing = asyncio.Event()
        self._awaited: dict[str, None] = {}
        self._peers: dict[str, str] = {}
        self._knowledge: dict[str, str] = {}
        writer.listeners.append(self._tell)

    @property
    def _pool(self) -> Pool:
        return self._writer.pool

    async def run(self) -> None:
        """Talk until cancelled."""
        for owed in plan_all(self._pool):
            self._owe(*owed)
        subscription = await self._bus.serve(self._subjects.every_lease, self._answer_lease)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send())
                group.create_task(self._listen(group))
                group.create_task(self.fate.watch())
                group.create_task(self._replan())
        finally:
            await subscription.close()

    # --- commands

    def _tell(self, commit: Commit) -> None:
        tasks: dict[TaskRef, None] = {}
        for recorded in commit.events:
            match recorded.event:
                case (
                    ev.OperationAccepted()
                    | ev.OperationAdvanced()
                    | ev.CancelRequested()
                    | sev.StorageOperationAccepted()
                    | sev.StorageOperationAdvanced()
                    | ev.DeviceOperationAccepted()
                ):
                    tasks[recorded.event.task] = None
                case ev.StaleDomainFound():
                    for owed in plan_stale(self._pool):
                        self._owe(*owed)
                case ev.HostCameAlive(host=host):
                    for owed in plan_all(self._pool):
                        if owed[0] == host:
                            self._owe(*owed)
                case _:
                    pass
        for owed in plan(self._pool, tasks):
            self._owe(*owed)

    def _owe(self, host: HostRef, command: HostCommand) -> None:
        if (destination := self._unready_destination(command)) is not None:
            self._awaited[destination] = None
            return
        self._owed.setdefault(host, {})[command.command_id] = command
        self._is_owing.set()

    def _unready_destination(self, command: HostCommand) -> str | None:
        """The host that a guest is sent to, if it has no lease: it is fencing itself, and would kill whoever arrives.

        One that is lost is not waited for: its source finds nobody there, and says so.
        """
        if not isinstance(command.action, MigrateDomain):
            return None
        host = self._pool.host_of_uuid(command.action.destination_host)
        if host is None or not self._pool.is_live(host.ref):
            return None
        holds = self._leases.holds(host.uuid, asyncio.get_running_loop().time())
        return None if holds else host.uuid

    def _owe_awaited(self, destination: str) -> None:
        """Send the guests that waited for this host's lease."""
        if destination not in self._awaited:
            return
        del self._awaited[destination]
        for host, command in plan_all(self._pool):
            action = command.action
            if isinstance(action, MigrateDomain) and action.destination_host == destination:
                self._owe(host, command)

    async def _send(self) -> None:
        while True:
            await self._is_owing.wait()
            self._is_owing.clear()
            owed, self._owed = self._owed, {}
            async with asyncio.TaskGroup() as group:
                for host, commands in owed.items():
                    group.create_task(self._send_to(host, list(commands.values())))

    async def _send_to(self, ref: HostRef, commands: list[HostCommand]) -> None:
        host = self._pool.hosts.get(ref)
        if host is None:
            return
        data = encode(CommandBatch(commands=tuple(commands)))
        try:
            await self._bus.publish(
                self._subjects.command(host.uuid), data, timeout_s=PUBLISH_S_MAX
            )
            self._counters.commands.inc(len(commands))
        except BusUnavailable as error:
            log.warning("host_link.command_unsent", host=host.uuid, why=str(error))
            await asyncio.sleep(PUBLISH_PAUSE_S)
            for owed in plan_all(self._pool):
                if owed[0] == ref:
                    self._owe(*owed)

    async def _replan(self) -> None:
        """Tell hosts again what they have not answered: whatever was lost on the way comes right by this alone."""
        owed_before: dict[str, None] = {}
        while True:
            await asyncio.sleep(REPLAN_S)
            owed_now = plan_all(self._pool)
            for host, command in owed_now:
                if command.command_id in owed_before:
                    self._owe(host, command)
            owed_before = dict.fromkeys(command.command_id for _, command in owed_now)

    # --- reports

    async def _listen(self, group: asyncio.TaskGroup) -> None:
        deliveries = self._bus.consume(
            self._subjects.report_stream,
            durable=CONSUMER,
            filter_subject=self._subjects.every_report,
            pending_max=REPORTS_PENDING_MAX,
        )
        async for delivery in deliveries:
            if not self._writer.is_open:
                return  # Unacknowledged, it comes again, to whoever leads then.
            reports = self._read(delivery)
            # Enqueued in the order of the stream: a host's reports are decided in the order in which it made them.
            waiting = [self._decide(report) for report in reports]
            group.create_task(self._acknowledge(delivery, waiting))

    def _read(self, delivery: Delivery) -> tuple[HostReport, ...]:
        try:
            reports = decode(delivery.data, ReportBatch).reports
        except DecodeError as error:
            self._refuse("undecodable", subject=delivery.subject, why=str(error))
            return ()
        speaker = host_of(delivery.subject)
        if any(report.host != speaker for report in reports):
            self._refuse("another host's name", subject=delivery.subject)
            return ()
        return reports

    def _refuse(self, reason: str, **details: str) -> None:
        self._counters.refused.labels(reason).inc()
        log.warning("host_link.report_refused", reason=reason, **details)

    def _decide(self, report: HostReport) -> asyncio.Future[list[ev.Recorded]]:
        identity = f"report/{report.host}/{report.journal}/{report.sequence}"

        def decide(pool: Pool) -> list[ev.Event]:
            context = Context(
                command_id=identity,
                now=moment_from_us(pool.time_us),
                actor=Actor(ActorKind.HOST, report.host),
                label=type(report.body).__name__,
            )
            try:
                events = decide_report(pool, report, context)
            except UnknownHost:
                self._refuse("unknown host", host=report.host)
                return []
            if not self._leases.holds(report.host, asyncio.get_running_loop().time()):
                # Written before its host died, or before it has a lease again: it proves no life now. With the lease
                # another inventory is asked for.
                events = [x for x in events if not isinstance(x, ev.HostCameAlive)]
            elif isinstance(report.body, HostInventory):
                self._inventories.add(report.host)
            return events

        self._counters.reports.inc()
        return self._writer.enqueue(
            Wish(decide, Actor(ActorKind.HOST, report.host), identity, type(report.body).__name__)
        )

    async def _acknowledge(
        self, delivery: Delivery, waiting: list[asyncio.Future[list[ev.Recorded]]]
    ) -> None:
        for future in waiting:
            try:
                await asyncio.shield(future)
            except XenApiError as error:
                # The writer has ended, or is overfull: unacknowledged, the report comes again.
                log.info("host_link.report_left", why=str(error))
                return
        await delivery.ack()

    # --- leases

    async def _answer_lease(self, subject: str, data: bytes) -> bytes | None:
        try:
            request = decode(data, LeaseRequest)
        except DecodeError as error:
            self._refuse("undecodable lease request", subject=subject, why=str(error))
            return None
        if request.host != host_of(subject):
            self._refuse("another host's name", subject=subject)
            return None
        reply = self._lease(request)
        self._counters.leases.labels(type(reply).__name__).inc()
        return encode(reply, LeaseReply)

    def _lease(self, request: LeaseRequest) -> LeaseReply:
        term = self._writer.term
        if self._pool.host_of_uuid(request.host) is None:
            self._refuse("unknown host", host=request.host)
            return LeaseRefused(term=term, reason="unknown_host")
        self._asked_at = asyncio.get_running_loop().time()
        if not self._has_authority() or self.fate.refuses(request.host):
            return LeaseRefused(term=term, reason="no_authority")
        if request.peer_address:
            self._peers[request.host] = request.peer_address
        host = self._pool.host_of_uuid(request.host)
        assert host is not None
        now = asyncio.get_running_loop().time()
        is_returning = not self._pool.is_live(host.ref)
        self._knowledge[request.host] = request.peers_known
        if not self._may_have_first_lease(host, now):
            return LeaseRefused(term=term, reason="not_known_to_all")
        if not is_returning and self._leases.is_surely_dead(request.host, now):
            # It is about to be declared lost: a lease now would vouch for guests that others may start.
            return LeaseRefused(term=term, reason="no_authority")
        self._leases.grant(request.host, now)
        self._owe_awaited(request.host)
        times = self._leases.times
        return LeaseGranted(
            term=term,
            lease_s=times.lease_s,
            fence_s=times.fence_s,
            peers={
                other.uuid: self._peers.get(other.uuid, other.peer_address)
                for other in self._pool.hosts.values()
                if other.uuid != request.host
            },
            wants_inventory=is_returning or request.host not in self._inventories,
            host_epoch=host.lost_count,
        )

    def _may_have_first_lease(self, host: Host, now: float) -> bool:
        def knows_all(uuid: str) -> bool:
            others = (x.uuid for x in self._pool.hosts.values() if x.uuid != uuid)
            return self._knowledge.get(uuid) == peers_digest(others)

        def is_steady(uuid: str) -> bool:
            return self._leases.is_steady(uuid, now)

        return may_have_first_lease(self._pool, host, knows_all=knows_all, is_steady=is_steady)
