"""The own nats-server: healed when killed, never orphaned, always on the same port and data."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from pool_master.shell.nats_server import (
    NatsServer,
    NatsServerError,
    NatsServerOptions,
    find_binary,
)
from shared.bus import BusUnavailable
from shared.nats_bus import Credentials, connect
from shared.subjects import Subjects
from tests.support.nats import connected, running_nats, state_of

pytestmark = pytest.mark.nats

SUBJECTS = Subjects("own")
WAIT_S = 15.0

MASTER = """
import asyncio, pathlib, sys
from pool_master.shell.nats_server import NatsServer

async def main():
    async with NatsServer(pathlib.Path(sys.argv[1])) as server:
        sys.stdout.write(f"{server.pid} {server.port}\\n")
        sys.stdout.flush()
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@asynccontextmanager
async def running_master(folder: Path, **environment: str) -> AsyncIterator[tuple[int, int, int]]:
    """Run a process that runs a nats-server; give (its pid, the server's pid, the port)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        MASTER,
        str(folder),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            words = (await process.stdout.readline()).split()
        yield process.pid, int(words[0]), int(words[1])
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so():  # noqa: ASYNC110 - another process's state sets no event
            await asyncio.sleep(0.01)


def has_another_pid(server: NatsServer, old_pid: int) -> bool:
    return server.pid not in {0, old_pid}


def is_alive(pid: int) -> bool:
    return state_of(pid) not in {"", "Z"}


async def test_a_killed_server_is_back_with_its_port_and_its_data(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
        await bus.publish_expecting(SUBJECTS.log, b"kept", last_sequence=0)
        url, old_pid = server.url, server.pid
        os.kill(old_pid, signal.SIGKILL)
        loop = asyncio.get_running_loop()
        killed_at = loop.time()
        await until(partial(has_another_pid, server, old_pid))
        last = await bus.last(SUBJECTS.log_stream, timeout_s=WAIT_S)
        healed_after_s = loop.time() - killed_at

        assert last is not None
        assert last.data == b"kept"
        assert server.url == url
        assert server.restarts == 1
        assert healed_after_s < 5.0  # 0.2 s on an idle machine


async def test_a_server_that_is_killed_again_and_again_comes_back(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
        for _ in range(3):
            killed = server.pid
            os.kill(killed, signal.SIGKILL)
            await until(partial(has_another_pid, server, killed))
            await bus.last(SUBJECTS.log_stream, timeout_s=WAIT_S)
        assert server.restarts == 3


async def test_a_restart_keeps_port_and_data(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server, connected(server) as bus:
        await bus.ensure_streams(SUBJECTS)
        await bus.publish_expecting(SUBJECTS.log, b"kept", last_sequence=0)
        first = (server.url, server.pid)
    assert not is_alive(first[1])
    assert server.pid == 0

    async with running_nats(tmp_path) as server, connected(server) as bus:
        last = await bus.last(SUBJECTS.log_stream)
        assert server.url == first[0]
        assert last is not None
        assert last.data == b"kept"


async def test_no_orphan_stays_when_the_parent_is_killed(tmp_path: Path) -> None:
    async with running_master(tmp_path) as (master, server, _):
        assert is_alive(server)
        os.kill(master, signal.SIGKILL)
        await until(lambda: not is_alive(server))


async def test_an_orphan_is_stopped_by_the_next_start(tmp_path: Path) -> None:
    # given: no setpriv on PATH, so that the kernel does not end the child with its parent
    async with running_master(tmp_path, PATH="/nonexistent") as (master, orphan, port):
        os.kill(master, signal.SIGKILL)
        await until(lambda: not is_alive(master))
    assert is_alive(orphan)
    # when
    async with running_nats(tmp_path) as server:
        # then
        assert not is_alive(orphan)
        assert server.port == port


async def test_a_frozen_orphan_is_stopped_too(tmp_path: Path) -> None:
    async with running_master(tmp_path, PATH="/nonexistent") as (master, orphan, port):
        os.kill(orphan, signal.SIGSTOP)
        os.kill(master, signal.SIGKILL)
        await until(lambda: not is_alive(master))
    async with running_nats(tmp_path) as server:
        assert not is_alive(orphan)
        assert server.port == port


async def test_a_pid_file_that_names_a_stranger_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "nats.pid").write_text(str(os.getpid()))
    async with running_nats(tmp_path) as server:
        assert server.pid != 0


async def test_two_masters_cannot_run_one_folder(tmp_path: Path) -> None:
    async with running_nats(tmp_path):
        with pytest.raises(NatsServerError, match="another process"):
            await NatsServer(tmp_path).start()
    async with running_nats(tmp_path):
        pass


async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    async with running_nats(tmp_path / "one") as server:
        options = NatsServerOptions(port=server.port)
        with pytest.raises(NatsServerError, match="address already in use"):
            await NatsServer(tmp_path / "two", options).start()


async def test_only_those_who_are_authorized_get_in(tmp_path: Path) -> None:
    options = NatsServerOptions(authorization='users = [{user: "master", password: "secret"}]')
    async with running_nats(tmp_path, options) as server:
        good = Credentials(user="master", password="secret")
        bus = await connect([server.url], name="master", credentials=good)
        await bus.ensure_streams(SUBJECTS)
        await bus.close()
        with pytest.raises(BusUnavailable, match="Authorization"):
            await connect([server.url], name="stranger", timeout_s=1.0)

        await server.set_authorization('users = [{user: "agent", password: "other"}]')
        new = Credentials(user="agent", password="other")
        bus = await connect([server.url], name="agent", credentials=new)
        await bus.close()
    assert (tmp_path / "nats" / "nats.conf").stat().st_mode & 0o077 == 0


async def test_the_store_syncs_every_message(tmp_path: Path) -> None:
    accounts = """
accounts {
  system { users = [{user: "system", password: "s"}] }
  pool { jetstream = enabled, users = [{user: "master", password: "m"}] }
}
system_account: system
"""
    async with running_nats(tmp_path, NatsServerOptions(extra_config=accounts)) as server:
        settings = []
        for who in (
            Credentials(user="system", password="s"),
            Credentials(user="master", password="m"),
        ):
            bus = await connect([server.url], name="test", credentials=who)
            settings.append(await bus.server_settings())
            await bus.close()

    assert [s.sync_always for s in settings] == [True, None]
    assert settings[0].version.startswith("2.")


async def test_a_missing_or_old_binary_is_told(tmp_path: Path) -> None:
    with pytest.raises(NatsServerError, match="is not there"):
        find_binary(tmp_path / "missing")
    old = tmp_path / "nats-server"
    old.write_text("#!/bin/sh\necho nats-server: v2.9.10\n")
    old.chmod(0o755)
    with pytest.raises(NatsServerError, match="older"):
        await NatsServer(tmp_path, NatsServerOptions(binary=old)).start()
