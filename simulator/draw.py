"""Which faults a seed has: drawn from chance alone, so that a seed always has the same.

Rules: what a seed draws of the classic kinds does not depend on the later ones: those have a chance of their own.
"""

import random
from collections.abc import Callable
from typing import Final

from simulator.faults import (
    AgentCrash,
    AgentPause,
    BusOutage,
    ClientDrops,
    ClockJump,
    CutOff,
    EventsLost,
    Fault,
    FlakyLink,
    GuestActs,
    HypervisorTrouble,
    MasterCrash,
    MasterPause,
    MasterStop,
    MigrationTrouble,
    PeersCut,
    PowerCut,
    SlowDisk,
    StreamStall,
)
from simulator.setting import CLASSIC, LATER, SCENARIO_S, Setting

Maker = Callable[[float, float], Fault]

POINTS: Final = (
    "start",
    "start.answer",
    "pause.answer",
    "destroy",
    "destroy.answer",
    "request_shutdown.answer",
    "observe",
    "inventory",
    "migrate",
    "migrate.copy",
    "migrate.answer",
    "migrate.hand_over.arrived",
    "migrate.hand_over.lost",
    "migration_status",
    "settle_incoming",
)
MIGRATION_POINTS: Final = tuple(point for point in POINTS if point.startswith("migrate"))
ACTS: Final = ("power_off", "reboot", "crash")


def draw_faults(seed: int, setting: Setting) -> tuple[Fault, ...]:
    """Give the faults of a seed, in the order of their beginnings."""
    chance = random.Random(f"faults/{seed}")
    faults = _Draw(chance, setting, seed).several(CLASSIC, (2, 14))
    later = random.Random(f"later faults/{seed}")
    faults += _Draw(later, setting, seed).several(LATER, (0, 4))
    return tuple(sorted(faults, key=lambda fault: fault.at))


STREAMS: Final = ("log", "commands", "reports", "events", "leader")


class _Draw:
    def __init__(self, chance: random.Random, setting: Setting, seed: int) -> None:
        self._chance = chance
        self._scenario_s = setting.scenario_s
        self._hosts = setting.hosts
        self._masters = setting.masters_of(seed)
        self._kinds = setting.kinds

    def several(self, kinds: tuple[str, ...], bounds: tuple[int, int]) -> list[Fault]:
        """Draw as many as a scenario of this length deserves."""
        wanted = {kind: row for kind, row in self._makers().items() if kind in self._kinds}
        rows = [wanted[kind] for kind in kinds if kind in wanted]
        count = self._chance.randint(*bounds) * max(self._scenario_s / SCENARIO_S, 1.0)
        return [self._one(rows) for _ in range(round(count))] if rows else []

    def _one(self, rows: list[tuple[int, Maker]]) -> Fault:
        chance = self._chance
        at = round(chance.uniform(0.0, self._scenario_s * 0.9), 3)
        longest = chance.choice((0.5, 3.0, 12.0, 30.0))
        lasts = round(min(chance.uniform(0.0, longest), self._scenario_s - at), 3)
        _, make = chance.choices(rows, [weight for weight, _ in rows])[0]
        return make(at, lasts)

    def _makers(self) -> dict[str, tuple[int, Maker]]:
        """Give how often each kind is drawn, and how."""
        return {
            "cut-off": (3, self._cut_off),
            "flaky-link": (3, self._flaky),
            "bus-outage": (2, lambda at, lasts: BusOutage(at=at, lasts=lasts)),
            "master-crash": (3, self._master_crash),
            "master-stop": (
                1,
                lambda at, lasts: MasterStop(at=at, lasts=lasts, master=self._master()),
            ),
            "master-pause": (
                2,
                lambda at, lasts: MasterPause(at=at, lasts=lasts, master=self._master()),
            ),
            "agent-crash": (3, lambda at, lasts: AgentCrash(at=at, lasts=lasts, host=self._host())),
            "agent-pause": (2, lambda at, lasts: AgentPause(at=at, lasts=lasts, host=self._host())),
            "power-cut": (2, lambda at, lasts: PowerCut(at=at, lasts=lasts, host=self._host())),
            "peers-cut": (1, lambda at, lasts: PeersCut(at=at, lasts=lasts, host=self._host())),
            "hypervisor-trouble": (2, self._trouble),
            "guest-acts": (2, self._guest_acts),
            "client-drops": (1, self._drops),
            "clock-jump": (3, self._clock_jump),
            "slow-disk": (3, self._slow_disk),
            "stream-stall": (3, self._stall),
            "events-lost": (1, self._events_lost),
            "migration-trouble": (4, self._migration_trouble),
        }

    def _master(self) -> int:
        return self._chance.randint(1, self._masters)

    def _host(self) -> int:
        return self._chance.randint(1, self._hosts)

    def _anyone(self) -> str:
        names = [f"master{n}" for n in range(1, self._masters + 1)]
        return self._chance.choice(names + [f"host{n}" for n in range(1, self._hosts + 1)])

    def _cut_off(self, at: float, lasts: float) -> Fault:
        up, down = self._chance.choice(((True, True), (True, False), (False, True)))
        return CutOff(at=at, lasts=lasts, who=self._anyone(), up=up, down=down)

    def _flaky(self, at: float, lasts: float) -> Fault:
        return FlakyLink(
            at=at,
            lasts=lasts,
            who=self._anyone(),
            loss=self._chance.choice((0.0, 0.02, 0.2)),
            duplication=self._chance.choice((0.0, 0.1, 0.5)),
            delay_s_max=self._chance.choice((0.01, 0.5, 4.0)),
        )

    def _master_crash(self, at: float, lasts: float) -> Fault:
        loses = self._chance.choice((0, 0, 1, 5, 1_000))
        return MasterCrash(at=at, lasts=lasts, master=self._master(), loses_records=loses)

    def _trouble(self, at: float, lasts: float) -> Fault:
        point = self._chance.choice(POINTS)
        return HypervisorTrouble(
            at=at, lasts=lasts, point=point, chance=self._chance.choice((0.1, 0.5, 1.0))
        )

    def _guest_acts(self, at: float, _lasts: float) -> Fault:
        return GuestActs(at=at, act=self._chance.choice(ACTS), which=self._chance.randint(0, 99))

    def _drops(self, at: float, lasts: float) -> Fault:
        return ClientDrops(at=at, lasts=lasts, share=self._chance.choice((0.05, 0.3)))

    def _clock_jump(self, at: float, lasts: float) -> Fault:
        by_s = self._chance.choice((-3_600.0, -30.0, -1.5, 1.5, 30.0, 3_600.0))
        return ClockJump(at=at, lasts=lasts, master=self._master(), by_s=by_s)

    def _slow_disk(self, at: float, lasts: float) -> Fault:
        flush_s = self._chance.choice((0.05, 0.5, 3.0))
        return SlowDisk(at=at, lasts=lasts, who=self._anyone(), flush_s=flush_s)

    def _stall(self, at: float, lasts: float) -> Fault:
        return StreamStall(at=at, lasts=lasts, stream=self._chance.choice(STREAMS))

    def _events_lost(self, at: float, lasts: float) -> Fault:
        return EventsLost(at=at, lasts=lasts, count=self._chance.choice((1, 20, 150)))

    def _migration_trouble(self, at: float, lasts: float) -> Fault:
        point = self._chance.choice(MIGRATION_POINTS)
        chance = self._chance.choice((0.3, 1.0))
        return MigrationTrouble(at=at, lasts=lasts, point=point, chance=chance)
