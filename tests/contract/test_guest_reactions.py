"""What a real Linux guest makes of being changed while it runs: its serial console is the witness.

The lab's guest boots under an embedded QEMU; each second it says what it has.
"""

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.lab.guest_image import COMMAND_LINE, GuestImageUnavailable, build_guest_image
from deploy.lab.hosts import default_cache
from host_agent.core.domain_xml import domain_name
from host_agent.shell.libvirt_hypervisor import LibvirtHypervisor
from host_agent.shell.libvirt_settings import LibvirtSettings
from shared.enums import VmTrigger
from shared.protocol import (
    DomainChange,
    DomainConfig,
    SendSysrq,
    SendTrigger,
    SetDomainMemory,
    SetDomainVcpus,
)
from tests.contract.hypervisors import config, embedded_root_folder, listening

pytestmark = pytest.mark.libvirt

MIB = 1 << 20
SAID_S_MAX = 60.0


@dataclass(frozen=True)
class Guest:
    """A booted guest and what it says."""

    hypervisor: LibvirtHypervisor
    config: DomainConfig
    console: Path

    async def says(self, pattern: str, *, after: int = 0) -> int:
        """Wait until the console has this after so many characters; give where it ends."""
        async with asyncio.timeout(SAID_S_MAX):
            while True:
                text = self.console.read_text(errors="replace") if self.console.exists() else ""
                if found := re.compile(pattern).search(text, after):
                    return found.end()
                await asyncio.sleep(0.2)

    @property
    def said(self) -> int:
        return len(self.console.read_text(errors="replace"))


@contextlib.asynccontextmanager
async def booted() -> AsyncIterator[Guest]:
    if os.geteuid() != 0 or shutil.which("qemu-system-x86_64") is None:
        pytest.skip("an embedded QEMU driver needs root and qemu-system-x86_64")
    try:
        image = build_guest_image(default_cache())
    except GuestImageUnavailable as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory() as folder:
        hypervisor = LibvirtHypervisor(
            LibvirtSettings(
                uri=f"qemu:///embed?root={embedded_root_folder()}",
                accelerator="tcg",
                console_folder=folder,
                suspend_folder=f"{folder}/images",
                has_vnc=False,
            )
        )
        await hypervisor.open()
        wanted = config(
            memory_static_max=256 * MIB,
            memory_target=256 * MIB,
            vcpus_max=2,
            kernel=str(image.kernel),
            ramdisk=str(image.initrd),
            kernel_args=COMMAND_LINE,
        )
        guest = Guest(hypervisor, wanted, Path(folder) / f"{domain_name(wanted.vm_uuid)}.log")
        try:
            await hypervisor.start(wanted, paused=False)
            await guest.says(r"tick 2 cpus=1 ")
            yield guest
        finally:
            for seen in await hypervisor.inventory():
                await hypervisor.destroy(seen.vm_uuid, seen.incarnation)
            await hypervisor.close()


async def test_a_plugged_in_cpu_is_counted_by_the_guest() -> None:
    async with booted() as guest:
        seen = await guest.hypervisor.tune(guest.config.vm_uuid, 1, SetDomainVcpus(vcpus=2))
        assert seen.vcpus == 2
        await guest.says(r"tick \d+ cpus=2 ")


async def test_the_balloon_takes_memory_from_the_guest_and_gives_it_back() -> None:
    async with booted() as guest:
        for target in (160 * MIB, 256 * MIB):
            await guest.hypervisor.tune(guest.config.vm_uuid, 1, SetDomainMemory(target=target))
            async with asyncio.timeout(SAID_S_MAX):
                while True:
                    seen = await guest.hypervisor.observe(guest.config.vm_uuid)
                    assert seen is not None
                    if seen.memory_actual == target:
                        break
                    await asyncio.sleep(0.2)
            before = guest.said
            # What the guest itself counts (KiB) is a little less than what it was given.
            digits = r"1[0-5]\d{4}|[5-9]\d{4}" if target < 200 * MIB else r"2\d{5}|1[89]\d{4}"
            await guest.says(rf"tick \d+ cpus=1 mem=({digits}) ", after=before)


async def test_a_sysrq_key_is_answered_by_the_guests_kernel() -> None:
    async with booted() as guest:
        await guest.hypervisor.signal(guest.config.vm_uuid, 1, SendSysrq(key="h"))
        await guest.says(r"(?i)sysrq: HELP")


async def test_an_nmi_is_received_by_the_guests_kernel() -> None:
    async with booted() as guest:
        await guest.hypervisor.signal(guest.config.vm_uuid, 1, SendTrigger(trigger=VmTrigger.NMI))
        await guest.says(r"NMI received")


async def test_a_reset_boots_the_guest_anew_in_the_same_domain() -> None:
    async with booted() as guest, listening(guest.hypervisor) as listener:
        before = guest.said
        await guest.hypervisor.signal(guest.config.vm_uuid, 1, SendTrigger(trigger=VmTrigger.RESET))
        assert (await listener.wait_for(DomainChange.REBOOTED)).incarnation == 1
        await guest.says(r"tick 1 cpus=1 ", after=before)


async def test_the_power_trigger_is_felt_as_the_power_button() -> None:
    async with booted() as guest, listening(guest.hypervisor) as listener:
        await guest.hypervisor.signal(guest.config.vm_uuid, 1, SendTrigger(trigger=VmTrigger.POWER))
        await guest.says(r"power button")
        await listener.wait_for(DomainChange.POWERED_OFF)


async def test_a_resumed_guest_counts_on_where_it_was_suspended() -> None:
    async with booted() as guest:
        vm_uuid = guest.config.vm_uuid
        await guest.hypervisor.suspend(vm_uuid, 1, "image")
        last = max(map(int, re.findall(r"tick (\d+) ", guest.console.read_text())))
        before = guest.said
        await guest.hypervisor.resume(vm_uuid, 2, "image")
        assert guest.said == before
        await guest.hypervisor.unpause(vm_uuid, 2)
        await guest.says(rf"tick {last + 1} ", after=before)
        assert "tick 1 " not in guest.console.read_text()[before:]
