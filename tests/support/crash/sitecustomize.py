"""Lets a program of the pool die, or kill its nats-server, at a chosen moment: faults live at the ports, not in products.

Python imports this file by itself when its folder is on PYTHONPATH. The moment is named in the file that
VMPOOL_CRASH_FILE names, written as `victim moment`: the victim is `self` or a process id, the moment one of those below.
The file is removed first, so a crash happens once.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

ARMED = os.environ.get("VMPOOL_CRASH_FILE", "")


def at(moment: str) -> None:
    """Die here, or let the chosen process die, if this is the moment."""
    with contextlib.suppress(OSError, ValueError):
        victim, armed = Path(ARMED).read_text().split()
        if armed == moment:
            Path(ARMED).unlink()
            os.kill(os.getpid() if victim == "self" else int(victim), signal.SIGKILL)


def harm_master() -> None:
    """Before and after each append, by the first telling event in it; after commands are sent; before reports are acked."""
    from pool_master.core.records import unseal
    from pool_master.shell.event_log import JetStreamLog
    from shared.nats_bus import NatsBus

    append, publish = JetStreamLog.append, NatsBus.publish
    telling = (
        "OperationAccepted",
        "OperationAdvanced",
        "VmStarted",
        "VmMigrated",
        "VmHalted",
        "TaskFailed",
    )

    async def crashing_append(self: Any, data: bytes, *, expected_position: int) -> int:
        types = [event[0] for event in unseal(data).events]
        kind = next((name for name in telling if name in types), "other")
        at(f"before_append:{kind}")
        position = await append(self, data, expected_position=expected_position)
        at(f"after_append:{kind}")
        return position

    async def crashing_publish(self: Any, subject: str, data: bytes, **options: Any) -> int:
        is_command = subject.endswith(".command")
        if is_command:
            at("before_dispatch")
        sequence = await publish(self, subject, data, **options)
        if is_command:
            at("after_dispatch")
        return sequence

    JetStreamLog.append = crashing_append  # type: ignore[method-assign]
    NatsBus.publish = crashing_publish  # type: ignore[method-assign]


def harm_agent() -> None:
    """Between the hypervisor and the journal, and between the journal and the report."""
    from host_agent.core.journal_state import CommandBegun, CommandEnded
    from host_agent.shell.journal import SqliteJournal

    write = SqliteJournal.write

    async def crashing_write(self: Any, *changes: Any) -> None:
        is_end = any(isinstance(change, CommandEnded) for change in changes)
        is_begin = any(isinstance(change, CommandBegun) for change in changes)
        if is_end:
            at("before_outcome")
        await write(self, *changes)
        if is_end:
            at("after_outcome")
        if is_begin:
            at("after_begin")

    SqliteJournal.write = crashing_write  # type: ignore[method-assign]


if ARMED and "pool_master" in sys.orig_argv:
    harm_master()
if ARMED and "host_agent" in sys.orig_argv:
    harm_agent()
