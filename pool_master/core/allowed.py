"""What may be done to a VM now: ONE predicate that both refuses and advertises.

Rules: everything that asks whether an operation is allowed asks `operation_error`; the tables are XenAPI's (reference
1.0.1, 2.1 and 2.3), kept whole so that a message added later finds its row here; an operation without a message is
never advertised.
"""

from typing import Final

from pool_master.core.vm import Vm
from shared.enums import PowerState, VmOperation
from shared.errors import (
    HostOffline,
    OperationBlocked,
    OperationNotAllowed,
    OtherOperationInProgress,
    ProvisionOnlyAllowedOnTemplate,
    RevertOnlyAllowedOnSnapshot,
    VmBadPowerState,
    VmIsImmobile,
    VmIsSnapshot,
    VmIsTemplate,
    XenApiError,
)

_H, _P, _R, _S = PowerState.HALTED, PowerState.PAUSED, PowerState.RUNNING, PowerState.SUSPENDED
_ALL: Final = (_H, _P, _R, _S)
_Op = VmOperation

# The order of states is that of the error's text.
ALLOWED_POWER_STATES: Final[dict[VmOperation, tuple[PowerState, ...]]] = {
    _Op.START: (_H,),
    _Op.START_ON: (_H,),
    _Op.PAUSE: (_R,),
    _Op.UNPAUSE: (_P,),
    _Op.CLEAN_SHUTDOWN: (_R,),
    _Op.CLEAN_REBOOT: (_R,),
    _Op.HARD_SHUTDOWN: (_P, _R, _S),
    _Op.HARD_REBOOT: (_P, _R),
    _Op.SHUTDOWN: (_P, _R, _S),
    _Op.SUSPEND: (_R,),
    _Op.RESUME: (_S,),
    _Op.RESUME_ON: (_S,),
    _Op.POOL_MIGRATE: (_R,),
    _Op.MIGRATE_SEND: (_H, _R, _S),
    _Op.CLONE: (_H,),
    _Op.COPY: (_H,),
    _Op.PROVISION: (_H,),
    _Op.DESTROY: (_H, _S),
    _Op.EXPORT: (_H, _S),
    _Op.METADATA_EXPORT: _ALL,
    _Op.MAKE_INTO_TEMPLATE: (_H,),
    _Op.CHANGING_DYNAMIC_RANGE: (_H, _R),
    _Op.CHANGING_STATIC_RANGE: (_H,),
    _Op.CHANGING_MEMORY_LIMITS: (_H,),
    _Op.CHANGING_VCPUS: (_H,),
    _Op.CHANGING_VCPUS_LIVE: (_R,),
    _Op.CHANGING_MEMORY_LIVE: (_R,),
    _Op.AWAITING_MEMORY_LIVE: (_R,),
    _Op.CHANGING_SHADOW_MEMORY: (_H,),
    _Op.CHANGING_SHADOW_MEMORY_LIVE: (_R,),
    _Op.CHANGING_NVRAM: (_H,),
    _Op.CREATE_VTPM: (_H,),
    _Op.SNAPSHOT: _ALL,
    _Op.CHECKPOINT: (_P, _R, _S),
    _Op.SNAPSHOT_WITH_QUIESCE: (_R,),
    _Op.REVERT: _ALL,
    _Op.REVERTING: _ALL,
    _Op.GET_BOOT_RECORD: (_P, _R, _S),
    _Op.SEND_SYSRQ: (_R,),
    _Op.SEND_TRIGGER: (_R,),
    _Op.CSVM: (_S,),
    _Op.CREATE_TEMPLATE: (_H, _S),
    _Op.CALL_PLUGIN: (_R,),
    _Op.DATA_SOURCE_OP: (_R,),
    _Op.QUERY_SERVICES: _ALL,
    _Op.POWER_STATE_RESET: _ALL,
    _Op.ASSERT_OPERATION_VALID: _ALL,
    _Op.UPDATE_ALLOWED_OPERATIONS: _ALL,
    _Op.IMPORT: (),
}

# In the order in which allowed_operations lists them (XenAPI reference 2.1, column "adv").
ADVERTISED: Final = (
    _Op.CHANGING_DYNAMIC_RANGE,
    _Op.CHANGING_NVRAM,
    _Op.CHANGING_SHADOW_MEMORY,
    _Op.CHANGING_STATIC_RANGE,
    _Op.CHANGING_VCPUS_LIVE,
    _Op.CHECKPOINT,
    _Op.CLEAN_REBOOT,
    _Op.CLEAN_SHUTDOWN,
    _Op.CLONE,
    _Op.COPY,
    _Op.CREATE_VTPM,
    _Op.DESTROY,
    _Op.EXPORT,
    _Op.HARD_REBOOT,
    _Op.HARD_SHUTDOWN,
    _Op.MAKE_INTO_TEMPLATE,
    _Op.METADATA_EXPORT,
    _Op.MIGRATE_SEND,
    _Op.PAUSE,
    _Op.POOL_MIGRATE,
    _Op.PROVISION,
    _Op.RESUME,
    _Op.RESUME_ON,
    _Op.REVERT,
    _Op.SNAPSHOT,
    _Op.START,
    _Op.START_ON,
    _Op.SUSPEND,
    _Op.UNPAUSE,
)

# Operations that have a message in this version: what is advertised can be called. Held against the message table by
# a test.
IMPLEMENTED: Final = (
    _Op.CHANGING_DYNAMIC_RANGE,
    _Op.CHANGING_MEMORY_LIMITS,
    _Op.CHANGING_MEMORY_LIVE,
    _Op.CHANGING_STATIC_RANGE,
    _Op.CHANGING_VCPUS_LIVE,
    _Op.CLEAN_REBOOT,
    _Op.CLEAN_SHUTDOWN,
    _Op.CLONE,
    _Op.COPY,
    _Op.DESTROY,
    _Op.HARD_REBOOT,
    _Op.HARD_SHUTDOWN,
    _Op.MAKE_INTO_TEMPLATE,
    _Op.PAUSE,
    _Op.POOL_MIGRATE,
    _Op.RESUME,
    _Op.RESUME_ON,
    _Op.SEND_SYSRQ,
    _Op.SEND_TRIGGER,
    _Op.SHUTDOWN,
    _Op.PROVISION,
    _Op.START,
    _Op.START_ON,
    _Op.SUSPEND,
    _Op.UNPAUSE,
)

ALLOWED_ON_TEMPLATE: Final = (
    _Op.CHANGING_NVRAM,
    _Op.CHANGING_DYNAMIC_RANGE,
    _Op.CHANGING_SHADOW_MEMORY,
    _Op.CHANGING_STATIC_RANGE,
    _Op.CHANGING_MEMORY_LIMITS,
    _Op.CHANGING_VCPUS,
    _Op.CLONE,
    _Op.COPY,
    _Op.DESTROY,
    _Op.EXPORT,
    _Op.METADATA_EXPORT,
    _Op.MIGRATE_SEND,
    _Op.PROVISION,
    _Op.POWER_STATE_RESET,
    _Op.ASSERT_OPERATION_VALID,
    _Op.UPDATE_ALLOWED_OPERATIONS,
)

ALLOWED_ON_SNAPSHOT: Final = (
    _Op.CLONE,
    _Op.COPY,
    _Op.DESTROY,
    _Op.EXPORT,
    _Op.METADATA_EXPORT,
    _Op.REVERT,
    _Op.HARD_SHUTDOWN,
    _Op.CREATE_TEMPLATE,
    _Op.POWER_STATE_RESET,
    _Op.ASSERT_OPERATION_VALID,
    _Op.UPDATE_ALLOWED_OPERATIONS,
)

_COPYING: Final = (_Op.CLONE, _Op.COPY, _Op.EXPORT)
_SNAPPING: Final = (_Op.SNAPSHOT, _Op.CHECKPOINT)
_BESIDE_MIGRATE_SEND: Final = (_Op.METADATA_EXPORT, _Op.CLEAN_SHUTDOWN, _Op.CLEAN_REBOOT)
_MOVING: Final = (_Op.SUSPEND, _Op.CHECKPOINT, _Op.POOL_MIGRATE, _Op.MIGRATE_SEND)
# Carried out by the host that runs the domain: nobody can where that host is lost.
ON_ITS_HOST: Final = (
    _Op.PAUSE,
    _Op.UNPAUSE,
    _Op.CLEAN_SHUTDOWN,
    _Op.CLEAN_REBOOT,
    _Op.HARD_SHUTDOWN,
    _Op.HARD_REBOOT,
    _Op.SHUTDOWN,
    _Op.SUSPEND,
    _Op.POOL_MIGRATE,
    _Op.CHANGING_VCPUS_LIVE,
    _Op.CHANGING_MEMORY_LIVE,
    _Op.CHANGING_DYNAMIC_RANGE,
    _Op.SEND_SYSRQ,
    _Op.SEND_TRIGGER,
)
# Until these end nobody knows whether the VM has a domain or an image; they cannot be cancelled (XenAPI reference 4.5), so
# that even a hard operation waits for its turn.
_WHEREABOUTS_UNKNOWN: Final = (_Op.SUSPEND, _Op.RESUME, _Op.RESUME_ON)
# Never stopped by another operation: they exist for when everything else is stuck.
_ALWAYS: Final = (_Op.POWER_STATE_RESET, _Op.ASSERT_OPERATION_VALID, _Op.UPDATE_ALLOWED_OPERATIONS)


def operation_error(
    vm: Vm, operation: VmOperation, *, is_stranded: bool = False, is_forced: bool = False
) -> XenApiError | None:
    """Say why `operation` may not be done to `vm` now; None where it may (order: XenAPI reference 1.0.1).

    `is_stranded`: the host on which the VM resides is lost (Pool.is_stranded).
    """
    if operation in vm.config.blocked_operations:
        return OperationBlocked(vm.ref, vm.config.blocked_operations[operation])
    expected = ALLOWED_POWER_STATES[operation]
    if vm.power_state not in expected:
        return VmBadPowerState(vm.ref, expected=expected, actual=vm.power_state)
    if vm.current_operations and not _is_allowed_beside(operation, vm):
        return OtherOperationInProgress(
            "VM",
            vm.ref,
            operations=vm.current_operations.values(),
            tasks=vm.current_operations.keys(),
        )
    if error := _kind_error(vm, operation) or _mobility_error(vm, operation, is_forced=is_forced):
        return error
    return HostOffline(vm.resident_on) if is_stranded and operation in ON_ITS_HOST else None


def _is_allowed_beside(operation: VmOperation, vm: Vm) -> bool:
    """XenAPI reference 2.3."""
    running = tuple(vm.current_operations.values())
    if operation in _ALWAYS:
        return True
    for family in (_COPYING, _SNAPPING, (_Op.GET_BOOT_RECORD,)):
        if operation in family and all(other in family for other in running):
            return True
    if any(other in _WHEREABOUTS_UNKNOWN for other in running):
        return False
    if operation is _Op.HARD_SHUTDOWN:
        return _Op.HARD_SHUTDOWN not in running
    if operation is _Op.HARD_REBOOT:
        return _Op.HARD_SHUTDOWN not in running and _Op.HARD_REBOOT not in running
    return running == (_Op.MIGRATE_SEND,) and operation in _BESIDE_MIGRATE_SEND


def _kind_error(vm: Vm, operation: VmOperation) -> XenApiError | None:
    if vm.config.is_a_template and not vm.is_a_snapshot:
        is_default_destroy = operation is _Op.DESTROY and vm.is_default_template
        if operation not in ALLOWED_ON_TEMPLATE or is_default_destroy:
            return VmIsTemplate(vm.ref, operation)
    elif operation is _Op.PROVISION:
        return ProvisionOnlyAllowedOnTemplate()
    if vm.is_a_snapshot and operation not in ALLOWED_ON_SNAPSHOT:
        return VmIsSnapshot(vm.ref, operation)
    if operation is _Op.REVERT and not vm.is_a_snapshot:
        return RevertOnlyAllowedOnSnapshot()
    if vm.is_control_domain:
        return OperationNotAllowed(f"{operation} on a control domain")
    return None


def _mobility_error(vm: Vm, operation: VmOperation, *, is_forced: bool) -> XenApiError | None:
    if operation not in _MOVING or is_forced:
        return None
    if _mobility_keys(vm):
        return VmIsImmobile(vm.ref)
    return None


def _mobility_keys(vm: Vm) -> bool:
    platform = vm.config.platform
    return any(
        platform.get(key, "").lower() in {"true", "1"} for key in ("nomigrate", "nested-virt")
    )


def allowed_operations(vm: Vm, *, is_stranded: bool = False) -> tuple[VmOperation, ...]:
    """Give what may be done to `vm` now, in XenAPI's order.

    Most VMs at rest are alike to the predicate: their answer is remembered by all that it depends on.
    """
    config = vm.config
    if vm.current_operations or config.blocked_operations or _mobility_keys(vm):
        return _ask_each(vm, is_stranded=is_stranded)
    key = (
        vm.power_state,
        config.is_a_template,
        vm.is_default_template,
        vm.is_a_snapshot,
        vm.is_control_domain,
        is_stranded,
    )
    known = _AT_REST.get(key)
    if known is None:
        known = _AT_REST[key] = _ask_each(vm, is_stranded=is_stranded)
    return known


_AT_REST: dict[tuple[object, ...], tuple[VmOperation, ...]] = {}


def _ask_each(vm: Vm, *, is_stranded: bool) -> tuple[VmOperation, ...]:
    return tuple(
        operation
        for operation in ADVERTISED
        if operation in IMPLEMENTED
        and operation_error(vm, operation, is_stranded=is_stranded) is None
    )
