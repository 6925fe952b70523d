"""Events through XenAPI's SDK: a client that follows the tokens sees what a client that reads everything sees."""

import json
from typing import Any

import pytest

from tests.e2e.conftest import MakeVm
from tests.e2e.test_sdk_life_cycle import in_thread
from tests.support.pool import RunningPool, refusal

WAIT_S = 20.0
QUIET_S = 0.3


def ops(batch: dict[str, Any]) -> list[tuple[str, str]]:
    return [(event["operation"], event["ref"]) for event in batch["events"]]


def token_now(xenapi: Any) -> str:
    token: str = xenapi.event_from(["pool"], "", 0.0)["token"]
    return token


def test_an_empty_token_tells_everything_there_is(xenapi: Any, make_vm: MakeVm) -> None:
    vm = make_vm("told")

    batch = xenapi.event_from(["*"], "", 0.0)

    told = {(event["class"], event["ref"]): event for event in batch["events"]}
    assert {event["operation"] for event in batch["events"]} == {"add"}
    assert told["vm", vm]["snapshot"] == xenapi.VM.get_record(vm)
    assert {ref for kind, ref in told if kind == "host"} == set(xenapi.host.get_all())
    assert batch["valid_ref_counts"]["vm"] == len(xenapi.VM.get_all())
    assert isinstance(batch["valid_ref_counts"]["vm"], int)


def test_a_vms_life_is_told_as_add_mod_and_del(xenapi: Any, make_vm: MakeVm) -> None:
    token = token_now(xenapi)
    vm = make_vm()
    added = xenapi.event_from(["vm"], token, WAIT_S)
    xenapi.VM.start(vm, False, False)
    changed = xenapi.event_from(["vm"], added["token"], WAIT_S)
    xenapi.VM.hard_shutdown(vm)
    xenapi.VM.destroy(vm)
    gone = xenapi.event_from(["vm"], changed["token"], WAIT_S)

    assert (ops(added), ops(changed), ops(gone)) == ([("add", vm)], [("mod", vm)], [("del", vm)])
    assert changed["events"][0]["snapshot"]["power_state"] == "Running"
    assert "snapshot" not in gone["events"][0]
    assert ops(xenapi.event_from(["vm"], "", 0.0)).count(("del", vm)) == 0


def test_what_came_and_went_between_two_calls_is_not_told(xenapi: Any, make_vm: MakeVm) -> None:
    token = token_now(xenapi)
    xenapi.VM.destroy(make_vm())
    assert ops(xenapi.event_from(["vm"], token, QUIET_S)) == []


def test_many_changes_of_one_vm_are_one_event_with_its_last_state(
    xenapi: Any, make_vm: MakeVm
) -> None:
    vm = make_vm()
    token = token_now(xenapi)
    for number in range(5):
        xenapi.VM.set_name_label(vm, f"name-{number}")

    batch = xenapi.event_from(["vm"], token, WAIT_S)

    assert ops(batch) == [("mod", vm)]
    assert batch["events"][0]["snapshot"]["name_label"] == "name-4"


def test_only_what_was_asked_for_is_told(xenapi: Any, make_vm: MakeVm) -> None:
    wanted, other = make_vm(), make_vm()
    token = token_now(xenapi)
    xenapi.VM.set_name_label(other, "other")
    assert ops(xenapi.event_from([f"vm/{wanted}", "host"], token, QUIET_S)) == []
    xenapi.VM.set_name_label(wanted, "wanted")
    assert ops(xenapi.event_from([f"vm/{wanted}"], token, WAIT_S)) == [("mod", wanted)]


def test_nothing_happens_and_the_time_is_up(xenapi: Any) -> None:
    token = token_now(xenapi)
    batch = xenapi.event_from(["vm"], token, QUIET_S)
    assert batch["events"] == []
    assert batch["token"] >= token


def test_a_waiting_client_hears_at_once(pool: RunningPool, xenapi: Any, make_vm: MakeVm) -> None:
    token = token_now(xenapi)
    with pool.session() as listener:
        thread, heard = in_thread(lambda: listener.event_from(["vm"], token, 60.0))
        vm = make_vm()
        thread.join(WAIT_S)
    assert [ops(batch) for batch in heard] == [[("add", vm)]]


def test_an_injected_event_is_a_barrier(xenapi: Any, make_vm: MakeVm) -> None:
    vm = make_vm()
    start = token_now(xenapi)

    barrier = xenapi.event.inject("VM", vm)

    batch = xenapi.event_from(["vm"], start, WAIT_S)
    assert ops(batch) == [("mod", vm)]
    assert start <= barrier < batch["token"]
    assert ops(xenapi.event_from(["vm"], barrier, WAIT_S)) == [("mod", vm)]
    assert refusal(xenapi.event.inject, "VM", "OpaqueRef:nope") == [
        *("HANDLE_INVALID", "VM", "OpaqueRef:nope")
    ]


def test_registered_classes_are_told_by_next(xenapi: Any, make_vm: MakeVm) -> None:
    xenapi.event.register(["vm"])
    vm = make_vm()
    (event,) = xenapi.event.next()
    assert (event["class"], event["operation"], event["ref"]) == ("vm", "add", vm)
    xenapi.VM.set_name_label(vm, "again")
    (event,) = xenapi.event.next()
    assert (event["operation"], event["snapshot"]["name_label"]) == ("mod", "again")

    xenapi.event.unregister(["vm"])
    assert refusal(xenapi.event.next)[0] == "SESSION_NOT_REGISTERED"


def test_a_blocked_call_ends_with_its_session(pool: RunningPool) -> None:
    session = pool.log_in()
    token = pool.call("event.from", session, ["pool"], "", 0.0)["token"]
    thread, heard = in_thread(lambda: pool.call("event.from", session, ["vm"], token, 60.0))
    thread.join(QUIET_S)
    assert heard == []

    pool.call("session.logout", session)

    thread.join(WAIT_S)
    assert heard == [["SESSION_INVALID", session]]


@pytest.mark.nats
def test_tokens_and_references_outlive_a_restart_of_the_whole_pool(
    pool: RunningPool, xenapi: Any, make_vm: MakeVm
) -> None:
    kept, renamed, doomed = make_vm("kept"), make_vm("renamed"), make_vm("doomed")
    uuid = xenapi.VM.get_uuid(kept)
    token = token_now(xenapi)
    xenapi.VM.destroy(doomed)

    pool.restart()

    with pool.session() as later:
        later.VM.set_name_label(renamed, "renamed after the restart")
        batch = later.event_from(["vm"], token, WAIT_S)
        assert set(ops(batch)) == {("mod", renamed), ("del", doomed)}
        assert later.VM.get_by_uuid(uuid) == kept
        for vm in (kept, renamed):
            later.VM.destroy(vm)


def test_following_tokens_gives_the_same_picture_as_reading_everything(
    xenapi: Any, make_vm: MakeVm
) -> None:
    picture: dict[str, Any] = {}

    def follow(token: str) -> str:
        batch = xenapi.event_from(["vm"], token, 0.0)
        for event in batch["events"]:
            if event["operation"] == "del":
                picture.pop(event["ref"])
            else:
                picture[event["ref"]] = event["snapshot"]
        following: str = batch["token"]
        return following

    token = follow("")
    vms = [make_vm(f"followed-{number}") for number in range(4)]
    token = follow(token)
    xenapi.VM.start(vms[0], False, False)
    xenapi.VM.destroy(vms[1])
    token = follow(token)
    xenapi.VM.pause(vms[0])
    xenapi.VM.add_to_other_config(vms[2], "key", "value")
    follow(token)

    whole = xenapi.event_from(["vm"], "", 0.0)["events"]
    assert picture == {event["ref"]: event["snapshot"] for event in whole}


def test_the_log_tells_who_did_what_when_and_why(
    pool: RunningPool, xenapi: Any, make_vm: MakeVm
) -> None:
    vm = make_vm("audited")
    xenapi.VM.start(vm, False, False)
    xenapi.VM.hard_shutdown(vm)

    told = xenapi.event.get_log({"ref": vm})
    assert [int(event["sequence"]) for event in told] == sorted(int(e["sequence"]) for e in told)
    story = [event for event in told if not event["type"].startswith("Task")]
    assert [(event["type"], event["actor"].partition(":")[0]) for event in story] == [
        ("VmCreated", "user"),
        ("OperationAccepted", "user"),
        ("VmStarted", "host"),
        ("OperationAccepted", "user"),
        ("VmHalted", "host"),
    ]
    assert [story[1]["actor"], story[1]["cause"]] == [f"user:{pool.user}", "VM.start"]
    begun = [json.loads(e["detail"])["task"] for e in told if e["type"] == "OperationAccepted"]
    ended = [json.loads(e["detail"])["task"] for e in told if e["type"] == "TaskSucceeded"]
    assert len(begun) == 2
    assert begun == ended
    assert refusal(xenapi.event.get_log, {"color": "red"})[0] == "INVALID_VALUE"
