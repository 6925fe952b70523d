"""Whether a command runs."""

from dataclasses import replace

import pytest

from host_agent.core.admit import (
    JournalEntry,
    Knowledge,
    Refuse,
    Repeat,
    Resume,
    Run,
    Stale,
    Wait,
    admit,
)
from host_agent.core.overtaking import overtakes
from host_agent.core.reading import Unreadable, read_commands
from shared.codec import encode, pack, to_plain
from shared.protocol import (
    CommandBatch,
    CommandSucceeded,
    DestroyDomain,
    DomainConfig,
    ForgetDomain,
    HostAction,
    HostCommand,
    MigrateDomain,
    PauseDomain,
    RestartDomain,
    SettleMigration,
    ShutdownDomain,
    StartDomain,
    UnpauseDomain,
)

VM = "11111111-1111-1111-1111-111111111111"
CONFIG = DomainConfig(
    vm_uuid=VM,
    name_label="guest",
    incarnation=3,
    memory_static_max=1,
    memory_target=1,
    vcpus_max=1,
    vcpus_at_startup=1,
)
START = StartDomain(config=CONFIG)
CLEAN_RESTART = RestartDomain(config=CONFIG, clean=True, timeout_s=1.0)
HARD_RESTART = replace(CLEAN_RESTART, clean=False)
MIGRATE = MigrateDomain(destination_host="h", destination_uri="", migrate_uri="")
SHUTDOWN = ShutdownDomain(timeout_s=1.0)
KNOWLEDGE = Knowledge(highest_term=7, newest_incarnation=3, may_start=True)
DONE = CommandSucceeded(command_id="c", task="t", vm_uuid=VM, incarnation=3)
BRINGING_TO_RUN = (START, CLEAN_RESTART, HARD_RESTART, UnpauseDomain(), MIGRATE)
OTHERS = (PauseDomain(), SHUTDOWN, DestroyDomain(), ForgetDomain(), SettleMigration())


def wish(action: HostAction, *, term: int = 7, incarnation: int = 3) -> HostCommand:
    return HostCommand(
        command_id="c", task="t", term=term, vm_uuid=VM, incarnation=incarnation, action=action
    )


def test_a_finished_command_is_repeated_even_in_an_old_term_and_without_a_lease() -> None:
    entry = JournalEntry(command_id="c", outcome=DONE)
    knowledge = replace(KNOWLEDGE, may_start=False, highest_term=9, newest_incarnation=9)
    assert admit(entry, wish(START), knowledge) == Repeat(DONE)


def test_a_command_that_was_begun_is_resumed_and_not_run_as_new() -> None:
    assert admit(JournalEntry(command_id="c"), wish(START), KNOWLEDGE) == Resume()


def test_a_new_command_of_the_present_or_a_newer_term_runs() -> None:
    assert admit(None, wish(START), KNOWLEDGE) == Run()
    assert admit(None, wish(START, term=8), KNOWLEDGE) == Run()


@pytest.mark.parametrize("entry", [None, JournalEntry(command_id="c")])
@pytest.mark.parametrize("action", BRINGING_TO_RUN + OTHERS)
def test_a_command_of_an_older_term_is_dropped(
    entry: JournalEntry | None, action: HostAction
) -> None:
    assert admit(entry, wish(action, term=6), KNOWLEDGE) == Stale("term")


@pytest.mark.parametrize("action", [START, CLEAN_RESTART, HARD_RESTART])
def test_an_incarnation_that_a_newer_one_has_replaced_is_never_started(action: HostAction) -> None:
    knowledge = replace(KNOWLEDGE, newest_incarnation=4)
    assert admit(None, wish(action), knowledge) == Stale("incarnation")


@pytest.mark.parametrize("action", OTHERS)
def test_an_old_incarnation_can_still_be_stopped(action: HostAction) -> None:
    assert admit(None, wish(action), replace(KNOWLEDGE, newest_incarnation=4)) == Run()


@pytest.mark.parametrize("action", BRINGING_TO_RUN)
def test_without_a_lease_nothing_is_brought_to_run_until_it_is_back(action: HostAction) -> None:
    assert admit(None, wish(action), replace(KNOWLEDGE, may_start=False)) == Wait()


@pytest.mark.parametrize("action", OTHERS)
def test_a_guest_is_stopped_without_a_lease_too(action: HostAction) -> None:
    assert admit(None, wish(action), replace(KNOWLEDGE, may_start=False)) == Run()


@pytest.mark.parametrize("action", BRINGING_TO_RUN)
@pytest.mark.parametrize("may_start", [True, False])
def test_what_waited_across_a_loss_of_the_lease_never_runs_even_if_it_is_back(
    action: HostAction, may_start: bool
) -> None:
    knowledge = replace(KNOWLEDGE, may_start=may_start, lost_lease=True)
    assert admit(None, wish(action), knowledge) == Refuse("HOST_NOT_LIVE")


def test_the_wait_for_a_lease_is_bounded() -> None:
    knowledge = replace(KNOWLEDGE, may_start=False, waited_long=True)
    assert admit(None, wish(START), knowledge) == Refuse("HOST_NOT_LIVE")


@pytest.mark.parametrize("action", [DestroyDomain(), ForgetDomain()])
def test_stopping_a_guest_overtakes_what_waits_for_the_guest(action: HostAction) -> None:
    assert overtakes(action, [SHUTDOWN, CLEAN_RESTART, MIGRATE])


@pytest.mark.parametrize("ahead", [START, HARD_RESTART, PauseDomain(), DestroyDomain()])
def test_stopping_a_guest_overtakes_nothing_that_acts_at_once(ahead: HostAction) -> None:
    assert not overtakes(DestroyDomain(), [SHUTDOWN, ahead])


@pytest.mark.parametrize("action", [START, SHUTDOWN, PauseDomain(), MIGRATE])
def test_only_stopping_a_guest_overtakes(action: HostAction) -> None:
    assert not overtakes(action, [SHUTDOWN])


def test_a_batch_is_read_in_order() -> None:
    commands = (wish(START), wish(DestroyDomain()))
    assert read_commands(encode(CommandBatch(commands=commands))) == list(commands)


def test_one_unknown_command_fails_alone_and_is_answered() -> None:
    plain = to_plain(CommandBatch(commands=(wish(START), wish(DestroyDomain()))))
    plain["commands"][0]["action"]["type"] = "SuspendDomain"
    unknown, known = read_commands(pack(plain))
    assert known == wish(DestroyDomain())
    assert isinstance(unknown, Unreadable)
    assert unknown.answer is not None
    assert unknown.answer.command_id == "c"
    assert unknown.answer.code == "NOT_IMPLEMENTED"


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", pack([1]), pack({"commands": 3}), pack({"commands": [7]})]
)
def test_garbage_is_unreadable_and_harmless(data: bytes) -> None:
    (read,) = read_commands(data)
    assert isinstance(read, Unreadable)
    assert read.answer is None
