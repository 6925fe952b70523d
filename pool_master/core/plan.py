"""What hosts must still be told: the outbox, derived from state, so that a crash loses no command.

Rules: pure; the same state always plans the same commands under the same ids, whoever leads; a command leaves no choices
to the host. Telling a host twice is harmless: it knows the id (invariant 6).
"""

from collections.abc import Iterable
from typing import Final

from pool_master.core.device_operations import plan_device
from pool_master.core.host_reports import command_id_of, stale_command_id
from pool_master.core.live_changes import live_action
from pool_master.core.placement import boot_memory
from pool_master.core.pool import Pool, StaleDomain
from pool_master.core.storage_plan import disk_configs, plan_storage
from pool_master.core.task import Operation
from pool_master.core.vifs import nics_on
from pool_master.core.vm import BOOT_ORDER_DEFAULT, Vm
from pool_master.core.vm_migration import STEP_MOVE
from pool_master.core.vm_suspend import suspend_action
from pool_master.core.waiting import is_waiting
from shared.enums import VmOperation
from shared.protocol import (
    CancelCommand,
    DestroyDomain,
    DiscardImage,
    DomainConfig,
    ForgetDomain,
    HostAction,
    HostCommand,
    MigrateDomain,
    PauseDomain,
    RestartDomain,
    SettleMigration,
    ShutdownDomain,
    StartDomain,
    UnpauseDomain,
)
from shared.refs import HostRef, TaskRef

# XenAPI reference 1.3: domain_shutdown_total_timeout.
SHUTDOWN_TIMEOUT_S: Final = 1200.0


def plan(pool: Pool, tasks: Iterable[TaskRef]) -> list[tuple[HostRef, HostCommand]]:
    """Give the commands that the operations of these tasks need now, each with the host that must be told."""
    planned: list[tuple[HostRef, HostCommand]] = []
    for task in tasks:
        planned += plan_device(pool, task)
        on_storage = pool.storage_operations.get(task)
        if on_storage is not None and on_storage.host in pool.hosts:
            planned += plan_storage(pool, on_storage)
            continue
        operation = pool.operations.get(task)
        vm = None if operation is None else pool.vms.get(operation.vm)
        if operation is None or vm is None or operation.host not in pool.hosts:
            continue
        if is_waiting(pool, operation, vm):
            continue
        planned.append((operation.host, command_for(pool, operation, vm)))
        if operation.is_cancelling and not _is_past_cancel(operation):
            planned.append((operation.host, _cancel(pool, operation, vm)))
    return planned


def _is_past_cancel(operation: Operation) -> bool:
    """Whether giving up would leave nobody knowing where the guest is: a migration that its source has answered for."""
    return operation.kind is VmOperation.POOL_MIGRATE and operation.step != STEP_MOVE


def plan_all(pool: Pool) -> list[tuple[HostRef, HostCommand]]:
    """Give every command that is still owed to live hosts: what a new leader, or a returned host, begins with."""
    in_flight = (*pool.operations, *pool.storage_operations, *pool.device_operations)
    operations = plan(pool, in_flight)
    return [owed for owed in [*operations, *plan_stale(pool)] if pool.is_live(owed[0])]


def plan_stale(pool: Pool) -> list[tuple[HostRef, HostCommand]]:
    """Give the commands that drop stale domains, each named by VM and incarnation."""
    return [
        (stale.host, _forget(pool, stale))
        for stale in pool.stale_domains.values()
        if not _is_being_settled(pool, stale)
    ]


def _is_being_settled(pool: Pool, stale: StaleDomain) -> bool:
    """Whether an operation still moves this incarnation: what its source has left is dropped after its end."""
    vm = pool.vm_of_uuid(stale.vm_uuid)
    operations = [] if vm is None else pool.operations_of(vm)
    return any(each.incarnation == stale.incarnation for each in operations)


def command_for(pool: Pool, operation: Operation, vm: Vm) -> HostCommand:
    """Give the command for the operation's present step."""
    return HostCommand(
        command_id=command_id_of(operation),
        task=operation.task,
        term=pool.term,
        vm_uuid=vm.uuid,
        incarnation=operation.incarnation,
        host_epoch=pool.hosts[operation.host].lost_count,
        action=_action(pool, operation, vm),
    )


def _action(pool: Pool, operation: Operation, vm: Vm) -> HostAction:  # noqa: PLR0911 - one return a case
    match operation.kind:
        case VmOperation.START | VmOperation.START_ON:
            is_paused = operation.arguments.get("start_paused") == "true"
            return StartDomain(config=domain_config(pool, vm, operation), start_paused=is_paused)
        case VmOperation.PAUSE:
            return PauseDomain()
        case VmOperation.UNPAUSE:
            return UnpauseDomain()
        case VmOperation.CLEAN_SHUTDOWN:
            return ShutdownDomain(timeout_s=SHUTDOWN_TIMEOUT_S)
        case VmOperation.SUSPEND | VmOperation.RESUME | VmOperation.RESUME_ON:
            return suspend_action(operation, vm)
        case VmOperation.HARD_SHUTDOWN | VmOperation.SHUTDOWN if vm.suspend_image:
            return DiscardImage(image=vm.suspend_image)
        case VmOperation.HARD_SHUTDOWN:
            return DestroyDomain()
        case VmOperation.CLEAN_REBOOT | VmOperation.HARD_REBOOT:
            return RestartDomain(
                config=domain_config(pool, vm, operation),
                clean=operation.kind is VmOperation.CLEAN_REBOOT,
                timeout_s=SHUTDOWN_TIMEOUT_S,
            )
        case VmOperation.POOL_MIGRATE:
            return _migration(pool, operation)
        case VmOperation.SHUTDOWN:
            is_asked = operation.step == 0 and operation.arguments["asks"] == "true"
            return ShutdownDomain(timeout_s=SHUTDOWN_TIMEOUT_S) if is_asked else DestroyDomain()
        case _:
            return live_action(operation)


def _migration(pool: Pool, operation: Operation) -> HostAction:
    if operation.step != STEP_MOVE:
        return SettleMigration()
    destination = pool.hosts[operation.destination]
    return MigrateDomain(
        destination_host=destination.uuid,
        destination_uri=destination.migrate_uri,
        migrate_uri=destination.address,
        options=operation.arguments,
    )


def _cancel(pool: Pool, operation: Operation, vm: Vm) -> HostCommand:
    return HostCommand(
        command_id=f"{command_id_of(operation)}/cancel",
        task=operation.task,
        term=pool.term,
        vm_uuid=vm.uuid,
        incarnation=operation.incarnation,
        host_epoch=pool.hosts[operation.host].lost_count,
        action=CancelCommand(cancelled_command_id=command_id_of(operation)),
    )


def _forget(pool: Pool, stale: StaleDomain) -> HostCommand:
    return HostCommand(
        command_id=stale_command_id(stale),
        task="",
        term=pool.term,
        vm_uuid=stale.vm_uuid,
        incarnation=stale.incarnation,
        host_epoch=pool.hosts[stale.host].lost_count,
        action=ForgetDomain(),
    )


def domain_config(pool: Pool, vm: Vm, operation: Operation) -> DomainConfig:
    """Give all that a host needs to build the VM's domain; dynamic memory clamped as start does."""
    config = vm.config
    return DomainConfig(
        vm_uuid=vm.uuid,
        name_label=config.name_label,
        incarnation=operation.incarnation,
        memory_static_max=config.memory_static_max,
        memory_target=boot_memory(vm, config.memory_dynamic_max),
        vcpus_max=config.VCPUs_max,
        vcpus_at_startup=config.VCPUs_at_startup,
        vcpus_params=config.VCPUs_params,
        kernel=config.PV_kernel,
        ramdisk=config.PV_ramdisk,
        kernel_args=config.PV_args,
        boot_order=config.HVM_boot_params.get("order", BOOT_ORDER_DEFAULT),
        actions_after_shutdown=config.actions_after_shutdown,
        actions_after_reboot=config.actions_after_reboot,
        actions_after_crash=config.actions_after_crash,
        platform=config.platform,
        nics=nics_on(pool, vm, operation.host),
        disks=disk_configs(pool, vm.ref, operation.host),
    )
