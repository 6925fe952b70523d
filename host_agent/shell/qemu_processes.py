"""Finds and kills vmpool's QEMU processes on this host without libvirt, which may be the thing that hangs.

Rule: a guest is ours by its name on QEMU's command line, and this host's by its network namespace, so that several
hosts on one machine do not kill each other's.
"""

import contextlib
import os
import re
import signal
from pathlib import Path
from typing import Final

from host_agent.core.domain_xml import NAME_PREFIX

_GUEST_NAME: Final = re.compile(
    rb"\0-name\0guest=" + NAME_PREFIX.encode() + rb"([0-9a-f-]{36})[,\0]"
)


def find_guests(*, under: str = "") -> dict[str, int]:
    """Give the process of each guest by VM; `under` keeps to one embedded driver's folder."""
    own_network = _network_of("self")
    guests = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        # A process may end at any moment of this.
        with contextlib.suppress(OSError):
            command_line = (process / "cmdline").read_bytes()
            found = _GUEST_NAME.search(command_line)
            if (
                found
                and under.encode() in command_line
                and _network_of(process.name) == own_network
            ):
                guests[found[1].decode()] = int(process.name)
    return guests


def kill_guests(*, under: str = "") -> tuple[str, ...]:
    """Kill all guests at once; give their VMs. A process that the kernel keeps for a while runs no guest any more."""
    killed = []
    for vm_uuid, process in find_guests(under=under).items():
        with contextlib.suppress(PermissionError):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            killed.append(vm_uuid)
    return tuple(killed)


def _network_of(process: str) -> str:
    return os.readlink(f"/proc/{process}/ns/net")
