"""Carries out one migration, on its source, and says how it ended.

Rules: once begun, a migration goes on without us, so a command that comes again never begins a
second one: it waits for the first and tells what became of it. Where the guest stands still at the
hand-over, this host does not know whether it runs at the other one, and says so by showing nothing:
the destination decides.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio

from host_agent.shell.hypervisor import Hypervisor, HypervisorUnavailable, MigrationStatus
from host_agent.shell.turn import Turn
from shared.errors import TaskCancelled, VmMigrateFailed, XenApiError
from shared.protocol import DomainObservation, HostCommand, MigrateDomain

LOOK_PAUSE_S: Final = 0.5

End = tuple[XenApiError | None, DomainObservation | None]


class MigrationRun:
    """One MigrateDomain."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        turn: Turn,
        action: MigrateDomain,
        on_progress: Callable[[HostCommand, float], None],
    ) -> None:
        self._hypervisor = hypervisor
        self._turn = turn
        self._action = action
        self._on_progress = on_progress
        self._vm_uuid = turn.command.vm_uuid
        self._incarnation = turn.command.incarnation

    async def run(self, *, is_resumed: bool) -> End:
        """Move the guest, or find out what became of it.

        Give the error, if any, and what is left here.
        """
        error: XenApiError | None = None
        if not is_resumed:
            error = await self._move()
            if error is None:
                return None, None
        status = await self._wait_until_over()
        if status is MigrationStatus.NOT_HERE and error is None:
            return None, None
        if self._turn.must_give_up:
            error = TaskCancelled(self._turn.command.task)
        if error is None:
            destination = self._action.destination_host
            error = VmMigrateFailed(self._vm_uuid, "", destination, "it did not arrive")
        if status is MigrationStatus.UNDECIDED:
            return error, None
        return error, await self._hypervisor.observe(self._vm_uuid)

    async def _move(self) -> XenApiError | None:
        error: XenApiError | HypervisorUnavailable | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_when_called)
            try:
                await self._hypervisor.migrate(
                    self._vm_uuid, self._incarnation, self._action, self._tell_progress
                )
            except (XenApiError, HypervisorUnavailable) as raised:
                error = raised
            tasks.cancel_scope.cancel()
        if isinstance(error, HypervisorUnavailable):
            raise error
        return error

    async def _cancel_when_called(self) -> None:
        while not self._turn.must_give_up:
            await self._turn.called.wait()
        # Asked again: a request that came before the migration had begun was for nothing.
        while True:
            with suppress(HypervisorUnavailable, XenApiError):
                await self._hypervisor.cancel_migration(self._vm_uuid)
            await anyio.sleep(LOOK_PAUSE_S)

    async def _wait_until_over(self) -> MigrationStatus:
        while True:
            status = await self._hypervisor.migration_status(self._vm_uuid, self._incarnation)
            if status is not MigrationStatus.UNDER_WAY:
                return status
            if self._turn.must_give_up:
                await self._hypervisor.cancel_migration(self._vm_uuid)
            await self._turn.called.wait(timeout_s=LOOK_PAUSE_S)

    def _tell_progress(self, progress: float) -> None:
        self._on_progress(self._turn.command, progress)
