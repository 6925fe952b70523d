"""A whole pool for a test: the real `vmpool up` as a child process, and XenAPI's own SDK to talk to it.

One job: start it on free ports, wait until it serves, give sessions and the processes it is made of, and stop it for
certain. A test that fails finds the ends of all the pool's logs in its output.

Rules: everything blocks, for a bounded time: from a coroutine use `asyncio.to_thread`. No process of the pool outlives
the block, not even where the test or the pool dies.
"""

import json
import os
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import XenAPI

from shared.supervision import die_with_parent

READY_S_MAX: Final = 100.0
STOP_S_MAX: Final = 45.0
WAIT_S_MAX: Final = 30.0
POLL_S: Final = 0.02
LOG_LINES: Final = 40
_PROC: Final = Path("/proc")

T = TypeVar("T")


def until(condition: Callable[[], T], *, what: str, seconds_max: float = WAIT_S_MAX) -> T:
    """Poll until `condition` gives something true, and give that; `what` says in the failure what did not come."""
    deadline = time.monotonic() + seconds_max
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds_max:.0f} s in vain until {what}"
        time.sleep(POLL_S)
    return found


def vm_record(name_label: str, /, **changes: Any) -> dict[str, Any]:
    """What VM.create takes: a small VM, with every member that the class's first version had."""
    memory = str(64 << 20)
    return {
        "name_label": name_label,
        "name_description": "",
        "user_version": "1",
        "is_a_template": False,
        "affinity": "OpaqueRef:NULL",
        "memory_static_max": memory,
        "memory_dynamic_max": memory,
        "memory_dynamic_min": memory,
        "memory_static_min": memory,
        "VCPUs_params": {},
        "VCPUs_max": "1",
        "VCPUs_at_startup": "1",
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "destroy",
        "PV_bootloader": "",
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "cd"},
        "platform": {},
        "PCI_bus": "",
        "other_config": {},
        "recommendations": "",
        **changes,
    }


def refusal(call: Callable[..., Any], *parameters: Any) -> list[str]:
    """Make a call that must be refused; give the code and its parameters."""
    try:
        value = call(*parameters)
    except XenAPI.Failure as failure:
        return [str(word) for word in failure.details]
    raise AssertionError(f"was not refused, but answered {value!r}")


class RunningPool:
    """One data folder, and the `vmpool up` on it. The same pool after every `restart`."""

    def __init__(self, data: Path, *, hosts: int, hypervisor: str) -> None:
        self.data = data
        self.hosts = hosts
        self.hypervisor = hypervisor
        self.server = ""
        self.user = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def password(self) -> str:
        """The password that `vmpool up` made up."""
        return (self.data / "password").read_text().strip()

    @property
    def pid(self) -> int:
        """The process id of `vmpool up` itself."""
        assert self._process is not None, "the pool is stopped"
        return self._process.pid

    @property
    def pids(self) -> dict[str, int]:
        """The processes of the parts that run now: master, nats, host1, host2..."""
        held = {"master": self.data / "master/master.toml", "nats": self.data / "nats/nats.conf"}
        for number in range(1, self.hosts + 1):
            held[f"host{number}"] = self.data / f"hosts/host{number}/agent.toml"
        commands = _commands()
        return {
            name: pid
            for name, marker in held.items()
            for pid, words in commands.items()
            if str(marker) in words
        }

    def start(self) -> None:
        """Start it and wait until the API answers and every host lives."""
        assert self._process is None, "the pool runs already"
        ready = self.data / "ready.json"
        ready.unlink(missing_ok=True)
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data / "up.log").open("ab") as output:
            self._process = subprocess.Popen(
                self._argv(ready),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
            )
        until(
            lambda: ready.exists() or self._has_ended(),
            what="the pool serves",
            seconds_max=READY_S_MAX,
        )
        assert ready.exists(), f"vmpool up ended with {self._process.returncode} instead of serving"
        known = json.loads(ready.read_text())
        self.server, self.user = known["server"], known["user"]

    def stop(self) -> int:
        """Stop it as Ctrl-C does and give its exit code; stopped twice is fine.

        Raises:
            AssertionError: it does not stop by itself, or leaves a process behind. All of them are dead all the same.
        """
        process, self._process = self._process, None
        if process is None:
            return 0
        process.terminate()
        try:
            code = process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"vmpool up did not stop within {STOP_S_MAX:.0f} s") from None
        finally:
            left = self._kill_remains()
        assert not left, f"vmpool up left processes behind: {left}"
        return code

    def restart(self) -> None:
        """Stop it and start it again on the same data folder."""
        assert self.stop() == 0
        self.start()

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one part of the pool: master, nats, host1, host2..."""
        os.kill(self.pids[part], number)

    @contextmanager
    def session(self) -> Iterator[Any]:
        """Log in with XenAPI's SDK; gives the `xenapi` proxy of the session."""
        session = XenAPI.Session(self.server, ignore_ssl=True)
        session.xenapi.login_with_password(self.user, self.password, "2.21", "vmpool-tests")
        try:
            yield session.xenapi
        finally:
            # The SDK closes its connection only when it is collected, which pytest would warn of.
            session("close")()

    @contextmanager
    def session_after_restart(self) -> Iterator[Any]:
        """The same as soon as a master answers again."""
        until(self._serves, what="a master answers")
        with self.session() as session:
            yield session

    def call(self, method: str, *parameters: Any) -> Any:
        """Make one call with exactly these parameters, without the SDK, which logs in again by itself.

        Raises:
            XenAPI.Failure: as from the SDK.
        """
        with xmlrpc.client.ServerProxy(self.server, allow_none=True) as server:
            answer: Any = getattr(server, method)(*parameters)
        if answer["Status"] != "Success":
            raise XenAPI.Failure(answer["ErrorDescription"])
        return answer["Value"]

    def log_in(self) -> str:
        """Give the reference of a new session, for `call`."""
        return str(self.call("session.login_with_password", self.user, self.password))

    def logs(self) -> str:
        """The ends of all logs."""
        found = [self.data / "up.log", *sorted((self.data / "logs").glob("*.log"))]
        return "".join(f"--- {path}\n{tail_of(path)}\n" for path in found if path.exists())

    def _argv(self, ready: Path) -> list[str]:
        options = [
            *("--hosts", str(self.hosts)),
            *("--hypervisor", self.hypervisor),
            *("--data", str(self.data)),
            *("--listen", "127.0.0.1:0"),
            *("--ready-file", str(ready)),
        ]
        return [sys.executable, "-m", "pool_master.cli.app", "up", *options]

    def _serves(self) -> bool:
        try:
            self.call("session.logout", self.log_in())
        except (OSError, XenAPI.Failure):
            return False
        return True

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _kill_remains(self) -> dict[int, list[str]]:
        """Kill whatever still names the data folder in its command line; give what there was."""
        left = processes_naming(self.data)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return left


@contextmanager
def running_pool(
    tmp_path: Path, *, hosts: int = 3, hypervisor: str = "simulated"
) -> Iterator[RunningPool]:
    """Run a pool in a folder below `tmp_path` until the block ends."""
    pool = RunningPool(tmp_path / "pool", hosts=hosts, hypervisor=hypervisor)
    try:
        pool.start()
        yield pool
        pool.stop()
    except BaseException:
        sys.stderr.write(pool.logs())
        raise
    finally:
        if pool._process is not None:
            pool._process.kill()
            pool._process.wait()
            pool._kill_remains()


def processes_naming(folder: Path) -> dict[int, list[str]]:
    """The processes whose command line names the folder or something in it."""
    inside = f"{folder}/"
    return {
        pid: words
        for pid, words in _commands().items()
        if any(f"{word}/".startswith(inside) for word in words)
    }


def _commands() -> dict[int, list[str]]:
    """The command lines of all processes of this machine, our own left out."""
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                found[int(entry.name)] = (entry / "cmdline").read_text(errors="replace").split("\0")
            except OSError:
                continue  # ended meanwhile
    return found


def tail_of(path: Path) -> str:
    """Give the last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-LOG_LINES:])
