"""What happened when, in lanes: a master, a host or a guest each; what a picture is drawn from.

Rules: plain values, so that it travels between processes; noting something changes nothing in the world.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A lane was so from then till then."""

    lane: str
    kind: str
    began: float
    ended: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something happened in a lane."""

    lane: str
    kind: str
    at: float
    text: str = ""


class Timeline:
    """Notes spans and marks; times are virtual seconds from its beginning."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.spans: list[Span] = []
        self.marks: list[Mark] = []
        self._clock = clock
        self._zero = clock()
        self._open: dict[str, tuple[str, str, float]] = {}

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._zero

    def become(self, lane: str, kind: str, text: str = "") -> None:
        """From now on the lane is so; an empty kind is nothing to see."""
        before = self._open.get(lane)
        if before is not None and before[:2] == (kind, text):
            return
        self._end(lane)
        if kind:
            self._open[lane] = kind, text, self.now

    def mark(self, lane: str, kind: str, text: str = "") -> None:
        """It happens now."""
        self.marks.append(Mark(lane, kind, self.now, text))

    def end(self) -> None:
        """Nothing more happens."""
        for lane in list(self._open):
            self._end(lane)

    def detached(self) -> "Timeline":
        """Give the notes without the clock, for another process."""
        copy = Timeline(float)
        copy.spans, copy.marks = list(self.spans), list(self.marks)
        return copy

    def _end(self, lane: str) -> None:
        if (open_span := self._open.pop(lane, None)) is not None:
            kind, text, began = open_span
            self.spans.append(Span(lane, kind, began, self.now, text))
