"""Which libvirt an agent uses, what it says of itself, and how it is asked to migrate: the values, and what they need.

Rule: nothing here speaks to libvirt.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from shared.errors import BootloaderFailed
from shared.protocol import DomainConfig, MigrateDomain

_TRUE: Final = ("true", "on", "1", "yes")

_EMBEDDED_QEMU_CONF: Final = """\
# Written once by vmpool; change it as you like. Made for a driver that lives alone inside the agent.
security_driver = "none"
user = "+0"
group = "+0"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
# There is no virtlogd in here; without this, starting a guest waits for it for ever.
stdio_handler = "file"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibvirtSettings:
    """Which libvirt, and how its domains are to be.

    `migrate_uri` is where other hosts' libvirtd reach this one's; empty: qemu+tls with this host's name.
    `accelerator` is kvm or tcg; empty: found out by trying. `console_folder` keeps the guests' serial output,
    `suspend_folder`, which hosts share, the memory of suspended ones.
    """

    uri: str
    migrate_uri: str = ""
    accelerator: str = ""
    console_folder: str = ""
    suspend_folder: str = ""
    has_vnc: bool = True
    calls_max: int = 8
    migrations_max: int = 4
    call_s_max: float = 60.0
    start_s_max: float = 180.0
    save_s_max: float = 1800.0
    reconnect_s_max: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What libvirt says of the host; memory in bytes."""

    hostname: str
    memory_total: int
    memory_free: int
    cpu_count: int
    cpu: dict[str, str]
    libvirt_version: str
    hypervisor_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationTarget:
    """Where a domain goes, and by which road its memory."""

    destination_uri: str
    migrate_uri: str = ""
    is_compressed: bool = False


def migration_target(destination: MigrateDomain) -> MigrationTarget:
    """Give what libvirt needs to know of a destination; a bare address becomes a URI."""
    address = destination.migrate_uri
    has_scheme = not address or "://" in address
    return MigrationTarget(
        destination_uri=destination.destination_uri,
        migrate_uri=address if has_scheme else f"tcp://{address}",
        is_compressed=destination.options.get("compress", "").lower() in _TRUE,
    )


def version_text(number: int) -> str:
    """Give one of libvirt's version numbers as people write it."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def assert_bootable(config: DomainConfig) -> None:
    """Refuse what cannot boot.

    Raises:
        BootloaderFailed: a kernel or ramdisk is not on this host.
    """
    for path in (config.kernel, config.ramdisk if config.kernel else ""):
        if path and not Path(path).is_file():
            raise BootloaderFailed(config.vm_uuid, f"{path}: no such file on this host")


def embedded_root(uri: str) -> Path | None:
    """Give the folder of an embedded driver, None where the URI names another."""
    parts = urlsplit(uri)
    if parts.path != "/embed":
        return None
    return Path(parse_qs(parts.query)["root"][0])


def prepare_embedded(root: Path) -> None:
    """Give an embedded driver the configuration without which it would hang."""
    conf = root / "etc" / "qemu.conf"
    if not conf.exists():
        conf.parent.mkdir(parents=True, exist_ok=True)
        conf.write_text(_EMBEDDED_QEMU_CONF)
