"""Child processes that are kept running, and that never outlive their parent.

Rules: a child that ends is started again after a short, growing pause; one that is stopped gets SIGTERM, then SIGKILL; the
kernel kills it when the parent dies without a word.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

PR_SET_PDEATHSIG: Final = 1
PAUSE_S_MIN: Final = 0.05
PAUSE_S_MAX: Final = 1.0
# A child that has run for this long was well: the next pause is the shortest again.
WELL_S: Final = 10.0
STOP_S_MAX: Final = 20.0

_libc = ctypes.CDLL(None)


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel for a signal to this process when its parent dies; to be called in the child."""
    _libc.prctl(PR_SET_PDEATHSIG, number)


class Child:
    """One supervised process; `run` keeps it running until cancelled, and stops it then.

    Each start waits for `before_start`: for what the process stands on, or for somebody's leave.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log_file: Path,
        stop_s_max: float = STOP_S_MAX,
        before_start: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self._argv = list(argv)
        self._log_file = log_file
        self._stop_s_max = stop_s_max
        self._before_start = before_start
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its process id, 0 while it does not run."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process is not None and running else 0

    async def run(self) -> None:
        """Keep it running."""
        loop = asyncio.get_running_loop()
        pause_s = PAUSE_S_MIN
        try:
            while True:
                if self._before_start is not None:
                    await self._before_start()
                began = loop.time()
                await self._start()
                assert self._process is not None
                code = await self._process.wait()
                pause_s = (
                    PAUSE_S_MIN if loop.time() - began > WELL_S else min(2 * pause_s, PAUSE_S_MAX)
                )
                self.restarts += 1
                log.warning("child.ended", name=self.name, code=code, again_in_s=pause_s)
                await asyncio.sleep(pause_s)
        finally:
            await self._stop()

    async def _start(self) -> None:
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            try:
                async with asyncio.timeout(self._stop_s_max):
                    await process.wait()
            except TimeoutError:
                log.warning("child.killed", name=self.name)
                process.kill()
                await process.wait()
