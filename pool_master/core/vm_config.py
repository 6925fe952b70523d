"""VM.create, VM.destroy, and the setters whose values are checked."""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pool_master.core import events as ev
from pool_master.core.allowed import operation_error
from pool_master.core.changed import changed
from pool_master.core.context import Context
from pool_master.core.datamodel import EMPTY_MAP, Message, command, record_of, ref_to
from pool_master.core.lookup import vm_of
from pool_master.core.pool import Pool
from pool_master.core.vm import VmConfig
from shared.enums import OnCrashBehaviour, Role, VmOperation
from shared.errors import InvalidValue
from shared.refs import VmRef, derive, derive_ref

INT64_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Create a new VM instance, and return its handle.

    The record's members are the constructor's; others are ignored. Nothing is checked but types: memory, VCPUs and
    devices are checked at start.
    """

    args: Annotated[VmConfig, record_of("VM")]


def decide_create(pool: Pool, request: Create, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.2; the same wish again makes nothing new."""
    if created_vm(context) in pool.vms:
        return []
    config = request.args
    other_config = config.other_config
    if "mac_seed" not in other_config:
        other_config = {**other_config, "mac_seed": derive(context.command_id, "mac_seed")}
    # Supplied blocked_operations are ignored, and a running wish is only born by a start.
    config = changed(
        config, other_config=other_config, blocked_operations=EMPTY_MAP, ha_always_run=False
    )
    return [
        ev.VmCreated(
            vm=created_vm(context),
            uuid=derive(context.command_id, "VM"),
            config=config,
            metrics=derive_ref(context.command_id, "VM_metrics"),
            metrics_uuid=derive(context.command_id, "VM_metrics"),
        )
    ]


def created_vm(context: Context) -> VmRef:
    """Give the reference of the VM that this command makes."""
    return VmRef(derive_ref(context.command_id, "VM"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Destroy:
    """Destroy the specified VM. The VM is completely removed from the system; only when Halted or Suspended."""

    self: VmRef


def decide_destroy(pool: Pool, request: Destroy, _context: Context) -> list[ev.Event]:
    """XenAPI reference 1.2: its disks stay."""
    vm = vm_of(pool, request.self)
    if error := operation_error(vm, VmOperation.DESTROY):
        raise error
    return [ev.VmDestroyed(vm=vm.ref)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetIsATemplate:
    """Set the is_a_template field; a VM can be made into a template only when Halted."""

    self: VmRef
    value: bool


def decide_set_is_a_template(
    pool: Pool, request: SetIsATemplate, _context: Context
) -> list[ev.Event]:
    """XenAPI reference 1.2: to true is an operation, to false is not checked."""
    vm = vm_of(pool, request.self)
    if request.value == vm.config.is_a_template:
        return []
    if request.value and (error := operation_error(vm, VmOperation.MAKE_INTO_TEMPLATE)):
        raise error
    return [_set(vm.ref, "is_a_template", request.value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVcpusMax:
    """Set the maximum number of VCPUs; only when Halted."""

    self: VmRef
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVcpusAtStartup:
    """Set the number of VCPUs at startup; takes effect at the next start."""

    self: VmRef
    value: int


VCPU_RULE: Final = "VCPU values must satisfy: 0 < VCPUs_at_startup ≤ VCPUs_max"


def decide_set_vcpus_max(pool: Pool, request: SetVcpusMax, _context: Context) -> list[ev.Event]:
    """XenAPI reference 3."""
    vm = vm_of(pool, request.self)
    if error := operation_error(vm, VmOperation.CHANGING_VCPUS):
        raise error
    if request.value < 1 or request.value < vm.config.VCPUs_at_startup:
        raise InvalidValue(VCPU_RULE, request.value)
    return [_set(vm.ref, "VCPUs_max", request.value)]


def decide_set_vcpus_at_startup(
    pool: Pool, request: SetVcpusAtStartup, _context: Context
) -> list[ev.Event]:
    """XenAPI reference 3."""
    vm = vm_of(pool, request.self)
    if not 1 <= request.value <= vm.config.VCPUs_max:
        raise InvalidValue(VCPU_RULE, request.value)
    return [_set(vm.ref, "VCPUs_at_startup", request.value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetActionsAfterCrash:
    """Set the actions_after_crash parameter."""

    self: VmRef
    value: OnCrashBehaviour


def decide_set_actions_after_crash(
    pool: Pool, request: SetActionsAfterCrash, _context: Context
) -> list[ev.Event]:
    """XenAPI reference 3."""
    return [_set(vm_of(pool, request.self).ref, "actions_after_crash", request.value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateAllowedOperations:
    """Recomputes the list of acceptable operations. They are always computed here, so this only checks the VM."""

    self: VmRef


def decide_update_allowed_operations(
    pool: Pool, request: UpdateAllowedOperations, _context: Context
) -> list[ev.Event]:
    """XenAPI reference 1.1."""
    vm_of(pool, request.self)
    return []


def _set(vm: VmRef, field: str, value: Any) -> ev.FieldSet:
    return ev.FieldSet(object_class="VM", ref=vm, field=field, value=value)


CONSTRUCTOR_MEMBERS: Final = VmConfig.__struct_fields__

MESSAGES: Final[tuple[Message, ...]] = (
    command(
        Create,
        decide_create,
        name="create",
        role=Role.VM_ADMIN,
        returns=ref_to("VM"),
        result=lambda _request, context: created_vm(context),
    ),
    command(
        Destroy,
        decide_destroy,
        name="destroy",
        role=Role.VM_ADMIN,
        waits=True,
        operation=VmOperation.DESTROY,
        errors=("VM_BAD_POWER_STATE", "OTHER_OPERATION_IN_PROGRESS", "VM_IS_TEMPLATE"),
    ),
    command(
        SetIsATemplate,
        decide_set_is_a_template,
        name="set_is_a_template",
        role=Role.VM_ADMIN,
        waits=True,
        operation=VmOperation.MAKE_INTO_TEMPLATE,
        has_async=False,
        errors=("VM_BAD_POWER_STATE",),
    ),
    command(
        SetVcpusMax,
        decide_set_vcpus_max,
        name="set_VCPUs_max",
        role=Role.VM_ADMIN,
        waits=True,
        errors=("VM_BAD_POWER_STATE", "INVALID_VALUE"),
    ),
    command(
        SetVcpusAtStartup,
        decide_set_vcpus_at_startup,
        name="set_VCPUs_at_startup",
        role=Role.VM_ADMIN,
        errors=("INVALID_VALUE",),
    ),
    command(
        SetActionsAfterCrash,
        decide_set_actions_after_crash,
        name="set_actions_after_crash",
        role=Role.VM_ADMIN,
    ),
    command(
        UpdateAllowedOperations,
        decide_update_allowed_operations,
        name="update_allowed_operations",
        role=Role.POOL_ADMIN,
    ),
)
