"""`vmpool sim`: break simulated pools in every way, and look whether anything that must hold does not.

Rules: exit code 1 for a violation; every one comes with the command line that shows it again.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.text import Text

from pool_master.cli.failures import EXIT_REFUSED, Failed, Misused
from pool_master.cli.options import JsonFlag
from pool_master.cli.render import Terminal, facts, table

if TYPE_CHECKING:
    from simulator.campaign import Tally
    from simulator.setting import Setting

PictureFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.svg", help="Draw the first seed that fails, else the first, lane by lane."
    ),
]
Hours = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1_000.0,
        help="Simulated hours of trouble for each seed; else 40 seconds.",
    ),
]


def sim(
    *,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many, from there.")] = 1,
    hours: Hours = 0.0,
    hosts: Annotated[int, typer.Option(min=1, max=64, help="How many hosts.")] = 3,
    masters: Annotated[
        int, typer.Option(min=0, max=9, help="How many masters; 0: one or two, as the seed wants.")
    ] = 0,
    vms: Annotated[int, typer.Option(min=1, max=500, help="How many VMs clients make.")] = 6,
    faults: Annotated[
        str, typer.Option(metavar="LIST", help="Kinds of faults, with commas; else all; or none.")
    ] = "",
    ha: Annotated[
        bool, typer.Option("--ha", help="High availability is on, and protects every VM.")
    ] = False,
    picture: PictureFile = None,
    jobs: Annotated[int, typer.Option(min=0, help="How many at a time; 0: one a CPU.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Simulate whole pools in which everything breaks, and check that no guest runs twice and nothing is lost."""
    from simulator.setting import S_PER_HOUR, SCENARIO_S, Setting

    terminal = Terminal(is_json=as_json)
    setting = Setting(
        hosts=hosts,
        masters=masters,
        vms=vms,
        scenario_s=hours * S_PER_HOUR or SCENARIO_S,
        kinds=kinds_of(faults),
        is_protected=ha,
    )
    began = time.monotonic()
    tally = run(range(seed, seed + seeds), setting, jobs, terminal)
    took_s = time.monotonic() - began
    if picture is not None:
        draw_to(picture, tally, seed, setting)
    if as_json:
        terminal.show(tally.as_record(took_s=took_s))
    else:
        terminal.out.print(shown(tally, took_s))
    if tally.failed:
        raise typer.Exit(EXIT_REFUSED)


def draw_to(picture: Path, tally: "Tally", seed: int, setting: "Setting") -> None:
    """Draw what failed, or the first seed."""
    from simulator.picture import draw
    from simulator.simulation import simulate

    failed = sorted(tally.failed, key=lambda outcome: outcome.seed)
    outcome = failed[0] if failed else simulate(seed, setting)
    try:
        picture.write_text(draw(outcome), encoding="utf-8")
    except OSError as error:
        raise Failed(f"the picture cannot be written: {error}") from error


def kinds_of(words: str) -> tuple[str, ...]:
    """Give the kinds of faults that a list names."""
    from simulator.setting import KINDS

    if words == "none":
        return ()
    wanted = [word.strip() for word in words.split(",") if word.strip()]
    if unknown := [word for word in wanted if word not in KINDS]:
        raise Misused(f"no kind of fault: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in wanted) if wanted else KINDS


def run(seeds: range, setting: "Setting", jobs: int, terminal: Terminal) -> "Tally":
    """Run seeds, and show how far it is."""
    from simulator.campaign import Tally, run_seeds

    tally = Tally()
    with progress_of(len(seeds), terminal) as advance:
        for outcome in run_seeds(seeds, setting, jobs=jobs):
            tally.add(outcome)
            advance(len(tally.failed))
    return tally


@contextmanager
def progress_of(total: int, terminal: Terminal) -> Iterator[Callable[[int], None]]:
    """Show a bar while it lasts."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    is_quiet = terminal.is_json or not terminal.err.is_terminal
    with Progress(*columns, console=terminal.err, transient=True, disable=is_quiet) as progress:
        bar = progress.add_task("simulating", total=total)

        def advance(failed: int) -> None:
            said = f"simulating, {failed} failed" if failed else "simulating"
            progress.update(bar, advance=1, description=said)

        yield advance


def shown(tally: "Tally", took_s: float) -> Group:
    """Give what a person reads in the end."""
    from simulator.campaign import INVARIANTS
    from simulator.observer import Situation
    from simulator.setting import S_PER_HOUR

    hours = tally.simulated_s / S_PER_HOUR
    figures = facts(
        (
            ("seeds", tally.seeds),
            ("simulated", f"{hours:.2f} h in {took_s:.1f} s: {hours * S_PER_HOUR / took_s:.0f} x"),
            ("events in the logs", tally.events),
            ("acknowledged to clients", tally.acknowledged),
            ("all well again", f"at most {tally.settled_s_max:.1f} s after the last fault"),
        )
    )
    injected = table("FAULT", "TIMES", right=("TIMES",))
    for name, times in tally.faults.most_common():
        injected.add_row(name, str(times))
    occurred = table("SITUATION", "TIMES", right=("TIMES",))
    for situation in Situation:
        times = tally.situations[situation]
        occurred.add_row(Text(situation.value, style="" if times else "dim"), str(times))
    held = table("INVARIANT", "")
    for invariant in INVARIANTS:
        number = invariant.split(" ", 1)[0]
        is_broken = any(_breaks(text, number) for x in tally.failed for text in x.violations)
        verdict = Text("violated", style="bold red") if is_broken else Text("holds", style="green")
        held.add_row(invariant, verdict)
    return Group(figures, "", injected, "", occurred, "", held, "", *_failures(tally))


def _breaks(violation: str, number: str) -> bool:
    """Say whether a violation ("12.250 5, 9 all is well…") is of this invariant."""
    words = violation.split(" ")[1:3]
    return number in [word.rstrip(",") for word in words]


def _failures(tally: "Tally") -> list[Text]:
    if not tally.failed:
        return [Text("no violation", style="green")]
    lines: list[Text] = []
    for outcome in sorted(tally.failed, key=lambda outcome: outcome.seed):
        lines.append(Text(f"seed {outcome.seed} violates", style="bold red"))
        lines += [Text(f"  {violation}") for violation in outcome.violations]
        lines.append(Text(f"  again: {outcome.replay}", style="bold"))
    return lines
