"""Figures beside their floors: what a run of the benchmarks gives."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value beside the floor it is held against, both measured in the same run, in the same unit.

    `is_time` says that less is better; otherwise the value is a rate. `goal` is what is to be reached, in the unit.
    """

    name: str
    value: float
    unit: str
    floor_name: str
    floor: float
    goal: float | None = None
    is_time: bool = True

    @property
    def ratio(self) -> float:
        """How many times worse than the floor."""
        return self.value / self.floor if self.is_time else self.floor / self.value

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is reached, where there is one."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.is_time else self.value >= self.goal


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value below which `share` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median(values: Sequence[float]) -> float:
    """Give the middle value."""
    return statistics.median(values)
