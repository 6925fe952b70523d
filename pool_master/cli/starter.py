"""The command `vmpool up`: its options; `up` does the work."""

from pathlib import Path
from typing import Annotated

import typer

from pool_master.cli.failures import Failed
from pool_master.cli.options import options_of
from pool_master.cli.settings import data_folder


def up(
    context: typer.Context,
    *,
    hosts: Annotated[int, typer.Option(min=1, max=64, help="How many.")] = 2,
    hypervisor: Annotated[
        str,
        typer.Option(
            help="simulated: guests that are only pretended; test: libvirt's test driver; embed: QEMU; lab: a libvirtd"
            " per host (root)."
        ),
    ] = "simulated",
    data: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Everything the pool keeps; the same folder goes on with it."
        ),
    ] = "",
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="Where the API answers; port 0: a free one.")
    ] = "127.0.0.1:8080",
    user: Annotated[str, typer.Option(help="The pool's first user.")] = "root",
    password_file: Annotated[
        str, typer.Option(metavar="FILE", help="Its password; else one is made.")
    ] = "",
    ready_file: Annotated[
        str, typer.Option(metavar="FILE", help="Written when the pool answers, as JSON.")
    ] = "",
    pool: Annotated[str, typer.Option(help="The pool's name: letters, digits and -.")] = "vmpool",
) -> None:
    """Run a whole pool on this machine, in the foreground: messaging, master and hosts."""
    try:
        from pool_master.cli.up import UpOptions, run
    except ImportError as error:
        raise Failed(f"this installation cannot run a pool itself: {error}") from error
    given = options_of(context)
    secret = password_file or given.password_file
    options = UpOptions(
        hosts=hosts,
        hypervisor=hypervisor,
        data=data_folder(data or given.data),
        listen=listen,
        user=given.user or user,
        password_file=Path(secret) if secret else None,
        ready_file=Path(ready_file) if ready_file else None,
        pool=pool,
    )
    raise typer.Exit(run(options))
