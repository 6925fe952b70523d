"""Say whether this machine can hold a lab, and in one sentence why not."""

import os
import shutil
import subprocess
from typing import Final

_PROGRAMS: Final = (
    ("ip", "iproute2"),
    ("libvirtd", "libvirt-daemon-system"),
    ("virsh", "libvirt-clients"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
)
# Everything a lab makes, made in a network namespace that is gone as soon as the probe ends.
_PROBE: Final = (
    "ip link add name probe type bridge && ip link add probe0 type veth peer name probe1"
    " && mount -t sysfs sysfs /sys"
)
_PROBE_S_MAX: Final = 10.0


class LabUnavailable(Exception):
    """This machine cannot hold the lab asked for; the text says why, in one sentence."""


class LabFailed(Exception):
    """A step of the lab did not do what it must, or not in time; the text says which."""


def require_root() -> None:
    """Refuse to go on without the rights a lab needs."""
    if os.geteuid() != 0:
        raise LabUnavailable("A lab of libvirt hosts needs root: run this with sudo.")


def lab_unavailable_reason() -> str | None:
    """What this machine lacks for a lab, or None if nothing."""
    try:
        require_root()
    except LabUnavailable as error:
        return str(error)
    missing = [f"{name} ({package})" for name, package in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"A lab of libvirt hosts needs these programs: {', '.join(missing)}."
    return _namespaces_refused()


def _namespaces_refused() -> str | None:
    argv = ["unshare", "--net", "--mount", "--uts", "sh", "-c", _PROBE]
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=_PROBE_S_MAX)
    except subprocess.TimeoutExpired:
        return f"Making a namespace takes more than {_PROBE_S_MAX:.0f} s on this machine."
    except subprocess.CalledProcessError as error:
        return f"This machine refuses the namespaces of a lab: {error.stderr.strip()}"
    return None
