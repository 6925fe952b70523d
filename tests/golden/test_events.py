"""Events are for ever: every one that was ever written must read, and today's must be written as it always was."""

import json
from typing import Any, Final

import msgspec
import pytest

from pool_master.core import evolve
from pool_master.core.event_codec import UnknownEvent, event_from_plain, event_to_plain, refs_of
from pool_master.core.events import EVENT_TYPES, Recorded, VmCreated
from pool_master.core.pool import Pool
from pool_master.core.upcast import EVENT_VERSIONS, UPCASTS, upcast
from shared.codec import DecodeError, pack, unpack
from tests.golden.samples import samples
from tests.golden.write import FOLDER, path_of, text_of
from tests.support.facts import HOST, HOST_2, VM, task

FILES: Final = sorted(FOLDER.glob("*.json"))


def read(name: str) -> list[Any]:
    plain: list[Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return plain


def decoded(plain: list[Any]) -> Recorded:
    return event_from_plain(plain, sequence=1, term=7)


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_every_event_type_has_a_golden_file_of_its_present_version(name: str) -> None:
    assert path_of(name).exists(), "run: python -m tests.golden.write"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_event_that_was_ever_written_reads(file: Any) -> None:
    recorded = decoded(read(file.name))
    assert type(recorded.event).__name__ == file.name.split(".")[0]
    assert recorded.time_us == 1_713_614_400_123_456
    assert (recorded.actor.name, recorded.command_id, recorded.cause) == (
        "alice",
        "command-1",
        "VM.x",
    )


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_todays_events_are_written_as_they_always_were(name: str) -> None:
    plain = read(path_of(name).name)
    assert text_of(event_to_plain(decoded(plain))) == text_of(plain)


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_an_event_survives_the_log(name: str) -> None:
    recorded = samples()[name]
    assert decoded(unpack(pack(event_to_plain(recorded)))) == recorded


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_a_sample_leaves_no_field_at_its_default(name: str) -> None:
    """Or the golden file would not notice when the field is renamed."""
    event = samples()[name].event
    parts: list[msgspec.Struct] = [event]
    if isinstance(event, VmCreated):
        parts.append(event.config)
    for part in parts:
        written = msgspec.to_builtins(part)
        fields = [field.encode_name for field in msgspec.structs.fields(type(part))]
        assert [field for field in fields if field not in written] == []


def test_an_event_of_a_newer_version_is_not_guessed_at() -> None:
    plain = read("VmPaused.v1.json")
    with pytest.raises(UnknownEvent):
        decoded(["VmFlown", *plain[1:]])
    with pytest.raises(DecodeError):
        decoded([plain[0], 99, *plain[2:]])
    with pytest.raises(DecodeError):
        upcast("VmPaused", 2, {})


@pytest.mark.parametrize(
    "plain",
    [
        [],
        ["VmPaused"],
        ["VmPaused", 1, 0, "user", "a", "", "c", "x", {}],
        ["VmPaused", 1, 0, "user", "a", "", "c", "x", {"vm": 5}],
        ["VmPaused", 1, 0, "user", "a", "", "c", "x", None],
    ],
)
def test_what_is_no_event_is_a_decode_error(plain: list[Any]) -> None:
    with pytest.raises(DecodeError):
        decoded(plain)


def test_members_that_a_newer_minor_version_added_are_ignored() -> None:
    plain = read("VmPaused.v1.json")
    plain[-1]["added_later"] = 1
    assert decoded(plain) == decoded(read("VmPaused.v1.json"))


def test_the_audit_index_finds_every_object_that_an_event_names() -> None:
    event = samples()["OperationAccepted"].event
    assert refs_of(event) == (task(1), VM, HOST, HOST_2)


def test_evolve_takes_every_event_in_any_state() -> None:
    """Total: no event of any log makes a replay fail, once there is a pool."""
    pool = Pool()
    for number, recorded in enumerate([*samples().values(), *reversed(samples().values())], 1):
        numbered = Recorded(
            number,
            recorded.term,
            recorded.time_us,
            recorded.actor,
            recorded.command_id,
            recorded.cause,
            recorded.event,
        )
        pool.stamp(evolve.apply(pool, numbered))
    assert pool.sequence == 2 * len(EVENT_TYPES)


def test_an_older_version_reads_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EVENT_VERSIONS, "VmPaused", 3)
    monkeypatch.setitem(UPCASTS, ("VmPaused", 1), lambda old: {"machine": old["guest"]})
    monkeypatch.setitem(UPCASTS, ("VmPaused", 2), lambda old: {"vm": old["machine"]})
    plain = read("VmPaused.v1.json")
    today = decoded([plain[0], 3, *plain[2:]])
    assert decoded([plain[0], 2, *plain[2:8], {"machine": VM}]) == today
    assert decoded([plain[0], 1, *plain[2:8], {"guest": VM}]) == today
    with pytest.raises(DecodeError):
        decoded([plain[0], 4, *plain[2:]])
