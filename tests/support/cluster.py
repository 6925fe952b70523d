"""A pool of several masters on three nats-servers, every part a real process that a test may kill, freeze and start again.

One job: start the parts on free ports, say who leads, give sessions that follow HOST_IS_SLAVE as real clients do, and stop
everything for certain.

Rules: everything blocks, for a bounded time. No process outlives the block, not even where the test dies.
"""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import XenAPI

from pool_master.shell.nats_server import find_binary
from shared.bus import BusUnavailable
from shared.nats_bus import connect
from shared.subjects import Subjects
from shared.supervision import die_with_parent
from tests.support.pool import processes_naming, tail_of, until

USER: Final = "root"
PASSWORD: Final = "correct horse"
STOP_S_MAX: Final = 20.0
READY_S_MAX: Final = 60.0
CALL_S_MAX: Final = 30.0
ANSWER_S_MAX: Final = 1.0
# What ends by itself: the client looks for the leader and asks again.
PASSING: Final = {"HOST_IS_SLAVE", "HOST_STILL_BOOTING", "SESSION_INVALID"}


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Part:
    """One process of the cluster."""

    def __init__(self, name: str, argv: list[str], log: Path) -> None:
        self.name = name
        self.argv = argv
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it runs, or stands still."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """What it ended with; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def start(self) -> None:
        """Start it."""
        assert not self.is_running
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
            )

    def kill(self) -> None:
        """kill -9; it is gone when this returns."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """SIGTERM; give its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(STOP_S_MAX)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP for the block, SIGCONT after it."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


class RunningCluster:
    """The parts, by name: nats1…, master1…, host1…."""

    def __init__(self, data: Path, *, masters: int, hosts: int) -> None:
        self.data = data
        self.parts: dict[str, Part] = {}
        self.addresses: dict[str, str] = {}  # of the masters, by name
        (data / "logs").mkdir(parents=True)
        (data / "password").write_text(PASSWORD)
        self._plan_nats()
        for number in range(1, masters + 1):
            self._plan_master(f"master{number}")
        self.host_uuids = {f"host{n}": str(uuid.uuid4()) for n in range(1, hosts + 1)}
        for name in self.host_uuids:
            self._plan_host(name)

    def _add(self, name: str, argv: list[str]) -> None:
        self.parts[name] = Part(name, argv, self.data / "logs" / f"{name}.log")

    def _plan_nats(self) -> None:
        names = ["nats1", "nats2", "nats3"]
        routes = {name: free_port() for name in names}
        self.nats_urls = []
        for name in names:
            port = free_port()
            self.nats_urls.append(f"nats://127.0.0.1:{port}")
            config = self.data / f"{name}.conf"
            others = ", ".join(json.dumps(f"nats://127.0.0.1:{routes[each]}") for each in names)
            config.write_text(
                f"server_name: {name}\nlisten: '127.0.0.1:{port}'\nmax_payload: 8MB\n"
                f"jetstream {{ store_dir: {json.dumps(str(self.data / name))}, sync_interval: always }}\n"
                f"cluster {{ name: pool, listen: '127.0.0.1:{routes[name]}', routes: [{others}] }}\n"
            )
            self._add(name, [str(find_binary(None)), "-c", str(config)])

    def _plan_master(self, name: str) -> None:
        listen = f"127.0.0.1:{free_port()}"
        self.addresses[name] = listen
        folder = self.data / name
        settings: dict[str, object] = {
            "pool": "pool",
            "name": name,
            "data_dir": str(folder),
            "nats_urls": self.nats_urls,
            "nats_replicas": 3,
            "listen": listen,
            "address": listen,
            "password_file": str(self.data / "password"),
        }
        self._write_config(folder / "master.toml", settings)
        self._add(name, [sys.executable, "-m", "pool_master", "--config", f"{folder}/master.toml"])

    def _plan_host(self, name: str) -> None:
        folder = self.data / name
        settings: dict[str, object] = {
            "pool": "pool",
            "nats_urls": self.nats_urls,
            "data_dir": str(folder),
            "host_uuid": self.host_uuids[name],
            "peer_port": 0,
            "peer_listen": "127.0.0.1",
            "address": "127.0.0.1",
            "hypervisor_uri": f"simulated:{self.data / 'fabric'}?host={name}",
        }
        self._write_config(folder / "agent.toml", settings)
        self._add(name, [sys.executable, "-m", "host_agent", "--config", f"{folder}/agent.toml"])

    @staticmethod
    def _write_config(file: Path, settings: dict[str, object]) -> None:
        file.parent.mkdir(parents=True)
        file.write_text(
            "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
        )

    def start(self) -> None:
        """Start everything, let the hosts in, wait until they live."""
        for part in self.parts.values():
            part.start()
        until(self.leader, what="somebody leads", seconds_max=READY_S_MAX)
        # One that has only just begun would die of a signal instead of heeding it.
        until(
            lambda: len(self.standbys()) + 1 == len(self.addresses),
            what="all masters answer",
            seconds_max=READY_S_MAX,
        )
        with self.session() as xenapi:
            for name, host_uuid in self.host_uuids.items():
                xenapi.host.create(host_uuid, name, "", name, "127.0.0.1")
            until(
                lambda: all(r["live"] for r in xenapi.host_metrics.get_all_records().values()),
                what="all hosts live",
                seconds_max=READY_S_MAX,
            )

    def stop(self) -> None:
        """Kill everything that still runs, agents' watchdogs included."""
        for part in reversed(self.parts.values()):
            part.kill()
        for pid in processes_naming(self.data):
            os.kill(pid, signal.SIGKILL)

    def logs(self) -> str:
        """The ends of all logs."""
        found = sorted((self.data / "logs").iterdir())
        return "".join(f"--- {log.name}\n{tail_of(log)}\n" for log in found)

    def leader(self) -> str:
        """The name of the master that answers as leader, "" where there is none."""
        for name, address in self.addresses.items():
            if self.parts[name].is_running and _answer(address) == "leads":
                return name
        return ""

    def refusal_of(self, master: str) -> list[str]:
        """What a master says that does not lead."""
        return _ask(self.addresses[master])[1]

    def quorum(self) -> int:
        """How many nats-servers run and answer for the log's stream."""

        async def ask() -> int:
            bus = await connect(self.nats_urls, name="checker")
            try:
                asked = await bus.request(
                    f"$JS.API.STREAM.INFO.{Subjects('pool').log_stream}",
                    b"",
                    timeout_s=ANSWER_S_MAX,
                )
            except BusUnavailable:
                return 0
            finally:
                await bus.close()
            held = json.loads(asked).get("cluster", {})
            others = [each for each in held.get("replicas", []) if each["current"]]
            return bool(held.get("leader")) + len(others)

        return asyncio.run(ask())

    def standbys(self) -> list[str]:
        """The masters that say who leads, but do not."""
        return [name for name, address in self.addresses.items() if _answer(address) == "follows"]

    @contextmanager
    def session(self) -> Iterator[Any]:
        """A session with the leader of now, by XenAPI's SDK."""
        address = self.addresses[until(self.leader, what="somebody leads")]
        session = XenAPI.Session(f"http://{address}")
        session.xenapi.login_with_password(USER, PASSWORD, "2.21", "vmpool-tests")
        try:
            yield session.xenapi
        finally:
            session("close")()

    def calling(self, call: Callable[[Any], Any], *, seconds_max: float = CALL_S_MAX) -> Any:
        """Do what a patient client does: find the leader, call, and where that breaks off, again."""
        deadline = time.monotonic() + seconds_max
        while True:
            try:
                with self.session() as xenapi:
                    return call(xenapi)
            except (OSError, http.client.HTTPException, XenAPI.Failure) as error:
                if isinstance(error, XenAPI.Failure) and error.details[0] not in PASSING:
                    raise
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)


def _answer(address: str) -> str:
    """Ask a master who leads: "leads", "follows", or "" where it does not say."""
    status, description = _ask(address)
    if status == "Success":
        return "leads"
    return "follows" if description[:1] == ["HOST_IS_SLAVE"] else ""


def _ask(address: str) -> tuple[str, list[str]]:
    """Log in once; give the status and the error, both empty where nobody answers."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=ANSWER_S_MAX)
    body = xmlrpc.client.dumps((USER, PASSWORD), "session.login_with_password")
    try:
        connection.request("POST", "/", body, {"Content-Type": "text/xml"})
        (answer,), _ = xmlrpc.client.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException):
        return "", []
    finally:
        connection.close()
    assert isinstance(answer, dict)
    return str(answer["Status"]), [str(word) for word in answer.get("ErrorDescription", [])]


@contextmanager
def running_cluster(data: Path, *, masters: int = 2, hosts: int = 3) -> Iterator[RunningCluster]:
    """A cluster for the block."""
    cluster = RunningCluster(data, masters=masters, hosts=hosts)
    try:
        cluster.start()
        yield cluster
    except BaseException:
        sys.stderr.write(cluster.logs())
        raise
    finally:
        cluster.stop()
