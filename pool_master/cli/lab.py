"""`vmpool lab`: several real libvirt hosts on this machine, to try a pool on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from pool_master.cli.failures import Failed
from pool_master.cli.options import JsonFlag
from pool_master.cli.render import Terminal, table

app = typer.Typer(
    no_args_is_help=True, help="A lab: real libvirt hosts on this machine. Needs root."
)

DataOption = Annotated[Path, typer.Option(help="The lab's folder.")]
DATA_DEFAULT = Path("lab-data")


@app.command()
def up(
    *,
    hosts: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    data: DataOption = DATA_DEFAULT,
    name: Annotated[str, typer.Option(help="Tells labs on one machine apart.")] = "vmpool",
    as_json: JsonFlag = False,
) -> None:
    """Build a lab, or repair the one that is there."""
    terminal = Terminal(is_json=as_json)
    with _failures_told(), _busy(terminal, f"Building {hosts} hosts"):
        from deploy.lab.hosts import Lab, LabConfig

        lab = Lab.up(LabConfig(data=data, hosts=hosts, name=name))
    _show(lab, terminal)


@app.command()
def down(*, data: DataOption = DATA_DEFAULT, as_json: JsonFlag = False) -> None:
    """Take a lab down; its logs and disks stay."""
    terminal = Terminal(is_json=as_json)
    with _failures_told(), _busy(terminal, "Taking the lab down"):
        from deploy.lab.hosts import Lab

        Lab.open(data).down()
    if terminal.is_json:
        terminal.show({"data": str(data), "up": False})
    else:
        terminal.say("The lab is down.")


@app.command()
def status(*, data: DataOption = DATA_DEFAULT, as_json: JsonFlag = False) -> None:
    """Show which hosts of a lab answer."""
    terminal = Terminal(is_json=as_json)
    with _failures_told():
        from deploy.lab.hosts import Lab
        from deploy.lab.preflight import require_root

        require_root()
        lab = Lab.open(data)
    _show(lab, terminal)


def _show(lab: Any, terminal: Terminal) -> None:
    rows = [
        {
            "name": host.name,
            "uuid": host.uuid,
            "address": host.address,
            "netns": host.netns,
            "answers": lab.answers(host),
            "migrate_uri": host.migrate_uri,
        }
        for host in lab.hosts
    ]
    if terminal.is_json:
        terminal.show(rows)
        return
    made = table("HOST", "LIBVIRT", "ADDRESS", "NAMESPACE", "UUID")
    for row in rows:
        state = (
            Text("answers", style="green")
            if row["answers"]
            else Text("does not answer", style="red")
        )
        made.add_row(
            row["name"], state, row["address"], row["netns"], Text(row["uuid"], style="dim")
        )
    terminal.out.print(made)


@contextmanager
def _failures_told() -> Iterator[None]:
    try:
        from deploy.lab.preflight import LabFailed, LabUnavailable
    except ImportError as error:
        raise Failed(f"this installation has no lab: {error}") from error
    try:
        yield
    except (LabUnavailable, LabFailed) as error:
        raise Failed(str(error)) from error


@contextmanager
def _busy(terminal: Terminal, doing: str) -> Iterator[Callable[[], None] | None]:
    if terminal.is_json or not terminal.err.is_terminal:
        yield None
        return
    with terminal.err.status(Text(doing)):
        yield None
