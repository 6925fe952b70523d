"""Many seeds: whatever breaks, no guest runs twice, nothing acknowledged is lost, every operation ends, all comes right.

VMPOOL_SIM_SEEDS=N runs N seeds instead of 200, VMPOOL_SIM_SEED=S one of them, VMPOOL_SIM_FIRST=S begins there;
VMPOOL_SIM_LOG=1 shows what the programs log.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import pytest

from simulator.campaign import Tally
from simulator.observer import Situation
from simulator.setting import CLASSIC, KINDS, Setting
from simulator.simulation import simulate

SEEDS: Final = int(os.environ.get("VMPOOL_SIM_SEEDS", "200"))
FIRST: Final = int(os.environ.get("VMPOOL_SIM_FIRST", "1"))
ONE: Final = os.environ.get("VMPOOL_SIM_SEED")
BATCH: Final = 10
ENOUGH: Final = 200


def failed_before() -> list[int]:
    lines = (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    return [int(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]


def batches() -> list[tuple[int, ...]]:
    if ONE is not None:
        return [(int(ONE),)]
    old = failed_before()
    return batched(old) + batched([x for x in range(FIRST, FIRST + SEEDS) if x not in old])


def batched(seeds: list[int]) -> list[tuple[int, ...]]:
    return [tuple(seeds[first : first + BATCH]) for first in range(0, len(seeds), BATCH)]


def run_batch(seeds: tuple[int, ...]) -> Tally:
    tally = Tally()
    # What failed once is tried with the faults that there were, too.
    classical = [Setting(kinds=CLASSIC)] if set(seeds) <= set(failed_before()) else []
    for setting in [Setting(), *classical]:
        for seed in seeds:
            tally.add(simulate(seed, setting))
    return tally


@cache
def found() -> dict[tuple[int, ...], Tally]:
    """Run all batches side by side."""
    wanted = batches()
    if len(wanted) == 1:
        return {wanted[0]: run_batch(wanted[0])}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as processes:
        return dict(zip(wanted, processes.map(run_batch, wanted), strict=True))


@pytest.mark.timeout(3_600)  # the first one waits for all
@pytest.mark.parametrize("seeds", batches(), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_whatever_breaks_the_invariants_hold(seeds: tuple[int, ...]) -> None:
    failed = found()[seeds].failed
    assert not failed, "\n\n".join(map(str, failed))


@pytest.mark.timeout(3_600)
@pytest.mark.skipif(ONE is not None or SEEDS < ENOUGH, reason="too few seeds for everything")
@pytest.mark.parametrize("situation", Situation)
def test_what_is_dangerous_comes_up(situation: Situation) -> None:
    assert sum(tally.situations[situation] for tally in found().values()) > 0


@pytest.mark.timeout(3_600)
@pytest.mark.skipif(ONE is not None or SEEDS < ENOUGH, reason="too few seeds for everything")
def test_every_kind_of_fault_comes_up() -> None:
    drawn = {name for tally in found().values() for name in tally.faults}
    assert len(drawn) == len(KINDS)
