"""`vmpool log`: the log itself, checked without asking the master."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import typer

from pool_master.cli.failures import EXIT_REFUSED, Failed
from pool_master.cli.log_place import LogPlace, connected_to, place_of
from pool_master.cli.log_restore import ConfigOption, DataOption, restore
from pool_master.cli.options import JsonFlag, options_of
from pool_master.cli.render import Terminal

app = typer.Typer(
    no_args_is_help=True,
    help="The log: checking that history is what was written, and restoring it.",
)


app.command()(restore)


@app.command()
def verify(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    data: DataOption = "",
    as_json: JsonFlag = False,
) -> None:
    """Recompute the hash chain over the log and over the master's copy, and compare the two."""
    import asyncio

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    terminal = Terminal(is_json=as_json)
    place = place_of(data or options_of(context).data, config)
    is_quiet = terminal.is_json or not terminal.err.is_terminal
    columns = (SpinnerColumn(), TextColumn("checking records"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=terminal.err, transient=True, disable=is_quiet) as progress:
        shown = progress.add_task("", total=None)

        def step(position: int, total: int) -> None:
            progress.update(shown, completed=position, total=max(position, total) or None)

        report = asyncio.run(_verify(place, step))
    if terminal.is_json:
        terminal.show(_plain(report))
    else:
        _say(report, terminal)
    if not report.is_sound:
        raise typer.Exit(EXIT_REFUSED)


async def _verify(place: LogPlace, step: Callable[[int, int], None]) -> Any:
    from pool_master.shell.event_log import JetStreamLog, LogDamaged
    from pool_master.shell.log_verify import verify as verify_histories
    from pool_master.shell.mirror import Mirror, MirrorError
    from shared.subjects import Subjects

    try:
        async with AsyncExitStack() as stack:
            bus = await stack.enter_async_context(connected_to(place, "vmpool log verify"))
            log = JetStreamLog(bus, Subjects(place.pool))
            total = await _length(log, LogDamaged)
            mirror = None
            if place.copy.is_file():
                mirror = await Mirror.open(place.copy)
                stack.push_async_callback(mirror.close)
            return await verify_histories(log, mirror, lambda position: step(position, total))
    except MirrorError as error:
        raise Failed(f"the copy cannot be read: {error}") from error


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
