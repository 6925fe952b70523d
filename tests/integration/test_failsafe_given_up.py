"""A host whose guests outlived its lease, and which was declared lost meanwhile: nobody may start them beside it."""

from dataclasses import replace

import anyio

from host_agent.core.lease_guard import LeaseGuard
from shared.protocol import DomainChange, DomainChanged, LeaseGranted
from simulator.virtual_time import virtual
from tests.support.agents import HOST, VM, bodies, pool_of

GUARD = LeaseGuard(host="a", lease_s=6.0, fence_s=3.0, kept_until=6.0)
GRANT = LeaseGranted(term=1, lease_s=6.0, fence_s=3.0, peers={"b": "b"}, host_epoch=1)


def test_a_host_learns_from_the_grant_that_it_was_given_up() -> None:
    once = GUARD.granted(replace(GRANT, host_epoch=0), sent_at=0.0)
    assert once.was_given_up(GRANT)
    assert not once.granted(GRANT, sent_at=1.0).was_given_up(GRANT)


def test_an_agent_that_remembers_no_grant_and_the_only_host_of_a_pool_kill_nobody() -> None:
    assert not GUARD.was_given_up(GRANT)
    alone = GUARD.granted(replace(GRANT, host_epoch=0, peers={}), sent_at=0.0)
    assert not alone.was_given_up(GRANT)


@virtual
async def test_guests_that_failsafe_kept_die_before_a_host_that_was_given_up_works_again() -> None:
    async with pool_of(3) as pool:
        pool.leader.is_silent = True
        await anyio.sleep(30.0)
        assert pool.running() == [VM]
        pool.leader.host_epoch = 1
        pool.leader.is_silent = False
        await anyio.sleep(5.0)
        assert pool.running() == []
        told = bodies(await pool.leader.reports(), DomainChanged)
        assert [change.change for change in told] == [DomainChange.FENCED]
        assert HOST in {report.host for report in await pool.leader.reports()}


@virtual
async def test_guests_that_failsafe_kept_live_on_where_nobody_was_given_up() -> None:
    async with pool_of(3) as pool:
        pool.leader.is_silent = True
        await anyio.sleep(30.0)
        pool.leader.is_silent = False
        await anyio.sleep(5.0)
        assert pool.running() == [VM]
