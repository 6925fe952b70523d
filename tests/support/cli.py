"""The real `vmpool` as a child process, for tests.

Rules: every run must end with the exit code that the test names, and none with a traceback.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.support.pool import RunningPool

COMMAND_S_MAX: Final = 60.0


def argv(*words: str) -> list[str]:
    return [sys.executable, "-m", "pool_master.cli.app", *words]


def environment(data: Path, **more: str) -> dict[str, str]:
    cleared = {key: value for key, value in os.environ.items() if not key.startswith("VMPOOL_")}
    return {**cleared, "VMPOOL_DATA": str(data), "TZ": "UTC", **more}


def hear_ctrl_c() -> None:
    """Let a child hear SIGINT, which a shell's background jobs, and all that they start, ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def vmpool(
    pool: RunningPool, *words: str, code: int = 0, given: str = "", data: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command; it must end with that exit code, and never with a traceback."""
    done = subprocess.run(
        argv(*words),
        input=given,
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
        env=environment(data or pool.data),
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def told(pool: RunningPool, *words: str) -> Any:
    """Run one command with --json and give what it says."""
    return json.loads(vmpool(pool, *words, "--json").stdout)


def refusal(pool: RunningPool, *words: str, code: int = 1) -> str:
    """Run a command that fails; give its one line."""
    lines = vmpool(pool, *words, code=code).stderr.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def made(pool: RunningPool, name: str, *options: str) -> str:
    """Make a VM; give its uuid."""
    return vmpool(pool, "vm", "create", name, "--memory", "96MiB", *options).stdout.strip()
