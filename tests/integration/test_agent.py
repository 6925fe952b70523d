"""The agent on a pretended host: each command once, true outcomes, also through crashes."""

from dataclasses import replace

import anyio

from host_agent.shell.hypervisor import HypervisorUnavailable
from host_agent.shell.simulated_hypervisor import SimulatedTimings
from shared.codec import pack, to_plain
from shared.protocol import (
    CommandBatch,
    CommandFailed,
    CommandSucceeded,
    DestroyDomain,
    DomainState,
    ForgetDomain,
    HostAction,
    HostReport,
    PauseDomain,
    ShutdownDomain,
    StartDomain,
    UnpauseDomain,
)
from simulator.memory_broker import LinkFaults
from simulator.virtual_time import virtual
from tests.support.agents import (
    HOST,
    START,
    STUBBORN,
    VM,
    Stage,
    bodies,
    command,
    domain,
    host_uuid,
    one_host,
    stage,
)


@virtual
async def test_a_start_runs_the_guest_and_reports_it() -> None:
    async with one_host() as pool:
        await pool.leader.send(HOST, START)
        outcome = await pool.leader.outcome("start")
        assert isinstance(outcome, CommandSucceeded)
        assert outcome.observation is not None
        assert outcome.observation.state is DomainState.RUNNING
        assert pool.running() == [VM]


@virtual
async def test_every_command_has_its_effect() -> None:
    async with one_host() as pool:
        actions: dict[str, HostAction] = {
            "start": StartDomain(config=domain(), start_paused=True),
            "unpause": UnpauseDomain(),
            "pause": PauseDomain(),
            "unpause again": UnpauseDomain(),
            "shutdown": ShutdownDomain(timeout_s=10.0),
        }
        await pool.leader.send(HOST, *(command(name, action) for name, action in actions.items()))
        for name in actions:
            assert isinstance(await pool.leader.outcome(name), CommandSucceeded), name
        assert pool.running() == []


@virtual
async def test_a_command_delivered_again_runs_once_and_is_answered_again() -> None:
    async with one_host() as pool:
        starts: list[str] = []
        pool.faults = lambda point: starts.append(point) if point == "start" else None
        await pool.leader.send(HOST, START)
        await pool.leader.outcome("start")
        pool.fabric.guest_power_off(VM)
        await pool.leader.send(HOST, START, START)
        await anyio.sleep(5.0)
        assert starts == ["start"]
        assert pool.running() == []
        reports = await pool.leader.reports()
        assert len(bodies(reports, CommandSucceeded)) > 1


@virtual
async def test_a_command_delivered_again_while_it_runs_runs_once() -> None:
    async with one_host() as pool:
        starts: list[str] = []
        pool.faults = lambda point: starts.append(point) if point == "start" else None
        pool.timings = SimulatedTimings(start_s=5.0)
        async with pool.agent(2):
            to = host_uuid(2)
            for _ in range(3):
                await pool.leader.send(to, START)
                await anyio.sleep(1.0)
            assert isinstance(await pool.leader.outcome("start"), CommandSucceeded)
            await anyio.sleep(5.0)
            assert starts == ["start"]
            assert len(bodies(await pool.leader.reports(), CommandSucceeded)) == 1


@virtual
async def test_a_message_is_acknowledged_only_when_the_reports_are_in_the_stream() -> None:
    async with one_host() as pool:
        subject = pool.leader.subjects.report(HOST)
        await anyio.sleep(1.0)
        pool.broker.set_faults(LinkFaults(is_cut_up=True), client="host1", subject=subject)
        await pool.leader.send(HOST, START)
        await anyio.sleep(20.0)
        assert await pool.leader.outcomes() == {}
        assert _unacknowledged(pool) == 1
        pool.mend()
        await pool.leader.outcome("start")
        await anyio.sleep(1.0)
        assert _unacknowledged(pool) == 0


def _unacknowledged(pool: Stage) -> int:
    return len(pool.broker.read(pool.leader.subjects.command_stream, 0, 100))


@virtual
async def test_garbage_is_counted_and_acknowledged_and_stops_nothing() -> None:
    async with stage() as pool, pool.agent() as agent:
        await pool.leader.send_bytes(HOST, b"\xc1 garbage")
        plain = to_plain(CommandBatch(commands=(command("new", DestroyDomain()), START)))
        plain["commands"][0]["action"]["type"] = "BeamDomain"
        await pool.leader.send_bytes(HOST, pack(plain))
        assert isinstance(await pool.leader.outcome("start"), CommandSucceeded)
        unknown = await pool.leader.outcome("new")
        assert isinstance(unknown, CommandFailed)
        assert unknown.code == "NOT_IMPLEMENTED"
        await anyio.sleep(1.0)
        assert _unacknowledged(pool) == 0
        assert agent.metrics.registry.get_sample_value("vmpool_agent_undecodable_total") == 2


@virtual
async def test_a_command_of_a_deposed_leader_does_nothing() -> None:
    async with one_host() as pool:
        pool.leader.term = 5
        await anyio.sleep(2.0)
        await pool.leader.send(HOST, replace(START, term=4))
        await anyio.sleep(5.0)
        assert pool.running() == []
        assert await pool.leader.outcomes() == {}
        await pool.leader.send(HOST, replace(START, term=5))
        assert isinstance(await pool.leader.outcome("start"), CommandSucceeded)


@virtual
async def test_a_replaced_incarnation_is_not_started_again() -> None:
    async with one_host() as pool:
        newer = command("newer", StartDomain(config=domain(incarnation=2)), incarnation=2)
        await pool.leader.send(HOST, newer)
        await pool.leader.outcome("newer")
        await pool.leader.send(HOST, command("stop", DestroyDomain(), incarnation=2))
        await pool.leader.outcome("stop")
        await pool.leader.send(HOST, START)
        await anyio.sleep(5.0)
        assert pool.running() == []


@virtual
async def test_only_the_named_incarnation_is_destroyed() -> None:
    async with one_host() as pool:
        newer = command("newer", StartDomain(config=domain(incarnation=2)), incarnation=2)
        drop = command("drop", ForgetDomain(), incarnation=1)
        await pool.leader.send(HOST, newer, drop)
        assert isinstance(await pool.leader.outcome("drop"), CommandSucceeded)
        assert pool.running() == [VM]


@virtual
async def test_a_refusal_carries_its_xenapi_code_and_the_domain_as_it_is() -> None:
    async with one_host() as pool:
        await pool.leader.send(HOST, START, command("again", UnpauseDomain(), incarnation=7))
        outcome = await pool.leader.outcome("again")
        assert isinstance(outcome, CommandFailed)
        assert outcome.code == "VM_BAD_POWER_STATE"
        assert outcome.observation is not None
        assert outcome.observation.incarnation == 1


@virtual
async def test_commands_of_different_vms_do_not_wait_for_each_other() -> None:
    async with one_host() as pool:
        other = "22222222-2222-2222-2222-222222222222"
        await pool.leader.send(
            HOST,
            command("start", StartDomain(config=STUBBORN)),
            command("shutdown", ShutdownDomain(timeout_s=1_000.0)),
            command("other", StartDomain(config=domain(other)), vm_uuid=other),
        )
        assert isinstance(await pool.leader.outcome("other", within_s=1.0), CommandSucceeded)
        assert "shutdown" not in await pool.leader.outcomes()


@virtual
async def test_a_crash_between_the_effect_and_its_report_ends_with_the_true_outcome() -> None:
    async with stage() as pool:
        stuck = anyio.Event()

        def die_after_start(point: str) -> Exception | None:
            if point == "start.answer" and not stuck.is_set():
                stuck.set()
                return HypervisorUnavailable("the answer is lost")
            return None

        pool.faults = die_after_start
        async with pool.agent():
            await pool.leader.send(HOST, START)
            await stuck.wait()
        assert pool.running() == [VM]
        assert await pool.leader.outcomes() == {}
        async with pool.agent():
            assert isinstance(await pool.leader.outcome("start"), CommandSucceeded)
        assert pool.running() == [VM]


@virtual
async def test_a_crash_before_the_effect_still_brings_it_about() -> None:
    async with stage() as pool:
        pool.timings = SimulatedTimings(start_s=5.0)
        async with pool.agent():
            await pool.leader.send(HOST, START)
            await anyio.sleep(2.0)
        assert pool.running() == []
        async with pool.agent():
            assert isinstance(await pool.leader.outcome("start"), CommandSucceeded)
        assert pool.running() == [VM]


@virtual
async def test_reports_that_were_not_published_survive_the_agent() -> None:
    async with stage() as pool:
        subject = pool.leader.subjects.report(HOST)
        async with pool.agent():
            pool.broker.set_faults(LinkFaults(is_cut_up=True), client="host1", subject=subject)
            await pool.leader.send(HOST, START)
            await anyio.sleep(3.0)
        pool.mend()
        assert await pool.leader.outcomes() == {}
        async with pool.agent():
            await pool.leader.outcome("start")
            reports = await pool.leader.reports()
            first = next(each for each in reports if isinstance(each.body, CommandSucceeded))
            assert first.epoch == 1


@virtual
async def test_reports_come_once_each_and_in_order_through_a_bad_link_and_crashes() -> None:
    async with stage() as pool:
        pool.broker.set_faults(
            LinkFaults(loss=0.2, duplication=0.2, delay_s=(0.0, 0.3)), client="host1"
        )
        for round_ in range(4):
            async with pool.agent():
                for number in range(10):
                    vm = f"{number:08d}-1111-1111-1111-111111111111"
                    name = f"c{round_}.{number}"
                    action = DestroyDomain() if round_ % 2 else StartDomain(config=domain(vm))
                    await pool.leader.send(HOST, command(name, action, vm_uuid=vm))
                await anyio.sleep(4.0)
        pool.mend()
        async with pool.agent():
            await anyio.sleep(60.0)
            reports = await pool.leader.reports()
        sequences = [report.sequence for report in reports]
        first_seen = list(dict.fromkeys(sequences))
        assert first_seen == sorted(first_seen)
        for epoch in range(1, 6):
            own = list(dict.fromkeys(each.sequence for each in reports if each.epoch == epoch))
            assert own == list(range(own[0], own[0] + len(own))), f"epoch {epoch} lacks a report"
        by_sequence: dict[int, HostReport] = {}
        for report in reports:
            assert by_sequence.setdefault(report.sequence, report) == report


@virtual
async def test_no_outcome_is_guessed_while_the_hypervisor_does_not_answer() -> None:
    async with one_host() as pool:
        down = HypervisorUnavailable("gone")
        pool.faults = lambda point: down if point in {"start", "observe"} else None
        await pool.leader.send(HOST, START)
        await anyio.sleep(3_600.0)
        assert await pool.leader.outcomes() == {}
        pool.faults = lambda _: None
        outcome = await pool.leader.outcome("start", within_s=40.0)
        assert isinstance(outcome, CommandSucceeded)
