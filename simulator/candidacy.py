"""What a simulated master stands for election with: its leadership and its line in the roster."""

from dataclasses import dataclass
from typing import Final

from pool_master.core.lease import LeaseTimes
from pool_master.core.records import LOG_FORMAT
from pool_master.shell.leadership import LeaderKey, Leadership
from pool_master.shell.roster import MasterLine, Roster
from shared.subjects import Subjects
from simulator.memory_bus import MemoryBus, MemoryKeyValue

LEASE_TIMES: Final = LeaseTimes()


@dataclass(frozen=True, slots=True)
class Candidacy:
    """Both, of one master's life."""

    leadership: Leadership
    roster: Roster


def candidacy_of(bus: MemoryBus, subjects: Subjects, name: str, life: int) -> Candidacy:
    """Stand for election."""

    def key(of: str) -> MemoryKeyValue:
        return MemoryKeyValue(bus, subjects.leader_bucket, of)

    roster = Roster(key("masters"), MasterLine(name=name, address=name, reads=LOG_FORMAT))
    leadership = Leadership(
        key("leader"),
        key("probe"),
        LeaderKey(master=name, address=name, process=f"{name} life {life}"),
        authority_s=LEASE_TIMES.authority_s,
        may_lead=roster.may_lead,
    )
    return Candidacy(leadership, roster)
