"""The same seed writes the same log, bit for bit: otherwise a failing seed would tell nothing."""

import os
import subprocess
import sys

import pytest

from simulator.simulation import simulate

SEED = 7
SHOW = "from simulator.simulation import simulate; o = simulate({seed}); print(o.digest, o.events)"


def in_a_process_of_its_own(seed: int, hash_seed: str) -> str:
    environment = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", SHOW.format(seed=seed)]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.parametrize("seed", [SEED, 12])
def test_a_seed_writes_the_same_log_whatever_the_order_of_sets(seed: int) -> None:
    assert in_a_process_of_its_own(seed, "1") == in_a_process_of_its_own(seed, "2024")


def test_a_seed_writes_the_same_log_again_in_the_same_process() -> None:
    one, other = simulate(SEED), simulate(SEED)
    assert one.digest == other.digest
    assert one.story == other.story


def test_another_seed_writes_another_log() -> None:
    assert simulate(SEED).digest != simulate(SEED + 1).digest
