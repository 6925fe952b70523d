"""`vmpool master`: the pool's masters, and who leads."""

import time
from typing import Annotated

import typer

from pool_master.cli.options import JsonFlag, pool_of
from pool_master.cli.render import Terminal, table

app = typer.Typer(no_args_is_help=True, help="Masters: list, hand the leadership over.")


@app.command("list")
def list_masters(context: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List the masters."""
    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        masters = client.call("pool.get_masters")
    if terminal.is_json:
        terminal.show(masters)
        return
    made = table("NAME", "STATE", "ADDRESS", "LOG FORMAT")
    for name, line in sorted(masters.items()):
        made.add_row(name, line["state"], line["address"], line["log_format"])
    terminal.out.print(made)


@app.command("step-down")
def step_down(
    context: typer.Context,
    *,
    to: Annotated[str, typer.Option(metavar="NAME", help="Who is to lead; else any other.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Let another master lead: before its machine goes down, for instance."""
    terminal = Terminal(is_json=as_json)
    began = time.monotonic()
    with pool_of(context) as client:
        client.call("pool.step_down_master", to)
    took_s = time.monotonic() - began
    with pool_of(context) as client:
        masters = client.call("pool.get_masters")
    leader = next((name for name, line in masters.items() if line["state"] == "leads"), "")
    if terminal.is_json:
        terminal.show({"leader": leader, "seconds": round(took_s, 3)})
    else:
        terminal.say(f"{leader} leads, after {took_s:.1f} s.", "green")
