"""The watchdog with real processes: it kills for an agent that is frozen or dead, and only then."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from host_agent.shell.watchdog_pipe import PipeWatchdog, Targets

SLEEPER = "sleep"


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a guest."""
    process = subprocess.Popen([SLEEPER, "600"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def is_alive(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


def watchdog_pid(folder: Path) -> int:
    pid: int = json.loads((folder / "watchdog.json").read_text())["pid"]
    return pid


@asynccontextmanager
async def watchdog(folder: Path, *pids: int, device: str = "") -> AsyncIterator[PipeWatchdog]:
    targets = Targets(pids=pids, process_name=SLEEPER)
    guard = PipeWatchdog(folder, lambda: targets, device=device)
    try:
        yield guard
    finally:
        await guard.close()
        with suppress(OSError):
            pid = watchdog_pid(folder)
            os.kill(pid, signal.SIGKILL)


async def eventually(is_so: Callable[[], bool], *, within_s: float = 10.0) -> None:
    with anyio.fail_after(within_s):
        while True:
            if is_so():
                return
            await anyio.sleep(0.02)


async def test_guests_live_while_the_deadline_moves_on_and_die_when_it_does_not(
    tmp_path: Path,
) -> None:
    with sleeper() as guest:
        async with watchdog(tmp_path, guest.pid) as guard:
            assert await guard.start() is None
            for _ in range(5):
                await guard.wind(time.monotonic() + 0.6)
                await anyio.sleep(0.3)
            assert is_alive(guest)
            deadline = time.monotonic() + 0.5
            await guard.wind(deadline)
            await eventually(lambda: not is_alive(guest))
            assert deadline <= time.monotonic() < deadline + 0.5


async def test_no_deadline_kills_nobody(tmp_path: Path) -> None:
    with sleeper() as guest:
        async with watchdog(tmp_path, guest.pid) as guard:
            await guard.start()
            await guard.wind(time.monotonic() + 0.3)
            await guard.wind(math.inf)
            await anyio.sleep(1.0)
            assert is_alive(guest)


async def test_a_guest_that_appears_after_the_deadline_dies_too(tmp_path: Path) -> None:
    """A start that was under way when the agent froze must not leave a guest behind."""
    pid_file = tmp_path / "guest.pid"
    targets = Targets(pid_files=(str(tmp_path / "*.pid"),), process_name=SLEEPER)
    async with watchdog(tmp_path) as _:
        guard = PipeWatchdog(tmp_path, lambda: targets)
        await guard.start()
        await guard.wind(time.monotonic())
        await anyio.sleep(0.5)
        with sleeper() as guest:
            pid_file.write_text(str(guest.pid))
            await eventually(lambda: not is_alive(guest))
        await guard.close()


async def test_a_number_that_another_process_has_got_meanwhile_is_not_killed(
    tmp_path: Path,
) -> None:
    targets = Targets(pid_files=(str(tmp_path / "*.pid"),), process_name="qemu")
    with sleeper() as innocent:
        (tmp_path / "guest.pid").write_text(str(innocent.pid))
        async with watchdog(tmp_path) as _:
            guard = PipeWatchdog(tmp_path, lambda: targets)
            await guard.start()
            await guard.wind(time.monotonic())
            await anyio.sleep(1.0)
            assert is_alive(innocent)
            await guard.close()


async def test_guests_that_are_no_processes_are_killed_by_the_command(tmp_path: Path) -> None:
    dead = tmp_path / "dead"
    targets = Targets(command=("touch", str(dead)))
    async with watchdog(tmp_path) as _:
        guard = PipeWatchdog(tmp_path, lambda: targets)
        await guard.start()
        await guard.wind(time.monotonic() + 0.3)
        assert not dead.exists()
        await eventually(dead.exists)
        await guard.close()


AGENT = """
import sys, time, anyio
from pathlib import Path
from host_agent.shell.watchdog_pipe import PipeWatchdog, Targets

async def main():
    targets = Targets(pids=(int(sys.argv[2]),), process_name="sleep")
    guard = PipeWatchdog(Path(sys.argv[1]), lambda: targets)
    await guard.start()
    while True:
        await guard.wind(time.monotonic() + float(sys.argv[3]))
        print("wound", flush=True)
        await anyio.sleep(0.1)

anyio.run(main)
"""


@contextmanager
def agent(folder: Path, guest: int, *, deadline_s: float) -> Iterator[subprocess.Popen[bytes]]:
    """A process that winds the watchdog up, as the agent does; returns when it has begun."""
    arguments = [sys.executable, "-c", AGENT, str(folder), str(guest), str(deadline_s)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"wound\n"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[Path]:
    """A folder whose watchdog, which outlives its agent, is killed after the test."""
    yield tmp_path
    with suppress(OSError):
        os.kill(watchdog_pid(tmp_path), signal.SIGKILL)


async def test_a_frozen_agents_guests_die(orphan: Path) -> None:
    with sleeper() as guest, agent(orphan, guest.pid, deadline_s=1.0) as frozen:
        frozen.send_signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        await eventually(lambda: not is_alive(guest))
        assert time.monotonic() - stopped_at < 1.6


async def test_an_agents_death_kills_no_guest_before_the_deadline(orphan: Path) -> None:
    with sleeper() as guest, agent(orphan, guest.pid, deadline_s=1.5) as killed:
        killed.kill()
        killed_at = time.monotonic()
        await anyio.sleep(1.0)
        assert is_alive(guest)
        await eventually(lambda: not is_alive(guest))
        assert time.monotonic() - killed_at < 2.1


async def test_a_restarted_agents_watchdog_takes_over_deadline_and_place(orphan: Path) -> None:
    with sleeper() as guest:
        with agent(orphan, guest.pid, deadline_s=3.0):
            first = watchdog_pid(orphan)
        async with watchdog(orphan, guest.pid) as successor:
            inherited = await successor.start()
            assert inherited is not None
            assert 0.0 < inherited - time.monotonic() <= 3.0
            assert watchdog_pid(orphan) != first
            await eventually(lambda: not is_running(first))
            for _ in range(8):
                await successor.wind(time.monotonic() + 2.0)
                await anyio.sleep(0.5)
            assert is_alive(guest)


def is_running(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


async def test_an_inherited_deadline_holds_although_nobody_winds(orphan: Path) -> None:
    with sleeper() as guest:
        with agent(orphan, guest.pid, deadline_s=1.0):
            pass
        async with watchdog(orphan, guest.pid) as successor:
            await successor.start()
            await eventually(lambda: not is_alive(guest), within_s=2.0)


async def test_a_watchdog_that_was_stopped_reads_what_came_before_it_judges(
    tmp_path: Path,
) -> None:
    with sleeper() as guest:
        async with watchdog(tmp_path, guest.pid) as guard:
            await guard.start()
            await guard.wind(time.monotonic() + 1.0)
            os.kill(watchdog_pid(tmp_path), signal.SIGSTOP)
            for _ in range(8):
                await anyio.sleep(0.25)
                await guard.wind(time.monotonic() + 1.0)
            os.kill(watchdog_pid(tmp_path), signal.SIGCONT)
            await anyio.sleep(0.5)
            assert is_alive(guest)


async def test_a_watchdog_that_stays_stopped_is_replaced(tmp_path: Path) -> None:
    with sleeper() as guest:
        async with watchdog(tmp_path, guest.pid) as guard:
            await guard.start()
            await guard.wind(time.monotonic() + 2.0)
            first = watchdog_pid(tmp_path)
            os.kill(first, signal.SIGSTOP)
            ends_at = time.monotonic() + 10.0
            while watchdog_pid(tmp_path) == first and time.monotonic() < ends_at:
                await guard.wind(time.monotonic() + 2.0)
                await anyio.sleep(0.2)
            assert watchdog_pid(tmp_path) != first
            assert is_alive(guest)
            await eventually(lambda: not is_alive(guest))


async def test_a_watchdog_that_died_is_replaced(tmp_path: Path) -> None:
    with sleeper() as guest:
        async with watchdog(tmp_path, guest.pid) as guard:
            await guard.start()
            await guard.wind(time.monotonic() + 2.0)
            os.kill(watchdog_pid(tmp_path), signal.SIGKILL)
            await anyio.sleep(0.2)
            await guard.wind(time.monotonic() + 0.5)
            await eventually(lambda: not is_alive(guest))


async def test_a_hardware_watchdog_is_fed_only_while_no_guest_outlives_its_deadline(
    tmp_path: Path,
) -> None:
    device = tmp_path / "device"
    device.touch()
    with sleeper() as guest:
        async with watchdog(tmp_path, guest.pid, device=str(device)) as guard:
            await guard.start()
            await guard.wind(time.monotonic() + 0.5)
            await eventually(lambda: not is_alive(guest))
            fed = device.stat().st_size
            await eventually(lambda: device.stat().st_size > fed)


async def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    async with watchdog(tmp_path) as _:
        guard = PipeWatchdog(tmp_path / "missing", Targets)
        with pytest.raises(OSError, match="does not start"):
            await guard.start()
        await guard.close()
