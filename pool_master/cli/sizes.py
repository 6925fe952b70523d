"""Amounts of memory and spans of time, as people write them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from pool_master.cli.failures import Misused

_UNITS: Final = {
    "": 1,
    "b": 1,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SPAN_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def parse_size(text: str) -> int:
    """Give bytes: 96MiB, 1.5G (binary without the iB), 1000MB (decimal), 1048576.

    Raises:
        Misused: anything else.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _UNITS:
        raise Misused(f"{text!r} is no amount of memory: write it like 96MiB, 2GiB or 1073741824")
    whole, unit = float(match[1]), _UNITS[match[2].lower()]
    amount = int(match[1]) * unit if match[1].isdecimal() else round(whole * unit)
    if amount >= 2**63:
        raise Misused(f"{text!r} is more memory than there is")
    return amount


def format_size(amount: int) -> str:
    """Give bytes as people read them: 96 MiB, 1.5 GiB."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if amount >= size:
            number = f"{amount / size:.1f}".removesuffix(".0")
            return f"{number} {unit}"
    return f"{amount} B"


def format_span(seconds: float) -> str:
    """Give a span of time as people read it: 3 s, 12 min, 5 h, 2 d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size * 2:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def parse_moment(text: str, now: datetime) -> datetime:
    """Give a moment in UTC: ISO 8601 (without a zone: this machine's), or so long before now: 90s, 15m, 2h, 1d, 1w.

    Raises:
        Misused: anything else.
    """
    try:
        if span := _SPAN.fullmatch(text.strip()):
            return now - timedelta(seconds=float(span[1]) * _SPAN_S[span[2]])
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Misused(
            f"{text!r} is no time: write it like 2h, 15m, 2024-05-01 or 2024-05-01T12:30:00+02:00"
        ) from error
