"""VM.pool_migrate."""

from dataclasses import dataclass, field
from typing import Final

from pool_master.core import events as ev
from pool_master.core.allowed import operation_error
from pool_master.core.changed import changed
from pool_master.core.context import Context
from pool_master.core.datamodel import Message, operation
from pool_master.core.ha_guard import preserving_plan
from pool_master.core.lookup import host_of, vm_of
from pool_master.core.placement import boot_error
from pool_master.core.pool import Pool
from pool_master.core.vm_lifecycle import accept
from shared.enums import Role, VmOperation
from shared.errors import OperationNotAllowed, VmIncompatibleWithThisHost
from shared.refs import HostRef, VmRef

# Steps of the operation: the source moves the guest, then the destination says whether it has it.
STEP_MOVE: Final = 0
STEP_SETTLE: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMigrate:
    """Migrate a VM to another host. Only when Running.

    Options: force ("true" skips the CPU check and the platform's nomigrate), live (always so), compress.
    """

    vm: VmRef
    host: HostRef
    options: dict[str, str] = field(default_factory=dict)


def decide_pool_migrate(pool: Pool, request: PoolMigrate, context: Context) -> list[ev.Event]:
    """XenAPI reference 6.6: memory is reserved on both hosts until the end."""
    vm = vm_of(pool, request.vm)
    destination = host_of(pool, request.host)
    is_forced = request.options.get("force", "").lower() in {"true", "1"}
    stranded = pool.is_stranded(vm)
    if error := operation_error(
        vm, VmOperation.POOL_MIGRATE, is_stranded=stranded, is_forced=is_forced
    ):
        raise error
    if vm.resident_on == destination.ref:
        raise OperationNotAllowed("the VM is already resident on that host")
    if error := boot_error(pool, vm, destination.ref):
        raise error
    if pool.has_stale_domain(destination.ref, vm):
        raise OperationNotAllowed("that host has yet to drop an older copy of the VM")
    source = pool.hosts[vm.resident_on]
    if not is_forced and source.cpu_info.get("vendor") != destination.cpu_info.get("vendor"):
        raise VmIncompatibleWithThisHost(vm.ref, destination.ref, "CPUs of different vendors")
    # As it will be in the end: for a while it counts on both hosts, which the plan need not bear.
    preserving_plan(pool, [ev.VmMigrated(vm=vm.ref, host=destination.ref, domid=0)], context)
    accepted = accept(
        vm, VmOperation.POOL_MIGRATE, context, host=source.ref, incarnation=vm.incarnation
    )
    # Options are the client's words: they must not meet the names of our own parameters.
    return [changed(accepted, destination=destination.ref, arguments=dict(request.options))]


MESSAGES: Final[tuple[Message, ...]] = (
    operation(
        PoolMigrate,
        decide_pool_migrate,
        name="pool_migrate",
        operation=VmOperation.POOL_MIGRATE,
        role=Role.VM_POWER_ADMIN,
        errors=(
            "VM_BAD_POWER_STATE",
            "OTHER_OPERATION_IN_PROGRESS",
            "VM_IS_TEMPLATE",
            "VM_IS_IMMOBILE",
            "OPERATION_NOT_ALLOWED",
            "HOST_NOT_ENOUGH_FREE_MEMORY",
            "HOST_NOT_LIVE",
            "HOST_DISABLED",
            "HOST_OFFLINE",
            "VM_INCOMPATIBLE_WITH_THIS_HOST",
            "VM_MIGRATE_FAILED",
            "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN",
        ),
    ),
)
