"""VM.create, VM.destroy and the setters: what is kept as asked, what is filled in, what is refused."""

from typing import Any, Final

import pytest
from msgspec.structs import replace

from pool_master.core import events as ev
from pool_master.core.vm_lifecycle import StartOn
from shared.enums import OnCrashBehaviour, PowerState, VmOperation
from shared.refs import NULL_HOST, VmRef, derive, derive_ref
from tests.support.facts import GIB, HOST, MIB, VM, a_pool, accepted, config, running, vm_created
from tests.support.spec import Scenario, given

# What an old client sends: every mandatory member, ints as strings, nothing of today's.
RECORD: Final[dict[str, Any]] = {
    "user_version": "1",
    "is_a_template": False,
    "affinity": "",
    "memory_static_max": str(GIB),
    "memory_dynamic_max": str(GIB),
    "memory_dynamic_min": str(GIB),
    "memory_static_min": str(64 * MIB),
    "VCPUs_params": {},
    "VCPUs_max": "2",
    "VCPUs_at_startup": "1",
    "actions_after_shutdown": "destroy",
    "actions_after_reboot": "restart",
    "actions_after_crash": "restart",
    "PV_bootloader": "",
    "PV_kernel": "/boot/vmlinuz",
    "PV_ramdisk": "",
    "PV_args": "quiet",
    "PV_bootloader_args": "",
    "PV_legacy_args": "",
    "HVM_boot_policy": "",
    "HVM_boot_params": {"order": "dc"},
    "platform": {"acpi": "true"},
    "PCI_bus": "",
    "other_config": {},
    "recommendations": "",
}
CREATED: Final = VmRef(derive_ref("c1", "VM"))


def created(**changes: Any) -> Scenario:
    return given(*a_pool()).when_called("VM.create", {**RECORD, **changes}).then_so()


def test_a_created_vm_is_halted_and_has_what_was_asked_for() -> None:
    vm = created(name_label="web", tags=["a", "b"]).vm(CREATED)
    assert vm.power_state is PowerState.HALTED
    assert (vm.resident_on, vm.domid, vm.current_operations) == (NULL_HOST, -1, {})
    assert (vm.config.name_label, vm.config.tags) == ("web", ("a", "b"))
    assert (vm.config.memory_static_max, vm.config.VCPUs_max) == (GIB, 2)
    assert vm.config.affinity == NULL_HOST
    assert vm.config.actions_after_crash is OnCrashBehaviour.RESTART
    assert vm.config.HVM_boot_params == {"order": "dc"}


def test_the_call_answers_with_the_vm_that_the_event_makes() -> None:
    scenario = created()
    assert list(scenario.pool.vms) == [CREATED]
    assert scenario.vm(CREATED).uuid == derive("c1", "VM")
    assert scenario.pool.vm_of_uuid(derive("c1", "VM")) is scenario.vm(CREATED)


def test_a_created_vm_has_metrics_of_its_own() -> None:
    scenario = created()
    metrics = scenario.pool.vm_metrics[scenario.vm(CREATED).metrics]
    assert metrics.vm == CREATED
    assert scenario.pool.uuids["VM_metrics", metrics.uuid] == metrics.ref


def test_missing_optional_members_have_their_defaults() -> None:
    config_ = created().vm(CREATED).config
    assert (config_.name_label, config_.name_description, config_.order) == ("", "", 0)
    assert config_.blocked_operations == {}


@pytest.mark.parametrize("member", RECORD)
def test_a_missing_mandatory_member_is_named(member: str) -> None:
    record = {name: value for name, value in RECORD.items() if name != member}
    given(*a_pool()).when_called("VM.create", record).then_refused(
        "INVALID_VALUE", member, "(missing)"
    )


@pytest.mark.parametrize(
    ("member", "value", "refusal"),
    [
        ("VCPUs_max", "two", ["FIELD_TYPE_ERROR", "VCPUs_max"]),
        ("VCPUs_max", str(2**63), ["INVALID_VALUE", "VCPUs_max", str(2**63)]),
        ("actions_after_crash", "explode", ["INVALID_VALUE", "actions_after_crash", "explode"]),
        ("platform", [], ["FIELD_TYPE_ERROR", "platform"]),
        ("platform", {"a": 1}, ["FIELD_TYPE_ERROR", "platform:a"]),
        ("is_a_template", "maybe", ["FIELD_TYPE_ERROR", "is_a_template"]),
        ("name_label", 5, ["FIELD_TYPE_ERROR", "name_label"]),
        ("tags", "one", ["FIELD_TYPE_ERROR", "tags"]),
    ],
)
def test_a_member_of_the_wrong_type_is_named(member: str, value: Any, refusal: list[str]) -> None:
    given(*a_pool()).when_called("VM.create", {**RECORD, member: value}).then_refused(*refusal)


def test_members_that_create_does_not_know_are_ignored() -> None:
    vm = created(power_state="Running", resident_on=HOST, no_such_field=[1]).vm(CREATED)
    assert (vm.power_state, vm.resident_on) == (PowerState.HALTED, NULL_HOST)


def test_a_created_vm_has_a_mac_seed_that_a_retry_makes_again() -> None:
    first, again = created().vm(CREATED), created().vm(CREATED)
    assert first.config.other_config == again.config.other_config
    assert len(first.config.other_config["mac_seed"]) == 36


def test_a_given_mac_seed_is_kept() -> None:
    vm = created(other_config={"mac_seed": "mine", "k": "v"}).vm(CREATED)
    assert vm.config.other_config == {"mac_seed": "mine", "k": "v"}


def test_supplied_blocks_and_running_wishes_are_ignored() -> None:
    vm = created(blocked_operations={"start": "no"}, ha_always_run=True).vm(CREATED)
    assert vm.config.blocked_operations == {}
    assert not vm.config.ha_always_run


def test_nothing_is_checked_at_create_that_start_will_check() -> None:
    scenario = created(VCPUs_max="0", VCPUs_at_startup="-1", memory_static_max="0")
    request = StartOn(vm=CREATED, host=HOST, start_paused=False, force=False)
    scenario.when(request).then_refused("INVALID_VALUE", "VCPUs-max", "0")


def test_the_same_create_again_makes_nothing_new() -> None:
    scenario = created()
    scenario.and_given(ev.VmStarted(vm=CREATED, host=HOST, incarnation=1, domid=1))
    scenario.skip_commands(0).when_called("VM.create", RECORD).then_nothing_new()


# --- destroy


def test_a_destroyed_vm_leaves_nothing() -> None:
    scenario = created().skip_commands(1).when_called("VM.destroy", CREATED).then_so()
    assert list(scenario.pool.vms) == []
    assert list(scenario.pool.vm_metrics) == []
    assert ("VM", derive("c1", "VM")) not in scenario.pool.uuids
    scenario.when_called("VM.destroy", CREATED).then_refused("HANDLE_INVALID", "VM", CREATED)


def test_a_running_vm_is_not_destroyed() -> None:
    given(*a_pool(), *running()).when_called("VM.destroy", VM).then_refused(
        "VM_BAD_POWER_STATE", VM, "halted, suspended", "running"
    )


def test_a_vm_that_starts_is_not_destroyed() -> None:
    scenario = given(*a_pool(), vm_created(), accepted(VmOperation.START))
    scenario.when_called("VM.destroy", VM).then_refused(
        "OTHER_OPERATION_IN_PROGRESS", "VM", VM, "start", next(iter(scenario.pool.operations))
    )


# --- setters


def field_set(field: str, value: Any) -> ev.FieldSet:
    return ev.FieldSet(object_class="VM", ref=VM, field=field, value=value)


def test_a_halted_vm_becomes_a_template_and_a_template_a_vm() -> None:
    scenario = given(*a_pool(), vm_created())
    scenario.when_called("VM.set_is_a_template", VM, True).then(field_set("is_a_template", True))
    assert scenario.vm().config.is_a_template
    scenario.when_called("VM.set_is_a_template", VM, True).then_nothing_new()
    scenario.when_called("VM.set_is_a_template", VM, False).then(field_set("is_a_template", False))


def test_a_running_vm_does_not_become_a_template() -> None:
    given(*a_pool(), *running()).when_called("VM.set_is_a_template", VM, True).then_refused(
        "VM_BAD_POWER_STATE", VM, "halted", "running"
    )


RULE: Final = "VCPU values must satisfy: 0 < VCPUs_at_startup ≤ VCPUs_max"


@pytest.mark.parametrize(
    ("method", "value", "is_allowed"),
    [
        ("VCPUs_max", 2, True),
        ("VCPUs_max", 4, True),
        ("VCPUs_max", 1, False),
        ("VCPUs_max", 0, False),
        ("VCPUs_at_startup", 1, True),
        ("VCPUs_at_startup", 3, True),
        ("VCPUs_at_startup", 4, False),
        ("VCPUs_at_startup", 0, False),
    ],
)
def test_vcpus_at_startup_never_exceed_vcpus_max(method: str, value: int, is_allowed: bool) -> None:
    scenario = given(*a_pool(), vm_created(VCPUs_max=3, VCPUs_at_startup=2))
    outcome = scenario.when_called(f"VM.set_{method}", VM, value)
    if is_allowed:
        outcome.then(field_set(method, value))
    else:
        outcome.then_refused("INVALID_VALUE", RULE, str(value))


def test_vcpus_max_is_only_set_when_halted_and_vcpus_at_startup_whenever() -> None:
    scenario = given(*a_pool(), *running())
    scenario.when_called("VM.set_VCPUs_max", VM, 4).then_refused(
        "VM_BAD_POWER_STATE", VM, "halted", "running"
    )
    scenario.when_called("VM.set_VCPUs_at_startup", VM, 2).then(field_set("VCPUs_at_startup", 2))


def test_actions_after_crash_are_set_and_checked() -> None:
    scenario = given(*a_pool(), *running())
    scenario.when_called("VM.set_actions_after_crash", VM, "preserve").then_so()
    assert scenario.vm().config.actions_after_crash is OnCrashBehaviour.PRESERVE
    assert scenario.pool.residents_of(HOST) == (VM,)


def test_recomputing_allowed_operations_only_checks_the_vm() -> None:
    scenario = given(*a_pool(), vm_created())
    scenario.when_called("VM.update_allowed_operations", VM).then_nothing_new()
    nobody = "OpaqueRef:nobody"
    scenario.when_called("VM.update_allowed_operations", nobody).then_refused(
        "HANDLE_INVALID", "VM", nobody
    )


def test_a_setter_changes_its_field_alone() -> None:
    scenario = given(*a_pool(), vm_created())
    before = scenario.vm()
    scenario.when_called("VM.set_PV_args", VM, "single").then_so()
    assert scenario.vm() == replace(before, config=config(PV_args="single"))
