"""The watchdog: a small process of its own that kills the guests of an agent that is frozen or dead.

One job: SIGKILL the guests' processes when the deadline passes without a new one.

Rules: standard library only, and nothing that waits for the agent. Orders are lines of JSON on the standard input, each
answered with a line: `deadline` (CLOCK_MONOTONIC, null for none), `pid_files` (patterns), `pids`, `process_name` (how a
process's name must begin), `command` (one that kills). A dead agent does not end it: the deadline stands until it has
passed or another watchdog, which reads it from the state file, takes over. What came while it was stopped is read
before it judges; a suspended machine's time counts.
"""

import contextlib
import ctypes
import glob
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

KILL_PAUSE_S = 0.2
LOOP_PAUSE_S = 1.0
LINGER_S = 5.0
LOCK_CURRENT_AND_FUTURE_MEMORY = 3
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def suspended_s() -> float:
    """Give how long this machine has slept since it booted: CLOCK_MONOTONIC does not see that."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


def say(text: str) -> None:
    """Tell people, where the agent's log goes."""
    with contextlib.suppress(OSError):
        os.write(2, f"watchdog: {text}\n".encode())


class Watchdog:
    """What to kill, and when."""

    def __init__(self, folder: Path, device: str) -> None:
        self.state_file = folder / "watchdog.json"
        self.order: dict[str, Any] = {"deadline": None}
        self.was_taken_over, self.suspended = False, suspended_s()
        self.is_agent_there, self.unread = True, b""
        with contextlib.suppress(OSError, ValueError):
            self.take_over(json.loads(self.state_file.read_text()))
        self.remember()
        self.device = os.open(device, os.O_WRONLY) if device else -1

    def take_over(self, state: dict[str, Any]) -> None:
        """Take the former watchdog's order, then its place; nothing of before a reboot is alive."""
        if state["boot"] == BOOT_ID.read_text():
            self.order, self.was_taken_over = state["order"], True
            if b"watchdog.py" in Path(f"/proc/{state['pid']}/cmdline").read_bytes():
                os.kill(state["pid"], signal.SIGKILL)

    def remember(self) -> None:
        """Write the state for the next watchdog; it need not survive a power cut, as guests do not."""
        state = {"pid": os.getpid(), "boot": BOOT_ID.read_text(), "order": self.order}
        draft = self.state_file.with_suffix(".new")
        draft.write_text(json.dumps(state))
        draft.rename(self.state_file)

    def left_s(self) -> float:
        """Give the time until the deadline, infinity for none."""
        if self.order["deadline"] is None:
            return math.inf
        return float(self.order["deadline"]) - time.monotonic() - (suspended_s() - self.suspended)

    def targets(self) -> list[int]:
        """Find the processes to kill; pid files outlive theirs, so look what runs under the number now."""
        found = list(self.order.get("pids", []))
        for pattern in self.order.get("pid_files", []):
            for path in map(Path, glob.iglob(pattern)):
                with contextlib.suppress(OSError, ValueError):
                    found.append(int(path.read_text()))
        return [pid for pid in found if self.is_target(pid)]

    def is_target(self, pid: int) -> bool:
        """Whether the process lives and is of the kind."""
        with contextlib.suppress(OSError, IndexError):
            name, rest = Path(f"/proc/{pid}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
            return rest.split()[0] != "Z" and name.startswith(self.order["process_name"])
        return False

    def kill(self) -> None:
        """Kill every guest."""
        for pid in self.targets():
            say(f"the deadline has passed, killing {pid}")
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if command := self.order.get("command"):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(command, timeout=2, check=False)  # noqa: S603 - the agent's order

    def listen(self, pause_s: float) -> None:
        """Wait for orders at most that long, then take all that are there."""
        if not self.is_agent_there:
            time.sleep(pause_s)
        while self.is_agent_there and select.select([0], [], [], pause_s)[0]:
            pause_s, data = 0, os.read(0, 65536)
            self.is_agent_there = bool(data)
            *lines, self.unread = (self.unread + data).split(b"\n")
            for line in lines:
                self.order, self.suspended = json.loads(line), suspended_s()
                self.remember()
                with contextlib.suppress(OSError):
                    os.write(1, b"ok\n")

    def run(self) -> None:
        """Watch until the agent is dead and its deadline past; the hardware is unfed while a guest outlives it."""
        ends_at = math.inf
        while time.monotonic() < ends_at:
            slept_at, left_s = time.monotonic(), self.left_s()
            pause_s = min(left_s, LOOP_PAUSE_S) if left_s > 0 else KILL_PAUSE_S
            self.listen(pause_s)
            if time.monotonic() - slept_at > pause_s + LOOP_PAUSE_S:
                say(f"was stopped for {time.monotonic() - slept_at:.1f} s")
            if self.left_s() <= 0:
                self.kill()
                ends_at = math.inf if self.is_agent_there else min(ends_at, slept_at + LINGER_S)
            if self.device >= 0 and (self.left_s() > 0 or not self.targets()):
                os.write(self.device, b"\0")
        if self.device >= 0:
            os.write(self.device, b"V")


def main() -> None:
    """Run on `FOLDER [DEVICE]`."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mlockall(LOCK_CURRENT_AND_FUTURE_MEMORY)
        os.nice(-20)
    watchdog = Watchdog(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
    deadline = watchdog.order["deadline"] if watchdog.was_taken_over else "none"
    os.write(1, f"ready {json.dumps(deadline)}\n".encode())
    watchdog.run()


if __name__ == "__main__":
    main()
