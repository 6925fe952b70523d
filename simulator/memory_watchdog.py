"""A watchdog without a process, for the simulator: survives the agent, kills on the same clock."""

import asyncio
import math
from collections.abc import Callable


class MemoryWatchdog:
    """`host_agent.shell.lease_keeper.Watchdog` of one host; `kill` kills its guests, at once."""

    def __init__(self, kill: Callable[[], object]) -> None:
        self._kill = kill
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.kills = 0
        self.on_kill: Callable[[], None] = lambda: None

    async def start(self) -> float | None:
        return self._deadline

    async def wind(self, deadline: float) -> None:
        self._deadline = deadline
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not math.isinf(deadline):
            self._timer = asyncio.get_running_loop().call_at(deadline, self._fire)

    async def close(self) -> None:
        pass

    def _fire(self) -> None:
        self.kills += 1
        self.on_kill()
        self._kill()

    def unplug(self) -> None:
        """The host has lost its power, and its watchdog with it."""
        if self._timer is not None:
            self._timer.cancel()
        self._deadline = None
