"""The agent as it is deployed: real NATS, SQLite journal, TCP peers, watchdog process, signals."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from host_agent.core.lease_guard import PeerAnswer, PeerQuestion
from host_agent.shell.fabric_store import FolderStore
from host_agent.shell.peers import FRAME_BYTES_MAX, TcpPeers
from host_agent.shell.simulated_fabric import SimulatedFabric
from pool_master.shell.nats_server import NatsServer
from shared.protocol import CommandSucceeded, DestroyDomain, ShutdownDomain, StartDomain
from shared.subjects import Subjects
from tests.support.agents import HOST, POOL, START, STUBBORN, VM, Leader, command
from tests.support.nats import connected, running_nats


@asynccontextmanager
async def leading(folder: Path) -> AsyncIterator[tuple[NatsServer, Leader]]:
    async with running_nats(folder) as server, connected(server, "leader") as bus:
        await bus.ensure_streams(Subjects(POOL))
        leader = Leader(bus)
        leader.peers = {HOST: "127.0.0.1:1", "another": "127.0.0.1:1"}
        await leader.serve()
        yield server, leader


class Program:
    """An agent process on a folder of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.data = folder / "agent"
        self.fabric = SimulatedFabric(FolderStore(folder / "fabric"))
        self.config = folder / "agent.toml"
        self.config.write_text(
            f'pool = "{POOL}"\nnats_urls = ["{url}"]\nhost_uuid = "{HOST}"\n'
            f'hypervisor_uri = "simulated:{folder}/fabric?host=host1"\n'
            f'data_dir = "{self.data}"\npeer_port = 0\npeer_listen = "127.0.0.1"\n'
            'address = "127.0.0.1"\n'
        )

    def start(self) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-m", "host_agent", "--config", str(self.config)]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(arguments, stderr=log)

    def running(self) -> list[str]:
        return [guest.vm_uuid for guest in self.fabric.running()]

    def end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        with suppress(OSError):
            os.kill(json.loads((self.data / "watchdog.json").read_text())["pid"], signal.SIGKILL)


async def ended(process: subprocess.Popen[bytes]) -> int:
    with anyio.fail_after(15.0):
        while True:
            code = process.poll()
            if code is not None:
                return code
            await anyio.sleep(0.02)


@pytest.mark.nats
async def test_an_agent_that_is_killed_and_restarted_keeps_guests_and_answers(
    tmp_path: Path,
) -> None:
    async with leading(tmp_path / "nats") as (server, leader):
        program = Program(tmp_path, server.url)
        process = program.start()
        try:
            await leader.send(HOST, command("start", StartDomain(config=STUBBORN)))
            started = await leader.outcome("start")
            assert isinstance(started, CommandSucceeded)
            assert program.running() == [VM]
            await leader.send(HOST, command("shutdown", ShutdownDomain(timeout_s=600.0)))
            await anyio.sleep(1.0)
            process.kill()
            await ended(process)
            assert program.running() == [VM]
            process = program.start()
            await anyio.sleep(12.0)
            assert program.running() == [VM], "the new agent's watchdog must have taken over"
            await leader.send(HOST, command("destroy", DestroyDomain()))
            assert isinstance(await leader.outcome("destroy"), CommandSucceeded)
            assert isinstance(await leader.outcome("shutdown"), CommandSucceeded)
            reports = await leader.reports()
            assert {report.epoch for report in reports} == {1, 2}
            numbers = [each.sequence for each in reports]
            assert numbers == sorted(set(numbers))
            for epoch in (1, 2):
                own = [each.sequence for each in reports if each.epoch == epoch]
                assert own == list(range(own[0], own[0] + len(own))), "a report is missing"
        finally:
            program.end(process)


@pytest.mark.nats
async def test_a_frozen_agents_guests_are_dead_before_the_pool_may_restart_them(
    tmp_path: Path,
) -> None:
    async with leading(tmp_path / "nats") as (server, leader):
        program = Program(tmp_path, server.url)
        process = program.start()
        try:
            await leader.send(HOST, START)
            await leader.outcome("start")
            process.send_signal(signal.SIGSTOP)
            frozen_at = time.monotonic()
            with anyio.fail_after(15.0):
                while True:
                    if not program.running():
                        break
                    await anyio.sleep(0.05)
            assert 5.0 < time.monotonic() - frozen_at < 9.0
            process.send_signal(signal.SIGCONT)
            await anyio.sleep(3.0)
            assert program.running() == []
        finally:
            process.send_signal(signal.SIGCONT)
            program.end(process)


@pytest.mark.nats
async def test_sigterm_ends_the_agent_and_no_guest(tmp_path: Path) -> None:
    async with leading(tmp_path / "nats") as (server, leader):
        program = Program(tmp_path, server.url)
        process = program.start()
        try:
            await leader.send(HOST, START)
            await leader.outcome("start")
            process.terminate()
            assert await ended(process) == 0
            assert program.running() == [VM]
        finally:
            program.end(process)


@pytest.mark.nats
async def test_two_agents_on_one_folder_are_refused(tmp_path: Path) -> None:
    async with leading(tmp_path / "nats") as (server, leader):
        program = Program(tmp_path, server.url)
        process = program.start()
        try:
            await leader.send(HOST, START)
            await leader.outcome("start")
            second = program.start()
            assert await ended(second) == 4
        finally:
            program.end(process)


async def test_a_wrong_configuration_ends_with_one_line(tmp_path: Path) -> None:
    program = Program(tmp_path, "nats://127.0.0.1:1")
    program.config.write_text('pool = "a b"\n')
    assert await ended(program.start()) == 2
    assert (tmp_path / "log").read_text().splitlines() == [
        "vmpool-agent: pool: needed; letters, digits and - only"
    ]


# --- peers over TCP -----------------------------------------------------------------------------

QUESTION = PeerQuestion(asker="a", promise_s=10.0)


async def answer_no(_: PeerQuestion) -> PeerAnswer:
    return PeerAnswer(host="b", has_lease=False)


def tcp_peers() -> TcpPeers:
    return TcpPeers(listen_host="127.0.0.1", port=0, advertised_host="127.0.0.1")


async def test_a_peer_answers_over_tcp() -> None:
    server, client = tcp_peers(), tcp_peers()
    async with server.serving(answer_no):
        answer = await client.ask(server.address, QUESTION, timeout_s=2.0)
    assert answer == PeerAnswer(host="b", has_lease=False)


async def test_nobody_there_nonsense_and_slowness_are_silence() -> None:
    client = tcp_peers()
    for address in ("", "nowhere", "127.0.0.1:1", "127.0.0.1:x"):
        assert await client.ask(address, QUESTION, timeout_s=2.0) is None

    async def never(_: PeerQuestion) -> PeerAnswer:
        await anyio.sleep_forever()
        raise AssertionError

    slow = tcp_peers()
    async with slow.serving(never):
        assert await client.ask(slow.address, QUESTION, timeout_s=0.2) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", (FRAME_BYTES_MAX + 1).to_bytes(4, "big")],
)
async def test_garbage_from_a_peer_gets_no_answer_and_harms_nobody(data: bytes) -> None:
    server = tcp_peers()
    async with server.serving(answer_no):
        reader, writer = await asyncio.open_connection(*server.address.split(":"))
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert await tcp_peers().ask(server.address, QUESTION, timeout_s=2.0) is not None
