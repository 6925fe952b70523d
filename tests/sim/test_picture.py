"""The picture of a simulation: well-formed, repeatable, and it shows who is there, what struck and what went wrong."""

import json
from pathlib import Path

import pytest
from defusedxml import ElementTree

from pool_master.cli.app import main
from pool_master.core import feed
from simulator.picture import draw
from simulator.simulation import simulate

SEED = 7
SVG = "{http://www.w3.org/2000/svg}"


def texts_of(drawn: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(drawn).iter(f"{SVG}text")]


def tooltips_of(drawn: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(drawn).iter(f"{SVG}title")]


def test_a_picture_has_a_lane_for_everybody_and_shows_what_struck() -> None:
    outcome = simulate(SEED)
    drawn = draw(outcome)
    assert {"master1", "master2", "host1", "host2", "host3"} <= set(texts_of(drawn))
    told = " ".join(tooltips_of(drawn))
    assert all(type(fault).__name__ in told for fault in outcome.faults)
    assert "is elected in term" in told
    assert "every invariant holds" in texts_of(drawn)


def test_the_same_seed_gives_the_same_picture() -> None:
    assert draw(simulate(SEED)) == draw(simulate(SEED))


def test_a_violation_is_drawn_where_it_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(feed, "_deletions", lambda *_: [])
    file = tmp_path / "picture.svg"
    with pytest.raises(SystemExit):
        main(["sim", "--seeds", "5", "--jobs", "1", "--json", "--picture", str(file)])
    violation = json.loads(capsys.readouterr().out)["violations"][0]
    drawn = file.read_text()
    assert violation["replay"] in texts_of(drawn)
    assert "violation" in texts_of(drawn)
    assert any("10 event.from" in told for told in tooltips_of(drawn))
