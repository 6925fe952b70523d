"""What is done to a running guest from outside: VCPUs, the scheduler, SysRq keys and triggers.

Here they all work; today's xapi answers NOT_IMPLEMENTED to most (XenAPI reference 1.5).
"""

import re
from dataclasses import dataclass
from typing import Final

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.datamodel import Message, operation
from pool_master.core.live_changes import VCPUS
from pool_master.core.lookup import vm_of
from pool_master.core.pool import Pool
from pool_master.core.vm_lifecycle import STATE_ERRORS, accept, on_its_host
from shared.enums import Role, VmOperation, VmTrigger
from shared.errors import InvalidValue, MapDuplicateKey
from shared.refs import VmRef

LIVE_VCPU_RULE: Final = "VCPU values must satisfy: 0 < VCPUs ≤ VCPUs_max"
# What the host has words for; XenAPI takes any key, but a wish that nobody can carry out is refused at once.
PARAMETERS: Final = {
    "weight": re.compile(r"[0-9]{1,9}"),
    "cap": re.compile(r"[0-9]{1,9}"),
    "mask": re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*"),
}
SYSRQ_KEY: Final = re.compile(r"[0-9a-z]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVcpusNumberLive:
    """Set this VM's VCPUs/at_startup value, and set the same value on the VM, if running."""

    self: VmRef
    nvcpu: int


def decide_set_vcpus_number_live(
    pool: Pool, request: SetVcpusNumberLive, context: Context
) -> list[ev.Event]:
    """XenAPI reference 1.5."""
    vm = vm_of(pool, request.self)
    host = on_its_host(pool, vm, VmOperation.CHANGING_VCPUS_LIVE)
    if not 1 <= request.nvcpu <= vm.config.VCPUs_max:
        raise InvalidValue(LIVE_VCPU_RULE, request.nvcpu)
    wanted = {VCPUS: str(request.nvcpu)}
    kind = VmOperation.CHANGING_VCPUS_LIVE
    return [accept(vm, kind, context, host=host, incarnation=vm.incarnation, **wanted)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddToVcpusParamsLive:
    """Add the given key-value pair to VM.VCPUs_params, and apply that value on the running VM."""

    self: VmRef
    key: str
    value: str


def decide_add_to_vcpus_params_live(
    pool: Pool, request: AddToVcpusParamsLive, context: Context
) -> list[ev.Event]:
    """XenAPI reference 1.5: as add_to of any map, so what is there must be removed first."""
    vm = vm_of(pool, request.self)
    host = on_its_host(pool, vm, VmOperation.CHANGING_VCPUS_LIVE)
    if request.key not in PARAMETERS:
        raise InvalidValue("VCPUs_params", request.key)
    if not PARAMETERS[request.key].fullmatch(request.value):
        raise InvalidValue(f"VCPUs_params:{request.key}", request.value)
    if request.key in vm.config.VCPUs_params:
        raise MapDuplicateKey("VM", "VCPUs_params", vm.ref, request.key)
    wanted = {request.key: request.value}
    kind = VmOperation.CHANGING_VCPUS_LIVE
    return [accept(vm, kind, context, host=host, incarnation=vm.incarnation, **wanted)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SendSysrqMessage:
    """Send the given key, a single character, as a sysrq to this VM. Only when Running."""

    vm: VmRef
    key: str


def decide_send_sysrq(pool: Pool, request: SendSysrqMessage, context: Context) -> list[ev.Event]:
    """XenAPI reference 1.5: Alt, SysRq and the key, on the guest's keyboard."""
    vm = vm_of(pool, request.vm)
    host = on_its_host(pool, vm, VmOperation.SEND_SYSRQ)
    key = request.key.lower()
    if not SYSRQ_KEY.fullmatch(key):
        raise InvalidValue("key", request.key)
    kind = VmOperation.SEND_SYSRQ
    return [accept(vm, kind, context, host=host, incarnation=vm.incarnation, key=key)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTriggerMessage:
    """Send the named trigger (nmi, reset, init, power, sleep) to this VM. Only when Running."""

    vm: VmRef
    trigger: str


def decide_send_trigger(
    pool: Pool, request: SendTriggerMessage, context: Context
) -> list[ev.Event]:
    """XenAPI reference 1.5."""
    vm = vm_of(pool, request.vm)
    host = on_its_host(pool, vm, VmOperation.SEND_TRIGGER)
    if request.trigger not in tuple(VmTrigger):
        raise InvalidValue("trigger", request.trigger)
    kind, trigger = VmOperation.SEND_TRIGGER, request.trigger
    return [accept(vm, kind, context, host=host, incarnation=vm.incarnation, trigger=trigger)]


MESSAGES: Final[tuple[Message, ...]] = (
    operation(
        SetVcpusNumberLive,
        decide_set_vcpus_number_live,
        name="set_VCPUs_number_live",
        operation=VmOperation.CHANGING_VCPUS_LIVE,
        role=Role.VM_ADMIN,
        errors=(*STATE_ERRORS, "INVALID_VALUE"),
    ),
    operation(
        AddToVcpusParamsLive,
        decide_add_to_vcpus_params_live,
        name="add_to_VCPUs_params_live",
        operation=VmOperation.CHANGING_VCPUS_LIVE,
        role=Role.VM_ADMIN,
        errors=(*STATE_ERRORS, "INVALID_VALUE", "MAP_DUPLICATE_KEY"),
    ),
    operation(
        SendSysrqMessage,
        decide_send_sysrq,
        name="send_sysrq",
        operation=VmOperation.SEND_SYSRQ,
        role=Role.POOL_ADMIN,
        errors=(*STATE_ERRORS, "INVALID_VALUE"),
    ),
    operation(
        SendTriggerMessage,
        decide_send_trigger,
        name="send_trigger",
        operation=VmOperation.SEND_TRIGGER,
        role=Role.POOL_ADMIN,
        errors=(*STATE_ERRORS, "INVALID_VALUE", "VALUE_NOT_SUPPORTED"),
    ),
)
