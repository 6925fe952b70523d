"""The memory of a VM: its static bounds, which count at boot, and its dynamic range, which its balloon keeps to.

Rules: always static_min <= dynamic_min <= dynamic_max <= static_max, whichever of them is changed (XenAPI reference 3). Of
a Halted VM only the settings change; a running guest is asked first, and more memory is promised only where its host has it.
"""

from dataclasses import dataclass
from typing import Any, Final

from pool_master.core import events as ev
from pool_master.core.allowed import operation_error
from pool_master.core.changed import changed
from pool_master.core.context import Context
from pool_master.core.datamodel import Message, command, operation
from pool_master.core.live_changes import MEMORY_BOUNDS, setting
from pool_master.core.lookup import vm_of
from pool_master.core.placement import memory_available, memory_needed
from pool_master.core.pool import Pool
from pool_master.core.vm import Vm, VmConfig
from pool_master.core.vm_lifecycle import STATE_ERRORS, accept, on_its_host
from shared.enums import PowerState, Role, VmOperation
from shared.errors import HostNotEnoughFreeMemory, MemoryConstraintViolationOrder
from shared.refs import VmRef

KIB: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemoryDynamicRange:
    """Set the minimum and maximum amounts of physical memory the VM is allowed to use."""

    self: VmRef
    min: int
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemoryDynamicMax:
    """Set the value of the memory_dynamic_max field, and on the VM, if running."""

    self: VmRef
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemoryDynamicMin:
    """Set the value of the memory_dynamic_min field, and on the VM, if running."""

    self: VmRef
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemoryDynamicMaxLive:
    """Set memory_dynamic_max in database and on running VM."""

    self: VmRef
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemoryDynamicMinLive:
    """Set memory_dynamic_min in database and on running VM."""

    self: VmRef
    min: int


def decide_set_memory_dynamic_range(
    pool: Pool, request: SetMemoryDynamicRange, context: Context
) -> list[ev.Event]:
    """XenAPI reference 1.5."""
    vm = vm_of(pool, request.self)
    return _set_range(pool, vm, context, minimum=request.min, maximum=request.max)


def decide_set_memory_dynamic_max(
    pool: Pool, request: SetMemoryDynamicMax, context: Context
) -> list[ev.Event]:
    """XenAPI reference 1.5: the range with the other bound unchanged."""
    vm = vm_of(pool, request.self)
    minimum = vm.config.memory_dynamic_min
    return _set_range(pool, vm, context, minimum=minimum, maximum=request.value)


def decide_set_memory_dynamic_min(
    pool: Pool, request: SetMemoryDynamicMin, context: Context
) -> list[ev.Event]:
    """XenAPI reference 1.5."""
    vm = vm_of(pool, request.self)
    maximum = vm.config.memory_dynamic_max
    return _set_range(pool, vm, context, minimum=request.value, maximum=maximum)


def decide_set_memory_dynamic_max_live(
    pool: Pool, request: SetMemoryDynamicMaxLive, context: Context
) -> list[ev.Event]:
    """XenAPI reference 1.5."""
    vm = vm_of(pool, request.self)
    minimum, kind = vm.config.memory_dynamic_min, VmOperation.CHANGING_MEMORY_LIVE
    return _change_live(pool, vm, kind, context, minimum=minimum, maximum=request.max)


def decide_set_memory_dynamic_min_live(
    pool: Pool, request: SetMemoryDynamicMinLive, context: Context
) -> list[ev.Event]:
    """XenAPI reference 1.5."""
    vm = vm_of(pool, request.self)
    maximum, kind = vm.config.memory_dynamic_max, VmOperation.CHANGING_MEMORY_LIVE
    return _change_live(pool, vm, kind, context, minimum=request.min, maximum=maximum)


def _set_range(
    pool: Pool, vm: Vm, context: Context, *, minimum: int, maximum: int
) -> list[ev.Event]:
    kind = VmOperation.CHANGING_DYNAMIC_RANGE
    if vm.power_state is not PowerState.HALTED:
        return _change_live(pool, vm, kind, context, minimum=minimum, maximum=maximum)
    values = {"memory_dynamic_min": minimum, "memory_dynamic_max": maximum}
    return _set(vm, kind, values)


def _change_live(
    pool: Pool, vm: Vm, kind: VmOperation, context: Context, *, minimum: int, maximum: int
) -> list[ev.Event]:
    host = on_its_host(pool, vm, kind)
    values = dict(zip(MEMORY_BOUNDS, (minimum, maximum), strict=True))
    config = changed(vm.config, **values)
    _assert_ordered(config)
    needed = memory_needed(changed(vm, config=config))
    available = memory_available(pool, host, without=vm)
    if minimum > vm.config.memory_dynamic_min and needed > available:
        # KiB here, bytes everywhere else (XenAPI reference 1.5).
        raise HostNotEnoughFreeMemory(needed=needed // KIB, available=available // KIB)
    wanted = {bound: str(value) for bound, value in values.items()}
    return [accept(vm, kind, context, host=host, incarnation=vm.incarnation, **wanted)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemoryStaticMax:
    """Set the value of the memory_static_max field; only when Halted."""

    self: VmRef
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemoryStaticMin:
    """Set the value of the memory_static_min field; only when Halted."""

    self: VmRef
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemoryStaticRange:
    """Set the static (boot-time) range of virtual memory that the VM is allowed to use; only when Halted."""

    self: VmRef
    min: int
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemoryLimits:
    """Set the memory limits of this VM; only when Halted."""

    self: VmRef
    static_min: int
    static_max: int
    dynamic_min: int
    dynamic_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemory:
    """Set the memory allocation of this VM: static_max, dynamic_min and dynamic_max to this; only when Halted."""

    self: VmRef
    value: int


def decide_set_memory_static_max(
    pool: Pool, request: SetMemoryStaticMax, _context: Context
) -> list[ev.Event]:
    """XenAPI reference 3."""
    values = {"memory_static_max": request.value}
    return _set(vm_of(pool, request.self), VmOperation.CHANGING_STATIC_RANGE, values)


def decide_set_memory_static_min(
    pool: Pool, request: SetMemoryStaticMin, _context: Context
) -> list[ev.Event]:
    """XenAPI reference 3."""
    values = {"memory_static_min": request.value}
    return _set(vm_of(pool, request.self), VmOperation.CHANGING_STATIC_RANGE, values)


def decide_set_memory_static_range(
    pool: Pool, request: SetMemoryStaticRange, _context: Context
) -> list[ev.Event]:
    """XenAPI reference 3."""
    values = {"memory_static_min": request.min, "memory_static_max": request.max}
    return _set(vm_of(pool, request.self), VmOperation.CHANGING_STATIC_RANGE, values)


def decide_set_memory_limits(
    pool: Pool, request: SetMemoryLimits, _context: Context
) -> list[ev.Event]:
    """XenAPI reference 3."""
    values = {
        "memory_static_min": request.static_min,
        "memory_static_max": request.static_max,
        "memory_dynamic_min": request.dynamic_min,
        "memory_dynamic_max": request.dynamic_max,
    }
    return _set(vm_of(pool, request.self), VmOperation.CHANGING_MEMORY_LIMITS, values)


def decide_set_memory(pool: Pool, request: SetMemory, _context: Context) -> list[ev.Event]:
    """XenAPI reference 3."""
    names = ("memory_static_max", "memory_dynamic_min", "memory_dynamic_max")
    values = dict.fromkeys(names, request.value)
    return _set(vm_of(pool, request.self), VmOperation.CHANGING_MEMORY_LIMITS, values)


def _set(vm: Vm, kind: VmOperation, values: dict[str, int]) -> list[ev.Event]:
    if error := operation_error(vm, kind):
        raise error
    _assert_ordered(changed(vm.config, **values))
    return [setting(vm, name, value) for name, value in values.items()]


def _assert_ordered(config: VmConfig) -> None:
    bounds = (
        0,
        config.memory_static_min,
        config.memory_dynamic_min,
        config.memory_dynamic_max,
        config.memory_static_max,
    )
    if list(bounds) != sorted(bounds):
        raise MemoryConstraintViolationOrder()


_ORDER_ERRORS: Final = (*STATE_ERRORS, "MEMORY_CONSTRAINT_VIOLATION_ORDER")
_LIVE_ROW: Final[dict[str, Any]] = {
    "role": Role.VM_POWER_ADMIN,
    "errors": (*_ORDER_ERRORS, "HOST_NOT_ENOUGH_FREE_MEMORY"),
}
_RANGE_ROW: Final = {**_LIVE_ROW, "operation": VmOperation.CHANGING_DYNAMIC_RANGE}
_BOUND_ROW: Final = {**_LIVE_ROW, "operation": VmOperation.CHANGING_MEMORY_LIVE}
_HALTED_ROW: Final[dict[str, Any]] = {
    "role": Role.VM_POWER_ADMIN,
    "errors": _ORDER_ERRORS,
    "waits": True,
}
_STATIC_ROW: Final = {**_HALTED_ROW, "operation": VmOperation.CHANGING_STATIC_RANGE}
_LIMITS_ROW: Final = {**_HALTED_ROW, "operation": VmOperation.CHANGING_MEMORY_LIMITS}

MESSAGES: Final[tuple[Message, ...]] = (
    operation(
        SetMemoryDynamicRange,
        decide_set_memory_dynamic_range,
        name="set_memory_dynamic_range",
        **_RANGE_ROW,
    ),
    operation(
        SetMemoryDynamicMax,
        decide_set_memory_dynamic_max,
        name="set_memory_dynamic_max",
        **_RANGE_ROW,
    ),
    operation(
        SetMemoryDynamicMin,
        decide_set_memory_dynamic_min,
        name="set_memory_dynamic_min",
        **_RANGE_ROW,
    ),
    operation(
        SetMemoryDynamicMaxLive,
        decide_set_memory_dynamic_max_live,
        name="set_memory_dynamic_max_live",
        **_BOUND_ROW,
    ),
    operation(
        SetMemoryDynamicMinLive,
        decide_set_memory_dynamic_min_live,
        name="set_memory_dynamic_min_live",
        **_BOUND_ROW,
    ),
    command(
        SetMemoryStaticMax,
        decide_set_memory_static_max,
        name="set_memory_static_max",
        **_STATIC_ROW,
    ),
    command(
        SetMemoryStaticMin,
        decide_set_memory_static_min,
        name="set_memory_static_min",
        **_STATIC_ROW,
    ),
    command(
        SetMemoryStaticRange,
        decide_set_memory_static_range,
        name="set_memory_static_range",
        **_STATIC_ROW,
    ),
    command(SetMemoryLimits, decide_set_memory_limits, name="set_memory_limits", **_LIMITS_ROW),
    command(SetMemory, decide_set_memory, name="set_memory", **_LIMITS_ROW),
)
