"""Carries out one command on the hypervisor and says how it ended.

Rules: look first, do what is missing: so every command may be begun again after a crash, an answer
that was lost, or both. The outcome is what the hypervisor shows, not what we tried. What ends a
guest's run is always done; what brings one to run is done while the lease holds, and taken back
where the lease was lost meanwhile. While the hypervisor does not answer a command has no outcome:
any that we gave would be a guess, and the pool would start elsewhere what may well run here.
"""

from collections.abc import Callable, Iterator
from typing import Final

import anyio
import structlog

from host_agent.core.admit import CommandOutcome
from host_agent.shell.bell import Bell
from host_agent.shell.hypervisor import Hypervisor, HypervisorUnavailable
from host_agent.shell.migration import MigrationRun
from host_agent.shell.storage import Storage
from host_agent.shell.storage_commands import StorageRunner
from host_agent.shell.turn import Turn
from shared.errors import (
    DomainExists,
    HostNotLive,
    TaskCancelled,
    VmBadPowerState,
    VmShutdownTimeout,
    XenApiError,
)
from shared.network_errors import DeviceDetachTimeout
from shared.protocol import (
    AttachNic,
    CancelCommand,
    CommandFailed,
    CommandSucceeded,
    DestroyDomain,
    DetachNic,
    DeviceChange,
    DiscardImage,
    DomainConfig,
    DomainObservation,
    DomainState,
    DomainTuning,
    ForgetDomain,
    HostCommand,
    MigrateDomain,
    PauseDomain,
    RestartDomain,
    ResumeDomain,
    SendSysrq,
    SendTrigger,
    SetDomainMemory,
    SetDomainScheduler,
    SetDomainVcpus,
    SettleMigration,
    SettleResume,
    ShutdownDomain,
    StartDomain,
    SuspendDomain,
    UnpauseDomain,
)
from shared.storage_protocol import (
    STORAGE_ACTIONS,
)

DETACH_LOOK_S: Final = 0.2
LOOK_PAUSE_S: Final = 1.0
BALLOON_LOOK_S: Final = 0.2
BALLOON_S_MAX: Final = 5.0
RETRY_PAUSE_S: Final = 1.0
RETRY_PAUSE_S_MAX: Final = 30.0
ALIVE: Final = (DomainState.RUNNING, DomainState.PAUSED)

log = structlog.get_logger(__name__)


def retry_pauses() -> Iterator[float]:
    """Give the pauses (s) before asking a hypervisor again that did not answer: ever longer, up to a bound."""
    pause = RETRY_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, RETRY_PAUSE_S_MAX)


def failed(
    command: HostCommand, error: XenApiError, observation: DomainObservation | None
) -> CommandFailed:
    """Give the report of a command that ended without its effect."""
    return CommandFailed(
        command_id=command.command_id,
        task=command.task,
        vm_uuid=command.vm_uuid,
        incarnation=command.incarnation,
        code=error.wire_code,
        parameters=error.parameters,
        observation=observation,
    )


def succeeded(command: HostCommand, observation: DomainObservation | None) -> CommandSucceeded:
    """Give the report of a command whose effect is there."""
    return CommandSucceeded(
        command_id=command.command_id,
        task=command.task,
        vm_uuid=command.vm_uuid,
        incarnation=command.incarnation,
        observation=observation,
    )


class CommandRunner:
    """Runs commands; `domains_changed` rings when the hypervisor told of a change.

    `losses` counts losses of the lease; `starts_max` bounds how many guests are built at once.
    """

    def __init__(
        self,
        *,
        hypervisor: Hypervisor,
        domains_changed: Bell,
        losses: Callable[[], int],
        on_progress: Callable[[HostCommand, float], None],
        starts_max: int,
        storage: Storage,
    ) -> None:
        self._storage = StorageRunner(storage, losses=losses, on_progress=on_progress)
        self._hypervisor = hypervisor
        self._domains_changed = domains_changed
        self._losses = losses
        self._on_progress = on_progress
        self._starts = anyio.CapacityLimiter(starts_max)

    async def run(self, turn: Turn, *, is_resumed: bool) -> CommandOutcome:
        """Carry out the turn's command to its end, whatever the hypervisor does meanwhile."""
        if isinstance(turn.command.action, STORAGE_ACTIONS):
            return await self._storage.run(turn, turn.command.action)
        pauses = retry_pauses()
        while True:
            try:
                return await self._try(turn, is_resumed=is_resumed)
            except HypervisorUnavailable as error:
                log.warning("command.try_again", command=turn.command.command_id, why=str(error))
            is_resumed = True
            await anyio.sleep(next(pauses))

    async def refuse(self, turn: Turn, error: XenApiError) -> CommandOutcome:
        """End a command that has not run, with the domain as it is."""
        pauses = retry_pauses()
        while True:
            try:
                observation = await self._hypervisor.observe(turn.command.vm_uuid)
            except HypervisorUnavailable as unavailable:
                log.warning("command.unobserved", why=str(unavailable))
            else:
                return failed(turn.command, error, observation)
            await anyio.sleep(next(pauses))

    async def _try(self, turn: Turn, *, is_resumed: bool) -> CommandOutcome:
        command = turn.command
        if turn.is_cancelled and not is_resumed:
            return await self.refuse(turn, TaskCancelled(command.task))
        try:
            if isinstance(command.action, MigrateDomain):
                migration = MigrationRun(self._hypervisor, turn, command.action, self._on_progress)
                error, observation = await migration.run(is_resumed=is_resumed)
                if error is not None:
                    return failed(command, error, observation)
            else:
                observation = await self._act(turn)
        except XenApiError as error:
            return failed(command, error, await self._hypervisor.observe(command.vm_uuid))
        return succeeded(command, observation)

    async def _act(self, turn: Turn) -> DomainObservation | None:  # noqa: PLR0911 - one return a case
        command = turn.command
        vm_uuid, incarnation = command.vm_uuid, command.incarnation
        match command.action:
            case StartDomain(config=config, start_paused=paused):
                return await self._start(turn, config, paused=paused)
            case RestartDomain() as restart:
                return await self._restart(turn, restart)
            case PauseDomain():
                return await self._hypervisor.pause(vm_uuid, incarnation)
            case UnpauseDomain():
                return await self._hypervisor.unpause(vm_uuid, incarnation)
            case SettleMigration():
                return await self._hypervisor.settle_incoming(vm_uuid, incarnation)
            case SuspendDomain(image=image):
                await self._hypervisor.suspend(vm_uuid, incarnation, image)
                return None
            case ResumeDomain(image=image):
                return await self._resume(turn, image)
            case SettleResume() as settle:
                return await self._settle_resume(turn, settle)
            case SetDomainVcpus() | SetDomainMemory() | SetDomainScheduler() as tuning:
                return await self._tune(turn, tuning)
            case AttachNic() | DetachNic() as change:
                return await self._change_device(turn, change)
            case SendSysrq() | SendTrigger() as signal:
                await self._hypervisor.signal(vm_uuid, incarnation, signal)
                return await self._hypervisor.observe(vm_uuid)
            case _:
                return await self._stop(turn)

    async def _stop(self, turn: Turn) -> DomainObservation | None:
        command = turn.command
        match command.action:
            case ShutdownDomain(timeout_s=timeout_s):
                await self._shut_down(turn, timeout_s)
            case DestroyDomain():
                await self._hypervisor.destroy(command.vm_uuid, command.incarnation)
            case ForgetDomain():
                await self._forget(command.vm_uuid, command.incarnation)
            case DiscardImage(image=image):
                await self._hypervisor.discard_image(image)
            case CancelCommand():
                return await self._hypervisor.observe(command.vm_uuid)
            case other:
                raise AssertionError(f"{type(other).__name__} is carried out elsewhere")
        return None

    async def _start(self, turn: Turn, config: DomainConfig, *, paused: bool) -> DomainObservation:
        # Built standing still: an agent that was frozen on the way looks at its lease before the guest runs. Frozen after
        # that, it finds the domain killed by its watchdog.
        async with self._starts:
            observation = await self._hypervisor.start(config, paused=True)
        if self._losses() != turn.losses:
            # Nobody vouched for this guest while it was built: the pool may have moved on.
            await self._hypervisor.destroy(config.vm_uuid, config.incarnation)
            raise HostNotLive
        if paused or observation.state is not DomainState.PAUSED:
            return observation
        return await self._hypervisor.unpause(config.vm_uuid, config.incarnation)

    async def _tune(self, turn: Turn, tuning: DomainTuning) -> DomainObservation:
        """Change the domain, and give the guest a moment to follow: its answer tells what it has by then."""
        vm_uuid, incarnation = turn.command.vm_uuid, turn.command.incarnation
        seen = await self._hypervisor.tune(vm_uuid, incarnation, tuning)
        if not isinstance(tuning, SetDomainMemory):
            return seen
        ends_at = anyio.current_time() + BALLOON_S_MAX
        while seen.memory_actual != tuning.target and anyio.current_time() < ends_at:
            if turn.must_give_up:
                break
            await anyio.sleep(BALLOON_LOOK_S)
            now = await self._hypervisor.observe(vm_uuid)
            if now is None or now.incarnation != incarnation or now.state not in ALIVE:
                break
            seen = now
        return seen

    async def _resume(self, turn: Turn, image: str) -> DomainObservation:
        vm_uuid, incarnation = turn.command.vm_uuid, turn.command.incarnation
        async with self._starts:
            observation = await self._hypervisor.resume(vm_uuid, incarnation, image)
        if self._losses() != turn.losses:
            await self._hypervisor.destroy(vm_uuid, incarnation)
            raise HostNotLive
        return observation

    async def _settle_resume(self, turn: Turn, settle: SettleResume) -> DomainObservation | None:
        vm_uuid, incarnation = turn.command.vm_uuid, turn.command.incarnation
        await self._hypervisor.discard_image(settle.image)
        if settle.start_paused:
            return await self._hypervisor.observe(vm_uuid)
        return await self._hypervisor.unpause(vm_uuid, incarnation)

    async def _change_device(self, turn: Turn, change: DeviceChange) -> DomainObservation | None:
        """Attach a device; or ask the guest to let go of one and wait until it has, or is no more.

        Raises:
            DeviceDetachTimeout: it has not.
        """
        vm_uuid, incarnation = turn.command.vm_uuid, turn.command.incarnation
        seen: DomainObservation | None = await self._hypervisor.change_device(
            vm_uuid, incarnation, change
        )
        if isinstance(change, AttachNic):
            return seen
        ends_at = anyio.current_time() + change.timeout_s
        while seen is not None and seen.incarnation == incarnation and change.mac in seen.nics:
            if not await turn.let_pass():
                if anyio.current_time() >= ends_at:
                    raise DeviceDetachTimeout("VIF", change.mac)
                await anyio.sleep(DETACH_LOOK_S)
            seen = await self._hypervisor.observe(vm_uuid)
        return seen

    async def _forget(self, vm_uuid: str, incarnation: int) -> None:
        try:
            await self._hypervisor.destroy(vm_uuid, incarnation)
        except DomainExists:
            log.info("forget.gone_already", vm=vm_uuid, incarnation=incarnation)

    async def _shut_down(self, turn: Turn, timeout_s: float) -> None:
        vm_uuid, incarnation = turn.command.vm_uuid, turn.command.incarnation
        if await self._is_active(vm_uuid, incarnation):
            await self._ask_and_wait(turn, incarnation, timeout_s)
        await self._forget(vm_uuid, incarnation)

    async def _restart(self, turn: Turn, restart: RestartDomain) -> DomainObservation:
        vm_uuid = turn.command.vm_uuid
        seen = await self._hypervisor.observe(vm_uuid)
        if seen is not None and seen.incarnation < restart.config.incarnation:
            if restart.clean and seen.state in ALIVE:
                await self._ask_and_wait(turn, seen.incarnation, restart.timeout_s)
            await self._forget(vm_uuid, seen.incarnation)
        if turn.must_give_up:
            raise TaskCancelled(turn.command.task)
        if self._losses() != turn.losses:
            raise HostNotLive
        return await self._start(turn, restart.config, paused=False)

    async def _ask_and_wait(self, turn: Turn, incarnation: int, timeout_s: float) -> None:
        """Ask the guest to power off and wait until it has.

        Raises:
            TaskCancelled: somebody gave up waiting; the guest may still power off.
            VmShutdownTimeout: it has not.
        """
        vm_uuid = turn.command.vm_uuid
        ends_at = anyio.current_time() + timeout_s
        try:
            await self._hypervisor.request_shutdown(vm_uuid, incarnation)
        except VmBadPowerState:
            if await self._is_active(vm_uuid, incarnation):
                raise
        while await self._is_active(vm_uuid, incarnation):
            if await turn.let_pass():
                continue
            if turn.is_cancelled:
                raise TaskCancelled(turn.command.task)
            if anyio.current_time() >= ends_at:
                raise VmShutdownTimeout(vm_uuid, f"{timeout_s:g}")
            await self._wait_for_change(turn, ends_at)

    async def _wait_for_change(self, turn: Turn, ends_at: float) -> None:
        with anyio.move_on_at(min(ends_at, anyio.current_time() + LOOK_PAUSE_S)):
            async with anyio.create_task_group() as tasks:

                async def wake_at(bell: Bell) -> None:
                    await bell.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(wake_at, turn.called)
                tasks.start_soon(wake_at, self._domains_changed)

    async def _is_active(self, vm_uuid: str, incarnation: int) -> bool:
        seen = await self._hypervisor.observe(vm_uuid)
        return seen is not None and seen.incarnation == incarnation and seen.state in ALIVE
