"""Carries out one command about storage and says how it ended.

Rules: what is begun again looks first, so every command may be repeated. A host whose lease was lost since the command
came does nothing to a disk: the pool may have given the disk to a guest elsewhere.
"""

from collections.abc import Callable
from typing import assert_never

import structlog

from host_agent.core.admit import CommandOutcome
from host_agent.shell.storage import Cancelled, Storage, Work
from host_agent.shell.turn import Turn
from shared.errors import HostNotLive, TaskCancelled, XenApiError
from shared.protocol import (
    CommandFailed,
    CommandSucceeded,
    HostCommand,
)
from shared.storage_errors import SrBackendFailure
from shared.storage_protocol import (
    AttachStorage,
    DeleteDisk,
    DetachStorage,
    MakeDisks,
    ResizeDisk,
    ScanStorage,
    StorageAction,
    StorageObservation,
)

log = structlog.get_logger(__name__)


class StorageRunner:
    """Runs commands about storage; `losses` counts losses of the lease."""

    def __init__(
        self,
        storage: Storage,
        *,
        losses: Callable[[], int],
        on_progress: Callable[[HostCommand, float], None],
    ) -> None:
        self._storage = storage
        self._losses = losses
        self._on_progress = on_progress

    async def run(self, turn: Turn, action: StorageAction) -> CommandOutcome:
        """Carry it out to its end."""
        command = turn.command
        try:
            if self._losses() != turn.losses:
                raise HostNotLive
            seen = await self._act(turn, action)
        except Cancelled:
            return _failed(command, TaskCancelled(command.task))
        except XenApiError as error:
            return _failed(command, error)
        except OSError as error:
            log.warning("storage.failed", command=command.command_id, why=str(error))
            return _failed(command, SrBackendFailure(str(error.errno or ""), "", str(error)))
        return CommandSucceeded(
            command_id=command.command_id,
            task=command.task,
            vm_uuid=command.vm_uuid,
            incarnation=command.incarnation,
            storage=seen,
        )

    async def _act(self, turn: Turn, action: StorageAction) -> StorageObservation | None:
        match action:
            case AttachStorage(storage=storage, is_new=is_new):
                return await self._storage.attach(storage, is_new=is_new)
            case DetachStorage(storage=storage, is_final=is_final):
                await self._storage.detach(storage, is_final=is_final)
                return None
            case ScanStorage(storage=storage):
                return await self._storage.scan(storage)
            case MakeDisks(orders=orders):
                work = Work(
                    lambda share: self._on_progress(turn.command, share),
                    lambda: turn.is_cancelled,
                )
                return await self._storage.make(orders, work)
            case DeleteDisk(storage=storage, location=location):
                return await self._storage.delete(storage, location)
            case ResizeDisk(storage=storage, location=location, format=made_as, size=size):
                return await self._storage.resize(storage, location, made_as=made_as, size=size)
        assert_never(action)


def _failed(command: HostCommand, error: XenApiError) -> CommandFailed:
    return CommandFailed(
        command_id=command.command_id,
        task=command.task,
        vm_uuid=command.vm_uuid,
        incarnation=command.incarnation,
        code=error.wire_code,
        parameters=error.parameters,
    )
