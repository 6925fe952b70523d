"""event.from: what changed since a token; following tokens gives the same picture as reading everything."""

from typing import Final

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from pool_master.core import events as ev
from pool_master.core import pool as pool_module
from pool_master.core.feed import (
    changes_since,
    parse_subscription,
    sequence_of,
    token_of,
    valid_ref_counts,
)
from pool_master.core.pool import TABLE_OF_CLASS
from shared.enums import EventOperation
from shared.errors import EventFromTokenParseFailure, EventSubscriptionParseFailure
from shared.refs import VmRef, derive
from tests.support.facts import (
    HOST,
    HOST_2,
    OTHER_VM,
    OTHER_VM_UUID,
    VM,
    a_pool,
    host_joined,
    running,
    task,
    vm_created,
    vm_started,
)
from tests.support.spec import Scenario, given

ADD, MOD, DEL = EventOperation.ADD, EventOperation.MOD, EventOperation.DEL
EVERYTHING: Final = ["*"]


def heard(
    scenario: Scenario, since: int, classes: list[str] | None = None
) -> list[tuple[str, EventOperation, str]]:
    found = changes_since(scenario.pool, parse_subscription(classes or EVERYTHING), since)
    return [(change.object_class, change.operation, change.ref) for change in found]


def named(vm: VmRef = VM, name: str = "x") -> ev.FieldSet:
    return ev.FieldSet(object_class="VM", ref=vm, field="name_label", value=name)


def test_the_beginning_is_everything_as_adds() -> None:
    scenario = given(*a_pool(1), *running(), ev.TaskCreated(task=task(1), uuid="t", name_label=""))
    everything = heard(scenario, sequence_of(""))
    assert {operation for _, operation, _ in everything} == {ADD}
    there = {ref for table in TABLE_OF_CLASS.values() for ref in getattr(scenario.pool, table)}
    assert {ref for _, _, ref in everything} == there


def test_the_beginning_names_nothing_that_is_gone() -> None:
    scenario = given(*a_pool(1), vm_created(), ev.VmDestroyed(vm=VM))
    assert VM not in {ref for _, _, ref in heard(scenario, -1)}


def test_what_was_made_changed_and_destroyed_is_an_add_a_mod_and_a_del() -> None:
    scenario = given(*a_pool(1), vm_created())
    since = scenario.pool.sequence
    scenario.and_given(vm_created(OTHER_VM, OTHER_VM_UUID))
    assert heard(scenario, since, ["vm"]) == [("VM", ADD, OTHER_VM)]
    scenario.and_given(named())
    assert heard(scenario, since, ["vm"]) == [("VM", ADD, OTHER_VM), ("VM", MOD, VM)]
    scenario.and_given(ev.VmDestroyed(vm=VM))
    assert heard(scenario, since, ["vm"]) == [("VM", ADD, OTHER_VM), ("VM", DEL, VM)]


def test_several_changes_of_one_object_are_one() -> None:
    scenario = given(*a_pool(1), vm_created())
    since = scenario.pool.sequence
    scenario.and_given(named(name="a"), named(name="b"), named(name="c"))
    assert heard(scenario, since) == [("VM", MOD, VM)]


def test_what_was_made_and_changed_since_is_an_add() -> None:
    scenario = given(*a_pool(1))
    since = scenario.pool.sequence
    scenario.and_given(vm_created(), named())
    assert ("VM", ADD, VM) in heard(scenario, since)


def test_what_was_made_and_destroyed_since_was_never_there() -> None:
    scenario = given(*a_pool(1))
    since = scenario.pool.sequence
    scenario.and_given(vm_created(), ev.VmDestroyed(vm=VM))
    assert heard(scenario, since) == []


def test_nothing_changed_is_nothing() -> None:
    scenario = given(*a_pool(1), vm_created())
    assert heard(scenario, scenario.pool.sequence) == []


def test_a_host_that_left_and_is_back_is_there() -> None:
    scenario = given(*a_pool(2))
    since = scenario.pool.sequence
    scenario.and_given(ev.HostLost(host=HOST_2, evidence=""), ev.HostForgotten(host=HOST_2))
    assert ("host", DEL, HOST_2) in heard(scenario, since)
    scenario.and_given(host_joined(2))
    assert [change for change in heard(scenario, since) if change[2] == HOST_2] == [
        ("host", ADD, HOST_2)
    ]


def test_a_token_of_another_history_gives_everything() -> None:
    scenario = given(*a_pool(1), vm_created())
    assert heard(scenario, scenario.pool.sequence + 1) == heard(scenario, -1)


def test_residence_touches_the_host_and_the_consoles() -> None:
    scenario = given(*a_pool(1), vm_created())
    since = scenario.pool.sequence
    scenario.and_given(vm_started(console_rfb="here"))
    told = heard(scenario, since)
    (console,) = scenario.vm().consoles
    assert ("console", ADD, console) in told
    assert ("host", MOD, HOST) in told
    since = scenario.pool.sequence
    scenario.and_given(ev.VmHalted(vm=VM, reason=""))
    assert ("console", DEL, console) in heard(scenario, since)


def test_a_host_that_is_lost_or_back_changes_what_may_be_done_to_its_vms() -> None:
    scenario = given(*a_pool(1), *running())
    for event in (ev.HostLost(host=HOST, evidence=""), ev.HostCameAlive(host=HOST)):
        since = scenario.pool.sequence
        scenario.and_given(event)
        assert ("VM", MOD, VM) in heard(scenario, since)


def test_only_a_bounded_number_of_deletions_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "TOMBSTONES_MAX", 5)
    scenario = given(*a_pool(1))
    for number in range(20):
        vm = VmRef(f"OpaqueRef:{number}")
        scenario.and_given(vm_created(vm, f"uuid-{number}"), ev.VmDestroyed(vm=vm))
    assert 5 <= len(scenario.pool.tombstones) <= 10
    assert scenario.pool.tombstones[-1].object_class == "VM_metrics"


def test_clients_can_see_what_they_missed_by_counts() -> None:
    scenario = given(*a_pool(2), *running())
    counts = valid_ref_counts(scenario.pool)
    assert counts == {
        "pool": 1,
        "host": 2,
        "host_metrics": 2,
        "vm": 1,
        "vm_metrics": 1,
        "vm_guest_metrics": 0,
        "console": 0,
        "task": 0,
        "network": 0,
        "vif": 0,
        "pif": 0,
        "sr": 0,
        "pbd": 0,
        "vdi": 0,
        "vbd": 0,
    }


# --- subscriptions


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["*"], {VM, OTHER_VM, HOST}),
        (["vm"], {VM, OTHER_VM}),
        (["VM"], {VM, OTHER_VM}),
        (["host"], {HOST}),
        ([f"vm/{VM}"], {VM}),
        ([f"VM/{VM}", "host"], {VM, HOST}),
        ([f"host/{VM}"], set()),
        (["no_such_class"], set()),
        ([], set()),
    ],
)
def test_a_client_hears_what_it_asked_for(classes: list[str], expected: set[str]) -> None:
    scenario = given(*a_pool(1), vm_created(), vm_created(OTHER_VM, OTHER_VM_UUID))
    found = changes_since(scenario.pool, parse_subscription(classes), -1)
    assert {change.ref for change in found} & {VM, OTHER_VM, HOST} == expected


@pytest.mark.parametrize("name", ["", "/", "vm/", "/x", "vm/a/b", "*/x/y"])
def test_a_subscription_that_says_nothing_is_refused(name: str) -> None:
    with pytest.raises(EventSubscriptionParseFailure) as refused:
        parse_subscription([name])
    assert refused.value.parameters == (name,)


# --- tokens


def test_tokens_are_positions_that_sort_as_text() -> None:
    tokens = [token_of(sequence) for sequence in (0, 9, 10, 10**15)]
    assert tokens == sorted(tokens)
    assert [sequence_of(token) for token in tokens] == [0, 9, 10, 10**15]
    assert sequence_of("") == -1


@pytest.mark.parametrize("token", ["x", "1", "1,", ",1", "-1,0", "1,2,3", " 1,2", "1" * 21 + ",0"])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(EventFromTokenParseFailure) as refused:
        sequence_of(token)
    assert refused.value.parameters == (token,)


# --- invariant 10

VMS: Final = [VmRef(f"OpaqueRef:vm-{number}") for number in range(3)]


def happening(scenario: Scenario, what: str, number: int) -> list[ev.Event]:
    """What comes about, where it can."""
    vm, uuid = VMS[number], derive(f"vm-{number}", "VM")
    if what == "create":
        return [] if vm in scenario.pool.vms else [vm_created(vm, uuid)]
    if what == "join":
        return [] if HOST_2 in scenario.pool.hosts else [host_joined(2)]
    possible: dict[str, ev.Event] = {
        "name": named(vm, str(scenario.pool.sequence)),
        "start": vm_started(vm, console_rfb="x"),
        "halt": ev.VmHalted(vm=vm, reason=""),
        "destroy": ev.VmDestroyed(vm=vm),
        "leave": ev.HostForgotten(host=HOST_2),
    }
    return [possible[what]] if what in possible else []


steps = st.lists(
    st.tuples(
        st.sampled_from(["create", "name", "start", "halt", "destroy", "leave", "join", "ask"]),
        st.integers(0, 2),
    ),
    max_size=30,
)


@given_any(steps=steps)
def test_following_tokens_gives_the_same_picture_as_reading_everything(
    steps: list[tuple[str, int]],
) -> None:
    """A client that asks now and then ends with the refs that there are, and has seen each in its last state."""
    scenario = given(*a_pool(1))
    everything = parse_subscription(EVERYTHING)
    token = ""
    picture: dict[str, object] = {}
    for what, number in [*steps, ("ask", 0)]:
        scenario.and_given(*happening(scenario, what, number))
        if what != "ask":
            continue
        for change in changes_since(scenario.pool, everything, sequence_of(token)):
            if change.operation is DEL:
                assert picture.pop(change.ref, None) is not None, "a del of what was never told"
            else:
                picture[change.ref] = record_of(scenario, change.object_class, change.ref)
        token = token_of(scenario.pool.sequence)
    there = {
        ref: record_of(scenario, object_class, ref)
        for object_class, table in TABLE_OF_CLASS.items()
        for ref in getattr(scenario.pool, table)
    }
    assert picture == there


def record_of(scenario: Scenario, object_class: str, ref: str) -> object:
    record: object = getattr(scenario.pool, TABLE_OF_CLASS[object_class])[ref]
    return record


def test_a_del_is_told_after_everything_else() -> None:
    scenario = given(*a_pool(1), vm_created())
    since = scenario.pool.sequence
    scenario.and_given(ev.VmDestroyed(vm=VM), vm_created(OTHER_VM, OTHER_VM_UUID))
    operations = [operation for _, operation, _ in heard(scenario, since)]
    assert operations == sorted(operations, key=[ADD, MOD, DEL].index)
