"""vmpool-master: wiring, signals, exit codes. Everything else is elsewhere."""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from pool_master.config import MasterConfig, load_config
from pool_master.core.records import LOG_FORMAT
from pool_master.shell.api import Api
from pool_master.shell.api_sessions import SessionApi
from pool_master.shell.audit import Audit
from pool_master.shell.event_log import JetStreamLog
from pool_master.shell.fencing import Fencing, read_devices
from pool_master.shell.follower import HistoryBroken
from pool_master.shell.http_app import make_app
from pool_master.shell.http_protocol import HttpLimits
from pool_master.shell.http_server import TcpListener, UnixListener, running_http
from pool_master.shell.leadership import LeaderKey, Leadership, own_process
from pool_master.shell.master import Master, MasterParts
from pool_master.shell.mirror import Mirror, MirrorDamaged
from pool_master.shell.nats_server import NatsServer, NatsServerError, NatsServerOptions
from pool_master.shell.roster import MasterLine, Roster
from pool_master.shell.sessions import Sessions, User, read_users
from pool_master.shell.tls import CertificateFiles, kept_or_self_signed, server_context
from shared import event_loop
from shared.bus import BusUnavailable
from shared.logs import log_as_json
from shared.nats_bus import Credentials, NatsBus, NatsKeyValue, connect
from shared.settings import ConfigError
from shared.subjects import Subjects

EXIT_CONFIG: Final = 2
EXIT_BROKEN_HISTORY: Final = 3
EXIT_UNAVAILABLE: Final = 4
STREAMS_S_MAX: Final = 30.0
GC_THRESHOLD: Final = 50_000

log = structlog.get_logger("master")


def main() -> None:
    """Run a master until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="vmpool-master", description="A master of a vmpool pool.")
    parser.add_argument("--config", type=Path, help="TOML file; see docs/configuration.md")
    arguments = parser.parse_args()
    log_as_json()
    try:
        config = load_config(arguments.config)
        sys.exit(_run(config))
    except ConfigError as error:
        print(f"vmpool-master: {error}", file=sys.stderr)  # noqa: T201 - before there is a log
        sys.exit(EXIT_CONFIG)


def _run(config: MasterConfig) -> int:
    # Records live long and hold no cycles: looking through all of them again and again is what a collection would do.
    gc.set_threshold(GC_THRESHOLD, 20, 100)
    return event_loop.run(run_master(config))


async def run_master(config: MasterConfig) -> int:
    """Run a master; give its exit code."""
    try:
        async with _messaging(config) as bus:
            return await _serve(config, bus)
    except HistoryBroken as error:
        log.critical("master.history_broken", why=str(error))
        return EXIT_BROKEN_HISTORY
    except (BusUnavailable, NatsServerError, MirrorDamaged) as error:
        log.critical("master.cannot_start", why=str(error))
        return EXIT_UNAVAILABLE


@contextlib.asynccontextmanager
async def _messaging(config: MasterConfig) -> AsyncIterator[NatsBus]:
    """Connect to the operator's NATS servers, or to one of our own."""
    async with contextlib.AsyncExitStack() as stack:
        urls = config.nats_urls
        if not urls:
            options = NatsServerOptions(
                host=config.nats_listen,
                binary=Path(config.nats_binary) if config.nats_binary else None,
            )
            server = await stack.enter_async_context(NatsServer(Path(config.data_dir), options))
            urls = (server.url,)
        credentials = Credentials(
            user=config.nats_user,
            password=config.nats_password,
            token=config.nats_token,
            nkey_seed_file=config.nats_nkey_seed_file,
        )
        bus = await connect(urls, name=config.name, credentials=credentials)
        stack.push_async_callback(bus.close)
        yield bus


async def _serve(config: MasterConfig, bus: NatsBus) -> int:
    subjects = Subjects(config.pool)
    await bus.ensure_streams(subjects, config.nats_replicas, timeout_s=STREAMS_S_MAX)
    mirror = await Mirror.open(Path(config.data_dir) / "log.sqlite")
    registry = CollectorRegistry()
    try:
        sessions = Sessions(_users(config))
        api = Api(sessions, SessionApi(sessions, Audit(mirror)))
        limits = HttpLimits(body_bytes_max=config.body_bytes_max)
        app = make_app(api, limits, registry=registry)
        async with running_http(app, _listeners(config), limits) as http:
            url, address = _addresses(config, http.port)
            me = LeaderKey(master=config.name, address=address, process=own_process())
            roster = Roster(
                NatsKeyValue(bus, subjects.leader_bucket, "masters"),
                MasterLine(name=config.name, address=address, reads=LOG_FORMAT),
            )
            leadership = Leadership(
                NatsKeyValue(bus, subjects.leader_bucket, "leader"),
                NatsKeyValue(bus, subjects.leader_bucket, "probe"),
                me,
                authority_s=config.authority_s,
                may_lead=roster.may_lead,
            )
            master = Master(
                MasterParts(
                    name=config.name,
                    address=address,
                    pool_name=config.pool,
                    bus=bus,
                    subjects=subjects,
                    event_log=JetStreamLog(bus, subjects),
                    mirror=mirror,
                    leadership=leadership,
                    roster=roster,
                    lease_times=config.lease_times,
                    api=api,
                    wall_clock_us=lambda: time.time_ns() // 1_000,
                    registry=registry,
                    fencing=_fencing(config),
                    on_leading=lambda: _write_ready_file(config, url),
                )
            )
            _stop_on_signals(master)
            await master.run()
            api.close()
    finally:
        await mirror.close()
    return 0


def _users(config: MasterConfig) -> dict[str, User]:
    if not config.password_file:
        raise ConfigError("password_file: needed")
    try:
        return read_users(config.user, Path(config.password_file))
    except (OSError, ValueError) as error:
        raise ConfigError(f"password_file: {error}") from error


def _fencing(config: MasterConfig) -> Fencing:
    devices = read_devices(Path(config.fence_file)) if config.fence_file else {}
    return Fencing(devices, wait_s_max=config.fence_wait_s_max)


def _listeners(config: MasterConfig) -> list[TcpListener | UnixListener]:
    host, port = config.listen_address
    tls = None
    if config.uses_tls:
        files = CertificateFiles(certificate=Path(config.tls_certificate), key=Path(config.tls_key))
        if not config.tls_certificate:
            names = [name for name in (config.address, host) if name]
            files = kept_or_self_signed(Path(config.data_dir) / "tls", names)
        tls = server_context(files)
    found: list[TcpListener | UnixListener] = [TcpListener(host=host, port=port, tls=tls)]
    if config.unix_socket:
        found.append(UnixListener(path=Path(config.unix_socket)))
    return found


def _addresses(config: MasterConfig, port: int) -> tuple[str, str]:
    """Give the API's URL, and the bare address that HOST_IS_SLAVE tells."""
    host, wished = config.listen_address
    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    scheme = "https" if config.uses_tls else "http"
    address = config.address or (shown if wished else f"{shown}:{port}")
    return f"{scheme}://{shown}:{port}", address


def _stop_on_signals(master: Master) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, master.stop)


def _write_ready_file(config: MasterConfig, url: str) -> None:
    if config.ready_file:
        path = Path(config.ready_file)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps({"server": url, "pid": os.getpid()}))
        unfinished.rename(path)


if __name__ == "__main__":
    main()
