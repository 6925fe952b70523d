"""`vmpool up`: a whole pool on one machine, in the foreground.

One job: start nats-server, master and agents as processes of their own, keep them running, say when the pool answers, and
stop all of it on SIGTERM or Ctrl-C.

Rules: nothing outlives this process; the same data folder continues the same pool; what runs here is what a deployment
runs, wired by configuration files that can be read in the data folder. A host with a file DATA/hosts/NAME/down has no
power: its agent, once dead, stays so until the file is removed; a new start gives every host its power back.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import XenAPI
from rich.console import Console

from pool_master.shell.nats_server import NatsServer, NatsServerError, NatsServerOptions
from shared.supervision import Child

READY_S_MAX: Final = 90.0
DOWN: Final = "down"
POWER_POLL_S: Final = 0.2
HYPERVISORS: Final = ("simulated", "test", "embed", "lab")

console = Console(stderr=True, highlight=False)


class UpError(Exception):
    """The pool cannot be started; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What `vmpool up` was asked for."""

    hosts: int
    hypervisor: str
    data: Path
    listen: str
    user: str
    password_file: Path | None
    ready_file: Path | None
    pool: str = "vmpool"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """One host of the pool: how its agent is started, and what it is told."""

    name: str
    uuid: str
    folder: Path
    argv_prefix: tuple[str, ...]
    settings: dict[str, object]
    power_on: Callable[[], None] | None = None


def run(options: UpOptions) -> int:
    """Run until stopped; give the exit code."""
    try:
        return asyncio.run(_up(options))
    except (UpError, NatsServerError) as error:
        console.print(f"vmpool up: {error}")
        return 1


async def _up(options: UpOptions) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    data = options.data.absolute()
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    password_file = options.password_file or _own_password(data)
    async with contextlib.AsyncExitStack() as stack:
        lab = (
            await stack.enter_async_context(_lab(options, data))
            if options.hypervisor == "lab"
            else None
        )
        token = _kept_secret(data / "nats-token")
        nats = await stack.enter_async_context(
            NatsServer(
                data,
                NatsServerOptions(
                    host=lab.network.gateway if lab else "127.0.0.1",
                    authorization=f'token: "{token}"',
                ),
            )
        )
        master, ready = _master(options, data, password_file, nats.url, token)
        hosts = _host_plans(options, data, nats.url, token, lab)
        children = [master, *(_agent(host) for host in hosts)]
        tasks = [asyncio.create_task(child.run()) for child in children]
        stack.callback(_end_what_outlives_agents, hosts)
        stack.push_async_callback(_stop, tasks)
        try:
            address = await _until_ready(stop, ready, options, password_file, hosts)
        except TimeoutError:
            raise UpError(
                f"the pool did not answer within {READY_S_MAX:.0f} s; the logs are in {data / 'logs'}"
            ) from None
        if address:
            _announce(options, data, address, password_file, nats.url)
            await stop.wait()
        console.print("stopping…")
    return 0


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    # Agents and master together: a pool that goes down as a whole fences nobody.
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _end_what_outlives_agents(hosts: list[HostPlan]) -> None:
    """On a real host watchdog and guests outlive an agent; this pool is one program, and goes as a whole."""
    for host in hosts:
        with contextlib.suppress(OSError, ValueError):
            watchdog = json.loads((host.folder / "watchdog.json").read_text())["pid"]
            _kill(
                watchdog, host.folder, os.killpg
            )  # it leads a group of its own: what it runs goes along
        for pid_file in (host.folder / "embed/run/qemu").glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                _kill(int(pid_file.read_text()), host.folder, os.kill)


def _kill(pid: int, folder: Path, kill: Callable[[int, int], None]) -> None:
    """Kill a process of a host, if the number is not somebody else's by now."""
    if os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes():
        kill(pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def _lab(options: UpOptions, data: Path) -> AsyncIterator[Any]:
    from deploy.lab.hosts import Lab, LabConfig
    from deploy.lab.preflight import LabFailed, LabUnavailable, lab_unavailable_reason

    reason = lab_unavailable_reason()
    if reason:
        raise UpError(f"no lab here: {reason}")
    try:
        lab = await asyncio.to_thread(
            Lab.up, LabConfig(data=data / "lab", hosts=options.hosts, name=options.pool)
        )
    except (LabUnavailable, LabFailed) as error:
        raise UpError(f"the lab does not come up: {error}") from error
    try:
        yield lab
    finally:
        await asyncio.to_thread(lab.down)


def _master(
    options: UpOptions, data: Path, password_file: Path, nats_url: str, token: str
) -> tuple[Child, Path]:
    ready = data / "master" / "ready.json"
    ready.unlink(missing_ok=True)
    config = {
        "pool": options.pool,
        "data_dir": str(data / "master"),
        "nats_urls": [nats_url],
        "nats_token": token,
        "listen": _kept_listen(options.listen, data),
        "unix_socket": str(data / "xapi"),
        "user": options.user,
        "password_file": str(password_file.absolute()),
        "ready_file": str(ready),
    }
    file = _write_toml(data / "master" / "master.toml", config)
    argv = [sys.executable, "-m", "pool_master", "--config", str(file)]
    return Child("master", argv, log_file=data / "logs" / "master.log"), ready


def _kept_listen(listen: str, data: Path) -> str:
    """Port 0 picks a free port once, and keeps it: clients find the pool again where it was.

    Raises:
        UpError: somebody else has the port.
    """
    host, _, port = listen.rpartition(":")
    kept = data / "port"
    if port == "0" and kept.exists():
        port = kept.read_text().strip()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # A master would only try again and again, and say so in its log.
        with socket.create_server((host.strip("[]"), int(port)), family=family) as probe:
            taken: int = probe.getsockname()[1]
    except (OSError, ValueError) as error:
        raise UpError(f"cannot listen on {host}:{port}: {error}") from error
    if listen.endswith(":0"):
        kept.write_text(str(taken))
    return f"{host}:{taken}"


def _host_plans(
    options: UpOptions, data: Path, nats_url: str, token: str, lab: Any
) -> list[HostPlan]:
    plans = []
    for number in range(1, options.hosts + 1):
        name = f"host{number}"
        folder = data / "hosts" / name
        prefix: tuple[str, ...] = ()
        power_on = None
        settings: dict[str, object] = {
            "pool": options.pool,
            "nats_urls": [nats_url],
            "nats_token": token,
            "data_dir": str(folder),
            "peer_port": 0,
            "suspend_folder": str((lab.shared if lab else data) / "suspend"),
        }
        if lab is None:
            host_uuid = _kept_uuid(folder)
            settings |= {"peer_listen": "127.0.0.1", "address": "127.0.0.1"}
        else:
            place = lab.hosts[number - 1]
            host_uuid = place.uuid
            settings |= {
                "address": place.address,
                "peer_listen": place.address,
                "migrate_uri": place.migrate_uri,
                "console_folder": str(lab.shared / "consoles"),
            }
            prefix = tuple(lab.argv_in(place, ()))
            power_on = partial(lab.start_host, place)
        settings |= {
            "host_uuid": host_uuid,
            "hypervisor_uri": _hypervisor_uri(options.hypervisor, data, folder, name),
        }
        plans.append(
            HostPlan(
                name=name,
                uuid=host_uuid,
                folder=folder,
                argv_prefix=prefix,
                settings=settings,
                power_on=power_on,
            )
        )
    return plans


def _hypervisor_uri(kind: str, data: Path, folder: Path, name: str) -> str:
    match kind:
        case "simulated":
            return f"simulated:{data / 'fabric'}?host={name}"
        case "test":
            return "test:///default"
        case "embed":
            return f"qemu:///embed?root={folder / 'embed'}"
        case "lab":
            return "qemu:///system"
        case other:
            raise UpError(f"--hypervisor {other}: one of {', '.join(HYPERVISORS)}")


def _agent(host: HostPlan) -> Child:
    file = _write_toml(host.folder / "agent.toml", host.settings)
    argv = [*host.argv_prefix, sys.executable, "-m", "host_agent", "--config", str(file)]
    (host.folder / DOWN).unlink(missing_ok=True)
    return Child(
        f"agent {host.name}",
        argv,
        log_file=host.folder.parent.parent / "logs" / f"{host.name}.log",
        before_start=lambda: _powered(host),
    )


async def _powered(host: HostPlan) -> None:
    """Wait until the host has power, and in a lab until its libvirtd runs."""
    while not await asyncio.to_thread(_has_power, host):  # noqa: ASYNC110 - a file raises no event
        await asyncio.sleep(POWER_POLL_S)


def _has_power(host: HostPlan) -> bool:
    from deploy.lab.preflight import LabFailed

    if (host.folder / DOWN).exists():
        return False
    try:
        if host.power_on is not None:
            host.power_on()
    except LabFailed as error:
        console.print(f"{host.name} does not start: {error}")
        return False
    return True


def _write_toml(path: Path, values: Mapping[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # JSON's strings, numbers and arrays of strings are TOML's too.
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    path.chmod(0o600)
    return path


def _own_password(data: Path) -> Path:
    _kept_secret(data / "password")
    return data / "password"


def _kept_secret(path: Path) -> str:
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(16) + "\n")
    return path.read_text().strip()


def _kept_uuid(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "uuid"
    if not kept.exists():
        kept.write_text(str(uuid.uuid4()))
    return kept.read_text().strip()


async def _until_ready(
    stop: asyncio.Event, ready: Path, options: UpOptions, password_file: Path, hosts: list[HostPlan]
) -> str:
    """Wait until the API answers, let the hosts join, wait until they live; "" where it is stopped before."""
    async with asyncio.timeout(READY_S_MAX):
        while not ready.exists():  # noqa: ASYNC240 - a look at one file
            if stop.is_set():
                return ""
            await asyncio.sleep(0.05)
        address: str = json.loads(await asyncio.to_thread(ready.read_text))["server"]
        password = _password_of(password_file)
        await asyncio.to_thread(_join, address, options.user, password, hosts)
        while not stop.is_set():
            if await asyncio.to_thread(_all_live, address, options.user, password, hosts):
                return address
            await asyncio.sleep(0.1)
    return ""


def _password_of(password_file: Path) -> str:
    first = password_file.read_text().splitlines()[0]
    return first.split(":", 2)[2] if first.count(":") >= 2 else first


@contextlib.contextmanager
def _session(address: str, user: str, password: str) -> Any:
    session = XenAPI.Session(address, ignore_ssl=True)
    session.xenapi.login_with_password(user, password, "1.0", "vmpool up")
    try:
        yield session
    finally:
        session.xenapi.session.logout()


def _join(address: str, user: str, password: str, hosts: list[HostPlan]) -> None:
    with _session(address, user, password) as session:
        for host in hosts:
            where = str(host.settings["address"])
            session.xenapi.host.create(host.uuid, host.name, "", host.name, where)


def _all_live(address: str, user: str, password: str, hosts: list[HostPlan]) -> bool:
    with _session(address, user, password) as session:
        records = session.xenapi.host.get_all_records()
        metrics = session.xenapi.host_metrics.get_all_records()
        live = {r["uuid"] for r in records.values() if metrics[r["metrics"]]["live"]}
    return all(host.uuid in live for host in hosts)


def _announce(
    options: UpOptions, data: Path, address: str, password_file: Path, nats_url: str
) -> None:
    known = {
        "server": address,
        "user": options.user,
        "password_file": str(password_file.absolute()),
        "nats_urls": [nats_url],
        "nats_token_file": str(data / "nats-token"),
        "pool": options.pool,
        "mirror": str(data / "master" / "log.sqlite"),
    }
    for path in (data / "vmpool.json", options.ready_file):
        if path is not None:
            unfinished = path.with_name(path.name + ".part")
            unfinished.write_text(json.dumps(known, indent=1) + "\n")
            unfinished.rename(path)
    console.print(
        f"pool     {options.hosts} hosts, hypervisor {options.hypervisor}, data in {data}"
    )
    console.print(f"address  {address}")
    console.print(f"user     {options.user}")
    if options.password_file is None:
        console.print(f"password {_password_of(password_file)}")
