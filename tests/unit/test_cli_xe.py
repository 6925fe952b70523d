"""xe's spellings: what they mean to the API, and what they print."""

from typing import Any

import pytest

from pool_master.cli import xe
from pool_master.cli.app import translated
from pool_master.cli.client import PoolClient
from pool_master.cli.failures import Misused, NotFound, Refused
from pool_master.cli.settings import Target
from pool_master.core.classes import CLASSES
from pool_master.core.datamodel import ClassModel, Message

NULL = "OpaqueRef:NULL"
TARGET = Target(
    servers=("http://nowhere",), user="root", password="", ca_file="", is_insecure=False
)


def vm(name: str, uuid: str, **members: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "uuid": uuid,
        "name_label": name,
        "power_state": "Halted",
        "is_a_template": False,
        "is_a_snapshot": False,
        "tags": ["b", "a"],
        "other_config": {"k": "v"},
        "resident_on": NULL,
        "memory_static_max": "1048576",
        "name_description": "",
    }
    return {**plain, **members}


class FakePool(PoolClient):
    """Answers lookups from records, ends every task at once, and remembers what else it was asked."""

    def __init__(self, **tables: dict[str, Any]) -> None:
        super().__init__(TARGET)
        self.tables = tables
        self.asked: list[tuple[Any, ...]] = []
        self.task_end: dict[str, Any] = {"status": "success", "result": "", "error_info": []}

    def call(self, method: str, *parameters: Any) -> Any:  # noqa: PLR0911 - one arm per message
        class_name, _, message = method.partition(".")
        if method.startswith("Async."):
            self.asked.append((method.removeprefix("Async."), *parameters))
            return "OpaqueRef:task"
        if class_name in {"event", "task"}:
            return self._task(method)
        table = self.tables.get(class_name, {})
        match message:
            case "get_all_records":
                return table
            case "get_by_name_label":
                return [ref for ref, held in table.items() if held["name_label"] == parameters[0]]
            case "get_by_uuid":
                for ref, held in table.items():
                    if held["uuid"] == parameters[0]:
                        return ref
                raise Refused(["UUID_INVALID", class_name, parameters[0]])
            case "get_record":
                return table[parameters[0]]
            case _ if message.startswith("get_") and message[4:] in table.get(parameters[0], {}):
                return table[parameters[0]][message[4:]]
        self.asked.append((method, *parameters))
        return NULL

    def _task(self, method: str) -> Any:
        if method != "event.from":
            return ""
        record = {"uuid": "task-uuid", "progress": 1.0, **self.task_end}
        return {"token": "1", "events": [{"operation": "add", "snapshot": record}]}


U1, U2, H1 = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "12a")


@pytest.fixture
def pool() -> FakePool:
    return FakePool(
        VM={
            "OpaqueRef:1": vm("web", U1, power_state="Running", resident_on="OpaqueRef:h"),
            "OpaqueRef:2": vm("db", U2),
            "OpaqueRef:3": vm("twin", "33333333-0000-4000-8000-000000000000"),
            "OpaqueRef:4": vm("twin", "44444444-0000-4000-8000-000000000000"),
            "OpaqueRef:5": vm("tpl", "55555555-0000-4000-8000-000000000000", is_a_template=True),
        },
        host={"OpaqueRef:h": {"uuid": H1, "name_label": "host1"}},
    )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["vm-start", "uuid=1"], ["xe", "vm-start", "uuid=1"]),
        (["--server", "http://a-b", "vm-list"], ["--server", "http://a-b", "xe", "vm-list"]),
        (["--server=http://a-b", "vm-list"], ["--server=http://a-b", "xe", "vm-list"]),
        (["--insecure", "pool-list"], ["--insecure", "xe", "pool-list"]),
        (["seed-demo"], ["seed-demo"]),
        (["vm", "start", "my-vm"], ["vm", "start", "my-vm"]),
        (["--help"], ["--help"]),
        ([], []),
    ],
)
def test_only_xes_verbs_are_translated(typed: list[str], meant: list[str]) -> None:
    assert translated(typed) == meant


@pytest.mark.parametrize(
    ("model", "message"), [(model, message) for model in CLASSES for message in model.messages]
)
def test_every_message_of_the_api_has_its_verb(model: ClassModel, message: Message) -> None:
    verb = f"{model.name}-{message.name}".replace("_", "-").lower()
    if verb in xe.ALIASES:
        return
    found, action = xe.class_and_action(verb)
    assert found is model
    assert xe.message_of(found, action, verb) is message


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["vm-start", f"uuid={U2}"], ("VM.start", "OpaqueRef:2", False, False)),
        (
            ["vm-start", "vm=db", "force=true", "paused=true"],
            ("VM.start", "OpaqueRef:2", True, True),
        ),
        (
            ["vm-start", "uuid=db", "on=host1"],
            ("VM.start_on", "OpaqueRef:2", "OpaqueRef:h", False, False),
        ),
        (["vm-shutdown", "uuid=web"], ("VM.clean_shutdown", "OpaqueRef:1")),
        (["vm-shutdown", "uuid=web", "force=true"], ("VM.hard_shutdown", "OpaqueRef:1")),
        (["vm-shutdown", "uuid=web", "force=false"], ("VM.clean_shutdown", "OpaqueRef:1")),
        (["vm-shutdown", "uuid=web", "--force"], ("VM.hard_shutdown", "OpaqueRef:1")),
        (["vm-reboot", "uuid=web", "--force"], ("VM.hard_reboot", "OpaqueRef:1")),
        (
            ["vm-migrate", "uuid=web", f"host={H1}", "live=true"],
            ("VM.pool_migrate", "OpaqueRef:1", "OpaqueRef:h", {"live": "true"}),
        ),
        (
            ["vm-migrate", "uuid=web", "host=host1"],
            ("VM.pool_migrate", "OpaqueRef:1", "OpaqueRef:h"),
        ),
        (["vm-reset-powerstate", "uuid=web", "--force"], ("VM.power_state_reset", "OpaqueRef:1")),
        (["vm-destroy", "uuid=22222222"], ("VM.destroy", "OpaqueRef:2")),
        (["host-forget", "uuid=host1"], ("host.destroy", "OpaqueRef:h")),
        (["vm-set-VCPUs-max", "uuid=db", "value=4"], ("VM.set_VCPUs_max", "OpaqueRef:2", 4)),
        (
            ["vm-set-actions-after-crash", "uuid=db", "value=Rename-Restart"],
            ("VM.set_actions_after_crash", "OpaqueRef:2", "rename_restart"),
        ),
        (["vm-set-tags", "uuid=db", "value=x,y"], ("VM.set_tags", "OpaqueRef:2", ["x", "y"])),
    ],
)
def test_a_verb_becomes_the_message_that_it_means(
    pool: FakePool, words: list[str], asked: tuple[Any, ...]
) -> None:
    xe.run(pool, words[0], words[1:])
    assert pool.asked == [asked]


def test_vm_create_fills_in_what_the_constructor_needs(pool: FakePool) -> None:
    xe.run(
        pool,
        "vm-create",
        ["name-label=new", "memory-static-max=96MiB", "other-config:a=b", "VCPUs-max=2"],
    )
    method, record = pool.asked[0]
    assert method == "VM.create"
    assert record["name_label"] == "new"
    assert record["memory_static_max"] == record["memory_dynamic_max"] == 96 * 2**20
    assert record["other_config"] == {"a": "b"}
    assert record["VCPUs_max"] == 2
    assert record["actions_after_reboot"] == "restart"


def test_a_failed_task_is_the_commands_failure(pool: FakePool) -> None:
    pool.task_end = {
        "status": "failure",
        "result": "",
        "error_info": ["HOST_OFFLINE", "OpaqueRef:h"],
    }
    with pytest.raises(Refused) as refused:
        xe.run(pool, "vm-start", ["uuid=db"])
    assert refused.value.description == ["HOST_OFFLINE", "OpaqueRef:h"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["vm-strat", "uuid=db"], "vm-start"),
        (["volume-list"], "no command"),
        (["vm-start"], "uuid="),
        (["vm-start", "uuid=db", "colour=red"], "colour"),
        (["vm-start", "uuid=db", "force=perhaps"], "true or false"),
        (["vm-start", "db"], "key=value"),
        (["vm-start", "--colour"], "key=value"),
        (["vm-migrate", "uuid=db"], "host="),
        (["vm-set-actions-after-crash", "uuid=db", "value=dance"], "coredump_and_destroy"),
        (["vm-list", "colour=red"], "colour"),
        (["vm-param-set", "uuid=db", "power-state=Running"], "cannot be set"),
        (["vm-param-set", "uuid=db"], "name=value"),
        (["vm-param-get", "uuid=db"], "param-name="),
        (["vm-param-get", "param-name=tags"], "uuid="),
        (["vm-param-get", "uuid=db", "param-name=tags", "param-key=x"], "not a map"),
    ],
)
def test_a_slip_is_a_usage_error_that_names_the_remedy(
    pool: FakePool, words: list[str], hint: str
) -> None:
    with pytest.raises(Misused, match=hint):
        xe.run(pool, words[0], words[1:])
    assert pool.asked == []


def test_an_ambiguous_name_lists_the_uuids_and_does_nothing(pool: FakePool) -> None:
    with pytest.raises(NotFound, match=r"33333333-.*44444444-"):
        xe.run(pool, "vm-start", ["uuid=twin"])
    assert pool.asked == []


def test_nothing_is_set_when_one_of_several_values_is_wrong(pool: FakePool) -> None:
    with pytest.raises(Misused, match="true or false"):
        xe.run(pool, "vm-param-set", ["uuid=db", "name-label=new", "is-a-template=maybe"])
    assert pool.asked == []


def test_param_set_merges_a_map_and_sets_the_rest(pool: FakePool) -> None:
    xe.run(pool, "vm-param-set", ["uuid=db", "name-label=new", "other-config:x=y"])
    assert pool.asked == [
        ("VM.set_name_label", "OpaqueRef:2", "new"),
        ("VM.set_other_config", "OpaqueRef:2", {"k": "v", "x": "y"}),
    ]


def test_params_are_added_removed_and_cleared(pool: FakePool) -> None:
    xe.run(pool, "vm-param-add", ["uuid=db", "param-name=other-config", "a=b"])
    xe.run(pool, "vm-param-add", ["uuid=db", "param-name=tags", "param-key=c"])
    xe.run(pool, "vm-param-remove", ["uuid=db", "param-name=other-config", "param-key=k"])
    xe.run(pool, "vm-param-remove", ["uuid=db", "param-name=tags", "param-key=a"])
    xe.run(pool, "vm-param-clear", ["uuid=db", "param-name=tags"])
    assert pool.asked == [
        ("VM.add_to_other_config", "OpaqueRef:2", "a", "b"),
        ("VM.add_tags", "OpaqueRef:2", "c"),
        ("VM.remove_from_other_config", "OpaqueRef:2", "k"),
        ("VM.remove_tags", "OpaqueRef:2", "a"),
        ("VM.set_tags", "OpaqueRef:2", []),
    ]


def test_a_list_looks_as_xe_prints_it(pool: FakePool, capsys: pytest.CaptureFixture[str]) -> None:
    xe.run(pool, "vm-list", ["power-state=running"])
    assert capsys.readouterr().out == (
        f"uuid ( RO)           : {U1}\n"
        "     name-label ( RW): web\n"
        "    power-state ( RO): running\n"
        "\n\n"
    )


def test_references_sets_and_maps_read_as_in_xe(
    pool: FakePool, capsys: pytest.CaptureFixture[str]
) -> None:
    xe.run(pool, "vm-list", ["name-label=web", "params=uuid,resident-on,tags,other-config"])
    assert capsys.readouterr().out == (
        f"uuid ( RO)            : {U1}\n"
        f"     resident-on ( RO): {H1}\n"
        "            tags (SRW): b; a\n"
        "    other-config (MRW): k: v\n"
        "\n\n"
    )


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["vm-list", "name-label=db", "--minimal"], U2),
        (["vm-list", "params=name-label", "--minimal"], "web,db,twin,twin"),
        (["template-list", "params=name-label", "--minimal"], "tpl"),
        (["vm-list", "is-a-template=true", "params=name-label", "--minimal"], "tpl"),
        (["vm-list", "other-config:k=w", "--minimal"], ""),
        (["vm-param-get", "uuid=db", "param-name=power-state"], "halted"),
        (["vm-param-get", "uuid=db", "param-name=resident-on"], "<not in database>"),
        (["vm-param-get", "uuid=db", "param-name=other-config", "param-key=k"], "v"),
        (["vm-get-name-label", "vm=db"], "db"),
        (["vm-get-tags", "uuid=db"], "b, a"),
        (["vm-get-by-name-label", "label=db"], U2),
        (["host-list", "--minimal"], H1),
    ],
)
def test_answers_are_printed_for_scripts(
    pool: FakePool, capsys: pytest.CaptureFixture[str], words: list[str], printed: str
) -> None:
    xe.run(pool, words[0], words[1:])
    assert capsys.readouterr().out == printed + "\n"


def test_json_has_numbers_where_xml_rpc_has_strings(
    pool: FakePool, capsys: pytest.CaptureFixture[str]
) -> None:
    xe.run(pool, "vm-param-get", ["uuid=db", "param-name=memory-static-max", "--json"])
    assert capsys.readouterr().out == "1048576\n"
