"""Host leases and the leader's authority: the arithmetic of why no guest runs twice.

One job: say when a host's guests are surely dead. Monotonic seconds come in as values.

Rules: the agent counts its lease from when it sent the request, the leader from when it answered, so the leader's count
always ends later; a host whose lease has run out is dead only after fence and margin on top; a new leader knows nothing of
its predecessor's grants and counts every host from its own election, plus the predecessor's authority unless that one is
known to be dead.
"""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """The times of one pool (seconds).

    `heartbeat_s`: how often an agent asks. `lease_s`: how long a grant holds. `fence_s`: how long an agent without lease
    may take to kill its guests. `margin_s`: what clocks and schedulers may be off by. `authority_s`: how long a leader
    that cannot renew its leadership goes on granting.
    """

    heartbeat_s: float = 1.0
    lease_s: float = 6.0
    fence_s: float = 3.0
    margin_s: float = 1.0
    authority_s: float = 12.0

    @property
    def dead_after_s(self) -> float:
        """How long after its last grant a host's guests are surely dead."""
        return self.lease_s + self.fence_s + self.margin_s

    def problems(self) -> list[str]:
        """Give what is wrong with these times, in words; empty where the inequalities hold."""
        wrong = []
        if self.heartbeat_s <= 0 or self.fence_s <= 0 or self.margin_s <= 0:
            wrong.append("heartbeat_s, fence_s and margin_s must be above 0")
        if self.lease_s < 3 * self.heartbeat_s:
            wrong.append(
                f"lease_s ({self.lease_s}) must be at least 3 heartbeats ({3 * self.heartbeat_s}):"
                " two lost requests must not fence a host"
            )
        if self.authority_s < self.lease_s:
            wrong.append(
                f"authority_s ({self.authority_s}) must be at least lease_s ({self.lease_s}):"
                " a store outage shorter than a lease must fence nobody"
            )
        return wrong


@dataclass(slots=True)
class LeaseTable:
    """What one leader granted, in its own monotonic time.

    `since` is when it was elected, `grace_s` what its predecessor may still grant after that; `steady_since` is since when
    each host has held leases without a gap. `deaf_until` is when it could last hear nobody: silence before that says
    nothing about the hosts.
    """

    times: LeaseTimes
    since: float
    grace_s: float
    granted: dict[str, float] = field(default_factory=dict)
    steady_since: dict[str, float] = field(default_factory=dict)
    deaf_until: float = 0.0

    def hear_nobody(self, now: float) -> None:
        """Note that the leader itself is cut off: hosts may live, and keep their guests because nobody has a lease."""
        self.deaf_until = now

    def grant(self, host_uuid: str, now: float) -> None:
        """Note that a host was given a lease now."""
        if not self.holds(host_uuid, now):
            self.steady_since[host_uuid] = now
        self.granted[host_uuid] = now

    def holds(self, host_uuid: str, now: float) -> bool:
        """Whether the host was given a lease that has not run out; a predecessor's does not count: nobody knows it."""
        return now - self.granted.get(host_uuid, -math.inf) < self.times.lease_s

    def is_steady(self, host_uuid: str, now: float) -> bool:
        """Whether the host has held leases for so long that nobody lives by its word that it has none."""
        since = self.steady_since.get(host_uuid, math.inf)
        return self.holds(host_uuid, now) and now - since >= self.times.dead_after_s

    def may_hold(self, host_uuid: str, now: float) -> bool:
        """Whether the host may have a lease, of this leader or of its predecessor."""
        predecessor_stopped = self.since + self.grace_s
        granted = self.granted.get(host_uuid, predecessor_stopped)
        return now < max(granted, predecessor_stopped) + self.times.lease_s

    def surely_dead_at(self, host_uuid: str) -> float:
        """Give when the host's guests are surely dead, if it is granted nothing more."""
        predecessor_stopped = self.since + self.grace_s
        # Our own grant may be older than the predecessor's last: both may have granted for a while.
        granted = self.granted.get(host_uuid, predecessor_stopped)
        return max(granted, predecessor_stopped, self.deaf_until) + self.times.dead_after_s

    def is_surely_dead(self, host_uuid: str, now: float) -> bool:
        """Whether the host's guests are surely dead."""
        return now >= self.surely_dead_at(host_uuid)
