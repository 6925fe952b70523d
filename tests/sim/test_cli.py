"""`vmpool sim`: what is asked for is done, and a violation is told with the command that shows it again."""

import json

import pytest

from pool_master.cli.app import main
from pool_master.cli.failures import EXIT_REFUSED, Misused
from pool_master.cli.sim import kinds_of
from pool_master.core import feed
from simulator.draw import draw_faults
from simulator.faults import AgentCrash, PowerCut
from simulator.setting import KINDS, Setting


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["sim", *words])
    return int(exit_.value.code or 0)


def test_a_seed_that_finds_nothing_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--seed", "7", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["seeds"], told["violations"]) == (1, [])
    assert told["events"] > 0


def test_a_violation_is_told_with_the_command_that_shows_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_deletions", lambda *_: [])
    words = ["--seeds", "5", "--hosts", "2", "--faults", "power-cut,agent-crash", "--jobs", "1"]
    assert run(*words) == EXIT_REFUSED
    told = capsys.readouterr().out
    assert "10 event.from" in told
    assert "vmpool sim --seed" in told
    assert "--hosts 2 --faults agent-crash,power-cut" in told


def test_the_size_and_the_kinds_of_faults_are_as_asked() -> None:
    setting = Setting(hosts=9, kinds=("agent-crash", "power-cut"), scenario_s=400.0)
    faults = draw_faults(3, setting)
    assert {type(fault) for fault in faults} == {AgentCrash, PowerCut}
    assert len(faults) >= 20
    assert max(x.host for x in faults if isinstance(x, AgentCrash | PowerCut)) > 3


def test_no_faults_can_be_asked_for() -> None:
    assert kinds_of("none") == ()
    assert draw_faults(3, Setting(kinds=())) == ()


def test_all_kinds_are_meant_where_none_is_named() -> None:
    assert kinds_of("") == KINDS


def test_a_kind_that_is_not_known_is_a_slip() -> None:
    with pytest.raises(Misused, match="no kind of fault: earthquake"):
        kinds_of("power-cut,earthquake")


def test_the_classical_faults_of_a_seed_are_the_same_whether_later_ones_join() -> None:
    classical = draw_faults(11, Setting(kinds=KINDS[:13]))
    assert set(classical) <= set(draw_faults(11, Setting()))
