"""What is told of a host's domains: each change once, and nothing that the agent did itself."""

from host_agent.core.domain_state import DomainSight
from host_agent.shell.domain_news import DomainNews
from shared.protocol import DomainChange, DomainObservation, DomainState

VM = "5b6bd8d8-8f0c-4a7c-a9f2-8a1e6dd0c0de"
RUNNING = DomainObservation(vm_uuid=VM, incarnation=3, state=DomainState.RUNNING, domid=7)
ENDED = DomainObservation(vm_uuid=VM, incarnation=3, state=DomainState.SHUTOFF)
RUNS = DomainSight(observation=RUNNING, state=1, reason=1)
POWERED_OFF = DomainSight(observation=ENDED, state=5, reason=1)


async def test_a_domain_waits_once_with_the_hint_that_says_something() -> None:
    news = DomainNews()
    for hint in (None, DomainChange.MIGRATED_OUT, None):
        news.hear(VM, hint)

    assert await news.wait(1.0) == [(VM, DomainChange.MIGRATED_OUT)]
    assert await news.wait(0.01) == []


async def test_a_change_is_told_once() -> None:
    news = DomainNews()
    news.begin((RUNNING,))

    told = [news.compare(VM, POWERED_OFF, None) for _ in range(2)]

    assert told[0] is not None
    assert (told[0].change, told[0].observation) == (DomainChange.POWERED_OFF, ENDED)
    assert told[1] is None


async def test_a_domain_that_is_gone_is_told_as_its_last_incarnation() -> None:
    news = DomainNews()
    news.begin((RUNNING,))
    assert news.is_told_active(VM)

    told = news.compare(VM, None, DomainChange.MIGRATED_OUT)

    assert told is not None
    assert (told.change, told.observation) == (DomainChange.MIGRATED_OUT, ENDED)
    assert not news.is_told_active(VM)
    assert news.compare(VM, None, None) is None


async def test_one_reboot_is_told_once_however_often_it_is_heard() -> None:
    news = DomainNews()
    news.begin((RUNNING,))

    told = [news.compare(VM, RUNS, DomainChange.REBOOTED) for _ in range(3)]

    assert [each and each.change for each in told] == [DomainChange.REBOOTED, None, None]
    assert news.compare(VM, POWERED_OFF, DomainChange.REBOOTED) is not None
    assert news.compare(VM, POWERED_OFF, DomainChange.REBOOTED) is None


async def test_a_killed_guest_has_ended_before_libvirt_notices_and_is_not_told() -> None:
    news = DomainNews()
    news.begin((RUNNING,))

    news.remember_killed(VM)

    assert news.shown(RUNNING) == ENDED
    assert news.compare(VM, DomainSight(observation=ENDED, state=5, reason=3), None) is None
    assert news.forget_killed(VM)
    assert news.shown(RUNNING) == RUNNING
    assert not news.forget_killed(VM)


async def test_another_incarnation_of_a_killed_guest_is_shown_as_it_is() -> None:
    news = DomainNews()
    news.begin((RUNNING,))
    news.remember_killed(VM)
    newer = DomainObservation(vm_uuid=VM, incarnation=4, state=DomainState.RUNNING, domid=8)

    assert news.shown(newer) == newer


async def test_after_a_reconnection_everything_known_or_found_is_looked_at() -> None:
    news = DomainNews()
    news.begin((RUNNING,))
    news.must_look_at_all = True

    news.hear_all(("other",))

    assert await news.wait(1.0) == [("other", None), (VM, None)]
    assert not news.must_look_at_all


async def test_a_reason_that_comes_late_can_be_taken() -> None:
    news = DomainNews()
    news.hear(VM, DomainChange.MIGRATED_OUT)

    assert news.take_hint(VM) is DomainChange.MIGRATED_OUT
    assert news.take_hint(VM) is None
