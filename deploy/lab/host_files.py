"""The files of one lab host: its folder and libvirt's configuration in it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FOLDERS: Final = ("etc", "lib", "log", "run")

_LIBVIRTD_CONF: Final = """\
# libvirt refuses to migrate to the host it is on, and tells hosts apart by this alone.
host_uuid = "{uuid}"
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:file:{log}"
"""

_QEMU_CONF: Final = """\
# The machine belongs to somebody else: no cgroups, no labels, no changed owners.
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
# There is no virtlogd in here; without this, starting a guest waits for it for ever.
stdio_handler = "file"
"""


def write_host_files(
    folder: Path, *, uuid: str, address: str, addresses_by_name: Mapping[str, str]
) -> None:
    """Write a host's configuration; what its libvirt has stored there stays."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    libvirtd_conf = _LIBVIRTD_CONF.format(uuid=uuid, address=address, log=folder / "libvirtd.log")
    (folder / "etc/libvirtd.conf").write_text(libvirtd_conf)
    (folder / "etc/qemu.conf").write_text(_QEMU_CONF)
    # Without every host's name in here each migration waits seconds for a name server.
    lines = ["127.0.0.1 localhost", *(f"{addr} {name}" for name, addr in addresses_by_name.items())]
    (folder / "resolv.conf").write_text("")
    # In place: the file is mounted over /etc/hosts, and a renamed one would not be.
    (folder / "hosts").write_text("\n".join(lines) + "\n")


def forget_volatile_state(folder: Path) -> None:
    """Empty what a real host keeps in memory, as a power cut does."""
    run = folder / "run"
    for entry in run.iterdir() if run.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
