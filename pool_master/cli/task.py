"""`vmpool task`: what is being done."""

from typing import Annotated

import typer
from rich.text import Text

from pool_master.cli import view
from pool_master.cli.lookup import find
from pool_master.cli.options import JsonFlag, pool_of
from pool_master.cli.render import Terminal, bar, shown_uuid, table
from pool_master.cli.waiting import print_task

app = typer.Typer(no_args_is_help=True, help="Tasks: what is being done, and stopping it.")

_STYLES = {"success": "green", "failure": "red", "cancelled": "yellow", "cancelling": "yellow"}


@app.command("list")
def list_tasks(
    context: typer.Context,
    *,
    running: Annotated[bool, typer.Option("--running", help="Only those in flight.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List the tasks, oldest first."""
    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        tasks = client.call("task.get_all_records")
        rows = view.task_rows(tasks, client.call("VM.get_all_records"))
    rows = tuple(row for row in rows if row.is_running or not running)
    if terminal.is_json:
        terminal.show(rows)
    elif not rows:
        terminal.say("No tasks.", "dim")
    else:
        terminal.out.print(task_table(rows, terminal))


def task_table(rows: tuple[view.TaskRow, ...], terminal: Terminal) -> object:
    """Give the tasks as a table."""
    made = table("WHAT", "VM", "STATUS", "PROGRESS", "ERROR", "UUID")
    for row in rows:
        made.add_row(
            Text(row.name),
            Text(row.about),
            Text(row.status, style=_STYLES.get(row.status, "cyan")),
            bar(row.progress, 10) if row.is_running and row.progress else Text(""),
            Text(row.error_info[0] if row.error_info else "", style="red"),
            Text(shown_uuid(row.uuid, terminal.out), style="dim"),
        )
    return made


@app.command()
def cancel(
    context: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Uuid, or reference.")],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Ask for a task to be cancelled; it ends with what is true when it does."""
    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        ref = find(client, "task", task)
        client.call("task.cancel", ref)
        if terminal.is_json:
            print_task(client, terminal, ref)
        else:
            name = client.call("task.get_name_label", ref)
            terminal.say(f"{name} is asked to stop; `vmpool task list` shows how it ends.")
