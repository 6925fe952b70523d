"""Commit records: sealing and unsealing, and what does not join."""

import hashlib
import time
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_master.core.records import (
    EMPTY_TAIL,
    GENESIS_HASH,
    LOG_FORMAT,
    Break,
    BreakKind,
    CommitRecord,
    RecordDamaged,
    Tail,
    UnsealedRecord,
    follow,
    hash_of,
    joins,
    seal,
    unseal,
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
events = st.lists(plain, min_size=1, max_size=5)
unsealed_records = st.builds(
    UnsealedRecord,
    term=st.integers(0, 2**40),
    first_sequence=st.integers(0, 2**60),
    previous_hash=st.binary(min_size=32, max_size=32),
    events=events,
    schema_version=st.integers(0, 1_000),
)


def record(
    first_sequence: int = 1,
    *,
    term: int = 1,
    previous_hash: bytes = GENESIS_HASH,
    events: list[Any] | None = None,
) -> UnsealedRecord:
    return UnsealedRecord(
        term=term,
        first_sequence=first_sequence,
        previous_hash=previous_hash,
        events=events or [["VmStarted", first_sequence]],
    )


def history(count: int, events_each: int = 2) -> list[bytes]:
    sealed: list[bytes] = []
    tail_hash, sequence = GENESIS_HASH, 1
    for _ in range(count):
        some = [["e", sequence + n] for n in range(events_each)]
        sealed.append(seal(record(sequence, previous_hash=tail_hash, events=some)))
        tail_hash = hash_of(sealed[-1])
        sequence += events_each
    return sealed


def follow_all(records: list[bytes]) -> Tail | Break:
    tail = EMPTY_TAIL
    for position, data in enumerate(records, start=1):
        followed = follow(tail, position, data)
        if isinstance(followed, Break):
            return followed
        tail, _ = followed
    return tail


@given(unsealed_records)
def test_what_is_sealed_is_unsealed_the_same(unsealed: UnsealedRecord) -> None:
    sealed = seal(unsealed)
    opened = unseal(sealed)
    assert opened == CommitRecord(
        schema_version=unsealed.schema_version,
        term=unsealed.term,
        first_sequence=unsealed.first_sequence,
        previous_hash=unsealed.previous_hash,
        events=unsealed.events,
        hash=hash_of(sealed),
    )
    assert opened.last_sequence == opened.first_sequence + len(unsealed.events) - 1


@given(unsealed_records)
def test_equal_records_seal_to_equal_bytes(unsealed: UnsealedRecord) -> None:
    assert seal(unsealed) == seal(replace(unsealed))


@given(unsealed_records, st.data())
def test_any_flipped_bit_is_found(unsealed: UnsealedRecord, data: st.DataObject) -> None:
    sealed = bytearray(seal(unsealed))
    index = data.draw(st.integers(0, len(sealed) - 1))
    sealed[index] ^= 1 << data.draw(st.integers(0, 7))
    try:
        opened = unseal(bytes(sealed))
    except RecordDamaged:
        return
    # Some header bytes of msgpack mean the same in two ways; then nothing is lost.
    assert opened == unseal(seal(unsealed))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with pytest.raises(RecordDamaged):
        unseal(data)


@pytest.mark.parametrize(
    "body",
    [
        [1, 1, 1, GENESIS_HASH],
        [1, 1, 1, GENESIS_HASH, []],
        [1, 1, 1, GENESIS_HASH, {}],
        [1, 1, 1, "text", [1]],
        [1, -1, 1, GENESIS_HASH, [1]],
        [1, 1, "1", GENESIS_HASH, [1]],
        [1.0, 1, 1, GENESIS_HASH, [1]],
        5,
    ],
)
def test_a_body_of_another_shape_is_refused_although_its_hash_is_right(body: object) -> None:
    packed = msgpack.packb(body)
    with pytest.raises(RecordDamaged):
        unseal(msgpack.packb([packed, hashlib.sha256(packed).digest()]))


def test_a_body_that_is_not_msgpack_is_refused_although_its_hash_is_right() -> None:
    packed = b"\xc1"
    with pytest.raises(RecordDamaged):
        unseal(msgpack.packb([packed, hashlib.sha256(packed).digest()]))


def test_a_history_is_followed_to_its_end() -> None:
    tail = follow_all(history(10))
    assert isinstance(tail, Tail)
    assert (tail.position, tail.next_sequence, tail.term) == (10, 21, 1)
    assert tail.hash == hash_of(history(10)[-1])


def test_the_empty_history_expects_the_first_event_after_the_genesis_hash() -> None:
    assert (EMPTY_TAIL.next_sequence, EMPTY_TAIL.hash, EMPTY_TAIL.term) == (1, GENESIS_HASH, 0)
    assert EMPTY_TAIL.position == 0


def test_a_missing_record_is_a_position_gap() -> None:
    first, _, third = history(3)
    tail = follow_all([first])
    assert isinstance(tail, Tail)
    found = follow(tail, 3, third)
    assert isinstance(found, Break)
    assert (found.kind, found.position) == (BreakKind.POSITION_GAP, 2)
    assert "after 1 comes 3" in str(found)


def test_a_missing_record_is_found_even_if_positions_were_renumbered() -> None:
    first, _, third = history(3)
    found = follow_all([first, third])
    assert isinstance(found, Break)
    assert (found.kind, found.position) == (BreakKind.SEQUENCE_GAP, 2)


def test_a_damaged_record_is_found_where_it_is() -> None:
    records = history(3)
    records[1] = records[1][:-1] + bytes([records[1][-1] ^ 1])
    found = follow_all(records)
    assert isinstance(found, Break)
    assert (found.kind, found.position) == (BreakKind.DAMAGED, 2)


def test_a_record_of_another_history_does_not_join() -> None:
    first, _ = history(2)
    stranger = seal(record(3, previous_hash=b"s" * 32))
    found = follow_all([first, stranger])
    assert isinstance(found, Break)
    assert (found.kind, found.position) == (BreakKind.HASH_MISMATCH, 2)


def test_a_first_record_that_is_not_the_first_does_not_join() -> None:
    later = unseal(history(2)[1])
    found = joins(None, later)
    assert found is not None
    assert found.kind is BreakKind.SEQUENCE_GAP
    orphan = joins(None, unseal(seal(record(previous_hash=b"s" * 32))))
    assert orphan is not None
    assert orphan.kind is BreakKind.HASH_MISMATCH


def test_an_older_term_after_a_newer_one_does_not_join() -> None:
    first = seal(record(term=7))
    older = seal(record(2, term=6, previous_hash=hash_of(first)))
    found = follow_all([first, older])
    assert isinstance(found, Break)
    assert found.kind is BreakKind.TERM_BACK


def test_a_newer_term_joins() -> None:
    first = seal(record(term=7))
    newer = unseal(seal(record(2, term=9, previous_hash=hash_of(first))))
    assert joins(unseal(first).head, newer) is None


def test_an_empty_record_cannot_be_sealed() -> None:
    unsealed = UnsealedRecord(term=1, first_sequence=1, previous_hash=GENESIS_HASH, events=[])
    with pytest.raises(AssertionError):
        seal(unsealed)


def test_following_is_fast_enough_to_replay_at_start() -> None:
    # 100 000 events a second are asked for; far below what is measured, so that a busy machine passes.
    some = [["VmStarted", n, "x" * 200] for n in range(100)]
    sealed = seal(record(events=some))
    started = time.perf_counter()
    for _ in range(100):
        unseal(sealed)
    assert time.perf_counter() - started < 1.0


def test_a_record_of_a_newer_format_is_not_read_and_says_what_to_do() -> None:
    newer = seal(
        UnsealedRecord(
            schema_version=LOG_FORMAT + 1,
            term=1,
            first_sequence=1,
            previous_hash=bytes(32),
            events=["of tomorrow"],
        )
    )
    found = follow(EMPTY_TAIL, 1, newer)
    assert isinstance(found, Break)
    assert found.kind is BreakKind.TOO_NEW
    assert "upgrade it" in str(found)
