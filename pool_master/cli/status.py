"""`vmpool status`: the pool at a glance."""

from rich.console import Group
from rich.text import Text

from pool_master.cli import view
from pool_master.cli.client import PoolClient
from pool_master.cli.host import read_hosts
from pool_master.cli.render import STATE_STYLES, Terminal, bar, styled, table
from pool_master.cli.sizes import format_size
from pool_master.cli.task import task_table

VMS_SHOWN_MAX = 20


def read_pool(client: PoolClient) -> view.PoolView:
    """Give everything that `status` shows."""
    pool = next(iter(client.call("pool.get_all_records").values()))
    hosts = client.call("host.get_all_records")
    lost = view.lost_hosts(hosts, client.call("host_metrics.get_all_records"))
    records = client.call("VM.get_all_records")
    vms = view.vm_rows(records, hosts, lost)
    tasks = view.task_rows(client.call("task.get_all_records"), records)
    master = pool["master"]
    return view.PoolView(
        name=pool["name_label"],
        uuid=pool["uuid"],
        master=hosts[master]["name_label"] if master in hosts else "",
        hosts=read_hosts(client),
        vms=vms,
        tasks=tuple(task for task in tasks if task.is_running),
        vms_by_state=view.count_states(vms),
    )


def draw(pool: view.PoolView, server: str, terminal: Terminal) -> Group:
    """Give the whole picture."""
    master = f"master on {pool.master}, " if pool.master else ""
    head = Text.assemble((pool.name or pool.uuid, "bold"), ("   " + master + server, "dim"))
    parts: list[object] = [head, Text(), _hosts(pool), Text(), _counts(pool)]
    if trouble := [row for row in pool.vms if row.is_lost][:VMS_SHOWN_MAX]:
        lines = [
            f"  {row.name} was {row.power_state} on {row.host}, which is lost" for row in trouble
        ]
        parts += [Text(line, style="red") for line in lines]
    if pool.tasks:
        parts += [Text(), Text(f"Tasks in flight: {len(pool.tasks)}", style="bold")]
        parts.append(task_table(pool.tasks[:VMS_SHOWN_MAX], terminal))
    return Group(*parts)  # type: ignore[arg-type]  # all of them can be printed


def _hosts(pool: view.PoolView) -> object:
    if not pool.hosts:
        return Text("No hosts yet: `vmpool host add UUID` lets one in.", style="dim")
    made = table("HOST", "STATE", "VMS", "MEMORY PROMISED", "", right=("VMS",))
    for row in pool.hosts:
        share = row.memory_promised / row.memory_total if row.memory_total else 0.0
        amounts = f"{format_size(row.memory_promised)} of {format_size(row.memory_total)}"
        made.add_row(Text(row.name), styled(row.state), str(row.vms), bar(share), amounts)
    return made


def _counts(pool: view.PoolView) -> Text:
    counts = pool.vms_by_state
    words: list[tuple[str, str] | str] = [("VMs  ", "bold")]
    if not counts:
        words.append(("none yet: `vmpool vm create NAME` or `vmpool seed-demo`", "dim"))
    order = ("Running", "Paused", "Suspended", "Halted", "on a lost host")
    for number, state in enumerate(state for state in order if counts.get(state)):
        style = STATE_STYLES.get(state, "bold red")
        words += [("  ·  " if number else "", "dim"), (f"{counts[state]} {state}", style)]
    templates = sum(row.is_template for row in pool.vms)
    if templates:
        words.append((f"   and {templates} template{'s' if templates > 1 else ''}", "dim"))
    return Text.assemble(*words)
