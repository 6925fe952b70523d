"""XenAPI failures about networks and network devices; errors.py has the rules."""

from shared.errors import XenApiError


class MacInvalid(XenApiError):
    """MAC_INVALID [mac]."""

    code = "MAC_INVALID"


class MacStillExists(XenApiError):
    """MAC_STILL_EXISTS [mac]: another device of the same VM has it."""

    code = "MAC_STILL_EXISTS"


class DeviceAlreadyExists(XenApiError):
    """DEVICE_ALREADY_EXISTS [device]."""

    code = "DEVICE_ALREADY_EXISTS"


class DeviceAlreadyDetached(XenApiError):
    """DEVICE_ALREADY_DETACHED [device]."""

    code = "DEVICE_ALREADY_DETACHED"


class DeviceDetachTimeout(XenApiError):
    """DEVICE_DETACH_TIMEOUT [class, device]: the guest does not let go of it."""

    code = "DEVICE_DETACH_TIMEOUT"


class InvalidDevice(XenApiError):
    """INVALID_DEVICE [device]."""

    code = "INVALID_DEVICE"


class NetworkContainsVif(XenApiError):
    """NETWORK_CONTAINS_VIF [vifs]: they are attached to running VMs."""

    code = "NETWORK_CONTAINS_VIF"


class NetworkContainsPif(XenApiError):
    """NETWORK_CONTAINS_PIF [pifs]."""

    code = "NETWORK_CONTAINS_PIF"


class BridgeNameExists(XenApiError):
    """BRIDGE_NAME_EXISTS [bridge]."""

    code = "BRIDGE_NAME_EXISTS"


class VmRequiresNetwork(XenApiError):
    """VM_REQUIRES_NETWORK [vm, network]: the host has no bridge for it."""

    code = "VM_REQUIRES_NETWORK"
