"""The commit record: what one message of the log holds, and how records join into one history.

Bytes = msgpack([body, sha256(body)]), body = msgpack([schema_version, term, first_sequence,
previous_hash, [event, ...]]). Events are plain here; what they mean is another module's job.

Rules: a record is never in hand with a wrong hash (`unseal` refuses it); a reader takes records
only through `follow`, so that what does not join is never passed over.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgpack

from shared.codec import DecodeError

# What a master must know to read the log, the events' types, versions and fields included: raised with the first release
# that writes what the one before it cannot read. It is in every record, and masters tell it each other.
LOG_FORMAT: Final = 1
HASH_BYTES: Final = 32
GENESIS_HASH: Final = bytes(HASH_BYTES)

_sha256 = hashlib.sha256
_unpack = msgpack.unpackb


class RecordDamaged(DecodeError):
    """Bytes that are no record, or that are not what was sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHead:
    """What the next record must join."""

    first_sequence: int
    last_sequence: int
    term: int
    previous_hash: bytes
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsealedRecord:
    """The events of one group commit, before they have a hash."""

    term: int
    first_sequence: int
    previous_hash: bytes
    events: list[Any]
    schema_version: int = LOG_FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRecord:
    """The events of one group commit, as the log holds them."""

    schema_version: int
    term: int
    first_sequence: int
    previous_hash: bytes
    events: list[Any]
    hash: bytes

    @property
    def last_sequence(self) -> int:
        """The sequence of the last event."""
        return self.first_sequence + len(self.events) - 1

    @property
    def head(self) -> RecordHead:
        """What the next record must join."""
        return RecordHead(
            first_sequence=self.first_sequence,
            last_sequence=self.last_sequence,
            term=self.term,
            previous_hash=self.previous_hash,
            hash=self.hash,
        )


class BreakKind(StrEnum):
    """How a record can fail to join."""

    POSITION_GAP = "position gap"
    DAMAGED = "damaged"
    SEQUENCE_GAP = "sequence gap"
    HASH_MISMATCH = "hash mismatch"
    TERM_BACK = "term going back"
    TOO_NEW = "newer format"


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Where a history does not join, and how; `position` is 0 where the reader did not say."""

    kind: BreakKind
    detail: str
    position: int = 0

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.kind} at position {self.position}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The end of a verified history: the position of its last record, and that record's head."""

    position: int = 0
    head: RecordHead | None = None

    @property
    def next_sequence(self) -> int:
        """The sequence of the next event."""
        return self.head.last_sequence + 1 if self.head else 1

    @property
    def hash(self) -> bytes:
        """What the next record must name as its previous."""
        return self.head.hash if self.head else GENESIS_HASH

    @property
    def term(self) -> int:
        """The term of the last record."""
        return self.head.term if self.head else 0


EMPTY_TAIL: Final = Tail()


def follow(tail: Tail, position: int, data: bytes) -> tuple[Tail, CommitRecord] | Break:
    """Take the record that was read at `position` onto a verified history, or say why not."""
    if position != tail.position + 1:
        detail = f"after {tail.position} comes {position}"
        return Break(kind=BreakKind.POSITION_GAP, detail=detail, position=tail.position + 1)
    try:
        record = unseal(data)
    except RecordDamaged as damage:
        return Break(kind=BreakKind.DAMAGED, detail=str(damage), position=position)
    if record.schema_version > LOG_FORMAT:
        detail = f"a newer master wrote format {record.schema_version}, and this one reads {LOG_FORMAT}: upgrade it"
        return Break(kind=BreakKind.TOO_NEW, detail=detail, position=position)
    if found := joins(tail.head, record):
        return Break(kind=found.kind, detail=found.detail, position=position)
    return Tail(position=position, head=record.head), record


def joins(previous: RecordHead | None, record: CommitRecord) -> Break | None:
    """Say what does not join between `previous` (None: nothing came before) and `record`."""
    expected_sequence = previous.last_sequence + 1 if previous else 1
    if record.first_sequence != expected_sequence:
        detail = f"event {expected_sequence} is expected, event {record.first_sequence} comes"
        return Break(kind=BreakKind.SEQUENCE_GAP, detail=detail)
    expected_hash = previous.hash if previous else GENESIS_HASH
    if record.previous_hash != expected_hash:
        stated, expected = record.previous_hash.hex()[:16], expected_hash.hex()[:16]
        detail = f"it names {stated} as the hash before it, which is {expected}"
        return Break(kind=BreakKind.HASH_MISMATCH, detail=detail)
    if previous and record.term < previous.term:
        detail = f"term {record.term} comes after term {previous.term}"
        return Break(kind=BreakKind.TERM_BACK, detail=detail)
    return None


def seal(record: UnsealedRecord) -> bytes:
    """Give the bytes that go into the log."""
    assert record.events, "a record holds at least one event"
    assert len(record.previous_hash) == HASH_BYTES
    body = msgpack.packb(
        [
            record.schema_version,
            record.term,
            record.first_sequence,
            record.previous_hash,
            record.events,
        ]
    )
    sealed: bytes = msgpack.packb([body, _sha256(body).digest()])
    return sealed


def hash_of(sealed: bytes) -> bytes:
    """Give the hash that `seal` put into these bytes, without unpacking them: it comes last."""
    return sealed[-HASH_BYTES:]


def unseal(data: bytes) -> CommitRecord:
    """Give the record in `data`; each byte is hashed once and unpacked once.

    Raises:
        RecordDamaged: this is no record, or its own hash is wrong.
    """
    try:
        body, stated_hash = _unpack(data)
        actual_hash = _sha256(body).digest()
    except Exception as error:  # msgpack raises many kinds; all mean one thing
        raise RecordDamaged(f"not a record: {error!r}") from error
    if actual_hash != stated_hash:
        raise RecordDamaged("its own hash is wrong")
    try:
        schema_version, term, first_sequence, previous_hash, events = _unpack(
            body, strict_map_key=False
        )
    except Exception as error:
        raise RecordDamaged(f"its body is not a record: {error!r}") from error
    is_typed = isinstance(events, list) and isinstance(previous_hash, bytes)
    if not (is_typed and events and _are_counts(schema_version, term, first_sequence)):
        raise RecordDamaged("its body is not a record")
    return CommitRecord(
        schema_version=schema_version,
        term=term,
        first_sequence=first_sequence,
        previous_hash=previous_hash,
        events=events,
        hash=actual_hash,
    )


def _are_counts(*values: object) -> bool:
    return all(isinstance(value, int) and value >= 0 for value in values)
