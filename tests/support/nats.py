"""A real nats-server for a test, and a connection to it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pool_master.shell.nats_server import NatsServer, NatsServerOptions
from shared.nats_bus import NatsBus, connect


@asynccontextmanager
async def running_nats(
    folder: Path, options: NatsServerOptions | None = None
) -> AsyncIterator[NatsServer]:
    """Run a nats-server on `folder` until the block ends."""
    async with NatsServer(folder, options) as server:
        yield server


@asynccontextmanager
async def connected(server: NatsServer, name: str = "test") -> AsyncIterator[NatsBus]:
    """Hold a connection to `server` until the block ends."""
    bus = await connect([server.url], name=name)
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def frozen(pid: int) -> AsyncIterator[None]:
    """Freeze a process for the block; it stands still when the block begins."""
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(10.0):
            while not _stands_still(pid):  # noqa: ASYNC110 - another process's state sets no event
                await asyncio.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def state_of(pid: int) -> str:
    """Give a process's state as the kernel letters it; empty where there is none."""
    return _state(Path(f"/proc/{pid}/stat"))


def _stands_still(pid: int) -> bool:
    return all(_state(stat) == "T" for stat in Path(f"/proc/{pid}/task").glob("*/stat"))


def _state(stat: Path) -> str:
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
