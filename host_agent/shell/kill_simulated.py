"""Kills the guests of one host of a simulated cluster in a folder: what its watchdog runs."""

import asyncio
import sys
from pathlib import Path

from host_agent.shell.fabric_store import FolderStore
from host_agent.shell.simulated_fabric import SimulatedFabric
from host_agent.shell.simulated_hypervisor import SimulatedHypervisor


async def kill(folder: Path, host: str) -> None:
    """Kill them."""
    hypervisor = SimulatedHypervisor(SimulatedFabric(FolderStore(folder)), host)
    await hypervisor.destroy_all_fast()


if __name__ == "__main__":
    asyncio.run(kill(Path(sys.argv[1]), sys.argv[2]))
