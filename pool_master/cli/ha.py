"""`vmpool ha`, `vmpool pool` and `vmpool vm protect`: what becomes of VMs when hosts die."""

from typing import Annotated, Any, Final

import typer
from rich.text import Text

from pool_master.cli.client import PoolClient
from pool_master.cli.lookup import find
from pool_master.cli.options import JsonFlag, VmName, pool_of
from pool_master.cli.render import Terminal, styled, table

app = typer.Typer(
    no_args_is_help=True, help="High availability: what would happen, before it does."
)
pool_app = typer.Typer(no_args_is_help=True, help="The pool as a whole: high availability on, off.")

PRIORITIES: Final = {"restart": "restart", "best-effort": "best-effort", "off": ""}


@app.command()
def plan(
    context: typer.Context,
    *,
    kill: Annotated[
        list[str] | None,
        typer.Option(help="A host that is to be lost; may be given several times."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Tell how many host failures the pool bears, and with --kill where each protected VM would go. Nothing happens."""
    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        record = _pool(client)[1]
        bears = int(client.call("pool.ha_compute_max_host_failures_to_tolerate"))
        hosts = [find(client, "host", name) for name in kill or ()]
        moves = client.call("pool.ha_compute_vm_failover_plan", hosts, []) if hosts else {}
        rows = [
            {
                "vm": client.call("VM.get_name_label", vm),
                "host": client.call("host.get_name_label", there["host"])
                if "host" in there
                else "",
                "error": there.get("error_code", ""),
            }
            for vm, there in moves.items()
        ]
    if terminal.is_json:
        enabled = bool(record["ha_enabled"])
        terminal.show({"ha_enabled": enabled, "bears_host_failures": bears, "moves": rows})
        return
    wanted = int(record["ha_host_failures_to_tolerate"])
    terminal.say(f"High availability is {'on' if record['ha_enabled'] else 'off'}.")
    terminal.say(f"The pool bears {bears} host failures; it is to bear {wanted}.")
    if hosts and not rows:
        terminal.say("No protected VM runs there.")
    if rows:
        made = table("VM", "WOULD GO TO")
        for row in rows:
            made.add_row(row["vm"], row["host"] or Text(f"nowhere: {row['error']}", style="red"))
        terminal.out.print(made)


@pool_app.command("enable-ha")
def enable_ha(
    context: typer.Context,
    *,
    tolerate: Annotated[
        int | None, typer.Option(help="Host failures to keep room for; else as it was.", min=0)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Restart protected VMs from now on when their host dies."""
    with pool_of(context) as client:
        client.call("pool.enable_ha", [], {})
        if tolerate is not None:
            ref = _pool(client)[0]
            client.call("pool.set_ha_host_failures_to_tolerate", ref, tolerate)
        _after(client, as_json=as_json)


@pool_app.command("disable-ha")
def disable_ha(context: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Restart no VM from now on."""
    with pool_of(context) as client:
        client.call("pool.disable_ha")
        _after(client, as_json=as_json)


def protect(
    context: typer.Context,
    vm: VmName,
    *,
    priority: Annotated[
        str, typer.Option(help="restart, best-effort, or off: not restarted.")
    ] = "restart",
    order: Annotated[
        int | None, typer.Option(help="Lower ones start first, negative ones last.")
    ] = None,
    start_delay: Annotated[
        int | None, typer.Option(help="Seconds before the next order begins.", min=0)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Have a VM restarted elsewhere when its host dies (see `vmpool pool enable-ha`)."""
    if priority not in PRIORITIES:
        raise typer.BadParameter(f"one of {', '.join(PRIORITIES)}", param_hint="--priority")
    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        ref = find(client, "VM", vm)
        if order is not None:
            client.call("VM.set_order", ref, order)
        if start_delay is not None:
            client.call("VM.set_start_delay", ref, start_delay)
        client.call("VM.set_ha_restart_priority", ref, PRIORITIES[priority])
        record = client.call("VM.get_record", ref)
        is_on = _pool(client)[1]["ha_enabled"]
    if terminal.is_json:
        names = ("ha_restart_priority", "ha_always_run", "order", "start_delay")
        terminal.show({"ref": ref, **{name: record[name] for name in names}})
        return
    news = "is not restarted" if priority == "off" else f"has priority {priority}"
    later = "" if is_on else "; high availability is off: `vmpool pool enable-ha`"
    terminal.say(f"{record['name_label']} {news}{later}.")


def _pool(client: PoolClient) -> tuple[str, dict[str, Any]]:
    (found,) = client.call("pool.get_all_records").items()
    return str(found[0]), dict(found[1])


def _after(client: PoolClient, *, as_json: bool) -> None:
    """Say what is true now."""
    terminal = Terminal(is_json=as_json)
    record = _pool(client)[1]
    if terminal.is_json:
        terminal.show({name: value for name, value in record.items() if name.startswith("ha_")})
        return
    word = "on" if record["ha_enabled"] else "off"
    terminal.out.print(Text.assemble("High availability is ", styled(word), "."))
    if record["ha_overcommitted"]:
        exists_for = record["ha_plan_exists_for"]
        terminal.say(f"There is a plan for {exists_for} host failures only.", "yellow")
