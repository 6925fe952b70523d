"""VM.power_state_reset: Halted in the log, once it is sure that the guest is dead."""

from dataclasses import dataclass
from typing import Final

from pool_master.core import events as ev
from pool_master.core.allowed import operation_error
from pool_master.core.context import Context
from pool_master.core.datamodel import Message, command
from pool_master.core.lookup import vm_of
from pool_master.core.pool import Pool
from pool_master.core.vm import Vm
from shared.enums import PowerState, Role, VmOperation
from shared.errors import CannotResetControlDomain, HostIsLive, HostOffline
from shared.refs import NULL_HOST, VmRef


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerStateReset:
    """Reset the power-state of the VM to halted in the database only.

    Made safe here: refused with HOST_IS_LIVE until it is proven that the host runs no guest of ours any more.
    """

    vm: VmRef


def decide_power_state_reset(
    pool: Pool, request: PowerStateReset, _context: Context
) -> list[ev.Event]:
    """XenAPI reference 6.1, with the proof that it leaves to the operator: no proof, no reset."""
    vm = vm_of(pool, request.vm)
    if vm.is_control_domain:
        raise CannotResetControlDomain(vm.ref)
    if error := operation_error(vm, VmOperation.POWER_STATE_RESET):
        raise error
    return reset(pool, vm)


def reset(pool: Pool, vm: Vm) -> list[ev.Event]:
    """Give the events of a VM that is Halted on the proof that every host where it could run is lost.

    Raises:
        HostIsLive: one of them is not.
    """
    running = pool.operations_of(vm)
    homes = dict.fromkeys((vm.resident_on, vm.scheduled_to_be_resident_on))
    # A host that carries out an operation may have a domain of it before the log knows.
    homes |= dict.fromkeys(
        host for operation in running for host in (operation.host, operation.destination)
    )
    homes.pop(NULL_HOST, None)
    for host in homes:
        if pool.is_live(host):
            raise HostIsLive(host)
    ends: list[ev.Event] = [
        ev.TaskFailed(
            task=operation.task, error_info=(HostOffline.code, operation.host, "power_state_reset")
        )
        for operation in running
    ]
    if vm.power_state is PowerState.HALTED and not ends:
        return []
    evidence = "; ".join(f"host {pool.hosts[host].uuid} was declared lost" for host in homes)
    return [*ends, ev.VmReset(vm=vm.ref, evidence=evidence or "the VM has no host")]


MESSAGES: Final[tuple[Message, ...]] = (
    command(
        PowerStateReset,
        decide_power_state_reset,
        name="power_state_reset",
        operation=VmOperation.POWER_STATE_RESET,
        role=Role.POOL_OPERATOR,
        errors=("HOST_IS_LIVE", "CANNOT_RESET_CONTROL_DOMAIN"),
    ),
)
