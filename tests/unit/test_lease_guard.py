"""When a host may run guests, and when it must kill them."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from host_agent.core.lease_guard import (
    Expiring,
    Failsafe,
    Lapsed,
    LeaseGuard,
    MustFence,
    PeerAnswer,
    PeerQuestion,
    Valid,
)
from shared.protocol import LeaseGranted

LEASE_S = 6.0
FENCE_S = 3.0
OTHERS = {"b": "b:1", "c": "c:1"}
FRESH = LeaseGuard(host="a", lease_s=LEASE_S, fence_s=FENCE_S, kept_until=LEASE_S)
GRANT = LeaseGranted(term=1, lease_s=LEASE_S, fence_s=FENCE_S, peers={"a": "a:1", **OTHERS})
NOBODY: dict[str, PeerAnswer | None] = {
    uuid: PeerAnswer(host=uuid, has_lease=False) for uuid in OTHERS
}


def leased(at: float = 0.0) -> LeaseGuard:
    return FRESH.granted(GRANT, sent_at=at)


def test_a_lease_counts_from_when_it_was_asked_for() -> None:
    guard = leased(at=10.0)
    assert guard.verdict(10.0) == Valid(16.0)
    assert guard.verdict(15.99) == Expiring(16.0)
    assert guard.may_start(15.99)
    assert not guard.may_start(16.0)


def test_an_answer_to_an_older_request_does_not_shorten_the_lease() -> None:
    assert leased(at=10.0).granted(GRANT, sent_at=9.0) == leased(at=10.0)


def test_the_peers_are_asked_before_the_lease_ends() -> None:
    assert isinstance(leased().verdict(LEASE_S * 2 / 3), Expiring)


def test_guests_outlive_the_lease_where_nobody_else_has_one() -> None:
    guard = leased().heard_peers(NOBODY, asked_at=6.5)
    assert guard.verdict(6.6) == Failsafe(12.5)
    assert not guard.may_start(6.6)
    assert guard.verdict(12.5) == Lapsed(13.5)
    assert guard.verdict(13.5) == MustFence()


def test_one_silence_keeps_no_guest_alive() -> None:
    guard = leased().heard_peers({**NOBODY, "c": None}, asked_at=6.5)
    assert guard.verdict(7.0) == MustFence()


def test_a_peer_that_was_not_asked_is_silent() -> None:
    guard = leased().heard_peers({"b": NOBODY["b"]}, asked_at=6.5)
    assert guard.verdict(7.0) == MustFence()


def test_one_lease_elsewhere_keeps_no_guest_alive() -> None:
    answers = {**NOBODY, "c": PeerAnswer(host="c", has_lease=True)}
    assert leased().heard_peers(answers, asked_at=6.5).verdict(7.0) == MustFence()


def test_an_answer_in_anothers_name_counts_as_silence() -> None:
    answers = {**NOBODY, "c": PeerAnswer(host="b", has_lease=False)}
    assert leased().heard_peers(answers, asked_at=6.5).verdict(7.0) == MustFence()


def test_answers_that_come_after_the_fence_point_undo_nothing() -> None:
    assert leased().heard_peers(NOBODY, asked_at=7.0).verdict(7.1) == MustFence()


def test_the_only_host_of_its_pool_keeps_its_guests() -> None:
    guard = FRESH.granted(replace(GRANT, peers={"a": "a:1"}), sent_at=0.0)
    assert guard.verdict(1e6) == Failsafe(math.inf)
    assert guard.watchdog_at == math.inf
    assert not guard.may_start(1e6)


def test_a_host_that_never_heard_of_peers_is_not_alone() -> None:
    assert FRESH.others is None
    assert FRESH.verdict(7.0) == MustFence()


def test_agent_and_watchdog_kill_in_time() -> None:
    guard = leased()
    assert guard.fence_at < guard.watchdog_at < LEASE_S + FENCE_S


def test_a_no_to_a_peer_binds_longer_than_the_peer_may_rely_on_it() -> None:
    asked_at = 100.0
    question = PeerQuestion(asker="b", promise_s=leased().promise_s)
    answer, guard = leased().asked_by_peer(question, asked_at)
    assert not answer.has_lease
    again = guard.granted(GRANT, sent_at=asked_at + 0.5)
    assert again.verdict(asked_at + 1.0) == Valid(asked_at + 6.5)
    relying = leased().heard_peers({}, asked_at=asked_at)
    dead_at = asked_at + relying.lease_s + relying.fence_s
    renewed = again.granted(GRANT, sent_at=dead_at)
    assert not renewed.may_start(dead_at)
    assert renewed.may_start(dead_at + 1.0)


def test_a_promise_that_is_given_back_binds_no_more() -> None:
    question = PeerQuestion(asker="b", promise_s=10.0)
    _, guard = leased().asked_by_peer(question, 100.0)
    guard = guard.granted(GRANT, sent_at=101.0)
    _, guard = guard.asked_by_peer(replace(question, is_release=True), 101.5)
    assert guard.may_start(101.5)


def test_a_promise_to_one_peer_is_not_given_back_by_another() -> None:
    _, guard = leased().asked_by_peer(PeerQuestion(asker="b", promise_s=10.0), 100.0)
    guard = guard.granted(GRANT, sent_at=101.0)
    _, guard = guard.asked_by_peer(PeerQuestion(asker="c", promise_s=0, is_release=True), 101.5)
    assert not guard.may_start(101.5)


def test_a_host_with_a_lease_says_so_and_promises_nothing() -> None:
    answer, guard = leased().asked_by_peer(PeerQuestion(asker="b", promise_s=10.0), 1.0)
    assert answer.has_lease
    assert guard.may_start(1.0)


def test_a_gap_in_which_the_leader_may_have_given_up_counts_as_a_loss_even_in_failsafe() -> None:
    guard = leased()
    assert guard.losses_at(5.0) == guard.losses_at(8.9)
    safe = guard.heard_peers(NOBODY, asked_at=6.5).heard_peers(NOBODY, asked_at=9.5)
    assert isinstance(safe.verdict(10.0), Failsafe)
    assert safe.losses_at(10.0) == guard.losses_at(5.0) + 1
    assert safe.granted(GRANT, sent_at=10.0).losses_at(10.0) == guard.losses_at(5.0) + 1


def test_a_short_gap_is_no_loss() -> None:
    assert leased().granted(GRANT, sent_at=8.0).losses_at(8.0) == leased().losses_at(0.0)


Step = tuple[str, float, float]
steps = st.lists(
    st.tuples(
        st.sampled_from(["grant", "nobody", "silence", "lease", "question", "release", "pass"]),
        st.floats(0.0, 20.0),
        st.floats(0.0, 8.0),
    ),
    max_size=40,
)


@given(steps)
def test_no_order_of_words_and_freezes_makes_a_lease_longer_than_what_was_granted(
    sequence: list[Step],
) -> None:
    """Each step: time passes (a freeze may be long), then a word arrives that was asked for `ago` before."""
    guard, now = FRESH, 0.0
    granted_sent_at = -math.inf
    vouched_at = 0.0  # The start of the agent, the last grant's request, or the last full round of the peers.
    for word, pause_s, ago_s in sequence:
        now += pause_s
        sent_at = max(0.0, now - ago_s)
        match word:
            case "grant":
                guard = guard.granted(GRANT, sent_at=sent_at)
                granted_sent_at = max(granted_sent_at, sent_at)
                vouched_at = max(vouched_at, sent_at)
            case "nobody":
                guard = guard.heard_peers(NOBODY, asked_at=sent_at)
                vouched_at = max(vouched_at, sent_at)
            case "silence":
                guard = guard.heard_peers({**NOBODY, "b": None}, asked_at=sent_at)
            case "lease":
                answers = {**NOBODY, "c": PeerAnswer(host="c", has_lease=True)}
                guard = guard.heard_peers(answers, asked_at=sent_at)
            case "question" | "release":
                question = PeerQuestion(asker="b", promise_s=10, is_release=word == "release")
                _, guard = guard.asked_by_peer(question, now)
            case _:
                pass
        verdict = guard.verdict(now)
        if isinstance(verdict, Valid | Expiring) or guard.may_start(now):
            assert now < granted_sent_at + LEASE_S
        if not isinstance(verdict, MustFence):
            assert now < vouched_at + LEASE_S + FENCE_S
            assert guard.watchdog_at < vouched_at + LEASE_S + FENCE_S
        # Left alone, it fences in time: the kill is decided before the guests must be dead.
        assert isinstance(guard.verdict(max(now, vouched_at + LEASE_S + FENCE_S)), MustFence)


@given(steps)
def test_time_alone_changes_a_verdict_only_when_announced(sequence: list[Step]) -> None:
    guard, now = FRESH, 0.0
    for word, pause_s, ago_s in sequence:
        now += pause_s
        if word == "grant":
            guard = guard.granted(GRANT, sent_at=max(0.0, now - ago_s))
        before = guard.next_change(now)
        assert before > now
        almost = now + (min(before, now + 100.0) - now) * 0.999
        assert type(guard.verdict(almost)) is type(guard.verdict(now))
        assert guard.may_start(almost) == guard.may_start(now)
