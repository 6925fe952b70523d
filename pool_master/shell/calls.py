"""What passes between the wire and the API: a call one way, an outcome the other.

Rules: both transports make the same `Call` and answer the same `Success` or `Failure`; nothing
here knows bytes. A value handed over in a `Success` must not change afterwards: a large one is
written out by another thread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

# What a client may send. Integers may arrive as strings on either transport; dates are aware, in
# UTC.
JsonLike: TypeAlias = "str | int | float | bool | datetime | list[JsonLike] | dict[str, JsonLike]"

# What a server may answer. None stands for void, and only as the whole value. Keys are strings or
# integers.
WireValue: TypeAlias = (
    "str | bool | int | float | datetime | Sequence[WireValue] | Mapping[Any, WireValue] | None"
)

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
# Deeper than any XenAPI type; a client that nests further is hostile, and Python's stack is finite.
NESTING_MAX: Final = 32


class WireInt(int):
    """An integer that is a number on XML-RPC too, as the values of `valid_ref_counts` are."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as it came: the method and its positional parameters, the session among them."""

    method: str
    # Passwords and session references: not for logs and tracebacks.
    parameters: list[JsonLike] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Success:
    """The call was done; `value` is its result."""

    value: WireValue


@dataclass(frozen=True, slots=True)
class Failure:
    """The call was refused: a XenAPI code and its parameters."""

    description: list[str]


class WireError(Exception):
    """Bytes that are no call; the text is for the client."""


def format_datetime(moment: datetime) -> str:
    """Give XenAPI's form of a date: 20240420T12:00:00Z. A date without zone is taken as UTC."""
    if moment.tzinfo is not None and moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return (
        f"{moment.year:04}{moment.month:02}{moment.day:02}"
        f"T{moment.hour:02}:{moment.minute:02}:{moment.second:02}Z"
    )


def parse_datetime(text: str) -> datetime:
    """Read a date in basic or extended ISO form as UTC; without zone it is taken as UTC already."""
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise WireError(f"{text[:40]!r} is not a date") from error
