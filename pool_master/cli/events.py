"""`vmpool events` and `vmpool audit`: what happens, and what happened.

Rules: nothing is skipped: following goes on by the sequence of the last event that was shown, also after the server was
away, and a hole in an unfiltered stream is said aloud.
"""

import time
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.text import Text

from pool_master.cli.client import PoolClient
from pool_master.cli.failures import Refused, Unreachable
from pool_master.cli.history import (
    PAGE,
    Filter,
    LogEvent,
    Names,
    actor_filter,
    newest,
    object_filter,
    pages,
)
from pool_master.cli.options import JsonFlag, pool_of
from pool_master.cli.render import Terminal, as_json
from pool_master.cli.sizes import format_span, parse_moment
from pool_master.cli.story import NOISE, tell

WAIT_S: Final = 25
PAUSE_S_MIN: Final = 0.2
PAUSE_S_MAX: Final = 2.0
SHOWN_BEFORE: Final = 10
AWAY_CODES: Final = ("HOST_STILL_BOOTING", "HOST_IS_SLAVE")

VmFilter = Annotated[
    str,
    typer.Option(
        "--vm", help="Only about this VM: name, uuid or reference; also one that is gone."
    ),
]
ActorFilter = Annotated[
    str,
    typer.Option(
        "--actor", help="Only by this user, host or master (user:NAME, host:NAME, master:NAME)."
    ),
]
TypeFilter = Annotated[
    str, typer.Option("--type", help="Only this type of event, like VmStarted.", show_default=False)
]
AllFlag = Annotated[bool, typer.Option("--all", help="Bookkeeping too.")]


def events(
    context: typer.Context,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as things happen.")] = False,
    vm: VmFilter = "",
    actor: ActorFilter = "",
    event_type: TypeFilter = "",
    after: Annotated[
        int,
        typer.Option(
            min=-1, help="Begin after this sequence; -1: the last few.", show_default=False
        ),
    ] = -1,
    everything: AllFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the last events; with --follow, go on without a gap, also through a change of master."""
    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        wanted = _filter(client, vm, actor, event_type)
        printer = Printer(terminal, Names(client), with_noise=everything or bool(event_type))
        if after < 0:
            last = newest(client, wanted, limit=SHOWN_BEFORE, with_noise=printer.with_noise)
            printer.show(last)
            after = _position(client, last)
        if follow:
            terminal.remark(f"following from event {after}; Ctrl-C ends it")
            Follower(client, printer, wanted).run(after)
        elif after >= 0:
            printer.show(_rest(client, wanted, after))


def audit(
    context: typer.Context,
    *,
    vm: VmFilter = "",
    actor: ActorFilter = "",
    since: Annotated[str, typer.Option(help="2h, 15m, 1d, or ISO 8601.")] = "",
    until: Annotated[str, typer.Option(help="The same.")] = "",
    event_type: TypeFilter = "",
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, help="At most so many, the newest.")
    ] = 50,
    everything: AllFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Tell what happened: when, who, what and why."""
    terminal = Terminal(is_json=as_json)
    now = datetime.now(UTC)
    with pool_of(context) as client:
        wanted = _filter(client, vm, actor, event_type)
        for key, text in (("since", since), ("until", until)):
            if text:
                wanted[key] = parse_moment(text, now).isoformat()
        with_noise = everything or bool(event_type) or as_json
        found = newest(client, wanted, limit=limit, with_noise=with_noise)
        if terminal.is_json:
            terminal.show(found)
            return
        printer = Printer(terminal, Names(client), with_noise=with_noise)
        printer.show(found)
    if not found:
        terminal.say("Nothing fits.", "dim")
    elif len(found) == limit:
        terminal.remark(f"the newest {limit}; --limit shows more")


def _filter(client: PoolClient, vm: str, actor: str, event_type: str) -> Filter:
    wanted = {**object_filter(client, vm), **actor_filter(client, actor)}
    return {**wanted, "type": event_type} if event_type else wanted


def _position(client: PoolClient, shown: list[LogEvent]) -> int:
    if shown:
        return int(shown[-1]["sequence"])
    return int(client.call("event.get_current_id"))


def _rest(client: PoolClient, wanted: Filter, after: int) -> list[LogEvent]:
    return [event for page in pages(client, wanted, after=after) for event in page]


class Printer:
    """Writes events as they come: days as headings, one event a line."""

    def __init__(self, terminal: Terminal, names: Names, *, with_noise: bool) -> None:
        self.with_noise = with_noise
        self.terminal = terminal
        self._names = names
        self._day = ""

    def show(self, found: list[LogEvent]) -> None:
        """Write some events."""
        for event in found:
            if event["type"] in NOISE and not self.with_noise:
                continue
            if self.terminal.is_json:
                print(as_json(event, is_compact=True), flush=True)
            else:
                self._write(event)

    def _write(self, event: LogEvent) -> None:
        self._names.learn(event)
        chapter = tell(event, self._names)
        moment = chapter.moment.astimezone()
        day = moment.strftime("%A %d %B %Y, times in %Z")
        if day != self._day:
            self._day = day
            self.terminal.out.print(Text(day, style="bold"))
        why = f"  {chapter.why}" if chapter.why and chapter.why != chapter.what else ""
        line = Text.assemble(
            (moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03}", "dim"),
            "  ",
            (f"{chapter.who:<12.24}", "cyan"),
            "  ",
            (chapter.what, chapter.style),
            (why, "dim italic"),
        )
        self.terminal.out.print(line, soft_wrap=True)


class Follower:
    """Follows the log for ever, by sequence."""

    def __init__(self, client: PoolClient, printer: Printer, wanted: Filter) -> None:
        self._client = client
        self._printer = printer
        self._wanted = wanted
        self._away_since = 0.0

    def run(self, after: int) -> None:
        """Go on until Ctrl-C."""
        pause_s = PAUSE_S_MIN
        while True:
            try:
                found = self._ask(after)
            except (Unreachable, Refused) as error:
                if isinstance(error, Refused) and error.code not in AWAY_CODES:
                    raise
                self._note_away(after, error)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
                continue
            self._note_back(after)
            pause_s = PAUSE_S_MIN
            if found:
                self._note_hole(found, after)
                self._printer.show(found)
                after = int(found[-1]["sequence"])

    def _ask(self, after: int) -> list[LogEvent]:
        # Right after an absence the answer shall come at once: it says that the server is back.
        wait_s = 0 if self._away_since else WAIT_S
        more = {"after": str(after), "limit": str(PAGE), "wait": str(wait_s)}
        found: list[LogEvent] = self._client.call("event.get_log", {**self._wanted, **more})
        return found

    def _note_away(self, after: int, error: Exception) -> None:
        self._client.forget()
        if not self._away_since:
            self._away_since = time.monotonic()
            self._printer.terminal.remark(f"the server is away: {error}", "yellow")
            self._printer.terminal.remark(
                f"it goes on after event {after} when there is one again", "yellow"
            )

    def _note_back(self, after: int) -> None:
        if self._away_since:
            seconds = time.monotonic() - self._away_since
            self._away_since = 0.0
            text = f"the server is back after {format_span(seconds)}; nothing is missed: going on after event {after}"
            self._printer.terminal.remark(text, "yellow")

    def _note_hole(self, found: list[LogEvent], after: int) -> None:
        if self._wanted:
            return
        for event in found:
            if int(event["sequence"]) != after + 1:
                text = f"the server leaves out events {after + 1} to {int(event['sequence']) - 1}: run `vmpool log verify`"
                self._printer.terminal.remark(text, "bold red")
            after = int(event["sequence"])
