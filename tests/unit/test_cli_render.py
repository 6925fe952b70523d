"""What the command line shows: amounts, states, refusals, history."""

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pool_master.cli import view, vm
from pool_master.cli.advice import ADVICE, explain
from pool_master.cli.client import master_url, outgoing
from pool_master.cli.failures import Misused, Refused
from pool_master.cli.records import typed_record
from pool_master.cli.render import Terminal, as_json, bar
from pool_master.cli.sizes import format_size, format_span, parse_moment, parse_size
from pool_master.cli.story import NOISE, tell
from pool_master.cli.vm_record import vm_record
from pool_master.core.classes import CLASS_BY_NAME
from pool_master.core.datamodel import MANDATORY
from pool_master.core.events import EVENT_TYPES
from pool_master.core.vm_config import CONSTRUCTOR_MEMBERS
from shared import errors

NULL = "OpaqueRef:NULL"
MIB = 2**20


# --- amounts and times


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("1048576", MIB),
        ("96MiB", 96 * MIB),
        ("96 mib", 96 * MIB),
        ("1.5G", 1536 * MIB),
        ("2GB", 2 * 10**9),
        ("512k", 512 * 1024),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, amount: int) -> None:
    assert parse_size(text) == amount


@pytest.mark.parametrize("text", ["", "lots", "-1", "1.2.3M", "5 parsecs", "1e3", "99999999999TiB"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(Misused):
        parse_size(text)


@given(st.integers(0, 2**50))
def test_a_shown_size_is_close_to_what_it_stands_for(amount: int) -> None:
    assert parse_size(format_size(amount)) == pytest.approx(amount, rel=0.06)


def test_sizes_and_spans_are_shown_short() -> None:
    assert [format_size(x) for x in (0, 96 * MIB, 1536 * MIB)] == ["0 B", "96 MiB", "1.5 GiB"]
    assert [format_span(x) for x in (3, 130, 9_000, 200_000)] == ["3 s", "2 min", "2 h", "2 d"]


def test_moments_are_relative_or_iso() -> None:
    now = datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert parse_moment("90s", now) == now - timedelta(seconds=90)
    assert parse_moment("1.5h", now) == now - timedelta(minutes=90)
    assert parse_moment("2024-05-01T12:00:00+02:00", now) == now - timedelta(hours=2)
    assert parse_moment("2024-05-01T12:00:00Z", now) == now
    for text in ("yesterday", "5", "9999999999w"):
        with pytest.raises(Misused):
            parse_moment(text, now)


# --- states


def vm_of(name: str, host: str = NULL, **members: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "uuid": f"{name}-uuid",
        "name_label": name,
        "power_state": "Halted" if host == NULL else "Running",
        "resident_on": host,
        "scheduled_to_be_resident_on": NULL,
        "is_control_domain": False,
        "is_a_template": False,
        "VCPUs_max": "2",
        "memory_static_max": str(96 * MIB),
        "current_operations": {},
    }
    return {**plain, **members}


def host_of(name: str) -> dict[str, Any]:
    return {
        "uuid": f"{name}-uuid",
        "name_label": name,
        "address": "",
        "enabled": True,
        "metrics": f"m-{name}",
        "resident_VMs": [],
    }


HOSTS = {"h1": host_of("alive"), "h2": host_of("dead"), "h3": host_of("unheard-of")}
METRICS = {
    "m-alive": {"live": True, "memory_total": str(2**30)},
    "m-dead": {"live": False, "memory_total": str(2**30)},
}


def test_a_vm_on_a_lost_host_is_never_shown_in_good_health() -> None:
    lost = view.lost_hosts(HOSTS, METRICS)
    vms = {
        "1": vm_of("well", "h1"),
        "2": vm_of("adrift", "h2"),
        "3": vm_of("off"),
        "4": vm_of("astray", "h3"),
    }
    rows = {row.name: row for row in view.vm_rows(vms, HOSTS, lost)}
    assert lost == {"h2", "h3"}
    assert rows["well"].state == "Running"
    assert rows["adrift"].state == "Running? host lost"
    assert rows["astray"].is_lost
    assert not rows["off"].is_lost
    assert view.count_states(tuple(rows.values())) == {
        "Running": 1,
        "Halted": 1,
        "on a lost host": 2,
    }


def test_a_starting_vm_is_shown_on_the_host_where_it_will_be() -> None:
    vms = {"1": vm_of("new", scheduled_to_be_resident_on="h1", current_operations={"t": "start"})}
    (row,) = view.vm_rows(vms, HOSTS, frozenset())
    assert (row.host, row.operations) == ("alive", ("start",))


def test_templates_are_not_counted_as_vms_nor_control_domains_listed() -> None:
    vms = {"1": vm_of("tpl", is_a_template=True), "2": vm_of("dom0", "h1", is_control_domain=True)}
    rows = view.vm_rows(vms, HOSTS, frozenset())
    assert [row.name for row in rows] == ["tpl"]
    assert view.count_states(rows) == {}


def test_hosts_say_whether_they_live_and_what_they_promised() -> None:
    hosts = {**HOSTS, "h4": {**host_of("resting"), "enabled": False, "metrics": "m-alive"}}
    rows = {row.name: row for row in view.host_rows(hosts, METRICS, {"h1": MIB}, "h1")}
    assert [rows[x].state for x in ("alive", "dead", "unheard-of", "resting")] == [
        "live",
        "lost",
        "lost",
        "disabled",
    ]
    assert (rows["alive"].is_master, rows["dead"].is_master) == (True, False)
    assert (rows["alive"].memory_promised, rows["alive"].memory_total) == (MIB, 2**30)


def test_a_task_is_shown_with_the_vm_that_it_holds() -> None:
    task = {
        "uuid": "u",
        "name_label": "Async.VM.start",
        "status": "pending",
        "progress": 0.5,
        "created": "20240501T12:00:00Z",
        "error_info": [],
    }
    vms = {"1": vm_of("web", current_operations={"t": "start"})}
    (row,) = view.task_rows({"t": task}, vms)
    assert (row.about, row.progress, row.is_running) == ("web", 0.5, True)


def printed(renderable: Any, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_name_is_never_read_as_markup() -> None:
    rows = view.vm_rows({"1": vm_of("[bold red]x[/]", "h1")}, HOSTS, frozenset())
    assert "[bold red]x[/]" in printed(vm._vm_table(rows, Terminal()))


def test_a_bar_is_as_full_as_its_share() -> None:
    assert [bar(share, 4).plain for share in (-1, 0, 0.5, 1, 7)] == [
        "░░░░",
        "░░░░",
        "██░░",
        "████",
        "████",
    ]


def test_json_is_made_of_rows_as_they_are() -> None:
    (row,) = view.vm_rows({"1": vm_of("web", "h1")}, HOSTS, frozenset())
    told = json.loads(as_json([row]))
    assert told[0]["memory"] == 96 * MIB
    assert told[0]["is_lost"] is False


# --- refusals


def test_every_failure_of_the_api_has_its_advice() -> None:
    codes = {
        one.code for one in errors.XenApiError.__subclasses__() if one.__name__ != "ReportedError"
    }
    assert codes - ADVICE.keys() == set()


def test_advice_names_what_the_references_stand_for() -> None:
    refusal = Refused(["VM_BAD_POWER_STATE", "OpaqueRef:1", "halted", "running"])
    refusal.names["OpaqueRef:1"] = "web"
    assert explain(refusal) == "VM_BAD_POWER_STATE: web is running, and this needs it halted."


def test_advice_gives_memory_in_readable_units() -> None:
    told = explain(Refused(["HOST_NOT_ENOUGH_FREE_MEMORY", str(2**31), str(96 * MIB)]))
    assert "96 MiB left and this needs 2 GiB" in told


@pytest.mark.parametrize(
    "description", [["SOMETHING_NEW", "a\nb"], ["VM_BAD_POWER_STATE"], ["HOST_OFFLINE"]]
)
def test_an_unknown_or_short_failure_is_told_as_it_came_in_one_line(description: list[str]) -> None:
    told = explain(Refused(description))
    assert told.startswith(f"{description[0]}: the pool refused this")
    assert "\n" not in told
    assert ("(a b)" in told) == (len(description) > 1)


# --- history


def event_of(event_type: str, detail: dict[str, Any], **members: str) -> dict[str, str]:
    plain = {
        "sequence": "7",
        "time": "2024-05-01T12:00:00.000+00:00",
        "type": event_type,
        "actor": "user:root",
        "cause": "VM.start",
        "detail": json.dumps(detail),
    }
    return {**plain, **members}


def mandatory_detail(event_type: str) -> dict[str, Any]:
    fields = msgspec.structs.fields(EVENT_TYPES[event_type])
    return {field.name: "x" for field in fields if field.required}


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_every_event_has_its_sentence_even_where_defaults_are_left_out(event_type: str) -> None:
    chapter = tell(event_of(event_type, mandatory_detail(event_type)), lambda ref: ref)
    assert not chapter.what.startswith(f"{event_type}:")
    assert "{" not in chapter.what


def test_a_sentence_uses_names_and_says_where() -> None:
    names = {
        "OpaqueRef:1": "web",
        "OpaqueRef:h": "host1",
        "OpaqueRef:i": "host2",
        "h-uuid": "host1",
    }
    detail = {"operation": "pool_migrate", "vm": "OpaqueRef:1", "host": "OpaqueRef:h"}
    moved = tell(
        event_of("OperationAccepted", {**detail, "destination": "OpaqueRef:i"}), names.__getitem__
    )
    started = tell(
        event_of(
            "VmStarted",
            {"vm": "OpaqueRef:1", "host": "OpaqueRef:h", "incarnation": 3},
            actor="host:h-uuid",
            cause="CommandSucceeded",
        ),
        names.__getitem__,
    )
    assert moved.what == "pool_migrate of web is accepted, from host1 to host2"
    assert (moved.who, moved.why) == ("root", "VM.start")
    assert started.what == "web is Running on host1 (incarnation 3)"
    assert (started.who, started.why) == ("host1", "the host did what it was told")


def test_an_event_of_a_newer_server_is_told_by_its_fields() -> None:
    chapter = tell(event_of("VmTeleported", {"vm": "OpaqueRef:1", "far": True}), lambda _: "web")
    assert chapter.what == "VmTeleported: vm web, far true"
    assert not chapter.is_noise


def test_bookkeeping_is_made_of_events_that_exist() -> None:
    assert EVENT_TYPES.keys() >= NOISE


# --- records, out and in


def test_a_vm_record_has_every_member_that_create_insists_on() -> None:
    model = CLASS_BY_NAME["VM"]
    fields = {field.name: field for field in model.fields}
    needed = {name for name in CONSTRUCTOR_MEMBERS if fields[name].default is MANDATORY}
    assert needed - vm_record(name="x").keys() == set()


def test_options_win_over_the_file_and_the_file_over_the_template() -> None:
    given = {"memory_static_max": 5, "VCPUs_max": 3, "PV_args": "file", "name_label": "file"}
    record = vm_record(name="option", memory=7, given=given, PV_args="")
    assert (record["name_label"], record["PV_args"], record["VCPUs_max"]) == ("option", "file", 3)
    assert record["memory_static_max"] == record["memory_dynamic_min"] == 7


@pytest.mark.parametrize("options", [{}, {"name": "x", "boot_order": "cz"}])
def test_a_vm_without_name_or_with_a_strange_boot_order_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Misused):
        vm_record(**options)


def test_typed_records_have_numbers_and_iso_dates() -> None:
    record = {
        "memory_actual": "5",
        "start_time": "20240501T12:00:00Z",
        "other_config": {"n": "1"},
        "new_field": "7",
    }
    assert typed_record(record, "VM_metrics") == {
        "memory_actual": 5,
        "start_time": "2024-05-01T12:00:00Z",
        "other_config": {"n": "1"},
        "new_field": "7",
    }


def test_integers_go_out_as_strings_and_booleans_do_not() -> None:
    assert outgoing({"a": 2**40, "b": [True, 1]}) == {"a": str(2**40), "b": [True, "1"]}


@pytest.mark.parametrize(
    ("server", "address", "master"),
    [
        ("http://a:8080", "10.0.0.2", "http://10.0.0.2:8080"),
        ("https://a", "10.0.0.2", "https://10.0.0.2"),
        ("https://a:8443", "b:9000", "https://b:9000"),
        ("http://a:80", "fd00::2", "http://[fd00::2]:80"),
        ("http://a:80", "http://b:81", "http://b:81"),
    ],
)
def test_a_standbys_word_leads_to_the_master_on_the_same_road(
    server: str, address: str, master: str
) -> None:
    assert master_url(server, address) == master
