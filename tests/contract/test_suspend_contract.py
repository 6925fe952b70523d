"""What every hypervisor does with saved guests: one image, one domain, and never both running."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from shared.errors import DomainExists, VmBadPowerState, VmHasNoSuspendVdi, VmNoSuspendSr
from shared.protocol import DomainState
from tests.contract.hypervisors import (
    ALL,
    SIMULATED,
    TEST_DRIVER,
    config,
    listening,
    running_cluster,
    running_hypervisor,
)

on_every_hypervisor = pytest.mark.parametrize("kind", ALL)


@on_every_hypervisor
async def test_a_suspended_guest_comes_back_standing_still_under_a_new_incarnation(
    kind: str,
) -> None:
    async with running_hypervisor(kind) as hypervisor, listening(hypervisor) as listener:
        guest = config(3)
        await hypervisor.start(guest, paused=False)

        await hypervisor.suspend(guest.vm_uuid, 3, "image")
        assert await hypervisor.observe(guest.vm_uuid) is None
        restored = [await hypervisor.resume(guest.vm_uuid, 4, "image") for _ in range(2)]
        running = await hypervisor.unpause(guest.vm_uuid, 4)

        assert restored[0] == restored[1]
        assert (restored[0].incarnation, restored[0].state) == (4, DomainState.PAUSED)
        assert (running.incarnation, running.state) == (4, DomainState.RUNNING)
        assert running.memory_actual == guest.memory_target
        assert await hypervisor.inventory() == (running,)
        assert listener.changes == []


@on_every_hypervisor
async def test_a_repeated_suspend_finds_it_done(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()
        await hypervisor.start(guest, paused=False)

        for _ in range(2):
            await hypervisor.suspend(guest.vm_uuid, 1, "image")

        assert (await hypervisor.resume(guest.vm_uuid, 2, "image")).incarnation == 2


@on_every_hypervisor
async def test_an_image_may_be_resumed_again_where_the_first_try_was_lost(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()
        await hypervisor.start(guest, paused=False)
        await hypervisor.suspend(guest.vm_uuid, 1, "image")
        await hypervisor.resume(guest.vm_uuid, 2, "image")
        await hypervisor.destroy_all_fast()

        again = await hypervisor.resume(guest.vm_uuid, 3, "image")

        assert (again.incarnation, again.state) == (3, DomainState.PAUSED)


@on_every_hypervisor
async def test_only_this_incarnation_and_only_while_it_runs_is_suspended(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config(2)
        paused = await hypervisor.start(guest, paused=True)

        for incarnation in (1, 2):
            with pytest.raises(VmBadPowerState):
                await hypervisor.suspend(guest.vm_uuid, incarnation, "image")
        with pytest.raises(VmBadPowerState):
            await hypervisor.suspend(config().vm_uuid, 1, "image")

        assert await hypervisor.observe(guest.vm_uuid) == paused


@on_every_hypervisor
async def test_an_image_that_is_gone_or_anothers_makes_no_domain(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest, other = config(), config()
        await hypervisor.start(guest, paused=False)
        await hypervisor.suspend(guest.vm_uuid, 1, "image")

        with pytest.raises(VmHasNoSuspendVdi):
            await hypervisor.resume(other.vm_uuid, 2, "image")
        for _ in range(2):
            await hypervisor.discard_image("image")
        with pytest.raises(VmHasNoSuspendVdi):
            await hypervisor.resume(guest.vm_uuid, 2, "image")

        assert await hypervisor.inventory() == ()


@on_every_hypervisor
async def test_a_resume_does_not_touch_a_guest_that_runs(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()
        await hypervisor.start(guest, paused=False)
        await hypervisor.suspend(guest.vm_uuid, 1, "image")
        running = await hypervisor.start(replace(guest, incarnation=2), paused=False)

        with pytest.raises(DomainExists):
            await hypervisor.resume(guest.vm_uuid, 3, "image")

        assert await hypervisor.observe(guest.vm_uuid) == running


@pytest.mark.parametrize("kind", SIMULATED)
async def test_another_host_resumes_what_this_one_has_suspended(kind: str) -> None:
    async with running_cluster(kind) as cluster:
        guest = config()
        await cluster.a.start(guest, paused=False)

        await cluster.a.suspend(guest.vm_uuid, 1, "image")
        await cluster.b.resume(guest.vm_uuid, 2, "image")

        assert cluster.whereabouts == [("b", "paused")]


@pytest.mark.libvirt
async def test_a_host_without_a_folder_for_images_says_so() -> None:
    async with running_hypervisor(TEST_DRIVER, suspend_folder="") as hypervisor:
        guest = config()
        running = await hypervisor.start(guest, paused=False)

        with pytest.raises(VmNoSuspendSr):
            await hypervisor.suspend(guest.vm_uuid, 1, "image")

        assert await hypervisor.observe(guest.vm_uuid) == running


@pytest.mark.libvirt
async def test_no_image_is_kept_outside_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    async with running_hypervisor(TEST_DRIVER, suspend_folder=str(folder)) as hypervisor:
        guest = config()
        await hypervisor.start(guest, paused=False)

        await hypervisor.suspend(guest.vm_uuid, 1, "../outside")

        assert os.listdir(folder) == ["outside.save"]
        assert os.listdir(tmp_path) == ["images"]
