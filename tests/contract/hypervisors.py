"""The hypervisors that the contract is checked on, each begun empty and left empty."""

import asyncio
import atexit
import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from host_agent.shell.fabric_store import FolderStore, MemoryStore
from host_agent.shell.hypervisor import Hypervisor
from host_agent.shell.libvirt_hypervisor import LibvirtHypervisor
from host_agent.shell.libvirt_settings import LibvirtSettings
from host_agent.shell.simulated_fabric import SimulatedFabric
from host_agent.shell.simulated_hypervisor import (
    SimulatedHypervisor,
    SimulatedTimings,
    no_faults,
)
from shared.protocol import DomainChange, DomainChanged, DomainConfig, DomainObservation

MEMORY = "simulated in memory"
FOLDER = "simulated in a folder"
TEST_DRIVER = "libvirt test driver"
EMBEDDED = "libvirt embedded QEMU"

SIMULATED = (MEMORY, FOLDER)
ALL = (
    MEMORY,
    FOLDER,
    pytest.param(TEST_DRIVER, marks=pytest.mark.libvirt),
    pytest.param(EMBEDDED, marks=pytest.mark.libvirt),
)

WAIT_S_MAX = 20.0


def config(incarnation: int = 1, *, vm_uuid: str = "", **changes: Any) -> DomainConfig:
    """A small guest without disks: its firmware looks for something to boot, for ever."""
    values: dict[str, Any] = {
        "vm_uuid": vm_uuid or str(uuid.uuid4()),
        "name_label": "guest",
        "incarnation": incarnation,
        "memory_static_max": 64 << 20,
        "memory_target": 64 << 20,
        "vcpus_max": 1,
        "vcpus_at_startup": 1,
    }
    return DomainConfig(**{**values, **changes})


@contextlib.asynccontextmanager
async def running_hypervisor(
    kind: str, *, suspend_folder: str | None = None
) -> AsyncIterator[Hypervisor]:
    """One host's hypervisor, open."""
    with tempfile.TemporaryDirectory() as folder:
        images = f"{folder}/images" if suspend_folder is None else suspend_folder
        hypervisor = _hypervisor(kind, Path(folder), images)
        await hypervisor.open()
        try:
            yield hypervisor
        finally:
            for seen in await hypervisor.inventory():
                await hypervisor.destroy(seen.vm_uuid, seen.incarnation)
            await hypervisor.close()


def _hypervisor(kind: str, folder: Path, images: str) -> Hypervisor:
    match kind:
        case "simulated in memory":
            return SimulatedHypervisor(SimulatedFabric(), "a")
        case "simulated in a folder":
            timings = SimulatedTimings(poll_s=0.02)
            return SimulatedHypervisor(SimulatedFabric(FolderStore(folder)), "a", timings=timings)
        case "libvirt test driver":
            return LibvirtHypervisor(LibvirtSettings(uri="test:///default", suspend_folder=images))
        case _:
            return _embedded(images)


def _embedded(images: str) -> Hypervisor:
    if os.geteuid() != 0:
        pytest.skip("an embedded QEMU driver needs root")
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("there is no qemu-system-x86_64")
    uri = f"qemu:///embed?root={embedded_root_folder()}"
    return LibvirtHypervisor(
        LibvirtSettings(uri=uri, accelerator="tcg", suspend_folder=images, has_vnc=False)
    )


def embedded_root_folder() -> Path:
    """One folder for the whole run: libvirt looks at every emulator it finds when it meets a new one."""
    root = Path(tempfile.gettempdir()) / f"vmpool-embedded-{os.getpid()}"
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


@dataclass(frozen=True)
class Cluster:
    """A simulated cluster with hosts a and b, and the points at which it is to fail."""

    fabric: SimulatedFabric
    a: SimulatedHypervisor
    b: SimulatedHypervisor
    faults: dict[str, Exception]
    reopen: Callable[[str], SimulatedHypervisor]

    @property
    def whereabouts(self) -> list[tuple[str, str]]:
        """Host and state of every guest that runs."""
        return [(guest.host, guest.state.value) for guest in self.fabric.running()]


@contextlib.asynccontextmanager
async def running_cluster(kind: str, *, migrate_s: float = 0.1) -> AsyncIterator[Cluster]:
    """Hosts a and b. In a folder each has a fabric of its own, as agents in processes of their own have."""
    with tempfile.TemporaryDirectory() as folder:
        timings = SimulatedTimings(
            migrate_s=migrate_s, shutdown_s=0.05, poll_s=0.02 if kind == FOLDER else 0.0
        )
        memory = SimulatedFabric(MemoryStore())
        faults: dict[str, Exception] = {}

        def fabric() -> SimulatedFabric:
            return SimulatedFabric(FolderStore(Path(folder))) if kind == FOLDER else memory

        def host(name: str) -> SimulatedHypervisor:
            points = faults.get if name == "a" else no_faults
            return SimulatedHypervisor(fabric(), name, timings=timings, faults=points)

        cluster = Cluster(fabric=fabric(), a=host("a"), b=host("b"), faults=faults, reopen=host)
        await cluster.a.open()
        await cluster.b.open()
        yield cluster


@dataclass
class Listener:
    """Collects what a hypervisor tells."""

    told: list[DomainChanged] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def changes(self) -> list[DomainChange]:
        return [each.change for each in self.told]

    async def listen(self, hypervisor: Hypervisor) -> None:
        async for changed in hypervisor.events():
            self.told.append(changed)
            self._more.set()

    async def wait_for(self, change: DomainChange) -> DomainObservation:
        """Give the domain as it was told with `change`; fails where it never is."""
        async with asyncio.timeout(WAIT_S_MAX):
            while True:
                for each in self.told:
                    if each.change is change:
                        return each.observation
                self._more.clear()
                await self._more.wait()


@contextlib.asynccontextmanager
async def listening(hypervisor: Hypervisor) -> AsyncIterator[Listener]:
    """Listen to a hypervisor's events meanwhile."""
    listener = Listener()
    task = asyncio.create_task(listener.listen(hypervisor))
    try:
        # Listening begins before what is listened for.
        await asyncio.sleep(0)
        yield listener
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
