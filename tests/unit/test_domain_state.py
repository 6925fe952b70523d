"""What is told of a domain for what libvirt says of it. The numbers are libvirt's ABI."""

import pytest

from host_agent.core.domain_state import (
    DomainSight,
    assert_running,
    change_between,
    change_hint,
    state_of,
)
from host_agent.core.host_capabilities import cpu_flags, read_host_cpu
from host_agent.core.libvirt_errors import Doing, error_of
from shared.errors import VmBadPowerState
from shared.protocol import DomainChange, DomainObservation, DomainState

VM = "5b6bd8d8-8f0c-4a7c-a9f2-8a1e6dd0c0de"
RUNNING, PAUSED, SHUTOFF, CRASHED = 1, 3, 5, 6
BOOTED, MIGRATED, UNPAUSED = 1, 2, 5
BY_USER, BY_MIGRATION = 1, 2


def seen(state: DomainState, *, domid: int = 7, incarnation: int = 1) -> DomainObservation:
    return DomainObservation(vm_uuid=VM, incarnation=incarnation, state=state, domid=domid)


def sight(
    state: int, reason: int, *, domid: int = 7, incarnation: int = 1, is_leaving: bool = False
) -> DomainSight:
    reported = state_of(state, reason, is_leaving=is_leaving)
    return DomainSight(
        observation=seen(reported, domid=domid, incarnation=incarnation),
        state=state,
        reason=reason,
        is_leaving=is_leaving,
    )


@pytest.mark.parametrize(
    ("state", "reason", "reported"),
    [
        (0, 0, DomainState.RUNNING),
        (RUNNING, BOOTED, DomainState.RUNNING),
        (2, 0, DomainState.RUNNING),
        (PAUSED, BY_USER, DomainState.PAUSED),
        (PAUSED, BY_MIGRATION, DomainState.PAUSED),
        (PAUSED, 5, DomainState.PAUSED),
        (PAUSED, 8, DomainState.RUNNING),
        (PAUSED, 10, DomainState.CRASHED),
        (4, 0, DomainState.RUNNING),
        (SHUTOFF, 1, DomainState.SHUTOFF),
        (SHUTOFF, 3, DomainState.CRASHED),
        (CRASHED, 1, DomainState.CRASHED),
        (7, 0, DomainState.RUNNING),
    ],
)
def test_every_state_of_libvirt_is_one_of_ours(
    state: int, reason: int, reported: DomainState
) -> None:
    assert state_of(state, reason, is_leaving=False) is reported


def test_a_vm_never_stops_running_while_it_moves() -> None:
    assert state_of(PAUSED, BY_MIGRATION, is_leaving=True) is DomainState.RUNNING
    assert state_of(PAUSED, BY_USER, is_leaving=True) is DomainState.PAUSED


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        (0, DomainChange.DESTROYED),
        (1, DomainChange.POWERED_OFF),
        (2, DomainChange.DESTROYED),
        (3, DomainChange.CRASHED),
        (4, DomainChange.MIGRATED_OUT),
        (5, DomainChange.POWERED_OFF),
        (6, DomainChange.CRASHED),
        (8, DomainChange.DESTROYED),
    ],
)
def test_why_a_domain_stopped_is_told_from_its_definition(
    reason: int, change: DomainChange
) -> None:
    stopped = sight(SHUTOFF, reason, domid=-1)

    assert change_between(seen(DomainState.RUNNING), stopped, hint=None) is change


def test_a_domain_that_was_known_to_be_stopped_is_no_news() -> None:
    told = seen(DomainState.SHUTOFF, domid=-1)

    assert change_between(told, sight(SHUTOFF, 1, domid=-1), hint=None) is None
    assert change_between(told, None, hint=DomainChange.DESTROYED) is None
    assert change_between(None, sight(SHUTOFF, 1, domid=-1), hint=None) is None
    assert change_between(None, None, hint=None) is None


@pytest.mark.parametrize(
    ("hint", "change"),
    [
        (None, DomainChange.DESTROYED),
        (DomainChange.MIGRATED_OUT, DomainChange.MIGRATED_OUT),
        (DomainChange.POWERED_OFF, DomainChange.POWERED_OFF),
    ],
)
def test_only_the_event_knows_why_a_domain_is_gone(
    hint: DomainChange | None, change: DomainChange
) -> None:
    assert change_between(seen(DomainState.RUNNING), None, hint=hint) is change


@pytest.mark.parametrize(
    ("now", "change"),
    [
        (sight(RUNNING, BOOTED), DomainChange.STARTED),
        (sight(PAUSED, BY_USER), DomainChange.STARTED),
        (sight(RUNNING, MIGRATED), DomainChange.MIGRATED_IN),
    ],
)
@pytest.mark.parametrize(
    "told",
    [
        None,
        seen(DomainState.RUNNING, domid=6),
        seen(DomainState.RUNNING, incarnation=0),
        seen(DomainState.SHUTOFF, domid=-1),
    ],
)
def test_a_domain_that_was_not_known_to_run_has_started_or_arrived(
    told: DomainObservation | None, now: DomainSight, change: DomainChange
) -> None:
    assert change_between(told, now, hint=None) is change


@pytest.mark.parametrize(
    ("told", "now", "change"),
    [
        (DomainState.RUNNING, sight(PAUSED, BY_USER), DomainChange.PAUSED),
        (DomainState.PAUSED, sight(RUNNING, UNPAUSED), DomainChange.RESUMED),
        (DomainState.RUNNING, sight(CRASHED, 1), DomainChange.CRASHED),
        (DomainState.RUNNING, sight(SHUTOFF, 1), DomainChange.DESTROYED),
        (DomainState.RUNNING, sight(RUNNING, MIGRATED), None),
        (DomainState.PAUSED, sight(PAUSED, 5), None),
    ],
)
def test_a_running_domain_is_told_of_when_its_state_differs(
    told: DomainState, now: DomainSight, change: DomainChange | None
) -> None:
    assert change_between(seen(told), now, hint=None) is change


@pytest.mark.parametrize(
    ("event", "detail", "hint"),
    [
        (5, 0, DomainChange.POWERED_OFF),
        (5, 1, DomainChange.DESTROYED),
        (5, 2, DomainChange.CRASHED),
        (5, 3, DomainChange.MIGRATED_OUT),
        (5, 4, DomainChange.POWERED_OFF),
        (5, 5, DomainChange.CRASHED),
        (5, 99, None),
        (3, 1, None),
    ],
)
def test_only_an_end_says_something_by_itself(
    event: int, detail: int, hint: DomainChange | None
) -> None:
    assert change_hint(event, detail) is hint


def standing(*, is_leaving: bool = False, is_incoming: bool = False) -> DomainSight:
    return DomainSight(
        observation=seen(DomainState.PAUSED),
        state=PAUSED,
        reason=BY_MIGRATION,
        is_leaving=is_leaving,
        is_incoming=is_incoming,
    )


def test_an_incoming_copy_is_no_domain_yet() -> None:
    assert not standing(is_incoming=True).is_up(1)


def test_a_domain_that_stands_still_at_the_hand_over_is_still_its_sources() -> None:
    for undecided in (standing(), standing(is_leaving=True)):
        assert undecided.is_standing
        assert undecided.is_up(1)


def test_a_crashed_or_stopped_or_other_domain_is_not_up() -> None:
    assert sight(RUNNING, BOOTED).is_up(1)
    assert not sight(RUNNING, BOOTED).is_up(2)
    assert not sight(CRASHED, 1).is_up(1)
    assert not sight(SHUTOFF, 1, domid=-1).is_up(1)


def test_only_a_running_domain_can_be_asked_to_move_or_to_power_off() -> None:
    assert_running(sight(RUNNING, BOOTED))
    with pytest.raises(VmBadPowerState) as refusal:
        assert_running(sight(PAUSED, BY_USER))
    assert refusal.value.parameters == (VM, "running", "paused")


@pytest.mark.parametrize(
    ("doing", "number", "text", "code"),
    [
        (Doing.START, 42, "no domain", "VM_BAD_POWER_STATE"),
        (Doing.START, 28, "already exists", "DOMAIN_EXISTS"),
        (Doing.START, 1, "qemu: could not open kernel file '/k'", "BOOTLOADER_FAILED"),
        (Doing.START, 17, "missing kernel information", "BOOTLOADER_FAILED"),
        (Doing.START, 67, "cgroup cpu is required", "VALUE_NOT_SUPPORTED"),
        (Doing.START, 27, "XML error", "VALUE_NOT_SUPPORTED"),
        (Doing.START, 1, "process exited while connecting", "FAILED_TO_START_EMULATOR"),
        (Doing.START, 38, "Cannot access storage file", "DOMAIN_BUILDER_ERROR"),
        (Doing.MIGRATE, 42, "no domain", "VM_BAD_POWER_STATE"),
        (Doing.MIGRATE, 74, "p2p migration is not supported", "OPERATION_NOT_ALLOWED"),
        (Doing.MIGRATE, 81, "unsafe", "VM_MIGRATE_FAILED"),
        (Doing.CHANGE, 3, "not supported", "OPERATION_NOT_ALLOWED"),
        (Doing.CHANGE, 55, "domain is not running", "OPERATION_NOT_ALLOWED"),
        (Doing.CHANGE, 1, "anything", "INTERNAL_ERROR"),
    ],
)
def test_libvirts_errors_have_xenapis_codes_and_keep_their_text(
    doing: Doing, number: int, text: str, code: str
) -> None:
    error = error_of(number, text, vm_uuid=VM, doing=doing)

    assert error.wire_code == code
    assert code in {"VM_BAD_POWER_STATE", "DOMAIN_EXISTS"} or text in error.parameters


def test_the_hosts_processor_is_read_from_its_capabilities() -> None:
    xml = """<capabilities><host><cpu><model>EPYC</model><vendor>AMD</vendor>
      <feature name='sse2'/><feature name='avx'/></cpu></host></capabilities>"""

    cpu = read_host_cpu(xml)

    assert cpu == {"vendor": "AMD", "modelname": "EPYC", "features": "avx sse2"}
    assert cpu_flags(cpu) == {"vendor": "AMD", "features": "avx sse2"}


def test_a_host_that_does_not_say_what_processor_it_has_is_no_error() -> None:
    assert read_host_cpu("<capabilities/>") == {"vendor": "", "modelname": "", "features": ""}
