"""From the configuration to the hypervisor, and to where its guests' processes are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from host_agent.config import AgentConfig
from host_agent.core.domain_xml import NAME_PREFIX
from host_agent.shell.fabric_store import FolderStore
from host_agent.shell.file_storage import FileStorage
from host_agent.shell.hypervisor import Hypervisor
from host_agent.shell.simulated_fabric import SimulatedFabric
from host_agent.shell.simulated_hypervisor import SimulatedHypervisor, SimulatedTimings
from host_agent.shell.simulated_storage import FolderMapping, SimulatedStorage
from host_agent.shell.storage import Storage
from host_agent.shell.watchdog_pipe import Targets
from shared.settings import ConfigError

SIMULATED_POLL_S: Final = 0.2
QEMU: Final = "qemu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A hypervisor, the storage of its guests, and what a watchdog must kill for it."""

    hypervisor: Hypervisor
    targets: Callable[[], Targets]
    storage: Storage


def choose(config: AgentConfig) -> Chosen:
    """Give the hypervisor that the configuration names, not yet opened.

    Raises:
        ConfigError: the URI is incomplete.
    """
    uri = config.hypervisor_uri
    parts = urlsplit(uri)
    if parts.scheme == "simulated":
        return _simulated(parts.path, parse_qs(parts.query).get("host", [""])[0])
    # Only where they are used: the simulation runs without libvirt.
    from host_agent.shell.libvirt_hypervisor import LibvirtHypervisor  # noqa: PLC0415
    from host_agent.shell.libvirt_settings import LibvirtSettings  # noqa: PLC0415

    if config.console_folder:
        # QEMU does not make it, and a guest whose console cannot be opened does not start.
        Path(config.console_folder).mkdir(parents=True, exist_ok=True)
    settings = LibvirtSettings(
        uri=uri,
        migrate_uri=config.migrate_uri,
        accelerator=config.accelerator,
        console_folder=config.console_folder,
        suspend_folder=config.suspend_folder,
    )
    return Chosen(
        hypervisor=LibvirtHypervisor(settings),
        targets=lambda: libvirt_targets(uri),
        storage=FileStorage(),
    )


def _simulated(path: str, host: str) -> Chosen:
    if not path or not host:
        raise ConfigError("hypervisor_uri: write simulated:FOLDER?host=NAME")
    folder = Path(path).resolve()
    fabric = SimulatedFabric(FolderStore(folder))
    # Where an agent starts there is power.
    fabric.revive_host(host)
    hypervisor = SimulatedHypervisor(
        fabric,
        host,
        timings=SimulatedTimings(poll_s=SIMULATED_POLL_S),
    )
    # No lock and nothing to import: a frozen agent may hold the one, and there is no time for the other.
    command = ("sh", "-c", 'rm -f -- "$0"/*', str(folder / host))
    storage = SimulatedStorage(FolderMapping(folder.with_name(f"{folder.name}.disks")), host)
    return Chosen(hypervisor=hypervisor, targets=lambda: Targets(command=command), storage=storage)


def libvirt_targets(uri: str) -> Targets:
    """Say where libvirt's driver keeps its guests' pid files; the test driver's guests are no processes."""
    parts = urlsplit(uri)
    if not parts.scheme.startswith(QEMU):
        return Targets()
    folder = "/run/libvirt/qemu"
    if parts.path == "/embed":
        folder = parse_qs(parts.query)["root"][0] + "/run/qemu"
    elif parts.path == "/session":
        folder = str(Path.home() / ".cache/libvirt/qemu/run")
    return Targets(pid_files=(f"{folder}/{NAME_PREFIX}*.pid",), process_name=QEMU)
