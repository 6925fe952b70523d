"""Many seeds, side by side, and what came of all of them.

Rules: a seed runs in a process of its own pool; only what somebody will read comes back.
"""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Final

from simulator.observer import Situation
from simulator.setting import S_PER_HOUR, Setting
from simulator.simulation import Outcome, simulate

INVARIANTS: Final = (
    "1 a VM has at most one running incarnation",
    "2 an acknowledged command is in the log",
    "3 there is one history, and every master's copy is a prefix of it",
    "4 replay of the log gives the live state, through snapshots",
    "5 every operation has exactly one end, and has it in time",
    "6 no command is executed twice",
    "7 allowed_operations says what is accepted",
    "8 reservations never exceed a host's memory, nor outlive their operation",
    "9 pool and hosts agree once faults stop",
    "10 event.from streams compose",
)


@dataclass(slots=True)
class Tally:
    """What many seeds have in common."""

    seeds: int = 0
    events: int = 0
    acknowledged: int = 0
    simulated_s: float = 0.0
    settled_s_max: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    situations: Counter[Situation] = field(default_factory=Counter)
    failed: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count a seed."""
        self.seeds += 1
        self.events += outcome.events
        self.acknowledged += outcome.acknowledged
        self.simulated_s += outcome.simulated_s
        self.settled_s_max = max(self.settled_s_max, outcome.settled_s)
        self.faults.update(type(fault).__name__ for fault in outcome.faults)
        self.situations.update(outcome.situations)
        if outcome.violations:
            self.failed.append(outcome)

    def as_record(self, *, took_s: float) -> dict[str, Any]:
        """Give all of it as JSON takes it."""
        return {
            "seeds": self.seeds,
            "events": self.events,
            "acknowledged": self.acknowledged,
            "simulated_hours": self.simulated_s / S_PER_HOUR,
            "took_s": took_s,
            "settled_s_max": self.settled_s_max,
            "faults": dict(self.faults.most_common()),
            "situations": {x.name.lower(): self.situations[x] for x in Situation},
            "invariants": list(INVARIANTS),
            "violations": [
                {"seed": x.seed, "violations": list(x.violations), "replay": x.replay}
                for x in sorted(self.failed, key=lambda outcome: outcome.seed)
            ],
        }


def run_seeds(seeds: range, setting: Setting, *, jobs: int = 0) -> Iterator[Outcome]:
    """Run seeds and give each outcome as it comes."""
    workers = min(jobs or os.cpu_count() or 1, len(seeds))
    if workers <= 1:
        yield from (simulate(seed, setting) for seed in seeds)
        return
    # Spawned: a fork of a process that has threads may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as processes:
        running = [processes.submit(_brief, seed, setting) for seed in seeds]
        try:
            for future in as_completed(running):
                yield future.result()
        finally:
            for future in running:
                future.cancel()


def _brief(seed: int, setting: Setting) -> Outcome:
    outcome = simulate(seed, setting)
    return outcome if outcome.violations else outcome.without_story()
