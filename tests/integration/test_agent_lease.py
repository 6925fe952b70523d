"""The lease: fencing in time, failsafe, promises, and what becomes of commands meanwhile."""

import anyio

from host_agent.shell.simulated_hypervisor import SimulatedTimings
from shared.protocol import (
    CommandFailed,
    CommandSucceeded,
    DomainChange,
    DomainChanged,
    StartDomain,
)
from simulator.virtual_time import virtual
from tests.support.agents import (
    FENCE_S,
    HOST,
    LEASE_S,
    START,
    VM,
    bodies,
    command,
    domain,
    fenced_after,
    host_uuid,
    pool_of,
    stage,
)


@virtual
async def test_a_host_cut_off_alone_kills_its_guests_in_time() -> None:
    async with pool_of(3) as pool:
        pool.cut(1)
        # Cut between two requests: the last lease was asked for at most a heartbeat before.
        assert LEASE_S - 1.0 <= await fenced_after(pool) < LEASE_S + FENCE_S * 2 / 3
        assert pool.watchdogs[1].kills == 0
        pool.mend()
        await anyio.sleep(10.0)
        changes = bodies(await pool.leader.reports(), DomainChanged)
        assert [change.change for change in changes] == [DomainChange.FENCED]
        assert changes[0].observation.incarnation == 1


@virtual
async def test_guests_survive_where_no_host_of_the_pool_has_a_lease() -> None:
    async with pool_of(3) as pool:
        pool.leader.is_silent = True
        await anyio.sleep(120.0)
        assert pool.running() == [VM]
        assert all(watchdog.kills == 0 for watchdog in pool.watchdogs.values())


@virtual
async def test_guests_die_where_no_host_has_a_lease_but_one_does_not_answer() -> None:
    async with pool_of(3) as pool:
        pool.network.reaches = lambda _, answerer: answerer != "host3"
        pool.leader.is_silent = True
        assert await fenced_after(pool) < LEASE_S + FENCE_S * 2 / 3


@virtual
async def test_the_messaging_systems_return_fences_nobody() -> None:
    async with pool_of(3) as pool:
        for _ in range(5):
            pool.broker.stop()
            await anyio.sleep(23.7)
            pool.broker.start()
            await anyio.sleep(20.3)
        assert pool.running() == [VM]


@virtual
async def test_failsafe_ends_when_another_host_gets_a_lease() -> None:
    async with pool_of(3) as pool:
        pool.leader.is_silent = True
        await anyio.sleep(30.0)
        pool.leader.is_silent = False
        pool.leader.refused = {HOST}
        assert await fenced_after(pool) < LEASE_S + FENCE_S


@virtual
async def test_a_peer_that_vouched_starts_nothing_while_the_other_relies_on_it() -> None:
    """The leader comes back on one side: what it starts there must wait until the other side is dead."""
    async with pool_of(2) as pool:
        pool.leader.is_silent = True
        await anyio.sleep(30.0)
        assert pool.running() == [VM]
        pool.leader.is_silent = False
        pool.leader.refused = {HOST}
        again = command("elsewhere", StartDomain(config=domain(incarnation=2)), incarnation=2)
        await pool.leader.send(host_uuid(2), again)
        for _ in range(3_000):
            assert len(pool.running()) <= 1
            await anyio.sleep(0.01)
        assert [guest.host for guest in pool.fabric.running()] == ["host2"]


@virtual
async def test_a_promise_outlives_the_agent_that_gave_it() -> None:
    async with stage() as pool:
        pool.leader.peers = {host_uuid(each): f"host{each}" for each in (1, 2)}
        async with pool.agent(1):
            async with pool.agent(2):
                await anyio.sleep(2.0)
                await pool.leader.send(HOST, START)
                await pool.leader.outcome("start")
                pool.leader.is_silent = True
                await anyio.sleep(30.0)
            pool.leader.is_silent = False
            pool.leader.refused = {HOST}
            async with pool.agent(2):
                again = StartDomain(config=domain(incarnation=2))
                await pool.leader.send(host_uuid(2), command("again", again, incarnation=2))
                for _ in range(3_000):
                    assert len(pool.running()) <= 1
                    await anyio.sleep(0.01)
                assert [guest.host for guest in pool.fabric.running()] == ["host2"]


@virtual
async def test_the_only_host_of_a_pool_keeps_its_guests_and_starts_nothing() -> None:
    async with pool_of(1) as pool:
        pool.leader.is_silent = True
        await anyio.sleep(60.0)
        other = "22222222-2222-2222-2222-222222222222"
        await pool.leader.send(
            HOST, command("other", StartDomain(config=domain(other)), vm_uuid=other)
        )
        outcome = await pool.leader.outcome("other", within_s=60.0)
        assert isinstance(outcome, CommandFailed)
        assert outcome.code == "HOST_NOT_LIVE"
        assert pool.running() == [VM]


@virtual
async def test_a_start_outlasts_a_short_gap_in_the_lease() -> None:
    async with pool_of(2) as pool:
        pool.leader.is_silent = True
        await anyio.sleep(6.5)
        other = "22222222-2222-2222-2222-222222222222"
        await pool.leader.send(
            HOST, command("other", StartDomain(config=domain(other)), vm_uuid=other)
        )
        await anyio.sleep(1.0)
        assert pool.running() == [VM]
        pool.leader.is_silent = False
        assert isinstance(await pool.leader.outcome("other", within_s=15.0), CommandSucceeded)


@virtual
async def test_a_start_that_waited_across_a_long_gap_never_runs_not_for_a_moment() -> None:
    async with pool_of(2) as pool:
        starts: list[str] = []
        pool.faults = lambda point: starts.append(point) if point == "start" else None
        pool.leader.is_silent = True
        await anyio.sleep(6.5)
        other = "22222222-2222-2222-2222-222222222222"
        await pool.leader.send(
            HOST, command("other", StartDomain(config=domain(other)), vm_uuid=other)
        )
        await anyio.sleep(5.0)
        pool.leader.is_silent = False
        outcome = await pool.leader.outcome("other", within_s=15.0)
        assert isinstance(outcome, CommandFailed)
        assert outcome.code == "HOST_NOT_LIVE"
        await anyio.sleep(30.0)
        assert starts == []


@virtual
async def test_promises_are_given_back_when_the_lease_is_back() -> None:
    async with pool_of(3) as pool:
        pool.leader.is_silent = True
        await anyio.sleep(30.0)
        pool.leader.is_silent = False
        await anyio.sleep(2.0)
        other = "22222222-2222-2222-2222-222222222222"
        await pool.leader.send(
            HOST, command("other", StartDomain(config=domain(other)), vm_uuid=other)
        )
        assert isinstance(await pool.leader.outcome("other", within_s=1.0), CommandSucceeded)


@virtual
async def test_a_guest_that_was_built_while_the_lease_was_lost_is_taken_back() -> None:
    async with stage() as pool:
        pool.timings = SimulatedTimings(start_s=15.0)
        pool.leader.peers = {host_uuid(each): f"host{each}" for each in (1, 2)}
        async with pool.agent(1), pool.agent(2):
            await anyio.sleep(2.0)
            await pool.leader.send(HOST, START)
            await anyio.sleep(1.0)
            pool.cut(1)
            await anyio.sleep(20.0)
            assert pool.running() == []
            pool.mend()
            outcome = await pool.leader.outcome("start")
            assert isinstance(outcome, CommandFailed)
            assert outcome.code == "HOST_NOT_LIVE"


@virtual
async def test_an_agent_that_restarts_keeps_the_guests_and_the_deadline_of_its_predecessor() -> (
    None
):
    async with stage() as pool:
        pool.leader.peers = {host_uuid(each): f"host{each}" for each in (1, 2)}
        async with pool.agent(1):
            await anyio.sleep(2.0)
            await pool.leader.send(HOST, START)
            await pool.leader.outcome("start")
        await anyio.sleep(2.0)
        async with pool.agent(1):
            await anyio.sleep(20.0)
            assert pool.running() == [VM]
        pool.cut(1)
        await anyio.sleep(3.0)
        began = anyio.current_time()
        async with pool.agent(1):
            await fenced_after(pool)
            assert anyio.current_time() - began < LEASE_S


@virtual
async def test_the_watchdog_kills_for_an_agent_that_is_gone() -> None:
    async with stage() as pool:
        pool.leader.peers = {host_uuid(each): f"host{each}" for each in (1, 2)}
        async with pool.agent(1):
            await anyio.sleep(2.0)
            await pool.leader.send(HOST, START)
            await pool.leader.outcome("start")
        assert pool.running() == [VM]
        assert await fenced_after(pool) < LEASE_S + FENCE_S
        assert pool.watchdogs[1].kills == 1
