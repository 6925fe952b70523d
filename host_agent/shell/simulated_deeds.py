"""What a simulated guest makes of changes, keys and triggers: as a Linux with SysRq enabled would.

Rules: pure; a key or trigger that ends or restarts the guest is the guest's own deed, and news.
"""

from dataclasses import replace

from host_agent.core.scheduling import cpu_map, number
from host_agent.shell.fabric_store import SimulatedDomain
from host_agent.shell.simulated_fabric import ACTIVE_STATES, crashed, new_domid, rebooted, stopped
from shared.enums import VmTrigger
from shared.errors import DomainExists, OperationNotAllowed, ValueNotSupported
from shared.protocol import (
    AttachNic,
    DetachNic,
    DeviceChange,
    DomainChange,
    DomainConfig,
    DomainSignal,
    DomainState,
    DomainTuning,
    SendSysrq,
    SetDomainMemory,
    SetDomainScheduler,
    SetDomainVcpus,
)


def brought_up(
    domain: SimulatedDomain | None, config: DomainConfig, state: DomainState
) -> SimulatedDomain:
    """The domain of `config`, in place of what an older or the same incarnation has left; one that is up stays.

    Raises:
        DomainExists: another incarnation runs, or a newer one has been here.
    """
    if domain is not None:
        incarnation = domain.config.incarnation
        same = incarnation == config.incarnation and not domain.comes_from
        if same and domain.state in ACTIVE_STATES:
            return domain
        if domain.domid >= 0 or domain.comes_from or incarnation > config.incarnation:
            raise DomainExists(config.vm_uuid, str(domain.domid))
    return SimulatedDomain(
        config=config,
        state=state,
        domid=new_domid(config.incarnation),
        changes=domain.changes + 1 if domain else 1,
    )


def tuned(domain: SimulatedDomain, tuning: DomainTuning) -> SimulatedDomain:
    """The domain after the change; its guest follows at once."""
    config = domain.config
    match tuning:
        case SetDomainVcpus(vcpus=vcpus):
            if not 0 < vcpus <= config.vcpus_max:
                raise OperationNotAllowed(f"{vcpus} of {config.vcpus_max} VCPUs")
            config = replace(config, vcpus_at_startup=vcpus)
        case SetDomainMemory(target=target):
            if not 0 < target <= config.memory_static_max:
                raise OperationNotAllowed(f"{target} of {config.memory_static_max} bytes")
            config = replace(config, memory_target=target)
        case SetDomainScheduler(params=params):
            number(params, "weight")
            number(params, "cap")
            if "mask" in params:
                cpu_map(params["mask"])
            config = replace(config, vcpus_params={**config.vcpus_params, **params})
    return replace(domain, config=config)


def with_device(
    domain: SimulatedDomain, change: DeviceChange, *, holds_on: bool
) -> SimulatedDomain:
    """The domain after a device came, or went; a guest that `holds_on` lets none go."""
    config = domain.config
    match change:
        case AttachNic(nic=nic):
            is_new = all(other.mac != nic.mac for other in config.nics)
            config = replace(config, nics=(*config.nics, nic)) if is_new else config
        case DetachNic(mac=mac):
            left = tuple(nic for nic in config.nics if holds_on or nic.mac != mac)
            config = replace(config, nics=left)
    return replace(domain, config=config)


def signalled(domain: SimulatedDomain, signal: DomainSignal, *, now: float) -> SimulatedDomain:
    """The domain after a key or a trigger."""
    key = signal.key if isinstance(signal, SendSysrq) else signal.trigger
    match key:
        case VmTrigger.RESET | "b":
            return rebooted(domain)
        case VmTrigger.POWER:
            return replace(domain, powers_off_at=domain.powers_off_at or now)
        case "o":
            return stopped(domain, DomainChange.POWERED_OFF)
        case "c":
            return crashed(domain)
        case VmTrigger.SLEEP:
            raise OperationNotAllowed("a simulated guest has no agent that could put it to sleep")
        case VmTrigger.INIT:
            raise ValueNotSupported("trigger", key, "a simulated machine cannot send an INIT")
        case _:
            return domain
