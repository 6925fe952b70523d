"""What masters and hosts say of a domain's devices: part of protocol.py, under its rules, and imported from there."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NicConfig:
    """A network interface of a domain: on a libvirt network where `network` names one, else on a bridge."""

    device: str
    mac: str
    bridge: str
    mtu: int = 1500
    network: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNetwork:
    """A bridge of a host. `device` is its physical uplink; `libvirt_network` names the network that it belongs to."""

    bridge: str
    device: str = ""
    mac: str = ""
    mtu: int = 1500
    libvirt_network: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachNic:
    """Give the running guest another network interface."""

    nic: NicConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachNic:
    """Take the network interface with this MAC from the running guest, which must let go of it.

    DEVICE_DETACH_TIMEOUT after `timeout_s`.
    """

    mac: str
    timeout_s: float


DeviceChange = AttachNic | DetachNic
