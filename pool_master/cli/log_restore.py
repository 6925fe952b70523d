"""`vmpool log restore`: the stream, given back what the store lost."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pool_master.cli.failures import Failed, Misused
from pool_master.cli.log_place import STREAMS_S_MAX, LogPlace, connected_to, place_of
from pool_master.cli.options import JsonFlag, options_of
from pool_master.cli.render import Terminal

if TYPE_CHECKING:
    from pool_master.shell.log_restore import RestorePlan
    from pool_master.shell.mirror import Mirror

DataOption = Annotated[
    str, typer.Option(metavar="DIR", help="Data folder of the pool, with its vmpool.json.")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="A master's configuration, instead of a data folder."
    ),
]


def restore(
    context: typer.Context,
    copies: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[COPY]...",
            help="Copies (log.sqlite) of other masters, too: the longest is taken, if all are one history.",
        ),
    ] = None,
    *,
    from_copy: Annotated[
        bool, typer.Option("--from-copy", help="From the masters' SQLite copies.")
    ] = False,
    config: ConfigOption = None,
    data: DataOption = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and append nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Give the log back the records that the store has lost. Refused where it would fork history."""
    if not from_copy:
        raise Misused("say what to restore from: --from-copy")
    terminal = Terminal(is_json=as_json)
    place = place_of(data or options_of(context).data, config)
    paths = [place.copy, *(copies or [])]
    found = [path for path in paths if path.is_file()]
    if missing := [str(path) for path in paths if path not in found]:
        # The own copy may be lost with its machine; one that was named must be there.
        if missing != [str(place.copy)] or not found:
            raise Failed(f"there is no copy at {', '.join(missing)}")
        terminal.say(f"there is no copy at {place.copy}; going by the others", "yellow")

    def agree(plan: "RestorePlan") -> bool:
        if not terminal.is_json:
            _say(plan, found, terminal)
        if dry_run or not plan.missing:
            return False
        if not (yes or terminal.is_json):
            typer.confirm("Append them?", abort=True, err=True)
        return True

    told = asyncio.run(_restore(place, found, agree))
    if terminal.is_json:
        terminal.show(told)
    elif told["restored"]:
        terminal.say(f"{told['restored']} records are in the log again", "green")
    elif dry_run and told["missing"]:
        terminal.say("Nothing was appended (--dry-run).", "dim")


def _say(plan: "RestorePlan", found: list[Path], terminal: Terminal) -> None:
    for name, tail in (("the log", plan.stream), (str(found[plan.source]), plan.copy)):
        terminal.say(
            f"{name}: {tail.position} records, {tail.next_sequence - 1} events, chain {tail.hash.hex()[:16]}"
        )
    if not plan.missing:
        terminal.say("the log has all that the copies have: nothing to restore", "green")
        return
    first, last = plan.stream.position + 1, plan.copy.position
    first_event, last_event = plan.stream.next_sequence, plan.copy.next_sequence - 1
    terminal.say(
        f"to be appended: records {first} to {last}, events {first_event} to {last_event},"
        " the same bytes at the same positions",
        "yellow",
    )


async def _restore(place: LogPlace, paths: list[Path], agree: Any) -> dict[str, Any]:
    from pool_master.shell.event_log import JetStreamLog
    from pool_master.shell.log_restore import RestoreRefused, living_leader, plan_restore
    from pool_master.shell.log_restore import restore as restore_log
    from pool_master.shell.mirror import MirrorError
    from shared.nats_bus import NatsKeyValue
    from shared.nats_streams import WrongStream
    from shared.subjects import Subjects

    subjects = Subjects(place.pool)
    try:
        async with AsyncExitStack() as stack:
            bus = await stack.enter_async_context(connected_to(place, "vmpool log restore"))
            # As every master's start does: a stream that is gone is made, empty.
            await bus.ensure_streams(subjects, place.replicas, timeout_s=STREAMS_S_MAX)
            if leader := await living_leader(NatsKeyValue(bus, subjects.leader_bucket, "leader")):
                raise Failed(f"master {leader} leads: stop it first, so that its copy is complete")
            mirrors = [await _opened(stack, path) for path in paths]
            log = JetStreamLog(bus, subjects)
            plan = await plan_restore(log, mirrors)
            count = await restore_log(log, mirrors[plan.source], plan) if agree(plan) else 0
    except MirrorError as error:
        raise Failed(f"a copy cannot be read: {error}") from error
    except (RestoreRefused, WrongStream) as error:
        raise Failed(str(error)) from error
    return {
        "stream_records": plan.stream.position,
        "copy_records": plan.copy.position,
        "copy": str(paths[plan.source]),
        "missing": plan.missing,
        "restored": count,
    }


async def _opened(stack: AsyncExitStack, path: Path) -> "Mirror":
    from pool_master.shell.mirror import Mirror

    mirror = await Mirror.open(path)
    stack.push_async_callback(mirror.close)
    return mirror
