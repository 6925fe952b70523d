"""Find and signal every process that lives in a lab host.

A process belongs to a host if it is in the host's network namespace, or if the host's folder is
what it sees as /run. Neither needs cgroups, process groups or a list that somebody kept: a QEMU
that has daemonized, or one whose libvirtd and holder are long dead, is found all the same.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from deploy.lab.preflight import LabFailed

_PROC: Final = Path("/proc")
_POLL_S: Final = 0.02
_DEATH_S_MAX: Final = 20.0
_SIGNAL_ROUNDS_MAX: Final = 100


def wait_until(condition: Callable[[], bool], *, seconds_max: float, what: str) -> None:
    """Poll until the condition holds; `what` completes the sentence of the failure."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() >= deadline:
            raise LabFailed(f"Waited {seconds_max:.0f} s in vain until {what}.")
        time.sleep(_POLL_S)


def processes_in(*, netns: Path, run_folder: Path) -> frozenset[int]:
    """The processes of one host, the caller itself never among them."""
    network, run = _identity(netns), _identity(run_folder)
    found = set()
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        in_network = network is not None and _identity(entry / "ns/net") == network
        if in_network or (run is not None and _identity(entry / "root/run") == run):
            found.add(int(entry.name))
    return frozenset(found)


def signal_all(find: Callable[[], frozenset[int]], number: signal.Signals) -> None:
    """Signal every process that `find` names, those forked meanwhile included."""
    signalled: frozenset[int] = frozenset()
    for _ in range(_SIGNAL_ROUNDS_MAX):
        fresh = find() - signalled
        if not fresh:
            return
        for pid in fresh:
            _kill(pid, number)
        signalled |= fresh
    raise LabFailed("Processes of the lab keep forking faster than they can be signalled.")


def kill_all(find: Callable[[], frozenset[int]], *, what: str) -> None:
    """SIGKILL every process that `find` names and wait until none is left."""

    def none_left() -> bool:
        remaining = find()
        for pid in remaining:
            _kill(pid, signal.SIGKILL)
        return not remaining

    wait_until(none_left, seconds_max=_DEATH_S_MAX, what=f"every process of {what} is dead")


def command_of(pid: int) -> list[str]:
    """The command line of a process; empty if there is no such process."""
    try:
        return (_PROC / str(pid) / "cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # It died by itself between being found and being signalled.


def _identity(path: Path) -> tuple[int, int] | None:
    """What makes two paths the same file; None for what is gone (a zombie has no namespaces)."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
