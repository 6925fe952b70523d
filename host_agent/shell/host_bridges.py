"""The host's bridges, as its kernel shows them.

Rule: the only file that reads /sys/class/net.
"""

from pathlib import Path
from typing import Final

from shared.protocol import HostNetwork

INTERFACES: Final = Path("/sys/class/net")


def host_bridges(interfaces: Path = INTERFACES) -> tuple[HostNetwork, ...]:
    """Give the bridges, by name; each with the first physical interface on it, if any."""
    if not interfaces.is_dir():
        return ()
    found = (path for path in sorted(interfaces.iterdir()) if (path / "bridge").is_dir())
    return tuple(_bridge(path) for path in found)


def joined(
    bridges: tuple[HostNetwork, ...], networks: list[HostNetwork]
) -> tuple[HostNetwork, ...]:
    """Give all bridges, each with the libvirt network that it belongs to."""
    by_name = {bridge.bridge: bridge for bridge in bridges}
    for network in networks:
        seen = by_name.get(network.bridge, network)
        by_name[network.bridge] = HostNetwork(
            bridge=seen.bridge,
            device=seen.device,
            mac=seen.mac,
            mtu=seen.mtu,
            libvirt_network=network.libvirt_network,
        )
    return tuple(by_name[name] for name in sorted(by_name))


def _bridge(path: Path) -> HostNetwork:
    try:
        ports = sorted(port.name for port in (path / "brif").iterdir())
    except OSError:  # It is gone since it was listed.
        ports = []
    uplinks = (port for port in ports if (path.parent / port / "device").exists())
    mtu = _read(path / "mtu")
    return HostNetwork(
        bridge=path.name,
        device=next(uplinks, ""),
        mac=_read(path / "address"),
        mtu=int(mtu) if mtu.isdigit() else 1500,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
