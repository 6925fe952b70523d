"""Devices of a running domain, attached and detached through libvirt.

Rules: as in libvirt_deeds.py. A class of devices has its two arms here: look first, then attach, or ask the guest.
"""

from typing import Any, Final

from host_agent.core.domain_xml import nic_xml, read_nics
from shared.errors import OperationNotAllowed
from shared.protocol import AttachNic, DetachNic, DeviceChange, NicConfig

_LIVE: Final = 1
_ALREADY_ASKED: Final = "already in the process of unplug"


def change_device(domain: Any, change: DeviceChange) -> None:
    """Attach a device, or ask the guest to let go of one; nothing where that is so already.

    Only the running domain is changed: the next one is built from what the pool says then.
    """
    present = read_nics(domain.XMLDesc(0))
    match change:
        case AttachNic(nic=nic):
            if nic.mac not in present:
                domain.attachDeviceFlags(nic_xml(nic), _LIVE)
        case DetachNic(mac=mac):
            if mac in present:
                domain.detachDeviceFlags(nic_xml(NicConfig(device="", mac=mac, bridge="")), _LIVE)


def was_asked_before(error: OperationNotAllowed) -> bool:
    """Whether the guest was asked to let go of the device before, by an agent that has died since for instance."""
    return any(_ALREADY_ASKED in parameter for parameter in error.parameters)
