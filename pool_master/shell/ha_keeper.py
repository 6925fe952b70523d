"""The leader's care for protected VMs: asks the core again whenever something has changed, or its time has come.

Rules: nothing is decided here, and nothing remembered: what is owed is in the log, so another leader goes on with it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.events import Actor, ActorKind
from pool_master.core.ha_restart import decide_ha
from pool_master.core.pool import Pool
from pool_master.shell.writer import Commit, Wish, Writer
from shared.codec import moment_from_us
from shared.errors import XenApiError

log = structlog.get_logger(__name__)

# How soon after a change the core is asked, and how often while some start is owed.
LOOK_S: Final = 0.25
OWED_S: Final = 1.0


class HaKeeper:
    """Keeps protected VMs running, for as long as its writer leads."""

    def __init__(self, writer: Writer, *, wall_clock_us: Callable[[], int]) -> None:
        self._writer = writer
        self._wall_clock_us = wall_clock_us
        self._is_changed = asyncio.Event()
        self._is_changed.set()
        writer.listeners.append(self._hear)

    def _hear(self, _commit: Commit) -> None:
        self._is_changed.set()

    async def run(self) -> None:
        """Care until cancelled."""
        while True:
            try:
                timeout_s = OWED_S if self._writer.pool.restarts else None
                await asyncio.wait_for(self._is_changed.wait(), timeout_s)
            except TimeoutError:
                pass
            self._is_changed.clear()
            await self._decide()
            await asyncio.sleep(LOOK_S)

    async def _decide(self) -> None:
        # Asked here first: a wish is only made where something is to be said.
        if not self._writer.pool.record.ha_enabled or not decide_ha(
            self._writer.pool, self._context(self._writer.pool)
        ):
            return
        context = self._context(self._writer.pool)

        def decide(pool: Pool) -> list[ev.Event]:
            return decide_ha(pool, context)

        try:
            await self._writer.submit(
                Wish(decide, context.actor, context.command_id, context.label)
            )
        except XenApiError as error:
            log.warning("ha_keeper.undecided", why=str(error))

    def _context(self, pool: Pool) -> Context:
        return Context(
            command_id=f"ha/{self._writer.term}/{self._writer.tail.position}",
            now=moment_from_us(max(self._wall_clock_us(), pool.time_us)),
            actor=Actor(ActorKind.MASTER, pool.master),
            label="high availability",
        )
