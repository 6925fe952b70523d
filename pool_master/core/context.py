"""What a decider is told besides the state and the request: who asks, when, and under which id."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from pool_master.core.events import Actor
from shared.refs import TaskRef, derive, derive_ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A command's circumstances: values, so that the same command decided again decides the same.

    `label` is the method as it was called, `Async.VM.start` for instance; it names the task.
    """

    command_id: str
    now: datetime
    actor: Actor
    label: str

    @property
    def task(self) -> TaskRef:
        """The task of this command, should it need one."""
        return TaskRef(derive_ref(self.command_id, "task"))

    @property
    def task_uuid(self) -> str:
        """That task's uuid."""
        return derive(self.command_id, "task")

    @property
    def chance(self) -> float:
        """A number in [0, 1) that this command always gets: what placement spreads load by."""
        digest = hashlib.sha256(self.command_id.encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64
