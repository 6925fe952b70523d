"""What every hypervisor keeps to, whatever is behind it."""

import asyncio
import shutil
from dataclasses import replace

import pytest

from host_agent.shell.accelerator import runs_a_guest
from shared.errors import (
    BootloaderFailed,
    DomainExists,
    OperationNotAllowed,
    VmBadPowerState,
)
from shared.protocol import (
    AttachNic,
    DetachNic,
    DomainChange,
    DomainState,
    MigrateDomain,
    NicConfig,
)
from tests.contract.hypervisors import (
    ALL,
    EMBEDDED,
    SIMULATED,
    TEST_DRIVER,
    config,
    listening,
    running_hypervisor,
)

on_every_hypervisor = pytest.mark.parametrize("kind", ALL)

NOWHERE = MigrateDomain(destination_host="b", destination_uri="", migrate_uri="")


@on_every_hypervisor
async def test_a_started_domain_is_in_the_inventory_as_the_answer_said(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()

        answer = await hypervisor.start(guest, paused=False)

        assert (answer.vm_uuid, answer.incarnation) == (guest.vm_uuid, 1)
        assert answer.state is DomainState.RUNNING
        assert answer.domid >= 0
        assert answer.memory_actual == guest.memory_target
        assert answer.vcpus == 1
        assert await hypervisor.observe(guest.vm_uuid) == answer
        assert answer in await hypervisor.inventory()


@on_every_hypervisor
async def test_a_domain_started_paused_does_not_run_until_it_is_unpaused(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()

        paused = await hypervisor.start(guest, paused=True)
        running = await hypervisor.unpause(guest.vm_uuid, 1)

        assert paused.state is DomainState.PAUSED
        assert running.state is DomainState.RUNNING
        assert paused.domid == running.domid


@on_every_hypervisor
async def test_a_repeated_start_leaves_the_running_domain_alone(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()
        first = await hypervisor.start(guest, paused=False)

        again = await hypervisor.start(guest, paused=False)

        assert again == first


@on_every_hypervisor
@pytest.mark.parametrize("incarnation", [1, 3])
async def test_a_start_of_another_incarnation_does_not_touch_the_running_one(
    kind: str, incarnation: int
) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config(2)
        running = await hypervisor.start(guest, paused=False)

        with pytest.raises(DomainExists):
            await hypervisor.start(replace(guest, incarnation=incarnation), paused=False)

        assert await hypervisor.observe(guest.vm_uuid) == running


@on_every_hypervisor
async def test_what_an_older_incarnation_left_gives_way_and_a_newer_one_does_not(
    kind: str,
) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config(2)
        await hypervisor.start(guest, paused=False)
        assert await hypervisor.destroy_all_fast() == (guest.vm_uuid,)
        left = await hypervisor.observe(guest.vm_uuid)

        with pytest.raises(DomainExists):
            await hypervisor.start(replace(guest, incarnation=1), paused=False)
        newer = await hypervisor.start(replace(guest, incarnation=3), paused=False)

        assert left is not None
        assert (left.incarnation, left.state, left.domid) == (2, DomainState.SHUTOFF, -1)
        assert (newer.incarnation, newer.state) == (3, DomainState.RUNNING)


@on_every_hypervisor
async def test_pause_and_unpause_may_be_repeated(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()
        await hypervisor.start(guest, paused=False)

        paused = [await hypervisor.pause(guest.vm_uuid, 1) for _ in range(2)]
        running = [await hypervisor.unpause(guest.vm_uuid, 1) for _ in range(2)]

        assert [seen.state for seen in paused] == [DomainState.PAUSED] * 2
        assert [seen.state for seen in running] == [DomainState.RUNNING] * 2


@on_every_hypervisor
@pytest.mark.parametrize("call", ["pause", "unpause", "request_shutdown"])
async def test_a_call_to_an_incarnation_that_is_not_here_is_refused(kind: str, call: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config(2)
        running = await hypervisor.start(guest, paused=False)

        with pytest.raises(VmBadPowerState):
            await getattr(hypervisor, call)(guest.vm_uuid, 1)
        with pytest.raises(VmBadPowerState):
            await getattr(hypervisor, call)(config().vm_uuid, 1)

        assert await hypervisor.observe(guest.vm_uuid) == running


@on_every_hypervisor
async def test_a_destroyed_domain_is_gone_and_destroying_it_again_succeeds(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()
        await hypervisor.start(guest, paused=False)

        for _ in range(2):
            await hypervisor.destroy(guest.vm_uuid, 1)

        assert await hypervisor.observe(guest.vm_uuid) is None
        assert await hypervisor.inventory() == ()


@on_every_hypervisor
async def test_destroy_never_touches_another_incarnation(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config(2)
        running = await hypervisor.start(guest, paused=False)

        with pytest.raises(DomainExists):
            await hypervisor.destroy(guest.vm_uuid, 1)

        assert await hypervisor.observe(guest.vm_uuid) == running


@on_every_hypervisor
async def test_the_agents_own_deeds_are_answers_and_not_events(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor, listening(hypervisor) as listener:
        guest, other = config(), config()

        await hypervisor.start(guest, paused=True)
        await hypervisor.unpause(guest.vm_uuid, 1)
        await hypervisor.pause(guest.vm_uuid, 1)
        await hypervisor.destroy(guest.vm_uuid, 1)
        await hypervisor.start(other, paused=False)
        killed = await hypervisor.destroy_all_fast()
        # Time for what must not be told.
        await asyncio.sleep(0.3)

        assert killed == (other.vm_uuid,)
        await hypervisor.start(replace(other, incarnation=2), paused=False)
        await hypervisor.destroy(other.vm_uuid, 2)
        assert listener.changes == []


@pytest.mark.parametrize("kind", ALL[:3])
async def test_a_guest_that_powers_off_is_told_and_leaves_its_definition(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor, listening(hypervisor) as listener:
        guest = config(7)
        await hypervisor.start(guest, paused=False)

        await hypervisor.request_shutdown(guest.vm_uuid, 7)

        seen = await listener.wait_for(DomainChange.POWERED_OFF)
        assert (seen.vm_uuid, seen.incarnation, seen.domid) == (guest.vm_uuid, 7, -1)
        assert await hypervisor.inventory() == (seen,)
        await hypervisor.destroy(guest.vm_uuid, 7)
        assert await hypervisor.inventory() == ()


@on_every_hypervisor
async def test_a_fenced_host_runs_nothing_and_still_says_what_it_had(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guests = [config(number) for number in (1, 2)]
        for guest in guests:
            await hypervisor.start(guest, paused=False)

        killed = await hypervisor.destroy_all_fast()
        again = await hypervisor.destroy_all_fast()

        assert killed == tuple(sorted(guest.vm_uuid for guest in guests))
        assert again == ()
        left = {
            seen.vm_uuid: (seen.incarnation, seen.domid) for seen in await hypervisor.inventory()
        }
        assert left == {guest.vm_uuid: (guest.incarnation, -1) for guest in guests}


@on_every_hypervisor
async def test_nothing_arrives_where_nothing_comes_in(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config(2)

        assert await hypervisor.settle_incoming(guest.vm_uuid, 2) is None
        running = await hypervisor.start(guest, paused=False)

        assert await hypervisor.settle_incoming(guest.vm_uuid, 2) == running
        assert await hypervisor.settle_incoming(guest.vm_uuid, 1) is None
        assert await hypervisor.observe(guest.vm_uuid) == running


@on_every_hypervisor
async def test_a_domain_that_does_not_move_is_said_to_be_here_or_not(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config(2)
        await hypervisor.start(guest, paused=False)

        assert await hypervisor.migration_status(guest.vm_uuid, 2) == "here"
        assert await hypervisor.migration_status(guest.vm_uuid, 1) == "not_here"
        assert await hypervisor.migration_status(config().vm_uuid, 1) == "not_here"
        await hypervisor.cancel_migration(guest.vm_uuid)


@on_every_hypervisor
async def test_a_domain_has_the_network_interfaces_of_its_config(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        macs = ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
        nics = tuple(
            NicConfig(device=str(number), mac=mac, bridge="") for number, mac in enumerate(macs)
        )

        started = await hypervisor.start(config(nics=nics), paused=False)

        assert started.nics == macs


NIC = NicConfig(device="1", mac="02:00:00:00:00:0c", bridge="")
DETACH = DetachNic(mac=NIC.mac, timeout_s=20.0)
PLUGGING = (ALL[0], ALL[1], ALL[3])


@pytest.mark.parametrize("kind", PLUGGING)
async def test_an_interface_is_attached_to_a_running_domain_once(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()
        await hypervisor.start(guest, paused=False)

        attached = [
            await hypervisor.change_device(guest.vm_uuid, 1, AttachNic(nic=NIC)) for _ in range(2)
        ]

        assert [seen.nics for seen in attached] == [(NIC.mac,)] * 2
        seen = await hypervisor.observe(guest.vm_uuid)
        assert seen is not None
        assert seen.nics == (NIC.mac,)


@pytest.mark.parametrize("kind", PLUGGING)
async def test_a_guest_may_be_asked_again_to_let_go_of_an_interface(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config(nics=(NIC,))
        await hypervisor.start(guest, paused=False)

        # A guest without an operating system never does, a simulated one at once.
        for _ in range(2):
            await hypervisor.change_device(guest.vm_uuid, 1, DETACH)

        is_simulated = kind in SIMULATED
        seen = await hypervisor.observe(guest.vm_uuid)
        assert seen is not None
        assert (NIC.mac not in seen.nics) or not is_simulated


@on_every_hypervisor
async def test_devices_of_an_incarnation_that_is_not_here_are_left_alone(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config(2, nics=(NIC,))
        await hypervisor.start(guest, paused=False)

        with pytest.raises(VmBadPowerState):
            await hypervisor.change_device(guest.vm_uuid, 1, DETACH)

        seen = await hypervisor.observe(guest.vm_uuid)
        assert seen is not None
        assert seen.nics == (NIC.mac,)


@pytest.mark.libvirt
async def test_what_cannot_plug_says_so() -> None:
    async with running_hypervisor(TEST_DRIVER) as hypervisor:
        guest = config()
        await hypervisor.start(guest, paused=False)

        with pytest.raises(OperationNotAllowed):
            await hypervisor.change_device(guest.vm_uuid, 1, AttachNic(nic=NIC))


@on_every_hypervisor
async def test_the_host_describes_itself(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        host = await hypervisor.describe()

        assert host.hostname
        assert host.cpu_count > 0
        assert 0 < host.memory_free <= host.memory_total
        assert host.cpu_info.keys() == {"cpu_count", "vendor", "modelname", "features"}
        assert "pause" in host.capabilities


@on_every_hypervisor
async def test_a_reopened_hypervisor_knows_what_it_runs(kind: str) -> None:
    if kind == TEST_DRIVER:
        pytest.skip("the test driver forgets all when its last connection closes")
    async with running_hypervisor(kind) as hypervisor:
        guest = config(5)
        running = await hypervisor.start(guest, paused=False)

        await hypervisor.close()
        await hypervisor.open()

        assert await hypervisor.inventory() == (running,)


@pytest.mark.libvirt
@pytest.mark.parametrize("kind", [TEST_DRIVER, EMBEDDED])
async def test_what_cannot_migrate_says_so(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()
        running = await hypervisor.start(guest, paused=False)

        with pytest.raises(OperationNotAllowed, match="cannot migrate"):
            await hypervisor.migrate(guest.vm_uuid, 1, NOWHERE, lambda _: None)

        assert await hypervisor.observe(guest.vm_uuid) == running


@pytest.mark.libvirt
async def test_a_kernel_that_is_not_there_is_the_boot_loaders_failure_and_leaves_nothing() -> None:
    async with running_hypervisor(EMBEDDED) as hypervisor:
        guest = config(kernel="/nowhere/vmlinuz")

        with pytest.raises(BootloaderFailed, match="/nowhere/vmlinuz"):
            await hypervisor.start(guest, paused=False)

        assert await hypervisor.inventory() == ()


@pytest.mark.libvirt
async def test_domains_of_others_are_named_and_never_touched() -> None:
    # libvirt's test driver begins with a domain of its own, named test.
    async with running_hypervisor(TEST_DRIVER) as hypervisor:
        assert await hypervisor.unknown_domains() == ("test",)
        assert await hypervisor.destroy_all_fast() == ()
        assert await hypervisor.unknown_domains() == ("test",)


@pytest.mark.libvirt
def test_an_accelerator_counts_only_where_a_guest_ran_under_it() -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("there is no qemu-system-x86_64")

    assert runs_a_guest("tcg")
    assert not runs_a_guest("no-such-accelerator")
