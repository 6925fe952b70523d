"""`vmpool host`: the pool's hosts."""

from typing import Annotated

import typer
from rich.text import Text

from pool_master.cli import view
from pool_master.cli.client import PoolClient
from pool_master.cli.lookup import find
from pool_master.cli.options import HostName, JsonFlag, pool_of
from pool_master.cli.render import Terminal, facts, shown_uuid, styled, table
from pool_master.cli.sizes import format_size

app = typer.Typer(no_args_is_help=True, help="Hosts: list, let in, take out of service, forget.")


def read_hosts(client: PoolClient) -> tuple[view.HostRow, ...]:
    """Give the hosts, with what they have promised."""
    hosts = client.call("host.get_all_records")
    metrics = client.call("host_metrics.get_all_records")
    pools = client.call("pool.get_all_records")
    master = next(iter(pools.values()))["master"] if pools else ""
    promised = {}
    for ref, host in hosts.items():
        total = int(metrics.get(host["metrics"], {}).get("memory_total", 0))
        # The one number of the server's own accounting: placement refuses by it.
        promised[ref] = max(0, total - int(client.call("host.compute_free_memory", ref)))
    return view.host_rows(hosts, metrics, promised, master)


@app.command("list")
def list_hosts(context: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List the hosts."""
    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        rows = read_hosts(client)
    if terminal.is_json:
        terminal.show(rows)
        return
    if not rows:
        terminal.say("No hosts. `vmpool host add UUID` lets one in.", "dim")
        return
    right = ("VMS", "PROMISED", "TOTAL")
    made = table("NAME", "STATE", "VMS", "PROMISED", "TOTAL", "ADDRESS", "UUID", right=right)
    for row in rows:
        made.add_row(
            Text.assemble(row.name, (" master", "cyan") if row.is_master else ""),
            styled(row.state),
            str(row.vms),
            format_size(row.memory_promised),
            format_size(row.memory_total),
            Text(row.address),
            Text(shown_uuid(row.uuid, terminal.out), style="dim"),
        )
    terminal.out.print(made)


@app.command()
def show(context: typer.Context, host: HostName, *, as_json: JsonFlag = False) -> None:
    """Show one host."""
    from pool_master.cli.records import typed_record

    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        ref = find(client, "host", host)
        record = typed_record(client.call("host.get_record", ref), "host")
        row = next(row for row in read_hosts(client) if row.ref == ref)
        names = [client.call("VM.get_name_label", vm) for vm in record["resident_VMs"]]
    if terminal.is_json:
        terminal.show({"ref": ref, "state": row.state, **record})
        return
    promised = f"{format_size(row.memory_promised)} promised of {format_size(row.memory_total)}"
    version = ", ".join(f"{key} {value}" for key, value in record["software_version"].items())
    cpus = ", ".join(f"{key} {value}" for key, value in record["cpu_info"].items())
    lines = [
        ("name", row.name),
        ("description", record["name_description"]),
        ("uuid", row.uuid),
        ("state", styled(row.state)),
        ("enabled", "yes" if row.is_enabled else "no: takes no new VMs"),
        ("address", row.address),
        ("memory", promised),
        ("CPUs", cpus),
        ("software", version),
        ("VMs", ", ".join(sorted(names))),
    ]
    terminal.out.print(facts((name, value) for name, value in lines if str(value)))


@app.command()
def enable(context: typer.Context, host: HostName, *, as_json: JsonFlag = False) -> None:
    """Let a host take new VMs again."""
    _call(context, host, "enable", as_json=as_json)


@app.command()
def disable(context: typer.Context, host: HostName, *, as_json: JsonFlag = False) -> None:
    """Give a host no new VMs; what runs there stays."""
    _call(context, host, "disable", as_json=as_json)


@app.command()
def add(
    context: typer.Context,
    uuid: Annotated[str, typer.Argument(help="The uuid that the host's agent was set up with.")],
    *,
    name: Annotated[str, typer.Option(help="What to call it; else its uuid.")] = "",
    address: Annotated[str, typer.Option(help="Where it can be reached.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Let a host into the pool: from now on its agent's word counts."""
    with pool_of(context) as client:
        ref = client.call("host.create", uuid, name or uuid, "", name, address)
        _after(client, ref, as_json=as_json)


@app.command()
def forget(context: typer.Context, host: HostName, *, as_json: JsonFlag = False) -> None:
    """Take a dead host out of the pool; refused while it may live or has VMs."""
    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        ref = find(client, "host", host)
        name, uuid = client.call("host.get_name_label", ref), client.call("host.get_uuid", ref)
        client.call("host.destroy", ref)
    if terminal.is_json:
        terminal.show({"ref": ref, "uuid": uuid, "name_label": name, "forgotten": True})
    else:
        terminal.say(f"{name} is no longer in the pool.")


@app.command("declare-dead")
def declare_dead(
    context: typer.Context,
    host: HostName,
    *,
    reason: Annotated[str, typer.Option(help="How you know: kept in the log as the proof.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Vouch that a host's machine is off: its VMs are halted in the log, and may be started elsewhere."""
    with pool_of(context) as client:
        ref = find(client, "host", host)
        if not yes and not as_json:
            name = client.call("host.get_name_label", ref)
            typer.confirm(
                f"Is {name} off for certain? A guest that still runs there destroys its disks.",
                abort=True,
                err=True,
            )
        client.call("host.declare_dead", ref, reason)
        _after(client, ref, as_json=as_json)


def _call(context: typer.Context, host: str, message: str, *, as_json: bool) -> None:
    with pool_of(context) as client:
        ref = find(client, "host", host)
        client.call(f"host.{message}", ref)
        _after(client, ref, as_json=as_json)


def _after(client: PoolClient, ref: str, *, as_json: bool) -> None:
    """Say what is true now."""
    terminal = Terminal(is_json=as_json)
    row = next(row for row in read_hosts(client) if row.ref == ref)
    if terminal.is_json:
        terminal.show(row)
        return
    news = "takes new VMs" if row.is_enabled else "takes no new VMs"
    if not row.is_live:
        news += ", once it lives"
    terminal.out.print(Text.assemble(f"{row.name} is ", styled(row.state), f": it {news}."))
