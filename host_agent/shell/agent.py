"""The host agent: takes commands, keeps the lease, tells what the host runs.

One job: hold the parts together in one task group; what each does is in its own file.

Rules: a message of commands is acknowledged after the reports of all its commands are in the
stream; what cannot be read is answered where possible, counted and acknowledged; an inventory is
due at the start, after a silence of the leader, at every new term, when it is asked for, and now
and then.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Final

import anyio
import structlog

from host_agent.config import AgentConfig
from host_agent.core.reading import Unreadable, read_commands
from host_agent.shell.bell import Bell
from host_agent.shell.commands import CommandRunner
from host_agent.shell.hypervisor import Hypervisor, HypervisorUnavailable
from host_agent.shell.inventory import Touched, take_inventory
from host_agent.shell.journal import Journal
from host_agent.shell.lanes import Lanes
from host_agent.shell.lease_keeper import LeaseKeeper, Watchdog
from host_agent.shell.metrics import Metrics
from host_agent.shell.peers import Peers
from host_agent.shell.reporter import Reporter
from host_agent.shell.storage import Storage
from host_agent.shell.turn import Turn
from shared.bus import Bus, BusUnavailable, Delivery
from shared.protocol import (
    CommandProgressed,
    DomainChange,
    DomainChanged,
    DomainObservation,
    DomainState,
    HostCommand,
    LeaseGranted,
    LeaseReply,
)
from shared.subjects import Subjects

IN_PROGRESS_PAUSE_S: Final = 10.0
HYPERVISOR_PAUSE_S: Final = 1.0
PROGRESS_PAUSE_S: Final = 1.0
INVENTORY_PAUSE_S: Final = 2.0

log = structlog.get_logger(__name__)


class Agent:
    """One host's agent.

    Times come from the running loop, `wall_clock` (microseconds) is for people.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        bus: Bus,
        journal: Journal,
        hypervisor: Hypervisor,
        storage: Storage,
        peers: Peers,
        watchdog: Watchdog,
        wall_clock: Callable[[], int],
        metrics: Metrics | None = None,
    ) -> None:
        self._config = config
        self._bus = bus
        self._journal = journal
        self._hypervisor = hypervisor
        self._peers = peers
        self._subjects = Subjects(config.pool)
        self._touched = Touched()
        self._domains_changed, self._inventory_due = Bell(), Bell()
        self._wants_inventory = True
        self._is_first_inventory = True
        self._term_of_inventory, self._replied_at = 0, -1.0
        self._stopping = anyio.Event()
        self._progress: dict[str, tuple[HostCommand, float]] = {}
        self._progressed = Bell()
        self.metrics = metrics or Metrics()
        self._reporter = Reporter(
            host=config.host_uuid,
            subject=self._subjects.report(config.host_uuid),
            bus=bus,
            journal=journal,
            metrics=self.metrics,
            touched=self._touched,
            wall_clock=wall_clock,
            batch_reports_max=config.batch_reports_max,
        )
        self.lease = LeaseKeeper(
            host=config.host_uuid,
            subject=self._subjects.lease(config.host_uuid),
            bus=bus,
            journal=journal,
            peers=peers,
            watchdog=watchdog,
            metrics=self.metrics,
            clock=anyio.current_time,
            heartbeat_s=config.heartbeat_s,
            first_lease_s=config.first_lease_s,
            first_fence_s=config.first_fence_s,
            kill_guests=self._kill_guests,
            on_reply=self._on_lease_reply,
        )
        self._runner = CommandRunner(
            hypervisor=hypervisor,
            domains_changed=self._domains_changed,
            losses=self.lease.losses,
            on_progress=self._on_progress,
            starts_max=config.starts_max,
            storage=storage,
        )

    async def run(self) -> None:
        """Run until `stop` is called or something fails that the agent cannot live with."""
        async with AsyncExitStack() as stack:
            await self._open_hypervisor()
            stack.push_async_callback(self._hypervisor.close)
            await stack.enter_async_context(self._peers.serving(self.lease.answer_peer))
            await self.lease.prepare()
            async with anyio.create_task_group() as tasks:
                lanes = self._lanes(tasks)
                for loop in (
                    self.lease.run,
                    self._reporter.run,
                    self._tell_changes,
                    self._tell_inventories,
                    self._tell_progress,
                ):
                    tasks.start_soon(loop)
                tasks.start_soon(self._take_commands, lanes)
                await self._stopping.wait()
                tasks.cancel_scope.cancel()

    def stop(self) -> None:
        """End `run`.

        Commands under way are left as they are and resumed by the next agent; guests run on.
        """
        self._stopping.set()

    def _lanes(self, tasks: anyio.abc.TaskGroup) -> Lanes:
        return Lanes(
            tasks=tasks,
            journal=self._journal,
            reporter=self._reporter,
            runner=self._runner,
            lease=self.lease,
            metrics=self.metrics,
            clock=anyio.current_time,
            lease_wait_s_max=self._config.lease_wait_s_max,
        )

    # --- commands -------------------------------------------------------------------------------

    async def _take_commands(self, lanes: Lanes) -> None:
        host = self._config.host_uuid
        deliveries = self._bus.consume(
            self._subjects.command_stream,
            durable=f"host-{host}",
            filter_subject=self._subjects.command(host),
            pending_max=self._config.pending_messages_max,
        )
        async with anyio.create_task_group() as tasks:
            async for delivery in deliveries:
                turns, unreadable = self._submit(delivery, lanes)
                tasks.start_soon(self._finish, delivery, turns, unreadable)

    def _submit(self, delivery: Delivery, lanes: Lanes) -> tuple[list[Turn], list[Unreadable]]:
        """Put all commands of a message in their lanes before the next message is looked at."""
        turns: list[Turn] = []
        unreadable: list[Unreadable] = []
        for read in read_commands(delivery.data):
            if isinstance(read, Unreadable):
                self.metrics.undecodable.inc()
                log.warning("command.unreadable", why=read.why)
                unreadable.append(read)
            else:
                turns.append(lanes.submit(read))
        return turns, unreadable

    async def _finish(
        self, delivery: Delivery, turns: list[Turn], unreadable: list[Unreadable]
    ) -> None:
        if turns and all(turn.deliveries > 1 for turn in turns):
            # An earlier message holds each of them: leaders repeat themselves while a command is long.
            await self._acknowledge(delivery)
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._say_in_progress, delivery)
            last = 0
            for read in unreadable:
                if read.answer is not None:
                    last = max(last, await self._reporter.repeat(read.answer))
            for turn in turns:
                await turn.ended.wait()
                last = max(last, turn.sequence)
            await self._reporter.wait_delivered(last)
            tasks.cancel_scope.cancel()
        await self._acknowledge(delivery)

    async def _acknowledge(self, delivery: Delivery) -> None:
        with suppress(BusUnavailable):
            await delivery.ack()

    async def _say_in_progress(self, delivery: Delivery) -> None:
        while True:
            await anyio.sleep(IN_PROGRESS_PAUSE_S)
            with suppress(BusUnavailable):
                await delivery.in_progress()

    def _on_progress(self, command: HostCommand, progress: float) -> None:
        self._progress[command.command_id] = (command, progress)
        self._progressed.ring()

    async def _tell_progress(self) -> None:
        """Tell the latest progress of each command, at most once a second."""
        while True:
            if not self._progress:
                await self._progressed.wait()
            latest, self._progress = self._progress, {}
            for command, progress in latest.values():
                await self._reporter.report(
                    CommandProgressed(
                        command_id=command.command_id, task=command.task, progress=progress
                    )
                )
            await anyio.sleep(PROGRESS_PAUSE_S)

    # --- the hypervisor -------------------------------------------------------------------------

    async def _open_hypervisor(self) -> None:
        while True:
            try:
                await self._hypervisor.open()
            except HypervisorUnavailable as error:
                log.warning("hypervisor.open_again", why=str(error))
            else:
                return
            await anyio.sleep(HYPERVISOR_PAUSE_S)

    async def _tell_changes(self) -> None:
        """Tell what domains do by themselves.

        After the hypervisor's own absence, look at everything.
        """
        while True:
            try:
                async for changed in self._hypervisor.events():
                    self._domains_changed.ring()
                    await self._reporter.report(changed)
            except HypervisorUnavailable as error:
                log.warning("hypervisor.events_again", why=str(error))
            await anyio.sleep(HYPERVISOR_PAUSE_S)
            await self._open_hypervisor()
            self._want_inventory()

    async def _kill_guests(self) -> None:
        killed = await self._hypervisor.destroy_all_fast()
        if killed:
            log.error("lease.fenced", killed=killed)
        self._domains_changed.ring()
        for vm_uuid in killed:
            observation: DomainObservation | None = None
            with suppress(HypervisorUnavailable):
                observation = await self._hypervisor.observe(vm_uuid)
            if observation is None:
                incarnation = self._journal.state.incarnations.get(vm_uuid, 0)
                observation = DomainObservation(
                    vm_uuid=vm_uuid, incarnation=incarnation, state=DomainState.SHUTOFF
                )
            fenced = DomainChanged(change=DomainChange.FENCED, observation=observation)
            await self._reporter.report(fenced)

    # --- inventories ----------------------------------------------------------------------------

    def _on_lease_reply(self, reply: LeaseReply) -> None:
        now = anyio.current_time()
        was_silent = now - self._replied_at > self.lease.guard.lease_s
        is_asked = isinstance(reply, LeaseGranted) and reply.wants_inventory
        if was_silent or is_asked or reply.term > self._term_of_inventory:
            self._term_of_inventory = max(reply.term, self._term_of_inventory)
            self._want_inventory()
        self._replied_at = now

    def _want_inventory(self) -> None:
        self._wants_inventory = True
        self._inventory_due.ring()

    async def _tell_inventories(self) -> None:
        while True:
            if not self._wants_inventory:
                await self._inventory_due.wait(timeout_s=self._config.inventory_period_s)
            self._wants_inventory = False
            if not await self._tell_inventory():
                self._wants_inventory = True
            # A leader that asks with every grant gets its answer once, not with every grant.
            await anyio.sleep(INVENTORY_PAUSE_S)

    async def _tell_inventory(self) -> bool:
        try:
            inventory = await take_inventory(
                self._hypervisor,
                self._touched,
                address=self._config.address,
                peer_address=self._peers.address,
                is_first=self._is_first_inventory,
            )
        except HypervisorUnavailable as error:
            log.warning("inventory.later", why=str(error))
            return False
        if inventory is None:
            return False
        await self._reporter.report(inventory)
        self._is_first_inventory = False
        return True
