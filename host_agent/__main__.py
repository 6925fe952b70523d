"""The host agent's program: wires the parts, and ends with what happened.

Exit codes: 0 stopped when asked; 1 an error of ours, with its traceback; 2 the configuration is
wrong; 3 something outside is not there (messaging, journal, a port, the watchdog); 4 another agent
runs on the same data folder. On SIGTERM or SIGINT the agent takes no more commands, leaves the ones
under way to its successor, and goes; guests run on, until the watchdog's deadline.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import structlog
import typer
from prometheus_client import start_http_server

from host_agent.config import AgentConfig, host_name, load_config
from host_agent.shell.agent import Agent
from host_agent.shell.hypervisors import choose
from host_agent.shell.journal import open_journal
from host_agent.shell.lease_keeper import Watchdog
from host_agent.shell.metrics import Metrics
from host_agent.shell.peers import TcpPeers
from host_agent.shell.watchdog_pipe import NoWatchdog, PipeWatchdog
from shared import event_loop
from shared.logs import log_as_json
from shared.nats_bus import Credentials, connect
from shared.settings import ConfigError

EXIT_CONFIG: Final = 2
EXIT_OUTSIDE: Final = 3
EXIT_TAKEN: Final = 4
CONNECT_WAIT_S_MAX: Final = 30.0

log = structlog.get_logger(__name__)


class DataFolderTakenError(OSError):
    """Another agent runs on the data folder."""


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold the data folder: two agents on one journal would each think themselves alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / "agent.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataFolderTakenError(f"another agent runs on {folder}") from error
        yield
    finally:
        os.close(descriptor)


def completed(config: AgentConfig) -> AgentConfig:
    """Fill in what is made once and kept: the host's uuid; and what the machine knows: its name."""
    kept = Path(config.data_dir) / "host_uuid"
    host_uuid = config.host_uuid
    if not host_uuid:
        if not kept.exists():
            draft = kept.with_suffix(".new")
            draft.write_text(str(uuid.uuid4()))
            draft.rename(kept)
        host_uuid = kept.read_text().strip()
    return replace(config, host_uuid=host_uuid, address=config.address or host_name())


@asynccontextmanager
async def assembled(config: AgentConfig) -> AsyncIterator[Agent]:
    """Give an agent with everything it needs, and take it apart again.

    Raises:
        OSError: something outside is not there.
    """
    folder = Path(config.data_dir)
    chosen = choose(config)
    watchdog: Watchdog = NoWatchdog()
    if config.watchdog_enabled:
        watchdog = PipeWatchdog(folder, chosen.targets, device=config.watchdog_device)
    metrics = Metrics()
    if config.metrics_port:
        start_http_server(config.metrics_port, addr="127.0.0.1", registry=metrics.registry)
    async with contextlib.AsyncExitStack() as stack:
        journal = await open_journal(
            folder / "journal.sqlite",
            commands_max=config.journal_commands_max,
            changes_max=config.journal_changes_max,
        )
        stack.push_async_callback(journal.close)
        bus = await connect(
            config.nats_urls,
            name=f"host-{config.host_uuid}",
            credentials=Credentials(
                user=config.nats_user,
                password=config.nats_password,
                token=config.nats_token,
                nkey_seed_file=config.nats_nkey_seed_file,
            ),
            timeout_s=CONNECT_WAIT_S_MAX,
        )
        stack.push_async_callback(bus.close)
        stack.push_async_callback(watchdog.close)
        yield Agent(
            config,
            bus=bus,
            journal=journal,
            hypervisor=chosen.hypervisor,
            storage=chosen.storage,
            peers=TcpPeers(
                listen_host=config.peer_listen,
                port=config.peer_port,
                advertised_host=config.address,
            ),
            watchdog=watchdog,
            wall_clock=lambda: time.time_ns() // 1_000,
            metrics=metrics,
        )


async def run(config: AgentConfig) -> None:
    """Run one agent until a signal ends it."""
    async with assembled(config) as agent:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, agent.stop)
        log.info("agent.started", host=config.host_uuid, pool=config.pool)
        await agent.run()
        log.info("agent.stopped")


def start(config_file: Path | None) -> int:
    """Run the program; give its exit code."""
    try:
        config = load_config(config_file)
        with held_folder(Path(config.data_dir)):
            event_loop.run(run(completed(config)))
    except ConfigError as error:
        return _say(error, EXIT_CONFIG)
    except DataFolderTakenError as error:
        return _say(error, EXIT_TAKEN)
    except OSError as error:
        return _say(error, EXIT_OUTSIDE)
    return 0


def _say(error: Exception, code: int) -> int:
    sys.stderr.write(f"vmpool-agent: {error}\n")
    return code


def program(
    config: Annotated[Path | None, typer.Option(help="the configuration, a TOML file")] = None,
) -> None:
    """Run this machine's agent."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    log_as_json()
    raise typer.Exit(start(config))


def main() -> None:
    """Be the console script."""
    typer.run(program)


if __name__ == "__main__":
    main()
