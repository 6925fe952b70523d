"""The wires of a lab: a bridge in the machine's own network and a namespace with a cable per host.

All names and addresses follow from the lab's name, so that labs with different names coexist and
a crashed lab's remains are found again. The bridge's alias says which data folder it belongs to.
"""

import ipaddress
import json
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.lab.preflight import LabFailed, LabUnavailable

_DEFAULT_NAME: Final = "vmpool"
_NETNS_FOLDER: Final = Path("/run/netns")
_SYS_NET: Final = Path("/sys/class/net")
_BROAD_ROUTE_BITS: Final = 16
_COMMAND_S_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class LabNetwork:
    """The names and addresses that follow from a lab's name."""

    name: str

    @property
    def number(self) -> int:
        """Tells the labs of one machine apart: 0 for the default name, else 1 to 254."""
        return 0 if self.name == _DEFAULT_NAME else zlib.crc32(self.name.encode()) % 254 + 1

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """The lab's own addresses."""
        return ipaddress.IPv4Network(f"10.77.{self.number}.0/24")

    @property
    def gateway(self) -> str:
        """The machine's own address in the lab, on the bridge."""
        return str(self.subnet[254])

    @property
    def bridge(self) -> str:
        """The bridge that joins all hosts."""
        return f"vmlab{self.number}"

    def address(self, index: int) -> str:
        """Host number `index`'s address."""
        return str(self.subnet[index])

    def netns(self, index: int) -> str:
        """Host number `index`'s network namespace."""
        return f"{self.name}-host{index}"

    def netns_path(self, index: int) -> Path:
        """The file that names this namespace."""
        return _NETNS_FOLDER / self.netns(index)

    def cable(self, index: int) -> str:
        """The bridge's end of host number `index`'s cable; the host's end is eth0."""
        return f"{self.bridge}h{index}"


def owner_of(network: LabNetwork) -> str | None:
    """The data folder of the lab that has the bridge, or None if there is no bridge."""
    try:
        return (_SYS_NET / network.bridge / "ifalias").read_text().rstrip("\n")
    except OSError:
        return None


def refuse_taken_subnet(network: LabNetwork) -> None:
    """Refuse if something other than a lab of this name uses the lab's addresses."""
    for route in json.loads(_ip("-json", "-4", "route", "show", "table", "all")):
        device, destination = route.get("dev"), route["dst"].replace("default", "0.0.0.0/0")
        taken = ipaddress.IPv4Network(destination, strict=False)
        # A broad route (a VPN's 10.0.0.0/8, the default one) only loses what the lab takes of it.
        if device == network.bridge or taken.prefixlen <= _BROAD_ROUTE_BITS:
            continue
        if network.subnet.overlaps(taken):
            raise LabUnavailable(
                f"The lab {network.name!r} needs {network.subnet}, but {device} has {taken}:"
                " give the lab another name."
            )


def connect_bridge(network: LabNetwork, owner: Path) -> None:
    """Make the bridge with the machine's address; again is harmless."""
    if owner_of(network) is None:
        _ip("link", "add", "name", network.bridge, "type", "bridge")
        _ip("link", "set", network.bridge, "alias", str(owner))
    _ip("address", "replace", f"{network.gateway}/24", "dev", network.bridge)
    _ip("link", "set", network.bridge, "up")


def connect_host(network: LabNetwork, index: int) -> None:
    """Make a fresh namespace for a host and plug its cable into the bridge."""
    netns, cable = network.netns(index), network.cable(index)
    disconnect_host(network, index)
    _ip("netns", "add", netns)
    _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", netns)
    _ip("-netns", netns, "link", "set", "lo", "up")
    _ip("-netns", netns, "address", "add", f"{network.address(index)}/24", "dev", "eth0")
    _ip("-netns", netns, "link", "set", "eth0", "up")
    _ip("-netns", netns, "route", "add", "default", "via", network.gateway)
    _ip("link", "set", cable, "master", network.bridge, "up")


def set_cable(network: LabNetwork, index: int, *, state: str) -> None:
    """Pull a host's cable (`down`) or plug it in (`up`); the host keeps its address."""
    _ip("link", "set", network.cable(index), state)


def disconnect_host(network: LabNetwork, index: int) -> None:
    """Remove a host's cable and namespace; none there is fine."""
    _remove_link(network.cable(index))
    _remove(network.netns_path(index), "netns", "delete", network.netns(index))


def disconnect_bridge(network: LabNetwork) -> None:
    """Remove the bridge; none there is fine."""
    _remove_link(network.bridge)


def _remove_link(link: str) -> None:
    _remove(_SYS_NET / link, "link", "delete", link)


def _remove(trace: Path, *arguments: str) -> None:
    """Remove what `trace` shows; what its last process takes along meanwhile is gone as well."""
    if not trace.exists():
        return
    try:
        _ip(*arguments)
    except LabFailed:
        if trace.exists():
            raise


def _ip(*arguments: str) -> str:
    argv = ["ip", *arguments]
    try:
        result = subprocess.run(
            argv, check=True, capture_output=True, text=True, timeout=_COMMAND_S_MAX
        )
    except subprocess.CalledProcessError as error:
        raise LabFailed(f"{' '.join(argv)}: {error.stderr.strip()}") from error
    return result.stdout
