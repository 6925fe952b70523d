"""Messages of the VM class that only ask."""

from dataclasses import dataclass
from typing import Any, Final

from pool_master.core.allowed import operation_error
from pool_master.core.changed import changed
from pool_master.core.datamodel import (
    INT,
    ClassModel,
    Field,
    Message,
    query,
    record_of,
    ref_to,
    set_of,
)
from pool_master.core.lookup import host_of, vm_of
from pool_master.core.marshal import record_builder
from pool_master.core.placement import boot_error, config_error, memory_overhead, possible_hosts
from pool_master.core.pool import Pool
from shared.enums import Role, VmOperation
from shared.refs import HostRef, VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertOperationValid:
    """Check to see whether this operation is acceptable in the current state of the system; error if not."""

    self: VmRef
    op: VmOperation


def answer_assert_operation_valid(pool: Pool, request: AssertOperationValid) -> None:
    """XenAPI reference 1.1: exactly the error that the operation would give."""
    vm = vm_of(pool, request.self)
    if error := operation_error(vm, request.op, is_stranded=pool.is_stranded(vm)):
        raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class GetPossibleHosts:
    """Return the list of hosts on which this VM may run."""

    vm: VmRef


def answer_get_possible_hosts(pool: Pool, request: GetPossibleHosts) -> list[HostRef]:
    """XenAPI reference 1.1."""
    return possible_hosts(pool, vm_of(pool, request.vm))


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertCanBootHere:
    """Returns an error if the VM could not boot on this host for some reason."""

    self: VmRef
    host: HostRef


def answer_assert_can_boot_here(pool: Pool, request: AssertCanBootHere) -> None:
    """XenAPI reference 1.6."""
    vm, host = vm_of(pool, request.self), host_of(pool, request.host)
    if error := config_error(vm) or boot_error(pool, vm, host.ref):
        raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeMemoryOverhead:
    """Computes the virtualization memory overhead of a VM."""

    vm: VmRef


def answer_compute_memory_overhead(pool: Pool, request: ComputeMemoryOverhead) -> int:
    """Bytes."""
    return memory_overhead(vm_of(pool, request.vm))


@dataclass(frozen=True, slots=True, kw_only=True)
class GetBootRecord:
    """Returns a record describing the VM's state when it last booted."""

    self: VmRef


def boot_record_message(fields: tuple[Field, ...]) -> Message:
    """Give VM.get_boot_record: the record of today, with the settings that the VM was booted with."""
    build = record_builder(ClassModel(name="VM", doc="", table="vms", fields=fields))

    def answer(pool: Pool, request: GetBootRecord) -> dict[str, Any]:
        vm = vm_of(pool, request.self)
        if error := operation_error(vm, VmOperation.GET_BOOT_RECORD):
            raise error
        return build(pool, changed(vm, config=vm.booted_config or vm.config))

    return query(
        GetBootRecord,
        answer,
        name="get_boot_record",
        operation=VmOperation.GET_BOOT_RECORD,
        returns=record_of("VM"),
        errors=("VM_BAD_POWER_STATE",),
    )


MESSAGES: Final[tuple[Message, ...]] = (
    query(
        AssertOperationValid,
        answer_assert_operation_valid,
        name="assert_operation_valid",
        operation=VmOperation.ASSERT_OPERATION_VALID,
        has_async=True,
    ),
    query(
        GetPossibleHosts,
        answer_get_possible_hosts,
        name="get_possible_hosts",
        returns=set_of(ref_to("host")),
        has_async=True,
    ),
    query(
        AssertCanBootHere,
        answer_assert_can_boot_here,
        name="assert_can_boot_here",
        has_async=True,
        role=Role.READ_ONLY,
        errors=(
            "HOST_NOT_ENOUGH_FREE_MEMORY",
            "HOST_NOT_ENOUGH_PCPUS",
            "HOST_NOT_LIVE",
            "HOST_DISABLED",
            "INVALID_VALUE",
            "MEMORY_CONSTRAINT_VIOLATION",
            "VALUE_NOT_SUPPORTED",
        ),
    ),
    query(
        ComputeMemoryOverhead,
        answer_compute_memory_overhead,
        name="compute_memory_overhead",
        returns=INT,
    ),
)
