"""`vmpool`: the command line of the pool, a XenAPI client with a terminal's manners.

Exit codes: 0 done; 1 refused by the pool, or not to be found in it; 2 the command line means nothing; 3 no server answers;
130 interrupted, and what was asked for goes on.

Rules: xe's spellings are translated before typer sees them; whatever goes wrong is one line, never a traceback; what is
heavy is imported by the command that needs it.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from pool_master.cli.failures import CliError, Misused, Refused
from pool_master.cli.options import JsonFlag, pool_of
from pool_master.cli.settings import GlobalOptions

VALUED: Final = ("--server", "--user", "--password-file", "--data", "--ca-file")
XE: Final = "xe"
DEBUG: Final = "VMPOOL_DEBUG"
HELP: Final = "A pool of libvirt hosts with XenServer's API: run it, watch it, ask its history."

app = typer.Typer(
    name="vmpool",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="xe's spellings work too: vmpool vm-start uuid=… on=…, vm-list params=…, vm-param-set …",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit."""
    words = translated(sys.argv[1:] if arguments is None else arguments)
    try:
        wire()
        app(words, prog_name="vmpool")
    except CliError as error:
        complain(told(error))
        sys.exit(error.exit_code)
    except Exception as error:  # the last line of defence: people get a sentence
        if os.environ.get(DEBUG):
            raise
        complain(f"a defect of vmpool itself, please report it: {error!r} ({DEBUG}=1 shows where)")
        sys.exit(1)


def told(error: CliError) -> str:
    """Give an error in one line."""
    if isinstance(error, Refused):
        from pool_master.cli.advice import explain

        return explain(error)
    return str(error)


def complain(text: str) -> None:
    """Print an error."""
    from rich.text import Text

    from pool_master.cli.render import Terminal

    line = Text.assemble(("vmpool: ", "bold red"), text)
    Terminal().err.print(line, soft_wrap=True)


def translated(words: list[str]) -> list[str]:
    """Give the arguments with xe's spelling made a command of its own: vm-start uuid=… is xe vm-start uuid=…."""
    place = command_place(words)
    if place is None or words[place] in OWN_DASHED or "-" not in words[place]:
        return words
    return [*words[:place], XE, *words[place:]]


def command_place(words: list[str]) -> int | None:
    """Give where the command's name stands, behind the global options."""
    place = 0
    while place < len(words):
        word = words[place]
        if not word.startswith("-"):
            return place
        place += 2 if word in VALUED else 1
    return None


@app.callback()
def _global(
    context: typer.Context,
    *,
    server: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="The pool: http://HOST:PORT, https://HOST or unix:/PATH; several with commas. Else VMPOOL_SERVER,"
            " else what `vmpool up` left in the data folder, else http://127.0.0.1:8080.",
        ),
    ] = "",
    user: Annotated[str, typer.Option(help="Who asks; else the data folder's, else root.")] = "",
    password_file: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="Its first line is the password; else VMPOOL_PASSWORD_FILE."
        ),
    ] = "",
    data: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Data folder with vmpool.json; else VMPOOL_DATA, else ./.vmpool, else ~/.vmpool.",
        ),
    ] = "",
    ca_file: Annotated[
        str, typer.Option(metavar="FILE", help="Who vouches for the server, PEM.")
    ] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Believe any certificate: on a wire you trust.")
    ] = False,
) -> None:
    context.obj = GlobalOptions(
        server=server,
        user=user,
        password_file=password_file,
        data=data,
        ca_file=ca_file,
        is_insecure=insecure,
    )


@app.command()
def status(context: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Show the pool at a glance."""
    from pool_master.cli import status as glance
    from pool_master.cli.render import Terminal

    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        pool, server = glance.read_pool(client), client.server
    if terminal.is_json:
        terminal.show(pool)
    else:
        terminal.out.print(glance.draw(pool, server, terminal))


@app.command("seed-demo")
def seed_demo(context: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Put two templates and a few halted VMs into the pool, once."""
    from pool_master.cli.demo import seed
    from pool_master.cli.render import Terminal

    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        told_all = seed(client)
    if terminal.is_json:
        terminal.show(told_all)
        return
    for one in told_all:
        kind = "template" if one["is_a_template"] else "VM"
        terminal.say(
            f"{one['name_label']:<12} {kind:<9} {'made' if one['made'] else 'is there already'}"
        )


@app.command()
def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish; else yours.")] = "",
) -> None:
    """Print what teaches your shell to complete vmpool: source <(vmpool completion bash)."""
    import subprocess

    name = shell or Path(os.environ.get("SHELL", "bash")).name
    if name not in {"bash", "zsh", "fish"}:
        raise Misused(f"{name} is not a shell that vmpool knows: bash, zsh or fish")
    environment = {**os.environ, "_VMPOOL_COMPLETE": f"source_{name}"}
    argv = [sys.executable, "-c", "from pool_master.cli.app import main; main([])"]
    printed = subprocess.run(argv, env=environment, check=False, capture_output=True, text=True)
    print(printed.stdout, end="")
    raise typer.Exit(printed.returncode)


@app.command(
    XE,
    hidden=True,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="Every message of the API is a verb, <class>-<message>, its parameters are keys; uuid= also takes a name.",
)
def xe_command(
    context: typer.Context,
    verb: Annotated[
        str, typer.Argument(help="Like vm-list, vm-start, vm-param-set; `verbs` lists all.")
    ],
) -> None:
    """Do what xe would: VERB key=value… [--minimal] [--json]."""
    from pool_master.cli import xe

    if verb == "verbs":
        print("\n".join(xe.verbs()))
        return
    xe.parse_arguments(context.args)  # a slip is told before anybody is asked for a password
    with pool_of(context) as client:
        xe.run(client, verb, context.args)


def wire() -> None:
    """Put the commands together."""
    from pool_master.cli import events, ha, host, lab, log, master, sim, starter, task, vm

    if app.registered_groups:
        return
    vm.app.command()(ha.protect)
    for group, name in (
        (vm.app, "vm"),
        (host.app, "host"),
        (task.app, "task"),
        (master.app, "master"),
    ):
        app.add_typer(group, name=name)
    app.add_typer(ha.pool_app, name="pool")
    app.add_typer(ha.app, name="ha")
    app.command()(events.events)
    app.command()(events.audit)
    app.add_typer(log.app, name="log")
    app.add_typer(lab.app, name="lab")
    app.command()(starter.up)
    app.command()(sim.sim)


OWN_DASHED: Final = frozenset({"seed-demo"})


if __name__ == "__main__":
    main()


if __name__ == "__main__":
    main()
