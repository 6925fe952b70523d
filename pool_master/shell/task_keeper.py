"""Forgetting finished tasks: they stay for a while for their clients, and in the log for ever."""

import asyncio
from datetime import timedelta
from typing import Final

from pool_master.core import events as ev
from pool_master.core.events import Actor, ActorKind
from pool_master.core.pool import Pool
from pool_master.shell.writer import Wish, Writer
from shared.codec import moment_from_us
from shared.errors import XenApiError

KEEP_S: Final = 30.0
# XenAPI reference 4.5: finished tasks are destroyed after 65 minutes; beyond this many the oldest go first.
AGE_MAX: Final = timedelta(minutes=65)
FINISHED_MAX: Final = 1_000
AT_ONCE_MAX: Final = 500


def tasks_to_forget(pool: Pool) -> list[ev.Event]:
    """Give the end of tasks that have been finished for long enough, or are too many."""
    now = moment_from_us(pool.time_us)
    finished = [task for task in pool.tasks.values() if task.is_finished]
    surplus = len(finished) - FINISHED_MAX
    finished.sort(key=lambda task: task.finished)
    forgotten: list[ev.Event] = [
        ev.TaskDestroyed(task=task.ref)
        for number, task in enumerate(finished)
        if number < surplus or now - task.finished > AGE_MAX
    ]
    return forgotten[:AT_ONCE_MAX]


async def keep_tasks(writer: Writer) -> None:
    """Forget now and then, until cancelled."""
    me = Actor(ActorKind.MASTER, writer.pool.master)
    while True:
        await asyncio.sleep(KEEP_S)
        if tasks_to_forget(writer.pool):
            try:
                identity = f"expiry/{writer.tail.position}"
                await writer.submit(Wish(tasks_to_forget, me, identity, "task expiry"))
            except XenApiError:
                return
