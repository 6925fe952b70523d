"""What many commands have in common: their flags, and the way to the pool."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from pool_master.cli.client import PoolClient, logged_in
from pool_master.cli.failures import CliError
from pool_master.cli.settings import GlobalOptions, target_of

COMPLETION_S_MAX = 2.0


def options_of(context: typer.Context) -> GlobalOptions:
    """Give what stood before the command."""
    held = context.find_root().obj
    return held if isinstance(held, GlobalOptions) else GlobalOptions()


@contextmanager
def pool_of(context: typer.Context) -> Iterator[PoolClient]:
    """Log in to the pool that the command is for."""
    with logged_in(target_of(options_of(context))) as client:
        yield client


def _names(context: typer.Context, class_name: str, start: str) -> list[str]:
    """Give the names that the shell may complete; a pool that does not answer completes nothing."""
    given: dict[str, Any] = context.find_root().params
    options = GlobalOptions(
        server=given.get("server") or "",
        user=given.get("user") or "",
        password_file=given.get("password_file") or "",
        data=given.get("data") or "",
        ca_file=given.get("ca_file") or "",
        is_insecure=bool(given.get("insecure")),
    )
    try:
        with logged_in(target_of(options), answer_s_max=COMPLETION_S_MAX) as client:
            records = client.call(f"{class_name}.get_all_records")
    except CliError:
        return []
    names = {record["name_label"] for record in records.values()}
    return sorted(name for name in names if name.startswith(start))


def _vm_names(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names(ctx, "VM", incomplete)


def _host_names(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names(ctx, "host", incomplete)


JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
NoWaitFlag = Annotated[
    bool, typer.Option("--no-wait", help="Do not wait for the end: print the task.")
]
VmName = Annotated[
    str, typer.Argument(metavar="VM", help="Name, uuid or reference.", autocompletion=_vm_names)
]
HostName = Annotated[
    str, typer.Argument(metavar="HOST", help="Name, uuid or reference.", autocompletion=_host_names)
]
