"""Seeds with high availability on: whatever breaks, protected VMs run again, each exactly once, and all else holds too.

VMPOOL_SIM_SEEDS=N runs that many seeds; VMPOOL_SIM_SEED=S one of them.
"""

import os
from typing import Final

import pytest

from pool_master.shell import ha_keeper
from simulator.setting import CLASSIC, Setting
from simulator.simulation import simulate

ONE: Final = os.environ.get("VMPOOL_SIM_SEED")
PROTECTED: Final = Setting(kinds=CLASSIC, is_protected=True)
FIRST: Final = 10_001
SEEDS: Final = (
    [int(ONE)] if ONE else range(FIRST, FIRST + int(os.environ.get("VMPOOL_SIM_SEEDS", "24")))
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_protected_vms_run_again_exactly_once(seed: int) -> None:
    outcome = simulate(seed, PROTECTED)
    assert not outcome.violations, str(outcome)


@pytest.mark.timeout(600)
def test_a_leader_that_restarts_nobody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ha_keeper, "decide_ha", lambda _pool, _context: [])
    found = [simulate(seed, PROTECTED).violations for seed in range(FIRST, FIRST + 8)]
    assert any("is protected, and Halted" in text for texts in found for text in texts)
