"""The agent's end of the watchdog: starts the process, sends it deadlines, replaces it when it is gone.

Rules: nothing here waits for the watchdog but the start; one that has not answered for a while, or
whose pipe is broken or full, is replaced, and the new one takes over the deadline.
"""

import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import anyio.to_thread
import structlog

from host_agent.shell import watchdog as watchdog_program

ANSWER_WAIT_S_MAX: Final = 3.0
START_WAIT_S_MAX: Final = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Where the guests' processes are found.

    `pid_files` are patterns; `process_name` is what the name of such a process begins with;
    `command` kills by other means.
    """

    pid_files: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    process_name: str = ""
    command: tuple[str, ...] = ()


class WatchdogError(OSError):
    """The watchdog process does not start."""


class PipeWatchdog:
    """`lease_keeper.Watchdog` in a process of its own, which outlives the agent."""

    def __init__(self, folder: Path, targets: Callable[[], Targets], *, device: str = "") -> None:
        self._folder = folder
        self._targets = targets
        self._device = device
        self._pid = 0
        self._orders = -1
        self._answers = -1
        self._answered_at = 0.0
        self._asked_at = math.inf

    async def start(self) -> float | None:
        """Start the process, which takes over from a former one; give that one's deadline.

        Raises:
            WatchdogError: it does not come up.
        """
        self._spawn()
        line = await anyio.to_thread.run_sync(self._read_ready)
        if not line.startswith("ready "):
            raise WatchdogError("the watchdog process does not start")
        os.set_blocking(self._answers, False)
        self._answered_at, self._asked_at = time.monotonic(), math.inf
        deadline = json.loads(line.removeprefix("ready "))
        if deadline == "none":
            return None
        return math.inf if deadline is None else float(deadline)

    async def wind(self, deadline: float) -> None:
        """Send a deadline; infinity: none."""
        if not self._is_well() or not self._send(deadline):
            log.error("watchdog.replaced", pid=self._pid)
            self._drop()
            await self.start()
            self._send(deadline)

    async def close(self) -> None:
        """Leave the process to its last deadline."""
        self._close_pipes()

    def _spawn(self) -> None:
        orders_read, self._orders = os.pipe()
        self._answers, answers_write = os.pipe()
        argv = [sys.executable, "-I", "-S", watchdog_program.__file__, str(self._folder)]
        actions = [
            (os.POSIX_SPAWN_DUP2, orders_read, 0),
            (os.POSIX_SPAWN_DUP2, answers_write, 1),
        ]
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                [*argv, *([self._device] if self._device else [])],
                os.environ,
                file_actions=actions,
                setsid=True,
            )
        finally:
            os.close(orders_read)
            os.close(answers_write)
        os.set_blocking(self._orders, False)

    def _read_ready(self) -> str:
        gives_up_at = time.monotonic() + START_WAIT_S_MAX
        os.set_blocking(self._answers, False)
        data = b""
        while not data.endswith(b"\n") and time.monotonic() < gives_up_at:
            with contextlib.suppress(BlockingIOError):
                part = os.read(self._answers, 4_096)
                if not part:
                    break
                data += part
                continue
            time.sleep(0.01)
        return data.decode().strip()

    def _is_well(self) -> bool:
        """Whether it answered what it was told; a watchdog that is itself stopped guards nobody."""
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            if not os.read(self._answers, 65_536):
                return False
            self._answered_at, self._asked_at = now, math.inf
        return now - self._asked_at < ANSWER_WAIT_S_MAX

    def _send(self, deadline: float) -> bool:
        targets = asdict(self._targets())
        order = {"deadline": None if math.isinf(deadline) else deadline, **targets}
        line = json.dumps(order).encode() + b"\n"
        try:
            is_sent = os.write(self._orders, line) == len(line)
        except OSError:
            return False
        self._asked_at = min(self._asked_at, time.monotonic())
        return is_sent

    def _drop(self) -> None:
        self._close_pipes()
        with contextlib.suppress(OSError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.waitpid(self._pid, os.WNOHANG)

    def _close_pipes(self) -> None:
        for descriptor in (self._orders, self._answers):
            if descriptor >= 0:
                os.close(descriptor)
        self._orders = self._answers = -1


class NoWatchdog:
    """No watchdog: guests of a frozen agent run on, so the pool must not trust its lease for fencing."""

    async def start(self) -> float | None:
        """Nothing was there before."""
        return None

    async def wind(self, deadline: float) -> None:
        """Nothing is wound up."""

    async def close(self) -> None:
        """Nothing to let go of."""
