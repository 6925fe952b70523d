"""The facts of networks: members of the union in events.py, under the same rules."""

from msgspec import Struct

from pool_master.core.network import MTU_DEFAULT, NetworkConfig, VifConfig
from shared.refs import HostRef, NetworkRef, PifRef, VifRef


class NetworkCreated(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """VIFs can be made for this network; nothing is said of who has it."""

    network: NetworkRef
    uuid: str
    config: NetworkConfig


class NetworkDestroyed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The network is gone, and the VIFs that were made for it."""

    network: NetworkRef


class PifIntroduced(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A host has the network's bridge, as it says here; said again where that changes."""

    pif: PifRef
    uuid: str
    host: HostRef
    network: NetworkRef
    device: str
    MAC: str = ""
    MTU: int = MTU_DEFAULT
    physical: bool = False
    libvirt_network: str = ""


class PifUnplugged(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host has the bridge no more."""

    pif: PifRef


class VifCreated(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A VM has a network interface, from its next start on."""

    vif: VifRef
    uuid: str
    config: VifConfig
    is_mac_generated: bool = False


class VifDestroyed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The VIF is gone for good."""

    vif: VifRef


class VifPlugged(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The running guest has the interface."""

    vif: VifRef


class VifUnplugged(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The running guest has it no more."""

    vif: VifRef


NetworkEvent = (
    NetworkCreated
    | NetworkDestroyed
    | PifIntroduced
    | PifUnplugged
    | VifCreated
    | VifDestroyed
    | VifPlugged
    | VifUnplugged
)
