"""`vmpool vm`: VMs, from birth to the end."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from pool_master.cli import view
from pool_master.cli.client import PoolClient
from pool_master.cli.lookup import find
from pool_master.cli.options import JsonFlag, NoWaitFlag, VmName, pool_of
from pool_master.cli.render import Terminal, facts, shown_uuid, styled, table
from pool_master.cli.sizes import format_size, parse_size
from pool_master.cli.vm_record import record_from, vm_record
from pool_master.cli.waiting import carry_out

app = typer.Typer(no_args_is_help=True, help="VMs: list, make, start, stop, move.")

ForceFlag = Annotated[bool, typer.Option("--force", help="Without asking the guest.")]


@app.command("list")
def list_vms(
    context: typer.Context,
    *,
    state: Annotated[str, typer.Option(help="Only VMs in this state.")] = "",
    host: Annotated[str, typer.Option(help="Only VMs on this host.")] = "",
    templates: Annotated[bool, typer.Option("--templates", help="Templates instead.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List the VMs."""
    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        wanted = find(client, "host", host) if host else ""
        vms = client.call("VM.get_all_records")
        if wanted:
            vms = {ref: vm for ref, vm in vms.items() if vm["resident_on"] == wanted}
        rows = view.vm_rows(vms, *_hosts(client))
    rows = tuple(
        row
        for row in rows
        if row.is_template == templates and state.lower() in {"", row.power_state.lower()}
    )
    if terminal.is_json:
        terminal.show(rows)
        return
    if not rows:
        terminal.say("No VMs. `vmpool vm create NAME` makes one, `vmpool seed-demo` a few.", "dim")
        return
    terminal.out.print(_vm_table(rows, terminal))


def _hosts(client: PoolClient) -> tuple[Mapping[str, Any], frozenset[str]]:
    hosts = client.call("host.get_all_records")
    return hosts, view.lost_hosts(hosts, client.call("host_metrics.get_all_records"))


def _vm_table(rows: tuple[view.VmRow, ...], terminal: Terminal) -> Any:
    made = table(
        "NAME", "STATE", "HOST", "VCPUS", "MEMORY", "UUID", "DOING", right=("VCPUS", "MEMORY")
    )
    for row in rows:
        made.add_row(
            Text(row.name),
            styled("lost" if row.is_lost else row.power_state, row.state),
            Text(row.host),
            str(row.vcpus),
            format_size(row.memory),
            Text(shown_uuid(row.uuid, terminal.out), style="dim"),
            Text(", ".join(row.operations), style="cyan"),
        )
    return made


@app.command()
def show(context: typer.Context, vm: VmName, *, as_json: JsonFlag = False) -> None:
    """Show one VM."""
    from pool_master.cli.records import typed_record

    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        ref = find(client, "VM", vm)
        record = client.call("VM.get_record", ref)
        hosts, lost = _hosts(client)
        metrics = {}
        if record["metrics"] != view.NULL:
            metrics = client.call("VM_metrics.get_record", record["metrics"])
        consoles = [client.call("console.get_location", console) for console in record["consoles"]]
    plain = typed_record(record, "VM")
    if terminal.is_json:
        terminal.show({"ref": ref, **plain})
        return
    row = view.vm_rows({ref: {**record, "is_control_domain": False}}, hosts, lost)[0]
    terminal.out.print(facts(_told(row, plain, typed_record(metrics, "VM_metrics"), consoles)))


def _told(
    row: view.VmRow, record: dict[str, Any], metrics: dict[str, Any], consoles: list[str]
) -> list[tuple[str, Any]]:
    boot = f"kernel {record['PV_kernel']}" if record["PV_kernel"] else ""
    boot = boot or f"devices in the order {record['HVM_boot_params'].get('order', 'cd')}"
    lines: list[tuple[str, Any]] = [
        ("name", row.name),
        ("description", record["name_description"]),
        ("uuid", row.uuid),
        ("state", styled("lost" if row.is_lost else row.power_state, row.state)),
        ("host", row.host),
        ("doing", ", ".join(row.operations)),
        ("up since", metrics.get("start_time", "") if row.power_state != "Halted" else ""),
        ("VCPUs", f"{record['VCPUs_at_startup']} at start, {record['VCPUs_max']} at most"),
        ("memory", format_size(row.memory)),
        ("boots", boot),
        ("ramdisk", record["PV_ramdisk"]),
        ("arguments", record["PV_args"]),
        ("consoles", "  ".join(consoles)),
        ("tags", ", ".join(record["tags"])),
        (
            "blocked",
            ", ".join(f"{key}: {why}" for key, why in record["blocked_operations"].items()),
        ),
        ("allowed now", ", ".join(record["allowed_operations"])),
    ]
    return [(name, value) for name, value in lines if str(value)]


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What to call it; names need not be unique.")] = "",
    *,
    memory: Annotated[str, typer.Option(help="Like 96MiB or 2GiB.")] = "",
    vcpus: Annotated[int, typer.Option(min=0, help="Virtual CPUs.")] = 0,
    kernel: Annotated[
        str, typer.Option(help="Path of a kernel on the hosts, to boot directly.")
    ] = "",
    ramdisk: Annotated[str, typer.Option(help="Path of its initial ramdisk on the hosts.")] = "",
    args: Annotated[str, typer.Option(help="The kernel's command line.")] = "",
    boot_order: Annotated[str, typer.Option(help="Letters of c disk, d CD, n network.")] = "",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    template: Annotated[bool, typer.Option("--template", help="Make a template.")] = False,
    from_json: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Members of the VM record, as XenAPI names them; - reads standard input.",
        ),
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Make a VM, halted. Prints its uuid."""
    terminal = Terminal(is_json=as_json)
    given = record_from(from_json) if from_json else {}
    if template:
        given["is_a_template"] = True
    record = vm_record(
        name=name,
        memory=parse_size(memory) if memory else 0,
        vcpus=vcpus,
        boot_order=boot_order,
        given=given,
        PV_kernel=kernel,
        PV_ramdisk=ramdisk,
        PV_args=args,
        name_description=description,
    )
    with pool_of(context) as client:
        ref = client.call("VM.create", record)
        uuid = client.call("VM.get_uuid", ref)
    if terminal.is_json:
        terminal.show({"ref": ref, "uuid": uuid, "name_label": record["name_label"]})
    else:
        terminal.say(uuid)


@app.command()
def start(
    context: typer.Context,
    vm: VmName,
    *,
    on: Annotated[
        str, typer.Option(metavar="HOST", help="Choose the host; else the pool does.")
    ] = "",
    paused: Annotated[bool, typer.Option("--paused", help="Leave its VCPUs stopped.")] = False,
    no_wait: NoWaitFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Start a halted VM."""
    with pool_of(context) as client:
        ref = find(client, "VM", vm)
        if on:
            host = find(client, "host", on)
            asked: tuple[Any, ...] = ("VM.start_on", ref, host, paused, False)
        else:
            asked = ("VM.start", ref, paused, False)
        place = f" on {on}" if on else ""
        _do(
            client,
            asked,
            f"Starting {_name(client, ref)}{place}",
            is_waiting=not no_wait,
            as_json=as_json,
        )


@app.command()
def stop(
    context: typer.Context,
    vm: VmName,
    *,
    force: ForceFlag = False,
    no_wait: NoWaitFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Shut a VM down; with --force pull its plug."""
    method, verb = ("hard_shutdown", "Killing") if force else ("clean_shutdown", "Shutting down")
    _simply(context, vm, method, verb, is_waiting=not no_wait, as_json=as_json)


@app.command()
def reboot(
    context: typer.Context,
    vm: VmName,
    *,
    force: ForceFlag = False,
    no_wait: NoWaitFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Reboot a VM; with --force press its reset button."""
    method = "hard_reboot" if force else "clean_reboot"
    _simply(context, vm, method, "Rebooting", is_waiting=not no_wait, as_json=as_json)


@app.command()
def pause(
    context: typer.Context, vm: VmName, *, no_wait: NoWaitFlag = False, as_json: JsonFlag = False
) -> None:
    """Stop a VM's VCPUs where they stand."""
    _simply(context, vm, "pause", "Pausing", is_waiting=not no_wait, as_json=as_json)


@app.command()
def unpause(
    context: typer.Context, vm: VmName, *, no_wait: NoWaitFlag = False, as_json: JsonFlag = False
) -> None:
    """Let a paused VM go on."""
    _simply(context, vm, "unpause", "Unpausing", is_waiting=not no_wait, as_json=as_json)


@app.command()
def suspend(
    context: typer.Context, vm: VmName, *, no_wait: NoWaitFlag = False, as_json: JsonFlag = False
) -> None:
    """Save a running VM's memory to disk and end it; `resume` brings it back."""
    _simply(context, vm, "suspend", "Suspending", is_waiting=not no_wait, as_json=as_json)


@app.command()
def resume(
    context: typer.Context,
    vm: VmName,
    *,
    on: Annotated[str, typer.Option(metavar="HOST", help="On this host, no other.")] = "",
    paused: Annotated[bool, typer.Option("--paused", help="Leave it paused.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also on a CPU that differs.")] = False,
    no_wait: NoWaitFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Bring a suspended VM back, on whichever host shares its image."""
    with pool_of(context) as client:
        ref = find(client, "VM", vm)
        asked: tuple[Any, ...] = ("VM.resume", ref, paused, force)
        if on:
            asked = ("VM.resume_on", ref, find(client, "host", on), paused, force)
        doing = f"Resuming {_name(client, ref)}"
        _do(client, asked, doing, is_waiting=not no_wait, as_json=as_json)


@app.command()
def vcpus(
    context: typer.Context,
    vm: VmName,
    count: Annotated[int, typer.Argument(help="How many; at most its VCPUs_max.")],
    *,
    no_wait: NoWaitFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Give a running VM this many VCPUs."""
    with pool_of(context) as client:
        ref = find(client, "VM", vm)
        asked = ("VM.set_VCPUs_number_live", ref, str(count))
        doing = f"Changing the VCPUs of {_name(client, ref)}"
        _do(client, asked, doing, is_waiting=not no_wait, as_json=as_json)


@app.command()
def memory(
    context: typer.Context,
    vm: VmName,
    least: Annotated[str, typer.Argument(help="Dynamic minimum, 512M for instance.")],
    most: Annotated[str, typer.Argument(help="Dynamic maximum, 2G for instance.")],
    *,
    no_wait: NoWaitFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Set the range in which a VM's memory may be, running or not."""
    with pool_of(context) as client:
        ref = find(client, "VM", vm)
        bounds = (str(parse_size(least)), str(parse_size(most)))
        asked = ("VM.set_memory_dynamic_range", ref, *bounds)
        doing = f"Changing the memory of {_name(client, ref)}"
        _do(client, asked, doing, is_waiting=not no_wait, as_json=as_json)


@app.command()
def migrate(
    context: typer.Context,
    vm: VmName,
    *,
    to: Annotated[str, typer.Option(metavar="HOST", help="Where to.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also between CPUs that differ, and against nomigrate.")
    ] = False,
    no_wait: NoWaitFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Move a running VM to another host, without stopping it."""
    with pool_of(context) as client:
        ref, host = find(client, "VM", vm), find(client, "host", to)
        asked = ("VM.pool_migrate", ref, host, {"force": "true"} if force else {})
        doing = f"Moving {_name(client, ref)} to {client.call('host.get_name_label', host)}"
        _do(client, asked, doing, is_waiting=not no_wait, as_json=as_json)


@app.command()
def reset(context: typer.Context, vm: VmName, *, as_json: JsonFlag = False) -> None:
    """Declare a VM halted whose host is gone for good; refused until that is sure."""
    with pool_of(context) as client:
        ref = find(client, "VM", vm)
        client.call("VM.power_state_reset", ref)
        _after(client, ref, Terminal(is_json=as_json), seconds=None)


@app.command()
def destroy(
    context: typer.Context,
    vm: VmName,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove a halted VM for good; its disks stay."""
    terminal = Terminal(is_json=as_json)
    with pool_of(context) as client:
        ref = find(client, "VM", vm)
        name, uuid = _name(client, ref), client.call("VM.get_uuid", ref)
        if not yes and terminal.err.is_interactive and not as_json:
            typer.confirm(f"Destroy {name} ({uuid})?", abort=True, err=True)
        client.call("VM.destroy", ref)
    if terminal.is_json:
        terminal.show({"ref": ref, "uuid": uuid, "name_label": name, "destroyed": True})
    else:
        terminal.say(f"{name} is gone.")


def _simply(
    context: typer.Context, vm: str, method: str, verb: str, *, is_waiting: bool, as_json: bool
) -> None:
    with pool_of(context) as client:
        ref = find(client, "VM", vm)
        doing = f"{verb} {_name(client, ref)}"
        _do(client, (f"VM.{method}", ref), doing, is_waiting=is_waiting, as_json=as_json)


def _do(
    client: PoolClient, asked: tuple[Any, ...], doing: str, *, is_waiting: bool, as_json: bool
) -> None:
    terminal = Terminal(is_json=as_json)
    ended = carry_out(client, terminal, *asked, doing=doing, is_waiting=is_waiting)
    if ended is not None:
        _after(client, asked[1], terminal, seconds=ended.seconds)


def _after(client: PoolClient, ref: str, terminal: Terminal, *, seconds: float | None) -> None:
    """Say what is true now."""
    record = client.call("VM.get_record", ref)
    row = view.vm_rows({ref: {**record, "is_control_domain": False}}, *_hosts(client))[0]
    if terminal.is_json:
        terminal.show(row)
        return
    place = f" on {row.host}" if row.host else ""
    took = f" ({seconds:.1f} s)" if seconds is not None else ""
    state = styled("lost" if row.is_lost else row.power_state, row.state)
    terminal.out.print(Text.assemble(f"{row.name} is ", state, place, (took, "dim")))


def _name(client: PoolClient, ref: str) -> str:
    return str(client.call("VM.get_name_label", ref))
