"""A real QEMU opens the disks that its domain has, and keeps everybody else from writing to them."""

import subprocess
from pathlib import Path

import pytest

from shared.storage_protocol import DiskConfig
from tests.contract.hypervisors import EMBEDDED, config, running_hypervisor
from tests.contract.test_storage_contract import FILES, an_sr, empty_disk, needs_qemu


def writes(path: Path) -> bool:
    """Whether somebody else could write to the image now."""
    words = ["qemu-io", "-f", "qcow2", "-c", "write 0 4k", str(path)]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert said.returncode == 0 or "lock" in said.stderr, said.stderr
    return said.returncode == 0


@needs_qemu
@pytest.mark.libvirt
async def test_a_guest_holds_its_disks_while_it_runs(tmp_path: Path) -> None:
    async with an_sr(FILES, tmp_path) as (storage, sr), running_hypervisor(EMBEDDED) as hypervisor:
        disk, second = [await empty_disk(storage, sr) for _ in range(2)]
        folder = tmp_path / "sr"
        disks = (
            DiskConfig(device="vda", source=str(folder / disk), format="qcow2", is_shared=True),
            DiskConfig(device="vdb", source=str(folder / second), format="qcow2", read_only=True),
            DiskConfig(device="hdc", source="", read_only=True, is_cdrom=True),
        )
        guest = config(disks=disks)

        await hypervisor.start(guest, paused=True)

        assert not writes(folder / disk)
        await hypervisor.destroy(guest.vm_uuid, 1)
        assert writes(folder / disk)
