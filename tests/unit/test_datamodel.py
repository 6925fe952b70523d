"""The API is data: XenAPI's VM class, field by field and message by message, against the datamodel."""

from typing import Final

import pytest

from pool_master.core.classes import CLASS_BY_NAME, CLASSES, message_table
from pool_master.core.datamodel import (
    MANDATORY,
    ClassModel,
    Field,
    Kind,
    MessageKind,
    Qualifier,
    WireType,
    wire_type,
)
from pool_master.core.vm_config import CONSTRUCTOR_MEMBERS
from shared.enums import Role, VmOperation
from shared.refs import NULL

VM: Final = CLASS_BY_NAME["VM"]
RW, CONSTRUCTOR, RUNTIME = Qualifier.RW, Qualifier.CONSTRUCTOR, Qualifier.RUNTIME
REQUIRED: Final = "required"
MAP: Final = "(string -> string) map"

# XenAPI's VM class: field, type, who may write it, value at create.
VM_TABLE: Final[tuple[tuple[str, str, Qualifier, object], ...]] = (
    ("uuid", "string", RUNTIME, REQUIRED),
    ("allowed_operations", "enum vm_operations set", RUNTIME, REQUIRED),
    ("current_operations", "(task ref -> enum vm_operations) map", RUNTIME, {}),
    ("power_state", "enum vm_power_state", CONSTRUCTOR, "Halted"),
    ("name_label", "string", RW, ""),
    ("name_description", "string", RW, ""),
    ("user_version", "int", RW, REQUIRED),
    ("is_a_template", "bool", RW, REQUIRED),
    ("suspend_VDI", "VDI ref", CONSTRUCTOR, NULL),
    ("resident_on", "host ref", RUNTIME, NULL),
    ("affinity", "host ref", RW, REQUIRED),
    ("memory_static_max", "int", CONSTRUCTOR, REQUIRED),
    ("memory_dynamic_max", "int", CONSTRUCTOR, REQUIRED),
    ("memory_dynamic_min", "int", CONSTRUCTOR, REQUIRED),
    ("memory_static_min", "int", CONSTRUCTOR, REQUIRED),
    ("VCPUs_params", MAP, RW, REQUIRED),
    ("VCPUs_max", "int", CONSTRUCTOR, REQUIRED),
    ("VCPUs_at_startup", "int", CONSTRUCTOR, REQUIRED),
    ("actions_after_shutdown", "enum on_normal_exit", RW, REQUIRED),
    ("actions_after_reboot", "enum on_normal_exit", RW, REQUIRED),
    ("actions_after_crash", "enum on_crash_behaviour", CONSTRUCTOR, REQUIRED),
    ("consoles", "console ref set", RUNTIME, ()),
    ("VIFs", "VIF ref set", RUNTIME, REQUIRED),
    ("VBDs", "VBD ref set", RUNTIME, REQUIRED),
    ("crash_dumps", " ref set", RUNTIME, ()),
    ("VTPMs", " ref set", RUNTIME, ()),
    ("PV_bootloader", "string", RW, REQUIRED),
    ("PV_kernel", "string", RW, REQUIRED),
    ("PV_ramdisk", "string", RW, REQUIRED),
    ("PV_args", "string", RW, REQUIRED),
    ("PV_bootloader_args", "string", RW, REQUIRED),
    ("PV_legacy_args", "string", RW, REQUIRED),
    ("HVM_boot_policy", "string", CONSTRUCTOR, REQUIRED),
    ("HVM_boot_params", MAP, RW, REQUIRED),
    ("platform", MAP, RW, REQUIRED),
    ("PCI_bus", "string", RW, REQUIRED),
    ("other_config", MAP, RW, REQUIRED),
    ("domid", "int", RUNTIME, -1),
    ("domarch", "string", RUNTIME, ""),
    ("last_boot_CPU_flags", MAP, CONSTRUCTOR, {}),
    ("is_control_domain", "bool", RUNTIME, False),
    ("metrics", "VM_metrics ref", RUNTIME, NULL),
    ("guest_metrics", "VM_guest_metrics ref", RUNTIME, NULL),
    ("recommendations", "string", RW, REQUIRED),
    # Today's, which clients lean on.
    ("scheduled_to_be_resident_on", "host ref", RUNTIME, NULL),
    ("memory_overhead", "int", RUNTIME, REQUIRED),
    ("blocked_operations", "(enum vm_operations -> string) map", RW, {}),
    ("is_default_template", "bool", RUNTIME, False),
    ("is_a_snapshot", "bool", RUNTIME, False),
    ("ha_restart_priority", "string", CONSTRUCTOR, ""),
    ("ha_always_run", "bool", CONSTRUCTOR, False),
    ("order", "int", CONSTRUCTOR, 0),
    ("start_delay", "int", CONSTRUCTOR, 0),
    ("shutdown_delay", "int", CONSTRUCTOR, 0),
    ("suspend_SR", "SR ref", RW, NULL),
    ("tags", "string set", RW, ()),
    ("xenstore_data", MAP, RW, {}),
)

# The members that VM.create must be given.
MANDATORY_MEMBERS: Final = tuple(
    name
    for name, _, qualifier, default in VM_TABLE
    if default == REQUIRED and qualifier is not RUNTIME
)

# XenAPI's messages of the VM class that this version has: parameters (without the session) and what they give.
MESSAGES: Final[tuple[tuple[str, str, str], ...]] = (
    ("get_record", "self", "VM record"),
    ("get_by_uuid", "uuid", "VM ref"),
    ("get_by_name_label", "label", "VM ref set"),
    ("get_all", "", "VM ref set"),
    ("get_all_records", "", "(VM ref -> VM record) map"),
    ("create", "args", "VM ref"),
    ("destroy", "self", "void"),
    ("start", "vm start_paused force", "void"),
    ("start_on", "vm host start_paused force", "void"),
    ("pause", "vm", "void"),
    ("unpause", "vm", "void"),
    ("clean_shutdown", "vm", "void"),
    ("clean_reboot", "vm", "void"),
    ("hard_shutdown", "vm", "void"),
    ("hard_reboot", "vm", "void"),
    ("power_state_reset", "vm", "void"),
    ("pool_migrate", "vm host options", "void"),
    ("assert_operation_valid", "self op", "void"),
    ("update_allowed_operations", "self", "void"),
    ("get_possible_hosts", "vm", "host ref set"),
    ("assert_can_boot_here", "self host", "void"),
    ("set_is_a_template", "self value", "void"),
    ("set_VCPUs_max", "self value", "void"),
    ("set_VCPUs_at_startup", "self value", "void"),
    ("set_actions_after_crash", "self value", "void"),
    ("set_name_label", "self value", "void"),
    ("add_to_other_config", "self key value", "void"),
    ("remove_from_other_config", "self key", "void"),
    ("add_tags", "self value", "void"),
    ("remove_tags", "self value", "void"),
)


def field_of(name: str) -> Field:
    found = VM.field(name)
    assert found is not None, name
    return found


@pytest.mark.parametrize(("name", "kind", "qualifier", "default"), VM_TABLE)
def test_a_field_of_the_vm_is_as_xenapi_has_it(
    name: str, kind: str, qualifier: Qualifier, default: object
) -> None:
    field = field_of(name)
    assert str(field.type) == kind
    assert field.qualifier is qualifier
    assert field.default == (MANDATORY if default == REQUIRED else default)


def test_create_asks_for_what_xenapi_asks_for() -> None:
    mandatory = [name for name in CONSTRUCTOR_MEMBERS if field_of(name).default is MANDATORY]
    assert sorted(mandatory) == sorted(MANDATORY_MEMBERS)
    assert all(field_of(name).qualifier is not RUNTIME for name in CONSTRUCTOR_MEMBERS)


@pytest.mark.parametrize(("name", "parameters", "returns"), MESSAGES)
def test_a_message_of_the_vm_has_xenapis_parameters(
    name: str, parameters: str, returns: str
) -> None:
    _, message = message_table()[f"VM.{name}"]
    assert [parameter.name for parameter in message.parameters] == parameters.split()
    assert str(message.returns) == returns


@pytest.mark.parametrize("model", CLASSES, ids=lambda model: model.name)
def test_every_field_and_message_says_what_it_is(model: ClassModel) -> None:
    assert model.doc
    docs = {field.name: field.doc for field in model.fields}
    docs |= {f"{message.name}()": message.doc for message in model.messages}
    assert [name for name, doc in docs.items() if not doc.strip() or "\n" in doc] == []
    names = [field.name for field in model.fields]
    assert len(set(names)) == len(names)
    messages = [message.name for message in model.messages]
    assert len(set(messages)) == len(messages)


@pytest.mark.parametrize("model", CLASSES, ids=lambda model: model.name)
def test_a_message_has_what_its_kind_needs(model: ClassModel) -> None:
    for message in model.messages:
        name = f"{model.name}.{message.name}"
        match message.kind:
            case MessageKind.QUERY:
                assert message.answer is not None, name
                assert message.decide is None, name
            case MessageKind.COMMAND:
                assert message.decide is not None, name
            case MessageKind.OPERATION:
                assert message.decide is not None, name
                assert message.waits, name
                assert message.operation is not None or model.name != "VM", name
            case MessageKind.SESSION:
                assert message.decide is None, name
        if message.returns.kind is not Kind.VOID and message.kind is MessageKind.COMMAND:
            assert message.result is not None, name


def test_roles_are_xenapis() -> None:
    expected = {
        "VM.start": Role.VM_OPERATOR,
        "VM.start_on": Role.VM_POWER_ADMIN,
        "VM.pool_migrate": Role.VM_POWER_ADMIN,
        "VM.create": Role.VM_ADMIN,
        "VM.destroy": Role.VM_ADMIN,
        "VM.power_state_reset": Role.POOL_OPERATOR,
        "VM.set_name_label": Role.VM_ADMIN,
        "VM.get_record": Role.READ_ONLY,
        "host.disable": Role.POOL_OPERATOR,
    }
    table = message_table()
    assert {name: table[name][1].role for name in expected} == expected


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (str, "string"),
        (tuple[int, ...], "int set"),
        (list[bool], "bool set"),
        (dict[str, float], "(string -> float) map"),
        (VmOperation, "enum vm_operations"),
        (VmOperation | None, "enum vm_operations"),
        (None.__class__, "void"),
    ],
)
def test_annotations_are_wire_types(annotation: object, text: str) -> None:
    assert str(wire_type(annotation)) == text


def test_what_has_no_wire_type_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError):
        wire_type(bytes)
    assert str(WireType(Kind.RECORD, "VM")) == "VM record"
