"""Where a pool's log and its copy are: from a master's configuration, or from what `vmpool up` left.

Rules: a master with a nats-server of its own must not run meanwhile; its server is started here, on its folder.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pool_master.cli.failures import Failed, Unreachable
from pool_master.cli.settings import CONFIG_FILE, data_folder, stored_config

if TYPE_CHECKING:
    from shared.nats_bus import Credentials, NatsBus

STREAMS_S_MAX = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPlace:
    """A pool's messaging system, and one master's copy. `own_server`: the folder of a master's own nats-server."""

    pool: str
    nats_urls: tuple[str, ...]
    credentials: "Credentials"
    copy: Path
    replicas: int = 1
    own_server: Path | None = None


def place_of(data: str, config: Path | None) -> LogPlace:
    """Find out where the log is.

    Raises:
        Failed: neither says where.
    """
    return _place_of_master(config) if config is not None else _place_of_data(data_folder(data))


def _place_of_data(folder: Path) -> LogPlace:
    from shared.nats_bus import Credentials

    held = stored_config(folder)
    if not held.get("nats_urls"):
        raise Failed(
            f"{folder / CONFIG_FILE} does not say where the log is: name the data folder with --data,"
            " or a master's configuration with --config"
        )
    token_file = held.get("nats_token_file")
    try:
        token = (folder / token_file).read_text().strip() if token_file else ""
    except OSError as error:
        raise Failed(f"{token_file} cannot be read: {error.strerror}") from error
    return LogPlace(
        pool=str(held.get("pool", "vmpool")),
        nats_urls=tuple(held["nats_urls"]),
        credentials=Credentials(token=token),
        copy=folder / str(held.get("mirror") or "log.sqlite"),
    )


def _place_of_master(config: Path) -> LogPlace:
    from pool_master.config import load_config
    from shared.nats_bus import Credentials
    from shared.settings import ConfigError

    try:
        held = load_config(config)
    except ConfigError as error:
        raise Failed(str(error)) from error
    return LogPlace(
        pool=held.pool,
        nats_urls=held.nats_urls,
        credentials=Credentials(
            user=held.nats_user,
            password=held.nats_password,
            token=held.nats_token,
            nkey_seed_file=held.nats_nkey_seed_file,
        ),
        copy=Path(held.data_dir) / "log.sqlite",
        replicas=held.nats_replicas,
        own_server=None if held.nats_urls else Path(held.data_dir),
    )


@asynccontextmanager
async def connected_to(place: LogPlace, name: str) -> AsyncIterator["NatsBus"]:
    """Hold a connection to the messaging system for the block.

    Raises:
        Failed: the master's own nats-server cannot be run here: its master may run it.
        Unreachable: nobody answers.
    """
    from pool_master.shell.event_log import LogUnavailable
    from pool_master.shell.nats_server import NatsServer, NatsServerError
    from shared.bus import BusUnavailable
    from shared.nats_bus import connect

    urls = place.nats_urls
    async with AsyncExitStack() as stack:
        try:
            if place.own_server is not None:
                server = await stack.enter_async_context(NatsServer(place.own_server))
                urls = (server.url,)
            bus = await connect(urls, name=name, credentials=place.credentials)
            stack.push_async_callback(bus.close)
            yield bus
        except NatsServerError as error:
            raise Failed(f"{error}; is the master still running?") from error
        except (BusUnavailable, LogUnavailable) as error:
            raise Unreachable(f"the log does not answer at {', '.join(urls)}: {error}") from error
