"""What may be done to a VM when: XenAPI's tables, as data, against the one predicate."""

from typing import Any, Final

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st
from msgspec.structs import replace

from pool_master.core import events as ev
from pool_master.core.allowed import (
    ADVERTISED,
    ALLOWED_POWER_STATES,
    IMPLEMENTED,
    allowed_operations,
    operation_error,
)
from pool_master.core.classes import message_table
from pool_master.core.datamodel import MessageKind
from pool_master.core.vm import Vm
from shared.enums import PowerState, VmOperation
from shared.errors import HostOffline, VmBadPowerState
from shared.refs import TaskRef
from tests.support.facts import HOST, VM, a_pool, config, running
from tests.support.spec import given

STATES: Final = {
    "H": PowerState.HALTED,
    "P": PowerState.PAUSED,
    "R": PowerState.RUNNING,
    "S": PowerState.SUSPENDED,
}

# Operation: the power states in which it is allowed, and whether it is ever advertised. Ordinary VM.
MATRIX: Final = {
    "start": ("H", True),
    "start_on": ("H", True),
    "pause": ("R", True),
    "unpause": ("P", True),
    "clean_shutdown": ("R", True),
    "clean_reboot": ("R", True),
    "hard_shutdown": ("PRS", True),
    "hard_reboot": ("PR", True),
    "suspend": ("R", True),
    "resume": ("S", True),
    "resume_on": ("S", True),
    "pool_migrate": ("R", True),
    "clone": ("H", True),
    "copy": ("H", True),
    "provision": ("H", True),
    "destroy": ("HS", True),
    "export": ("HS", True),
    "metadata_export": ("HPRS", True),
    "make_into_template": ("H", True),
    "changing_dynamic_range": ("HR", True),
    "changing_static_range": ("H", True),
    "changing_memory_limits": ("H", False),
    "changing_VCPUs": ("H", False),
    "changing_VCPUs_live": ("R", True),
    "changing_memory_live": ("R", False),
    "awaiting_memory_live": ("R", False),
    "changing_shadow_memory": ("H", True),
    "changing_shadow_memory_live": ("R", False),
    "changing_NVRAM": ("H", True),
    "create_vtpm": ("H", True),
    "snapshot": ("HPRS", True),
    "checkpoint": ("PRS", True),
    "snapshot_with_quiesce": ("R", False),
    "revert": ("HPRS", True),
    "reverting": ("HPRS", False),
    "migrate_send": ("HRS", True),
    "get_boot_record": ("PRS", False),
    "send_sysrq": ("R", False),
    "send_trigger": ("R", False),
    "csvm": ("S", False),
    "create_template": ("HS", False),
    "shutdown": ("PRS", False),
    "call_plugin": ("R", False),
    "data_source_op": ("R", False),
    "query_services": ("HPRS", False),
    "power_state_reset": ("HPRS", False),
    "assert_operation_valid": ("HPRS", False),
    "update_allowed_operations": ("HPRS", False),
    "import": ("", False),
}
# Never refused for what else is going on: they must work when everything else is stuck.
ALWAYS: Final = ("power_state_reset", "assert_operation_valid", "update_allowed_operations")
# Refused for the kind of VM, not for its state.
KIND_CODES: Final = {
    "provision": "PROVISION_ONLY_ALLOWED_ON_TEMPLATE",
    "revert": "REVERT_ONLY_ALLOWED_ON_SNAPSHOT",
}


OWN_FLAGS: Final = ("is_a_snapshot", "is_default_template", "is_control_domain")


def a_vm(power_state: PowerState = PowerState.HALTED, *running: VmOperation, **changes: Any) -> Vm:
    """A VM with these operations running; `changes` are of its record or of its config."""
    current = {TaskRef(f"OpaqueRef:t{n}"): operation for n, operation in enumerate(running, 1)}
    own = {key: changes.pop(key) for key in OWN_FLAGS if key in changes}
    vm = Vm(
        ref=VM,
        uuid="u",
        config=config(**changes),
        power_state=power_state,
        current_operations=current,
    )
    return replace(vm, **own)


def code_of(
    vm: Vm, operation: str, *, is_forced: bool = False, is_stranded: bool = False
) -> str | None:
    kind = VmOperation(operation)
    error = operation_error(vm, kind, is_stranded=is_stranded, is_forced=is_forced)
    return None if error is None else error.code


def test_the_matrix_has_every_operation() -> None:
    assert sorted(MATRIX) == sorted(operation.value for operation in VmOperation)
    assert sorted(ALLOWED_POWER_STATES) == sorted(VmOperation)


@pytest.mark.parametrize("operation", MATRIX)
def test_an_operation_is_allowed_in_its_power_states_and_no_other(operation: str) -> None:
    for letter, state in STATES.items():
        is_right = letter in MATRIX[operation][0]
        expected = KIND_CODES.get(operation) if is_right else "VM_BAD_POWER_STATE"
        assert code_of(a_vm(state), operation) == expected


def test_what_is_advertised_is_what_the_matrix_says() -> None:
    assert sorted(ADVERTISED) == sorted(name for name, row in MATRIX.items() if row[1])
    assert list(ADVERTISED) == sorted(ADVERTISED, key=str.lower)


def test_every_implemented_operation_has_a_message_and_every_message_is_implemented() -> None:
    said = {
        message.operation
        for model, message in message_table().values()
        if model.name != "VIF"
        and message.operation is not None
        and message.kind is not MessageKind.QUERY
    }
    assert said - {VmOperation(name) for name in ALWAYS} == set(IMPLEMENTED)


@pytest.mark.parametrize(
    ("vm", "operation", "description"),
    [
        # Case 8: Halted, clean_shutdown.
        (a_vm(), "clean_shutdown", ["VM_BAD_POWER_STATE", VM, "running", "halted"]),
        # Case 9: Running, destroy.
        (
            a_vm(PowerState.RUNNING),
            "destroy",
            ["VM_BAD_POWER_STATE", VM, "halted, suspended", "running"],
        ),
        (
            a_vm(),
            "hard_shutdown",
            ["VM_BAD_POWER_STATE", VM, "paused, running, suspended", "halted"],
        ),
        # Case 10: a template, start.
        (a_vm(is_a_template=True), "start", ["VM_IS_TEMPLATE", VM, "start"]),
        (
            a_vm(is_a_template=True, is_default_template=True),
            "destroy",
            ["VM_IS_TEMPLATE", VM, "destroy"],
        ),
        (a_vm(is_a_snapshot=True), "start", ["VM_IS_SNAPSHOT", VM, "start"]),
        (
            a_vm(blocked_operations={VmOperation.START: "on holiday"}),
            "start",
            ["OPERATION_BLOCKED", VM, "on holiday"],
        ),
        (
            a_vm(PowerState.RUNNING, VmOperation.PAUSE),
            "clean_shutdown",
            ["OTHER_OPERATION_IN_PROGRESS", "VM", VM, "pause", "OpaqueRef:t1"],
        ),
        (
            a_vm(PowerState.RUNNING, VmOperation.CLONE, VmOperation.COPY),
            "pause",
            [
                "OTHER_OPERATION_IN_PROGRESS",
                "VM",
                VM,
                "{clone,copy}",
                "{OpaqueRef:t1,OpaqueRef:t2}",
            ],
        ),
        (
            a_vm(PowerState.RUNNING, platform={"nomigrate": "true"}),
            "pool_migrate",
            ["VM_IS_IMMOBILE", VM],
        ),
        (
            a_vm(PowerState.RUNNING, is_control_domain=True),
            "pause",
            ["OPERATION_NOT_ALLOWED", "pause on a control domain"],
        ),
        (a_vm(), "provision", ["PROVISION_ONLY_ALLOWED_ON_TEMPLATE"]),
    ],
)
def test_a_refusal_says_why_in_xenapis_words(
    vm: Vm, operation: str, description: list[str]
) -> None:
    error = operation_error(vm, VmOperation(operation), is_stranded=False)
    assert error is not None
    assert error.description == description


def test_the_first_check_that_fails_is_the_one_that_is_told() -> None:
    blocked = {VmOperation.START: "blocked"}
    busy = (PowerState.RUNNING, VmOperation.PAUSE)
    assert code_of(a_vm(*busy, is_a_template=True, blocked_operations=blocked), "start") == (
        "OPERATION_BLOCKED"
    )
    assert code_of(a_vm(*busy, is_a_template=True), "start") == "VM_BAD_POWER_STATE"
    assert code_of(a_vm(*busy, is_a_template=True), "pause") == "OTHER_OPERATION_IN_PROGRESS"


@pytest.mark.parametrize("state", STATES.values())
@pytest.mark.parametrize("operation", ALWAYS)
def test_checks_and_reset_are_allowed_whatever_goes_on(operation: str, state: PowerState) -> None:
    # Case 1.
    assert code_of(a_vm(state, VmOperation.POOL_MIGRATE), operation) is None
    assert code_of(a_vm(state, is_a_template=True), operation) is None


# --- beside running operations (case 6)

HARD: Final = ("hard_shutdown", "hard_reboot")


def is_beside(running: VmOperation, operation: str) -> bool:
    """Whether `operation` may begin beside `running`, by XenAPI's rules."""
    families = (("clone", "copy", "export"), ("snapshot", "checkpoint"), ("get_boot_record",))
    if operation in ALWAYS or any(running in each and operation in each for each in families):
        return True
    # Not XenAPI's: nobody knows yet whether there is a domain or an image.
    if running in {"suspend", "resume", "resume_on"}:
        return False
    if operation == "hard_shutdown":
        return running != VmOperation.HARD_SHUTDOWN
    if operation == "hard_reboot":
        return running not in HARD
    beside_motion = ("metadata_export", "clean_shutdown", "clean_reboot")
    return running == VmOperation.MIGRATE_SEND and operation in beside_motion


@pytest.mark.parametrize("running", VmOperation)
def test_an_operation_begins_only_beside_those_that_it_goes_with(running: VmOperation) -> None:
    for operation, (letters, _) in MATRIX.items():
        for letter in letters if operation not in KIND_CODES else "":
            code = code_of(a_vm(STATES[letter], running), operation)
            assert (code is None) == is_beside(running, operation), (operation, letter)


def test_one_running_operation_that_does_not_fit_is_enough_to_refuse() -> None:
    running = (VmOperation.CLONE, VmOperation.EXPORT)
    assert code_of(a_vm(PowerState.HALTED, *running), "copy") is None
    assert code_of(a_vm(PowerState.HALTED, *running, VmOperation.SNAPSHOT), "copy") is not None
    motion = (VmOperation.MIGRATE_SEND, VmOperation.METADATA_EXPORT)
    assert code_of(a_vm(PowerState.RUNNING, *motion), "clean_shutdown") is not None


# --- immobile VMs (case 7)


@pytest.mark.parametrize("operation", ["suspend", "checkpoint", "pool_migrate", "migrate_send"])
@pytest.mark.parametrize(
    ("nested", "nomigrate", "is_forced", "is_allowed"),
    [
        (False, False, False, True),
        (False, False, True, True),
        (False, True, False, False),
        (False, True, True, True),
        (True, False, False, False),
        (True, False, True, True),
        (True, True, False, False),
        (True, True, True, True),
    ],
)
def test_a_vm_that_must_stay_is_moved_only_by_force(
    operation: str, nested: bool, nomigrate: bool, is_forced: bool, is_allowed: bool
) -> None:
    platform = {"nested-virt": str(nested).lower(), "nomigrate": str(nomigrate).lower()}
    code = code_of(a_vm(PowerState.RUNNING, platform=platform), operation, is_forced=is_forced)
    assert code == (None if is_allowed else "VM_IS_IMMOBILE")


# --- what is advertised


@pytest.mark.parametrize(
    ("vm", "names"),
    [
        (
            a_vm(),
            "changing_dynamic_range changing_static_range clone copy destroy make_into_template"
            " start start_on",
        ),
        (
            a_vm(PowerState.RUNNING),
            "changing_dynamic_range changing_VCPUs_live clean_reboot clean_shutdown hard_reboot"
            " hard_shutdown pause pool_migrate suspend",
        ),
        (a_vm(PowerState.PAUSED), "hard_reboot hard_shutdown unpause"),
        (a_vm(PowerState.SUSPENDED), "destroy hard_shutdown resume resume_on"),
        (
            a_vm(is_a_template=True),
            "changing_dynamic_range changing_static_range clone copy destroy provision",
        ),
        (
            a_vm(is_a_template=True, is_default_template=True),
            "changing_dynamic_range changing_static_range clone copy provision",
        ),
        (a_vm(PowerState.RUNNING, VmOperation.CLEAN_SHUTDOWN), "hard_reboot hard_shutdown"),
        (a_vm(PowerState.RUNNING, VmOperation.HARD_SHUTDOWN), ""),
    ],
)
def test_what_can_be_called_is_advertised_in_xenapis_order(vm: Vm, names: str) -> None:
    assert [
        str(operation) for operation in allowed_operations(vm, is_stranded=False)
    ] == names.split()


operations = st.sampled_from(VmOperation)
platforms = st.dictionaries(
    st.sampled_from(["nomigrate", "nested-virt", "other"]),
    st.sampled_from(["true", "True", "1", "false", ""]),
)


vms = st.builds(
    lambda state, running, **changes: a_vm(state, *running, **changes),
    st.sampled_from(PowerState),
    st.lists(operations, max_size=3),
    blocked_operations=st.dictionaries(operations, st.text(max_size=2), max_size=3),
    platform=platforms,
    is_a_template=st.booleans(),
    is_default_template=st.booleans(),
    is_a_snapshot=st.booleans(),
    is_control_domain=st.booleans(),
)


def asked_one_by_one(vm: Vm, *, is_stranded: bool) -> list[VmOperation]:
    return [
        operation
        for operation in ADVERTISED
        if operation in IMPLEMENTED
        and operation_error(vm, operation, is_stranded=is_stranded) is None
    ]


@given_any(vm=vms, is_stranded=st.booleans())
def test_what_is_advertised_is_exactly_what_would_not_be_refused(vm: Vm, is_stranded: bool) -> None:
    """Invariant 7, through whatever makes it fast."""
    # Neighbours that differ in one thing: what is remembered of one must not be said of another.
    for each in (vm, replace(vm, config=config(name_label="another")), vm):
        for stranded in (is_stranded, not is_stranded):
            advertised = list(allowed_operations(each, is_stranded=stranded))
            assert advertised == asked_one_by_one(each, is_stranded=stranded)


@pytest.mark.parametrize(
    ("state", "names"),
    [
        (
            PowerState.HALTED,
            "changing_static_range clone copy destroy make_into_template start start_on",
        ),
        (PowerState.RUNNING, ""),
        (PowerState.PAUSED, ""),
    ],
)
def test_what_only_a_lost_host_could_do_is_not_advertised(state: PowerState, names: str) -> None:
    allowed = allowed_operations(a_vm(state), is_stranded=True)
    assert [str(operation) for operation in allowed] == names.split()


def test_a_blocked_operation_is_not_advertised_on_a_vm_like_others() -> None:
    for vm in (a_vm(), a_vm(blocked_operations={VmOperation.START: ""}), a_vm()):
        is_blocked = bool(vm.config.blocked_operations)
        allowed = allowed_operations(vm, is_stranded=False)
        assert (VmOperation.START not in allowed) == is_blocked


def test_a_reset_is_what_remains_on_a_lost_host() -> None:
    vm = a_vm(PowerState.RUNNING)
    assert code_of(vm, "hard_shutdown", is_stranded=True) == "HOST_OFFLINE"
    assert code_of(vm, "power_state_reset", is_stranded=True) is None


def test_clients_can_ask_whether_an_operation_would_be_refused() -> None:
    scenario = given(*a_pool(1), *running())
    assert scenario.answer("VM.assert_operation_valid", VM, "pause") is None
    with pytest.raises(VmBadPowerState) as refused:
        scenario.answer("VM.assert_operation_valid", VM, "start")
    assert refused.value.parameters == (VM, "halted", "running")
    scenario.and_given(ev.HostLost(host=HOST, evidence=""))
    with pytest.raises(HostOffline):
        scenario.answer("VM.assert_operation_valid", VM, "pause")
