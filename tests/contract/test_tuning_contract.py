"""What every hypervisor does to a running guest: VCPUs, memory, scheduling, keys and triggers."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from host_agent.shell.hypervisor import Hypervisor
from shared.enums import VmTrigger
from shared.errors import (
    InvalidValue,
    OperationNotAllowed,
    ValueNotSupported,
    VmBadPowerState,
)
from shared.protocol import (
    DomainChange,
    DomainSignal,
    DomainState,
    DomainTuning,
    SendSysrq,
    SendTrigger,
    SetDomainMemory,
    SetDomainScheduler,
    SetDomainVcpus,
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
TUNINGS: tuple[DomainTuning, ...] = (
    SetDomainVcpus(vcpus=2),
    SetDomainMemory(target=48 << 20),
    SetDomainScheduler(params={"weight": "512"}),
)
SIGNALS: tuple[DomainSignal, ...] = (SendSysrq(key="h"), SendTrigger(trigger=VmTrigger.NMI))


@on_every_hypervisor
async def test_vcpus_are_plugged_in_while_it_runs(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config(vcpus_max=3)
        await hypervisor.start(guest, paused=False)

        tuned = [await hypervisor.tune(guest.vm_uuid, 1, SetDomainVcpus(vcpus=2)) for _ in range(2)]

        assert [seen.vcpus for seen in tuned] == [2, 2]
        assert await hypervisor.observe(guest.vm_uuid) == tuned[0]


@on_every_hypervisor
async def test_more_vcpus_than_the_machine_has_places_for_are_refused(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config(vcpus_max=2)
        running = await hypervisor.start(guest, paused=False)

        with pytest.raises(OperationNotAllowed):
            await hypervisor.tune(guest.vm_uuid, 1, SetDomainVcpus(vcpus=3))

        assert await hypervisor.observe(guest.vm_uuid) == running


@pytest.mark.parametrize("kind", ALL[:3])
async def test_the_balloon_follows_its_target(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()
        await hypervisor.start(guest, paused=False)

        tuned = await hypervisor.tune(guest.vm_uuid, 1, SetDomainMemory(target=48 << 20))

        assert tuned.memory_actual == 48 << 20


@pytest.mark.libvirt
async def test_a_guest_without_a_balloon_keeps_its_memory_and_is_told_as_it_is() -> None:
    async with running_hypervisor(EMBEDDED) as hypervisor:
        guest = config()
        running = await hypervisor.start(guest, paused=False)

        tuned = await hypervisor.tune(guest.vm_uuid, 1, SetDomainMemory(target=48 << 20))

        assert tuned.memory_actual == running.memory_actual


@pytest.mark.parametrize("kind", ALL[:3])
async def test_a_weight_is_applied_and_a_bad_one_refused(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()
        running = await hypervisor.start(guest, paused=False)

        for params in ({"weight": "512"}, {"mask": "0"}):
            tuned = await hypervisor.tune(guest.vm_uuid, 1, SetDomainScheduler(params=params))
            assert tuned == running
        for params in ({"weight": "x"}, {"cap": "x"}, {"mask": "x"}):
            with pytest.raises(InvalidValue):
                await hypervisor.tune(guest.vm_uuid, 1, SetDomainScheduler(params=params))


@pytest.mark.libvirt
async def test_where_the_kernel_lends_no_cpu_cgroup_a_weight_is_not_allowed() -> None:
    async with running_hypervisor(EMBEDDED) as hypervisor:
        guest = config()
        await hypervisor.start(guest, paused=False)

        weight, mask = ({"weight": "512"}, {"mask": "0"})
        with pytest.raises(OperationNotAllowed, match="cgroup"):
            await hypervisor.tune(guest.vm_uuid, 1, SetDomainScheduler(params=weight))
        # Pinning takes no cgroup.
        await hypervisor.tune(guest.vm_uuid, 1, SetDomainScheduler(params=mask))


@on_every_hypervisor
async def test_keys_and_triggers_leave_the_domain_as_it_is(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()
        running = await hypervisor.start(guest, paused=False)

        for signal in SIGNALS:
            await hypervisor.signal(guest.vm_uuid, 1, signal)

        assert await hypervisor.observe(guest.vm_uuid) == running


@pytest.mark.parametrize("kind", [*SIMULATED, pytest.param(EMBEDDED, marks=pytest.mark.libvirt)])
async def test_a_reset_is_told_as_a_reboot(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor, listening(hypervisor) as listener:
        guest = config()
        await hypervisor.start(guest, paused=False)

        await hypervisor.signal(guest.vm_uuid, 1, SendTrigger(trigger=VmTrigger.RESET))

        assert (await listener.wait_for(DomainChange.REBOOTED)).state is DomainState.RUNNING


@pytest.mark.parametrize("kind", ALL[:3])
async def test_the_power_trigger_is_the_power_button(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor, listening(hypervisor) as listener:
        guest = config()
        await hypervisor.start(guest, paused=False)

        await hypervisor.signal(guest.vm_uuid, 1, SendTrigger(trigger=VmTrigger.POWER))

        await listener.wait_for(DomainChange.POWERED_OFF)


@pytest.mark.parametrize("kind", SIMULATED)
@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("b", DomainChange.REBOOTED),
        ("o", DomainChange.POWERED_OFF),
        ("c", DomainChange.CRASHED),
    ],
)
async def test_a_simulated_guest_does_what_its_sysrq_keys_say(
    kind: str, key: str, change: DomainChange
) -> None:
    async with running_hypervisor(kind) as hypervisor, listening(hypervisor) as listener:
        guest = config()
        await hypervisor.start(guest, paused=False)

        await hypervisor.signal(guest.vm_uuid, 1, SendSysrq(key=key))

        await listener.wait_for(change)


@on_every_hypervisor
async def test_what_no_machine_here_has_says_so(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config()
        running = await hypervisor.start(guest, paused=False)

        with pytest.raises(ValueNotSupported, match="INIT"):
            await hypervisor.signal(guest.vm_uuid, 1, SendTrigger(trigger=VmTrigger.INIT))
        with pytest.raises(OperationNotAllowed):
            await hypervisor.signal(guest.vm_uuid, 1, SendTrigger(trigger=VmTrigger.SLEEP))

        assert await hypervisor.observe(guest.vm_uuid) == running


@on_every_hypervisor
async def test_only_this_incarnation_and_only_while_it_runs(kind: str) -> None:
    async with running_hypervisor(kind) as hypervisor:
        guest = config(2, vcpus_max=2)
        await hypervisor.start(guest, paused=True)
        deeds: list[Callable[[Hypervisor, int], Awaitable[object]]] = [
            *(lambda h, i, t=each: h.tune(guest.vm_uuid, i, t) for each in TUNINGS),
            *(lambda h, i, s=each: h.signal(guest.vm_uuid, i, s) for each in SIGNALS),
        ]

        for deed in deeds:
            for incarnation in (1, 2):
                with pytest.raises(VmBadPowerState):
                    await deed(hypervisor, incarnation)


async def test_the_agents_own_tuning_is_no_news() -> None:
    async with running_hypervisor(TEST_DRIVER) as hypervisor, listening(hypervisor) as listener:
        guest = config(vcpus_max=2)
        await hypervisor.start(guest, paused=False)

        await hypervisor.tune(guest.vm_uuid, 1, SetDomainVcpus(vcpus=2))
        await asyncio.sleep(0.3)

        assert listener.changes == []
