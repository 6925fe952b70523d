"""What a host tells unasked: its guests' own deeds, and inventories that fit in between."""

from dataclasses import replace

import anyio

from host_agent.core.journal_state import JOURNAL_CHANGE, ReportMade
from host_agent.shell.simulated_hypervisor import SimulatedHypervisor, SimulatedTimings
from shared.codec import decode
from shared.protocol import (
    CommandSucceeded,
    DomainChange,
    DomainChanged,
    DomainObservation,
    HostInventory,
    StartDomain,
)
from simulator.memory_broker import LinkFaults
from simulator.memory_journal import MemoryJournalDisk
from simulator.virtual_time import virtual
from tests.support.agents import (
    HOST,
    START,
    VM,
    bodies,
    command,
    domain,
    one_host,
    stage,
)


@virtual
async def test_a_guest_that_powers_itself_off_is_told_at_once() -> None:
    async with one_host() as pool:
        await pool.leader.send(HOST, START)
        await pool.leader.outcome("start")
        pool.fabric.guest_power_off(VM)
        await anyio.sleep(0.5)
        changes = bodies(await pool.leader.reports(), DomainChanged)
        assert [change.change for change in changes] == [DomainChange.POWERED_OFF]


@virtual
async def test_inventories_come_at_the_start_at_a_new_term_after_silence_and_now_and_then() -> None:
    async with one_host() as pool:

        async def inventories() -> list[HostInventory]:
            return bodies(await pool.leader.reports(), HostInventory)

        await anyio.sleep(10.0)
        at_start = await inventories()
        assert at_start[0].is_first
        assert not any(each.is_first for each in at_start[1:])
        assert at_start[0].peer_address == "host1"
        pool.leader.term = 2
        await anyio.sleep(4.0)
        at_term = await inventories()
        assert len(at_term) == len(at_start) + 1
        pool.leader.is_silent = True
        await anyio.sleep(10.0)
        pool.leader.is_silent = False
        await anyio.sleep(4.0)
        after_silence = await inventories()
        assert len(after_silence) == len(at_term) + 1
        await anyio.sleep(70.0)
        assert len(await inventories()) > len(after_silence)


@virtual
async def test_inventories_do_not_pile_up_while_the_stream_is_away() -> None:
    async with one_host() as pool:
        await anyio.sleep(5.0)
        before = len(bodies(await pool.leader.reports(), HostInventory))
        subject = pool.leader.subjects.report(HOST)
        pool.broker.set_faults(LinkFaults(is_cut_up=True), client="host1", subject=subject)
        await anyio.sleep(600.0)
        pool.mend()
        await anyio.sleep(5.0)
        assert len(bodies(await pool.leader.reports(), HostInventory)) <= before + 2


class SlowToTell(SimulatedHypervisor):
    """Looks at once, and takes its time to say what it saw."""

    async def inventory(self) -> tuple[DomainObservation, ...]:
        seen = await super().inventory()
        await anyio.sleep(0.2)
        return seen

    async def observe(self, vm_uuid: str) -> DomainObservation | None:
        seen = await super().observe(vm_uuid)
        await anyio.sleep(0.05)
        return seen


@virtual
async def test_an_inventory_never_misses_what_was_reported_before_it() -> None:
    async with stage() as pool:
        pool.hypervisor = SlowToTell
        pool.timings = SimulatedTimings(start_s=0.02)
        pool.config = replace(pool.config, inventory_period_s=0.1)
        async with pool.agent():
            for number in range(60):
                vm = f"{number:08d}-1111-1111-1111-111111111111"
                start = command(f"c{number}", StartDomain(config=domain(vm)), vm_uuid=vm)
                await pool.leader.send(HOST, start)
                await anyio.sleep(0.13)
            await anyio.sleep(5.0)
            known: set[str] = set()
            inventories = 0
            for report in await pool.leader.reports():
                match report.body:
                    case CommandSucceeded(vm_uuid=vm_uuid):
                        known.add(vm_uuid)
                    case HostInventory(domains=domains):
                        inventories += 1
                        assert known <= {seen.vm_uuid for seen in domains}
                    case _:
                        pass
            assert inventories > 2


@virtual
async def test_no_report_is_published_before_it_is_durable() -> None:
    """A number that was seen outside and is lost here would be given to another report."""
    async with stage() as pool:
        pool.disks[1] = MemoryJournalDisk("slow", flush_s=0.4)
        published: set[int] = set()
        async with pool.agent():
            for step in range(300):
                await anyio.sleep(0.01)
                if step % 15 == 0:
                    vm = f"{step:08d}-1111-1111-1111-111111111111"
                    start = command(f"c{step}", StartDomain(config=domain(vm)), vm_uuid=vm)
                    await pool.leader.send(HOST, start)
                durable = {
                    change.report.sequence
                    for data in pool.disks[1].changes
                    if isinstance(change := decode(data, JOURNAL_CHANGE), ReportMade)
                }
                published = {report.sequence for report in await pool.leader.reports()}
                assert published <= durable
        assert len(published) > 5
