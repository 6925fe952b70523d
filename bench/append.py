"""The log's append, one at a time, beside writing and syncing the same bytes to a file."""

import asyncio
import os
import time
from pathlib import Path

from bench.figures import Figure, median
from bench.made_up_log import records
from pool_master.shell.event_log import JetStreamLog
from pool_master.shell.nats_server import NatsServer
from shared.nats_bus import connect
from shared.subjects import Subjects

APPENDS = 500


async def append(data: Path) -> Figure:
    """Append real records to a real nats-server that syncs every message."""
    made = [record[:400] for record in records(APPENDS * 2, vms=10)] * APPENDS
    floor = _raw(data / "raw", made[:APPENDS])
    async with NatsServer(data) as server:
        bus = await connect([server.url], name="bench")
        subjects = Subjects("bench")
        await bus.ensure_streams(subjects)
        log = JetStreamLog(bus, subjects)
        took = []
        for position in range(APPENDS):
            began = time.perf_counter()
            await log.append(made[position], expected_position=position)
            took.append(time.perf_counter() - began)
        await bus.close()
    return Figure(
        name=f"append to the log, 400 bytes, p50 of {APPENDS}",
        value=median(took) * 1_000,
        unit="ms",
        floor_name="write and fdatasync",
        floor=floor * 1_000,
    )


def _raw(path: Path, made: list[bytes]) -> float:
    took = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    for record in made:
        began = time.perf_counter()
        os.write(descriptor, record)
        os.fdatasync(descriptor)
        took.append(time.perf_counter() - began)
    os.close(descriptor)
    return median(took)


def run_append(data: Path) -> Figure:
    """Run it on a loop of its own."""
    return asyncio.run(append(data))
