"""`vmpool log`: the log itself, checked without asking the master."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from pool_master.cli.failures import EXIT_REFUSED, Failed, Unreachable
from pool_master.cli.options import JsonFlag, options_of
from pool_master.cli.render import Terminal
from pool_master.cli.settings import CONFIG_FILE, data_folder, stored_config

app = typer.Typer(no_args_is_help=True, help="The log: checking that history is what was written.")


@app.callback()
def _group() -> None:
    """Keep `log verify` two words, though it is the only command so far."""


@app.command()
def verify(
    context: typer.Context,
    *,
    data: Annotated[
        str, typer.Option(metavar="DIR", help="Data folder of the pool, with its vmpool.json.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Recompute the hash chain over the log and over the master's copy, and compare the two."""
    import asyncio

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    terminal = Terminal(is_json=as_json)
    folder = data_folder(data or options_of(context).data)
    held = stored_config(folder)
    if not held.get("nats_urls"):
        raise Failed(
            f"{folder / CONFIG_FILE} does not say where the log is: name the data folder with --data"
        )
    is_quiet = terminal.is_json or not terminal.err.is_terminal
    columns = (SpinnerColumn(), TextColumn("checking records"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=terminal.err, transient=True, disable=is_quiet) as progress:
        shown = progress.add_task("", total=None)

        def step(position: int, total: int) -> None:
            progress.update(shown, completed=position, total=max(position, total) or None)

        report = asyncio.run(_verify(held, folder, step))
    if terminal.is_json:
        terminal.show(_plain(report))
    else:
        _say(report, terminal)
    if not report.is_sound:
        raise typer.Exit(EXIT_REFUSED)


async def _verify(held: dict[str, Any], folder: Path, step: Callable[[int, int], None]) -> Any:
    from pool_master.shell.event_log import JetStreamLog, LogDamaged, LogUnavailable
    from pool_master.shell.log_verify import verify as verify_histories
    from pool_master.shell.mirror import Mirror, MirrorError
    from shared.bus import BusUnavailable
    from shared.nats_bus import Credentials, connect
    from shared.subjects import Subjects

    token_file = held.get("nats_token_file")
    try:
        token = (folder / token_file).read_text().strip() if token_file else ""
    except OSError as error:
        raise Failed(f"{token_file} cannot be read: {error.strerror}") from error
    try:
        async with AsyncExitStack() as stack:
            bus = await connect(
                held["nats_urls"], name="vmpool log verify", credentials=Credentials(token=token)
            )
            stack.push_async_callback(bus.close)
            log = JetStreamLog(bus, Subjects(str(held.get("pool", "vmpool"))))
            total = await _length(log, LogDamaged)
            mirror = None
            path = folder / str(held.get("mirror") or "")
            if held.get("mirror") and path.is_file():
                mirror = await Mirror.open(path)
                stack.push_async_callback(mirror.close)
            return await verify_histories(log, mirror, lambda position: step(position, total))
    except MirrorError as error:
        raise Failed(f"the copy cannot be read: {error}") from error
    except (BusUnavailable, LogUnavailable) as error:
        raise Unreachable(
            f"the log does not answer at {', '.join(held['nats_urls'])}: {error}"
        ) from error


async def _length(log: Any, damaged: type[Exception]) -> int:
    try:
        last = await log.last()
    except damaged:
        return 0  # verify says where
    return last.sequence if last is not None else 0


def _plain(report: Any) -> dict[str, Any]:
    def tail(held: Any) -> dict[str, Any] | None:
        if held is None:
            return None
        return {"records": held.position, "events": held.next_sequence - 1, "hash": held.hash.hex()}

    findings = [
        {"where": x.where, "record": x.position, "event": x.sequence, "what": x.what}
        for x in report.findings
    ]
    return {
        "is_sound": report.is_sound,
        "stream": tail(report.stream),
        "copy": tail(report.copy),
        "findings": findings,
    }


def _say(report: Any, terminal: Terminal) -> None:
    for name, tail in (("the log", report.stream), ("the master's copy", report.copy)):
        if tail is None:
            terminal.say(f"{name} is not there to be compared", "yellow")
        else:
            text = f"{name}: {tail.position} records, {tail.next_sequence - 1} events, chain {tail.hash.hex()[:16]}"
            terminal.say(text)
    if report.is_sound:
        terminal.say("history is what was written: every record joins the one before it", "green")
        return
    for finding in report.findings:
        terminal.say(f"history is not what was written. {finding}", "bold red")
