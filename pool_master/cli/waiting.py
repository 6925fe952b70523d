"""Long operations: asked for as a task, watched with a progress bar, left alone on Ctrl-C.

Rules: the task is the pool's, not ours: losing sight of it changes nothing about it; a master that changes meanwhile is
waited for; a task that we saw end is cleared away, its history stays in the log.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pool_master.cli.client import PoolClient
from pool_master.cli.failures import CliError, Interrupted, NotFound, Refused, Unreachable
from pool_master.cli.render import Terminal

WATCH_S: Final = 20.0
AWAY_S_MAX: Final = 60.0
AWAY_PAUSE_S: Final = 0.5
AWAY_CODES: Final = ("HOST_STILL_BOOTING", "HOST_IS_SLAVE")


@dataclass(frozen=True, slots=True)
class Ended:
    """A task's end."""

    task: str
    uuid: str
    result: str
    seconds: float


class Meter(Protocol):
    """Told how far a task is."""

    def __call__(self, share: float, remark: str = "") -> None:
        """Show it."""
        ...


def start_task(client: PoolClient, method: str, *parameters: Any) -> str:
    """Ask for something as a task; give the task's reference."""
    return str(client.call(f"Async.{method}", *parameters))


def carry_out(
    client: PoolClient,
    terminal: Terminal,
    method: str,
    *parameters: Any,
    doing: str,
    is_waiting: bool = True,
) -> Ended | None:
    """Do something long, with a progress bar; give its end, None if the task was only to be printed.

    Raises:
        Refused: it failed, with the task's own error.
        Interrupted: Ctrl-C; it goes on.
    """
    task = start_task(client, method, *parameters)
    if not is_waiting:
        print_task(client, terminal, task)
        return None
    try:
        with _meter(terminal, doing) as meter:
            return wait_for(client, task, meter)
    except KeyboardInterrupt:
        client.forget()
        raise Interrupted(_left_running(client, task, doing)) from None


def print_task(client: PoolClient, terminal: Terminal, task: str) -> None:
    """Say which task it is."""
    uuid = client.call("task.get_uuid", task)
    if terminal.is_json:
        terminal.show({"task": task, "uuid": uuid})
    else:
        terminal.say(uuid)


def wait_for(client: PoolClient, task: str, meter: Meter) -> Ended:
    """Wait until a task ends.

    Raises:
        Refused: it failed.
        NotFound: somebody cleared it away before we saw its end.
        Unreachable: nobody answers for too long; it may go on.
    """
    began = time.monotonic()
    token, record = "", None
    while record is None or record["status"] in {"pending", "cancelling"}:
        batch = _watch(client, task, token, meter)
        token = batch["token"]
        for event in batch["events"]:
            if event["operation"] == "del":
                raise NotFound(
                    "the task was cleared away before its end was seen: see `vmpool audit`"
                )
            record = event["snapshot"]
        if record is None:
            raise NotFound("the task is not there any more: see `vmpool audit` for how it ended")
        meter(float(record["progress"]))
    with suppress(CliError):
        client.call("task.destroy", task)
    if record["status"] != "success":
        raise Refused(list(record["error_info"]) or ["TASK_CANCELLED", task])
    return Ended(task, record["uuid"], record["result"], time.monotonic() - began)


def _watch(client: PoolClient, task: str, token: str, meter: Meter) -> Any:
    """Give the next batch of events about a task, through a change of master."""
    away_since = 0.0
    while True:
        try:
            return client.call("event.from", [f"task/{task}"], token, WATCH_S)
        except (Unreachable, Refused) as error:
            if isinstance(error, Refused) and error.code not in AWAY_CODES:
                raise
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > AWAY_S_MAX:
                raise
            meter(0.0, "the master is away, waiting")
            client.forget()
            time.sleep(AWAY_PAUSE_S)


def _left_running(client: PoolClient, task: str, doing: str) -> str:
    name = task
    with suppress(CliError):
        name = client.call("task.get_uuid", task)
    return f"{doing} goes on without you: `vmpool task list` shows it, `vmpool task cancel {name}` stops it"


@contextmanager
def _meter(terminal: Terminal, doing: str) -> Iterator[Meter]:
    """Show a bar where there is a terminal to draw on; elsewhere nothing."""
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[remark]}", style="yellow", markup=False),
    )
    is_quiet = terminal.is_json or not terminal.err.is_terminal
    progress = Progress(*columns, console=terminal.err, transient=True, disable=is_quiet)
    with progress:
        # Without a first word of progress the bar pulses: hosts tell how far a migration is, not a start.
        shown = progress.add_task(doing, total=None, remark="")

        def meter(share: float, remark: str = "") -> None:
            if remark:
                progress.update(shown, remark=remark)
            elif share > 0:
                progress.update(shown, total=1.0, completed=share, remark="")
            else:
                progress.update(shown, remark="")

        yield meter
