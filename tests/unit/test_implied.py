"""Messages that nobody writes by hand: which exist follows from the fields, and all of them behave alike."""

from typing import Final

import pytest

from pool_master.core import events as ev
from pool_master.core.classes import CLASSES, message_table, method_names
from pool_master.core.datamodel import Kind, MessageKind, Qualifier
from shared.enums import Role, VmOperation
from shared.errors import HandleInvalid, InvalidValue, UuidInvalid
from shared.refs import NULL, VmRef, derive
from tests.support.facts import (
    HOST,
    OTHER_VM,
    OTHER_VM_UUID,
    VM,
    VM_UUID,
    a_pool,
    running,
    task,
    vm_created,
)
from tests.support.spec import Scenario, given

STORED: Final = [model for model in CLASSES if model.table]
NAMES: Final = [model.name for model in STORED]


def scenario() -> Scenario:
    return given(*a_pool(1), vm_created(), vm_created(OTHER_VM, OTHER_VM_UUID))


@pytest.mark.parametrize("name", NAMES)
def test_every_class_has_the_lookups_that_clients_count_on(name: str) -> None:
    table = message_table()
    for message in (
        "get_all",
        "get_all_records",
        "get_all_records_where",
        "get_record",
        "get_by_uuid",
        "get_uuid",
    ):
        assert f"{name}.{message}" in table


def test_every_class_with_a_name_can_be_found_by_it() -> None:
    for model in STORED:
        has_name = model.field("name_label") is not None
        assert (f"{model.name}.get_by_name_label" in message_table()) == has_name


def test_every_field_has_a_getter_and_only_writable_ones_have_setters() -> None:
    table = message_table()
    for model in STORED:
        for field in model.fields:
            assert f"{model.name}.get_{field.name}" in table
            is_settable = field.qualifier is Qualifier.RW
            if is_settable:
                assert f"{model.name}.set_{field.name}" in table
            adders = {
                Kind.MAP: (f"add_to_{field.name}", f"remove_from_{field.name}"),
                Kind.SET: (f"add_{field.name}", f"remove_{field.name}"),
            }.get(field.type.kind, ())
            for adder in adders:
                assert (f"{model.name}.{adder}" in table) == is_settable


def test_getters_and_setters_have_no_async_form() -> None:
    names = method_names()
    assert "VM.get_name_label" in names
    assert "Async.VM.get_name_label" not in names
    assert "Async.VM.set_name_label" not in names
    assert "Async.VM.start" in names


def test_hidden_messages_are_not_listed_and_nothing_is_listed_twice() -> None:
    names = method_names()
    assert "host.create" not in names
    assert len(set(names)) == len(names)


def test_a_classes_own_message_wins_over_the_implied_one() -> None:
    _, message = message_table()["VM.set_is_a_template"]
    assert message.operation is VmOperation.MAKE_INTO_TEMPLATE


def test_writing_needs_a_role_and_reading_does_not() -> None:
    for name, (model, message) in message_table().items():
        if message.kind is MessageKind.QUERY:
            assert message.role is Role.READ_ONLY, name
        elif message.kind is MessageKind.COMMAND and model.name not in {"task", "session"}:
            assert message.role is not Role.READ_ONLY, name


# --- lookups


@pytest.mark.parametrize("name", NAMES)
def test_a_null_reference_is_no_object(name: str) -> None:
    for method in ("get_record", "get_uuid"):
        with pytest.raises(HandleInvalid) as refused:
            scenario().answer(f"{name}.{method}", NULL)
        assert refused.value.parameters == (name, NULL)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_uuid_is_named(name: str) -> None:
    with pytest.raises(UuidInvalid) as refused:
        scenario().answer(f"{name}.get_by_uuid", "nope")
    assert refused.value.parameters == (name, "nope")


def test_objects_are_found_by_uuid_by_name_and_all_together() -> None:
    now = scenario()
    assert now.answer("VM.get_by_uuid", VM_UUID) == VM
    assert now.answer("VM.get_uuid", VM) == VM_UUID
    assert now.answer("VM.get_by_name_label", "vm") == [VM, OTHER_VM]
    assert now.answer("VM.get_by_name_label", "nobody") == []
    assert now.answer("VM.get_all") == [VM, OTHER_VM]
    records = now.answer("VM.get_all_records")
    assert list(records) == [VM, OTHER_VM]
    assert records[VM] == now.answer("VM.get_record", VM)


def test_objects_are_found_by_expression() -> None:
    now = scenario().when_called("VM.set_name_label", VM, "web").then_so()
    where = 'field "name_label" = "web"'
    assert list(now.answer("VM.get_all_records_where", where)) == [VM]
    assert now.answer("VM.get_all_where", where) == [VM]
    with pytest.raises(InvalidValue):
        now.answer("VM.get_all_where", "field")


def test_getters_give_the_wires_values() -> None:
    now = given(*a_pool(1), *running())
    assert now.answer("VM.get_power_state", VM) == "Running"
    assert now.answer("VM.get_resident_on", VM) == HOST
    assert now.answer("VM.get_VBDs", VM) == []
    assert now.answer("VM.get_allowed_operations", VM)[0] == "changing_dynamic_range"
    assert now.answer("host.get_resident_VMs", HOST) == [VM]
    assert now.answer("host.get_API_version_major", HOST) == 2


# --- maps


def test_a_key_is_added_once_and_removed_at_will() -> None:
    now = scenario()
    now.when_called("VM.add_to_other_config", VM, "k", "v").then(
        ev.MapKeySet(object_class="VM", ref=VM, field="other_config", key="k", value="v")
    )
    duplicate = ("MAP_DUPLICATE_KEY", "VM", "other_config", VM, "k")
    now.when_called("VM.add_to_other_config", VM, "k", "w").then_refused(*duplicate)
    # Even the very same pair.
    now.when_called("VM.add_to_other_config", VM, "k", "v").then_refused(*duplicate)
    now.when_called("VM.remove_from_other_config", VM, "k").then(
        ev.MapKeyRemoved(object_class="VM", ref=VM, field="other_config", key="k")
    )
    now.when_called("VM.remove_from_other_config", VM, "k").then_nothing_new()
    assert now.vm().config.other_config == {"mac_seed": "seed"}


def test_an_empty_key_is_a_key() -> None:
    now = scenario().when_called("VM.add_to_other_config", VM, "", "v").then_so()
    assert now.vm().config.other_config[""] == "v"


def test_a_map_is_replaced_as_a_whole() -> None:
    now = scenario().when_called("VM.set_other_config", VM, {"a": "b"}).then_so()
    assert now.vm().config.other_config == {"a": "b"}
    now.when_called("VM.set_other_config", VM, {}).then_so()
    assert now.vm().config.other_config == {}


def test_a_map_of_operations_holds_operations() -> None:
    now = scenario()
    now.when_called("VM.add_to_blocked_operations", VM, "start", "because").then_so()
    assert list(now.vm().config.blocked_operations) == [VmOperation.START]
    assert now.answer("VM.get_record", VM)["blocked_operations"] == {"start": "because"}
    now.when_called("VM.start", VM, False, False).then_refused("OPERATION_BLOCKED", VM, "because")
    now.when_called("VM.add_to_blocked_operations", VM, "fly", "x").then_refused(
        "INVALID_VALUE", "key", "fly"
    )


# --- sets


def test_a_member_is_added_once_and_removed_at_will() -> None:
    now = scenario()
    now.when_called("VM.add_tags", VM, "a").then_so()
    now.when_called("VM.add_tags", VM, "a").then_nothing_new()
    now.when_called("VM.add_tags", VM, "b").then_so()
    assert now.vm().config.tags == ("a", "b")
    now.when_called("VM.remove_tags", VM, "a").then_so()
    now.when_called("VM.remove_tags", VM, "a").then_nothing_new()
    assert now.vm().config.tags == ("b",)


# --- setters


@pytest.mark.parametrize(
    ("method", "value", "refusal"),
    [
        ("VM.set_actions_after_shutdown", "explode", ["INVALID_VALUE", "value", "explode"]),
        ("VM.set_user_version", "x", ["FIELD_TYPE_ERROR", "value"]),
        ("VM.set_tags", "x", ["FIELD_TYPE_ERROR", "value"]),
        ("VM.set_name_label", 1, ["FIELD_TYPE_ERROR", "value"]),
    ],
)
def test_a_setter_refuses_what_is_not_of_its_type(
    method: str, value: object, refusal: list[str]
) -> None:
    scenario().when_called(method, VM, value).then_refused(*refusal)


@pytest.mark.parametrize("name", NAMES)
def test_every_setter_of_a_class_stores_what_it_is_given(name: str) -> None:
    """Written, through the log, and read again."""
    samples = {
        Kind.STRING: "text",
        Kind.INT: "7",
        Kind.FLOAT: 1.5,
        Kind.BOOL: True,
        Kind.REF: "OpaqueRef:x",
        Kind.SET: ["one"],
        Kind.MAP: {"k": "v"},
    }
    now = given(
        *a_pool(1),
        *running(),
        ev.VmStarted(vm=VM, host=HOST, incarnation=2, domid=8, console_rfb="x"),
        ev.TaskCreated(task=task(1), uuid=derive("t", "t"), name_label="t"),
    ).skip_commands(2)
    model = next(model for model in STORED if model.name == name)
    refs = list(getattr(now.pool, model.table))
    for field in model.fields if refs else ():
        is_special = field.name in {"is_a_template", "blocked_operations"}
        if field.qualifier is not Qualifier.RW or is_special:
            continue
        is_enum = field.type.enum is not None
        value = list(field.type.enum)[-1].value if field.type.enum else samples[field.type.kind]
        now.when_called(f"{name}.set_{field.name}", refs[0], value).then_so()
        read = now.answer(f"{name}.get_{field.name}", refs[0])
        assert read == (int(str(value)) if field.type.kind is Kind.INT else value), field.name
        assert is_enum or read is not None


def test_a_setter_of_an_object_that_is_gone_is_refused() -> None:
    nobody = VmRef("OpaqueRef:nobody")
    for method, arguments in (
        ("VM.set_name_label", ("x",)),
        ("VM.add_to_other_config", ("a", "b")),
        ("VM.remove_from_other_config", ("a",)),
        ("VM.add_tags", ("a",)),
        ("VM.remove_tags", ("a",)),
    ):
        scenario().when_called(method, nobody, *arguments).then_refused(
            "HANDLE_INVALID", "VM", nobody
        )


def test_a_field_of_an_object_that_is_gone_by_then_changes_nothing() -> None:
    """The log may hold a wish about a VM that was destroyed a moment before: evolve never refuses."""
    now = scenario().and_given(ev.VmDestroyed(vm=VM))
    for event in (
        ev.FieldSet(object_class="VM", ref=VM, field="name_label", value="x"),
        ev.MapKeySet(object_class="VM", ref=VM, field="other_config", key="a", value="b"),
        ev.MapKeyRemoved(object_class="VM", ref=VM, field="other_config", key="a"),
    ):
        now.and_given(event)
    assert list(now.pool.vms) == [OTHER_VM]
