"""The facts of guests that are changed while they run, suspended and resumed: members of the union in events.py."""

from msgspec import Struct

from shared.enums import PowerState
from shared.refs import HostRef, VmRef


class VmSuspended(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The domain is gone, and its guest's memory is in the image of this name."""

    vm: VmRef
    image: str


class VmResumed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A host has shown the domain that it made of the image: the VM has that, and the image is nobody's any more.

    `nics` are its MACs.
    """

    vm: VmRef
    host: HostRef
    incarnation: int
    domid: int
    power_state: PowerState = PowerState.PAUSED
    memory_actual: int = 0
    vcpus: int = 0
    console_rfb: str = ""
    console_vt100: str = ""
    nics: tuple[str, ...] = ()


class VmTuned(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The running domain was changed, and has this much memory and these VCPUs now.

    `memory_target` (bytes) is what the guest was asked to make do with; 0 where nobody asked.
    """

    vm: VmRef
    memory_actual: int
    vcpus: int
    memory_target: int = 0
