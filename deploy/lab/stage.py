"""What the story is played on: a pool under `vmpool up`, its hosts, and the power switch of each.

One job: start the pool as a child process, say where its guests' words and its logs are, cut a host's power, and leave
nothing behind.

Rules: the pool is the one that a user starts, told apart by nothing; killing a host takes everything on it at once, with
SIGKILL; `close` ends all of it, whatever has happened before.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import XenAPI

from deploy.lab.guest_image import (
    COMMAND_LINE,
    GuestImage,
    GuestImageUnavailable,
    build_guest_image,
)
from deploy.lab.hosts import Lab, default_cache
from deploy.lab.preflight import LabFailed, LabUnavailable, lab_unavailable_reason
from deploy.lab.processes import command_of, kill_all
from host_agent.core.domain_xml import domain_name
from host_agent.shell.fabric_store import FolderStore
from host_agent.shell.simulated_fabric import SimulatedFabric
from shared.supervision import die_with_parent

HOSTS: Final = 3
LAB: Final = "lab"
SIMULATED: Final = "simulated"

_STOP_S_MAX: Final = 60.0
_LOG_LINES: Final = 12
_TICK: Final = re.compile(r"tick (\d+) cpus=\d+ mem=\d+ blocks=\S+ nics=\S+\r?\n")


class StageFailed(Exception):
    """The pool does not stand, or something on it did not happen; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """Where and how the pool runs."""

    data: Path
    hypervisor: str
    listen: str
    pool: str


def real_hosts_unavailable_reason() -> str | None:
    """Why real hosts cannot be had on this machine, or None if they can."""
    if reason := lab_unavailable_reason():
        return reason
    if importlib.util.find_spec("libvirt") is None:
        return "A lab of libvirt hosts needs libvirt-python, which could not be built: see .venv/setup.log."
    try:
        build_guest_image(default_cache())
    except GuestImageUnavailable as error:
        return f"The lab's guest cannot be built: {error}."
    return None


class Console:
    """What a guest has said on its serial console, in all its lives, on whichever host."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lives(self) -> list[list[int]]:
        """The ticks of each boot; a guest's counter begins at 1 with every boot, and only grows."""
        lives: list[list[int]] = []
        for tick in self._ticks():
            if not lives or tick <= lives[-1][-1]:
                lives.append([])
            lives[-1].append(tick)
        return lives

    def last_tick(self) -> int:
        """The counter now; 0 before its first word."""
        ticks = self._ticks()
        return ticks[-1] if ticks else 0

    def _ticks(self) -> list[int]:
        try:
            return [int(tick) for tick in _TICK.findall(self.path.read_text(errors="replace"))]
        except FileNotFoundError:
            return []


class Stage:
    """A pool that stands; use as a context manager."""

    def __init__(self, options: StageOptions) -> None:
        self.data = options.data.absolute()
        self.is_real = options.hypervisor == LAB
        self.user = self.server = ""
        self._options = options
        self._ready_file = self.data / "story-ready.json"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the pool; `is_ready` says when it answers."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self._ready_file.unlink(missing_ok=True)
        options = self._options
        argv = [
            *(sys.executable, "-m", "pool_master.cli.app", "up"),
            *("--hosts", str(HOSTS), "--hypervisor", options.hypervisor),
            *("--data", str(self.data), "--listen", options.listen),
            *("--pool", options.pool, "--ready-file", str(self._ready_file)),
        ]
        with self._up_log.open("wb") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is ours alone: the pool is asked to stop when the story has ended.
                start_new_session=True,
                preexec_fn=partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509 - no lock in it
            )
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self.close()

    @property
    def logs(self) -> Path:
        """The folder of all logs."""
        return self.data / "logs"

    @property
    def password(self) -> str:
        """The user's password, made by `vmpool up`."""
        return (self.data / "password").read_text().strip()

    def is_ready(self) -> bool:
        """Whether the pool answers and all its hosts live.

        Raises:
            StageFailed: it has ended instead.
        """
        assert self._process is not None
        if self._process.poll() is not None:
            raise StageFailed(f"The pool has not come up:\n{_tail(self._up_log)}")
        if not self._ready_file.exists():
            return False
        known = json.loads(self._ready_file.read_text())
        self.server, self.user = known["server"], known["user"]
        return True

    def wait(self) -> None:
        """Wait for the pool's end.

        Raises:
            StageFailed: it has ended by itself.
        """
        assert self._process is not None
        code = self._process.wait()
        raise StageFailed(f"The pool has ended by itself, with {code}:\n{_tail(self._up_log)}")

    def log_in(self) -> Any:
        """A session of XenAPI's SDK."""
        session = XenAPI.Session(self.server, ignore_ssl=True)
        session.xenapi.login_with_password(self.user, self.password, "2.21", "vmpool story")
        return session

    def host_uuids(self) -> dict[str, str]:
        """The pool's hosts by name; a data folder may know others, of another kind, from before."""
        folders = sorted((self.data / "hosts").iterdir())
        configs = {folder.name: (folder / "agent.toml").read_text() for folder in folders}
        return {name: tomllib.loads(config)["host_uuid"] for name, config in configs.items()}

    # --- guests

    def boot_members(self) -> dict[str, Any]:
        """The members of a VM's record that boot the counting guest; none where guests are simulated."""
        if not self.is_real:
            return {}
        image = self._image()
        return {
            "PV_kernel": str(image.kernel),
            "PV_ramdisk": str(image.initrd),
            "PV_args": COMMAND_LINE,
        }

    def _image(self) -> GuestImage:
        """The guest's image where every host sees it at the same path."""
        built = build_guest_image(default_cache())
        folder = self._lab().shared / built.kernel.parent.name
        folder.mkdir(exist_ok=True)
        image = GuestImage(kernel=folder / "vmlinuz", initrd=folder / "initrd")
        for source, target in ((built.kernel, image.kernel), (built.initrd, image.initrd)):
            if not target.exists():
                unfinished = target.with_suffix(".part")
                shutil.copyfile(source, unfinished)
                unfinished.rename(target)
        return image

    def console(self, vm_uuid: str) -> Console | None:
        """The guest's console; None where guests are simulated."""
        if not self.is_real:
            return None
        return Console(self._lab().shared / "consoles" / f"{domain_name(vm_uuid)}.log")

    # --- power

    def cut_power(self, name: str) -> int:
        """Kill everything on a host at once, and keep it dead; give how many processes died."""
        (self.data / "hosts" / name / "down").touch()
        if self.is_real:
            lab = self._lab()
            host = next(host for host in lab.hosts if host.name == name)
            count = len(lab.programs_on(host))
            lab.kill_host(host)
            return count
        find = self._processes_of(name)
        count = len(find())
        kill_all(find, what=name)
        SimulatedFabric(FolderStore(self.data / "fabric")).kill_host(name)
        return count

    def give_power_back(self, name: str) -> None:
        """Let a dead host start again."""
        (self.data / "hosts" / name / "down").unlink(missing_ok=True)

    def _lab(self) -> Lab:
        return Lab.open(self.data / "lab")

    def _processes_of(self, name: str) -> Callable[[], frozenset[int]]:
        """A simulated host's agent and watchdog, by the folder that they have in their command lines."""
        folder = str(self.data / "hosts" / name)
        return lambda: frozenset(
            pid
            for pid in _all_pids()
            if any(word in {folder, f"{folder}/agent.toml"} for word in command_of(pid))
        )

    # --- the end

    def close(self) -> None:
        """Stop the pool and remove what it has made on this machine; its data stay."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self.is_real:
            # None left is the rule: `vmpool up` has taken it down. It may have been killed, though.
            with contextlib.suppress(LabUnavailable, LabFailed):
                self._lab().down()

    @property
    def _up_log(self) -> Path:
        return self.logs / "up.log"


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-_LOG_LINES:])
