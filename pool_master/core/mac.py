"""MAC addresses as XenAPI makes them: from a VM's mac_seed and a device number, so that a VM always gets the same."""

import hashlib
import re
from typing import Final

_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_LOCAL: Final = 0x02
_MULTICAST: Final = 0x01
# libvirt keeps it for the host's side of a guest's interface.
_RESERVED: Final = 0xFE
_INSTEAD: Final = 0xFA


def is_valid_mac(text: str) -> bool:
    """Whether a guest's interface may have this address: six octets, and not a group's."""
    return bool(_MAC.fullmatch(text)) and not int(text[:2], 16) & _MULTICAST


def generated_mac(seed: str, device: int) -> str:
    """Give the locally administered address that xapi gives to this device of a VM with this seed."""
    digest = seed.encode()
    for _ in range(2 * device + 1):
        digest = _md5(digest)
    again = _md5(digest)
    first = (digest[0] | _LOCAL) & ~_MULTICAST
    if first == _RESERVED:
        # xapi gives 0xfd here, which is a group's address, and which no hypervisor takes.
        first = _INSTEAD
    return ":".join(f"{octet:02x}" for octet in (first, *digest[1:4], *again[1:3]))


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
