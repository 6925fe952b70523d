"""Operations that change a guest while it runs: what its host is told, and what is true afterwards.

Rules: what the settings will say is in the operation's arguments, by the names of the fields; the settings say it only
once the host has done it, so that a failure leaves them as they were; memory that the guest is promised is reserved
meanwhile (`promised_memory`).
"""

from typing import Any, Final

from pool_master.core import events as ev
from pool_master.core.task import Operation
from pool_master.core.vm import Vm
from shared.enums import VmOperation, VmTrigger
from shared.protocol import (
    DomainObservation,
    HostAction,
    SendSysrq,
    SendTrigger,
    SetDomainMemory,
    SetDomainScheduler,
    SetDomainVcpus,
)

LIVE_CHANGES: Final = (
    VmOperation.CHANGING_VCPUS_LIVE,
    VmOperation.CHANGING_MEMORY_LIVE,
    VmOperation.CHANGING_DYNAMIC_RANGE,
    VmOperation.SEND_SYSRQ,
    VmOperation.SEND_TRIGGER,
)
MEMORY_BOUNDS: Final = ("memory_dynamic_min", "memory_dynamic_max")
VCPUS: Final = "VCPUs_at_startup"


def live_action(operation: Operation) -> HostAction:
    """Give what the host is told."""
    arguments = operation.arguments
    match operation.kind:
        case VmOperation.CHANGING_VCPUS_LIVE if VCPUS in arguments:
            return SetDomainVcpus(vcpus=int(arguments[VCPUS]))
        case VmOperation.CHANGING_VCPUS_LIVE:
            return SetDomainScheduler(params=arguments)
        case VmOperation.CHANGING_MEMORY_LIVE | VmOperation.CHANGING_DYNAMIC_RANGE:
            # Nobody balances guests against each other here: each has its maximum, as at its start.
            return SetDomainMemory(target=int(arguments["memory_dynamic_max"]))
        case VmOperation.SEND_SYSRQ:
            return SendSysrq(key=arguments["key"])
        case VmOperation.SEND_TRIGGER:
            return SendTrigger(trigger=VmTrigger(arguments["trigger"]))
        case other:
            raise AssertionError(f"no host carries out {other}")


def live_effect(operation: Operation, vm: Vm, seen: DomainObservation | None) -> list[ev.Event]:
    """Give what is true once it is done; `seen` is the domain after it, None where the VM has another one, or none."""
    arguments = operation.arguments
    settings: list[ev.Event] = []
    target = 0
    match operation.kind:
        case VmOperation.CHANGING_VCPUS_LIVE if VCPUS in arguments:
            settings = [setting(vm, VCPUS, int(arguments[VCPUS]))]
        case VmOperation.CHANGING_VCPUS_LIVE:
            settings = [
                ev.MapKeySet(
                    object_class="VM", ref=vm.ref, field="VCPUs_params", key=key, value=value
                )
                for key, value in arguments.items()
            ]
        case VmOperation.CHANGING_MEMORY_LIVE | VmOperation.CHANGING_DYNAMIC_RANGE:
            target = int(arguments["memory_dynamic_max"])
            settings = [setting(vm, bound, int(arguments[bound])) for bound in MEMORY_BOUNDS]
        case VmOperation.SEND_TRIGGER if arguments["trigger"] == VmTrigger.RESET:
            return [ev.VmRebooted(vm=vm.ref)] if seen is not None else []
        case _:
            return []
    if seen is None:
        return settings
    tuned = ev.VmTuned(
        vm=vm.ref, memory_actual=seen.memory_actual, vcpus=seen.vcpus, memory_target=target
    )
    return [*settings, tuned]


def setting(vm: Vm, field: str, value: Any) -> ev.FieldSet:
    """The event that gives a field of a VM its value."""
    return ev.FieldSet(object_class="VM", ref=vm.ref, field=field, value=value)
