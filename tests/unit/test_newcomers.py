"""A host that has just joined gets no lease while others may keep guests by promises that it has not made."""

from typing import Final

import pytest

from pool_master.core import events as ev
from pool_master.core.lease import LeaseTable, LeaseTimes
from pool_master.core.newcomers import may_have_first_lease
from shared.membership import peers_digest
from tests.support.facts import HOST, HOST_2, a_pool, host_joined, host_uuid
from tests.support.spec import Scenario, given

NEW: Final = 9


def joined(hosts: int, *facts: ev.Event) -> Scenario:
    return given(*a_pool(hosts), *facts, host_joined(NEW))


def may(scenario: Scenario, *, knowing: tuple[int, ...] = (), steady: tuple[int, ...] = ()) -> bool:
    newcomer = scenario.pool.host_of_uuid(host_uuid(NEW))
    assert newcomer is not None
    return may_have_first_lease(
        scenario.pool,
        newcomer,
        knows_all=lambda uuid: uuid in map(host_uuid, knowing),
        is_steady=lambda uuid: uuid in map(host_uuid, steady),
    )


def test_a_newcomer_waits_until_every_host_that_lives_knows_it() -> None:
    scenario = joined(2)
    assert not may(scenario)
    assert not may(scenario, knowing=(1,), steady=(1,))
    assert may(scenario, knowing=(1, 2))


def test_the_hosts_of_a_new_pool_need_not_wait_for_each_other() -> None:
    scenario = given(*a_pool(0), host_joined(1), host_joined(2), host_joined(NEW))
    assert may(scenario)


def test_a_lost_host_that_was_alone_keeps_newcomers_out_until_it_is_back_or_forgotten() -> None:
    """Nobody that it asks has a lease: it may run its guests for ever, and a newcomer would start them again."""
    scenario = joined(1, ev.HostLost(host=HOST, evidence="silent"))
    assert not may(scenario)
    assert may(scenario.and_given(ev.HostForgotten(host=HOST)))


@pytest.mark.parametrize("witness", [(), (2,)])
def test_a_lost_host_is_no_hindrance_once_a_peer_that_it_knows_holds_leases(
    witness: tuple[int, ...],
) -> None:
    scenario = joined(2, ev.HostLost(host=HOST, evidence="silent"))
    assert may(scenario, knowing=(2,), steady=witness) == bool(witness)


def test_lost_hosts_are_no_witnesses_of_each_other() -> None:
    lost = [ev.HostLost(host=host, evidence="silent") for host in (HOST, HOST_2)]
    assert not may(joined(2, *lost))


def test_a_host_that_has_lived_is_no_newcomer() -> None:
    scenario = joined(2, ev.HostLost(host=HOST, evidence="silent"))
    host = scenario.pool.hosts[HOST]
    nobody = {"knows_all": lambda _uuid: False, "is_steady": lambda _uuid: False}
    assert may_have_first_lease(scenario.pool, host, **nobody)


def test_a_host_is_steady_after_holding_leases_as_long_as_a_host_takes_to_die() -> None:
    leases = LeaseTable(LeaseTimes(), since=0.0, grace_s=0.0)
    for second in range(100, 110):
        leases.grant("h", second)
        assert not leases.is_steady("h", second)
    leases.grant("h", 110)
    assert leases.is_steady("h", 110)
    assert not leases.is_steady("h", 117)
    leases.grant("h", 120)
    assert not leases.is_steady("h", 121)


def test_peers_are_the_same_in_any_order() -> None:
    assert peers_digest(["a", "b"]) == peers_digest(["b", "a"]) != peers_digest(["ab"])
