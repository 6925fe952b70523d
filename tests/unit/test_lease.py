"""Why no guest runs twice: the leader never counts a host dead that could still hold a lease by its own count."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_master.config import load_config
from pool_master.core.lease import LeaseTable, LeaseTimes
from shared.settings import ConfigError

TIMES: Final = LeaseTimes()
HOST: Final = "host"


def test_the_defaults_hold_the_inequalities() -> None:
    assert TIMES.problems() == []
    assert TIMES.dead_after_s == 10.0


@pytest.mark.parametrize(
    ("times", "text"),
    [
        (LeaseTimes(heartbeat_s=0.0), "above 0"),
        (LeaseTimes(fence_s=0.0), "above 0"),
        (LeaseTimes(margin_s=-1.0), "above 0"),
        (LeaseTimes(heartbeat_s=3.0), "at least 3 heartbeats"),
        (LeaseTimes(authority_s=5.0), "at least lease_s"),
    ],
)
def test_times_that_are_not_safe_are_named(times: LeaseTimes, text: str) -> None:
    problems = times.problems()
    assert len(problems) == 1
    assert text in problems[0]


def test_a_master_with_times_that_are_not_safe_does_not_start_and_gives_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"lease_s \(6.0\) must be at least 3 heartbeats \(9.0\)"):
        load_config(None, {"VMPOOL_MASTER_HEARTBEAT_S": "3"})


def test_a_host_is_dead_once_lease_fence_and_margin_are_over() -> None:
    table = LeaseTable(times=TIMES, since=0.0, grace_s=0.0)
    table.grant(HOST, 100.0)
    assert not table.is_surely_dead(HOST, 109.9)
    assert table.is_surely_dead(HOST, 110.0)


def test_every_grant_counts_anew() -> None:
    table = LeaseTable(times=TIMES, since=0.0, grace_s=0.0)
    table.grant(HOST, 100.0)
    table.grant(HOST, 105.0)
    assert table.surely_dead_at(HOST) == 115.0


def test_a_host_that_a_new_leader_never_heard_counts_from_its_election_and_the_predecessors_end() -> (
    None
):
    table = LeaseTable(times=TIMES, since=50.0, grace_s=12.0)
    assert table.surely_dead_at(HOST) == 72.0
    assert LeaseTable(times=TIMES, since=50.0, grace_s=0.0).surely_dead_at(HOST) == 60.0


def test_a_new_leaders_first_grant_does_not_end_the_predecessors_last() -> None:
    """The grant's answer may be lost, and the host ask the predecessor, which still has authority."""
    table = LeaseTable(times=TIMES, since=0.0, grace_s=12.0)
    table.grant(HOST, 0.5)
    predecessors_last = 11.9
    assert table.surely_dead_at(HOST) >= predecessors_last + TIMES.dead_after_s - 0.5
    assert not table.is_surely_dead(HOST, predecessors_last + TIMES.lease_s)


def test_silence_while_the_leader_itself_was_cut_off_counts_for_nothing() -> None:
    table = LeaseTable(times=TIMES, since=0.0, grace_s=0.0)
    table.grant(HOST, 100.0)
    table.hear_nobody(108.0)
    assert table.surely_dead_at(HOST) == 118.0
    table.grant(HOST, 109.0)
    assert table.surely_dead_at(HOST) == 119.0


delays = st.floats(0.0, 30.0)
# A request: when it is sent, how long it and its answer take (None: lost), whether the predecessor got it.
requests = st.lists(
    st.tuples(delays, delays, st.none() | delays, st.booleans()), min_size=1, max_size=12
)


@given(
    requests=requests,
    lease_s=st.floats(1.0, 20.0),
    authority_s=st.floats(1.0, 20.0),
    since=st.floats(0.0, 40.0),
)
def test_no_host_is_counted_dead_that_could_hold_a_lease_by_its_own_count(
    requests: list[tuple[float, float, float | None, bool]],
    lease_s: float,
    authority_s: float,
    since: float,
) -> None:
    """For any delays and losses, with a predecessor that grants until its authority is over."""
    times = LeaseTimes(
        heartbeat_s=lease_s / 3, lease_s=lease_s, authority_s=max(authority_s, lease_s)
    )
    table = LeaseTable(times=times, since=since, grace_s=times.authority_s)
    lease_until = float("-inf")
    sent = 0.0
    for pause, way_there, way_back, goes_to_predecessor in requests:
        sent += pause
        answered = sent + way_there
        is_granted = goes_to_predecessor and answered <= since + times.authority_s
        if not goes_to_predecessor and answered >= since:
            table.grant(HOST, max(answered, table.granted.get(HOST, since)))
            is_granted = True
        if is_granted and way_back is not None:
            # The host counts from when it sent; it believes the answer as soon as it is there.
            lease_until = max(lease_until, sent + times.lease_s)
    dead_at = table.surely_dead_at(HOST)
    assert lease_until + times.fence_s < dead_at
    assert not table.is_surely_dead(HOST, dead_at - times.margin_s)


def test_silence_counts_only_while_the_leader_itself_can_hear() -> None:
    """Cut off with its store, it would declare hosts lost that keep their guests because nobody has a lease."""
    table = LeaseTable(times=TIMES, since=0.0, grace_s=0.0)
    table.grant(HOST, 100.0)
    table.hear_nobody(109.0)
    assert not table.is_surely_dead(HOST, 118.9)
    assert table.is_surely_dead(HOST, 119.0)
