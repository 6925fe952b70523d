"""A real nats-server for a test, and a connection to it."""

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
