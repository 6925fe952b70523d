"""What a user may say about a simulation beside its seed; the same seed and setting give the same log, bit for bit."""

from dataclasses import dataclass
from typing import Final

SCENARIO_S: Final = 40.0
S_PER_HOUR: Final = 3_600.0
# In the order in which they were invented: what a seed draws among the first ones does not change when others come.
CLASSIC: Final = (
    "cut-off",
    "flaky-link",
    "bus-outage",
    "master-crash",
    "master-stop",
    "master-pause",
    "agent-crash",
    "agent-pause",
    "power-cut",
    "peers-cut",
    "hypervisor-trouble",
    "guest-acts",
    "client-drops",
)
LATER: Final = ("clock-jump", "slow-disk", "stream-stall", "events-lost", "migration-trouble")
KINDS: Final = (*CLASSIC, *LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One simulated world's size, for how long it is troubled, and with what."""

    hosts: int = 3
    masters: int = 0  # 0: one or two, as the seed wants it
    vms: int = 6
    scenario_s: float = SCENARIO_S
    kinds: tuple[str, ...] = KINDS
    is_protected: bool = False  # high availability is on, and every VM is to be restarted

    def masters_of(self, seed: int) -> int:
        """Give how many masters a seed's world has."""
        return self.masters or (1 if seed % 4 == 0 else 2)

    def command(self, seed: int) -> str:
        """Give the command that runs this again."""
        plain = Setting()
        words = [f"vmpool sim --seed {seed}"]
        words += [
            f"--{name} {mine}"
            for name in ("hosts", "masters", "vms")
            if (mine := getattr(self, name)) != getattr(plain, name)
        ]
        if self.scenario_s != plain.scenario_s:
            words.append(f"--hours {self.scenario_s / S_PER_HOUR!r}")
        if self.kinds != plain.kinds:
            words.append(f"--faults {','.join(self.kinds) or 'none'}")
        if self.is_protected:
            words.append("--ha")
        return " ".join(words)
