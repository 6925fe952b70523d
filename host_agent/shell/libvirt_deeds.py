"""What is done to a running domain through libvirt: its VCPUs, memory and scheduling, and keys and triggers for its guest.

Rules: blocking; called by LibvirtConnection, which finds the domain and translates libvirt's errors. libvirt's numbers
are part of its ABI.
"""

from typing import Any, Final

from host_agent.core.scheduling import CAP_PERIOD_US, cpu_map, number, quota_of, shares_of
from shared.enums import VmTrigger
from shared.errors import ValueNotSupported
from shared.protocol import (
    DomainSignal,
    DomainTuning,
    SendSysrq,
    SetDomainMemory,
    SetDomainScheduler,
    SetDomainVcpus,
)

_LIVE: Final = 1
_LINUX_KEYCODES: Final = 0
_KEY_PRESS_MS: Final = 50
_ACPI_POWER_BUTTON: Final = 1
_SUSPEND_TO_MEMORY: Final = 0

# Linux's input event codes.
_LEFT_ALT: Final = 56
_SYSRQ: Final = 99
_KEY_ROWS: Final = (("1234567890", 2), ("qwertyuiop", 16), ("asdfghjkl", 30), ("zxcvbnm", 44))
KEYCODES: Final = {key: first + place for row, first in _KEY_ROWS for place, key in enumerate(row)}


def tune(domain: Any, tuning: DomainTuning, *, driver: str) -> None:
    """Change the running domain."""
    match tuning:
        case SetDomainVcpus(vcpus=vcpus):
            domain.setVcpusFlags(vcpus, _LIVE)
        case SetDomainMemory(target=target):
            domain.setMemoryFlags(target // 1024, _LIVE)
        case SetDomainScheduler(params=params):
            _schedule(domain, params, driver=driver)


def _schedule(domain: Any, params: dict[str, str], *, driver: str) -> None:
    wanted: dict[str, int] = {}
    if "weight" in params:
        weight = number(params, "weight")
        wanted |= (
            {"cpu_shares": shares_of(weight or 256)} if driver == "qemu" else {"weight": weight}
        )
    if "cap" in params:
        cap = number(params, "cap")
        quota = {"global_period": CAP_PERIOD_US, "global_quota": quota_of(cap) if cap else -1}
        wanted |= quota if driver == "qemu" else {"cap": cap}
    if wanted and driver == "qemu":
        domain.setSchedulerParametersFlags(wanted, _LIVE)
    elif wanted:
        domain.setSchedulerParameters(wanted)
    if "mask" in params:
        cpus = cpu_map(params["mask"])
        for vcpu in range(domain.info()[3]):
            domain.pinVcpu(vcpu, cpus)


def send(domain: Any, signal: DomainSignal, *, driver: str) -> None:
    """Press a key, or pull a trigger."""
    if isinstance(signal, SendSysrq):
        keys = [_LEFT_ALT, _SYSRQ, KEYCODES[signal.key]]
        domain.sendKey(_LINUX_KEYCODES, _KEY_PRESS_MS, keys, len(keys), 0)
        return
    match signal.trigger:
        case VmTrigger.NMI:
            domain.injectNMI(0)
        case VmTrigger.RESET:
            domain.reset(0)
        case VmTrigger.POWER if driver == "qemu":
            domain.shutdownFlags(_ACPI_POWER_BUTTON)
        case VmTrigger.POWER:
            domain.shutdown()
        case VmTrigger.SLEEP:
            # Only the guest's own agent can put it to sleep: a PC of QEMU's has no such button.
            domain.pMSuspendForDuration(_SUSPEND_TO_MEMORY, 0, 0)
        case VmTrigger.INIT:
            raise ValueNotSupported("trigger", signal.trigger, f"{driver} cannot send an INIT")
