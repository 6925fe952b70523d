"""Whether this host is trusted with its guests, and when they must die.

The agent's half of why no guest runs twice.

One job: a state machine on values. Monotonic seconds come in, a verdict comes out; `LeaseKeeper`
acts on it.

Rules:
- A lease counts from when its request was sent, so this host's count always ends before the
  leader's.
- `kept_until` is when guests lose their last justification: the end of the lease, or of what the
  peers promised. Then the fence time is spent in thirds: the first to go on asking, in the second
  the agent kills, in the last the watchdog does.
- Failsafe: a peer that answers "no lease" promises to start nothing until `promise_s` after its
  answer, even if it gets a lease meanwhile. That is what makes "nobody has a lease" hold long
  enough to act on it: the answers of *all* others are worth as much as a lease, from when they were
  asked for. One silence or one "I have a lease" extends nothing.
- A host that the pool's last word called its only one needs no answers. One that never heard who
  its peers are (never granted, nothing remembered) is not alone: it has its grace and then fences.
- `losses` counts how often the lease was gone so long that the leader may have given the host up
  and moved on: what waited across such a moment must not run any more, whoever vouched for guests.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from shared.protocol import LeaseGranted

# What clock rates and schedulers of two hosts may be off by, on top of lease and fence.
PROMISE_MARGIN_S: Final = 1.0
PROMISE_S_MAX: Final = 60.0


@dataclass(frozen=True, slots=True)
class Valid:
    """The lease holds until then."""

    until: float


@dataclass(frozen=True, slots=True)
class Expiring:
    """The lease holds until then, but renewals are missing.

    Ask the peers, so that their answers are there in time.
    """

    until: float


@dataclass(frozen=True, slots=True)
class Failsafe:
    """No lease, but nobody else has one either.

    Guests stay up until then, nothing starts; go on asking.
    """

    until: float


@dataclass(frozen=True, slots=True)
class Lapsed:
    """Nothing justifies the guests any more.

    At `fence_at` they are killed. Go on asking, start nothing.
    """

    fence_at: float


@dataclass(frozen=True, slots=True)
class MustFence:
    """Kill every guest now, and again as long as this is the verdict."""


Verdict = Valid | Expiring | Failsafe | Lapsed | MustFence


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerQuestion:
    """A host asks another.

    Have you a lease? With `is_release` it gives back the promise instead.
    """

    asker: str
    promise_s: float
    is_release: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAnswer:
    """`has_lease`: yes. Otherwise no, and the answerer starts nothing for the asked time."""

    host: str
    has_lease: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGuard:
    """What one host knows of its lease.

    `others` are the peer addresses of the pool's other hosts by uuid, None while nobody has said.
    `host_epoch` is the newest grant's, -1 before the first of a host's life.
    `promises` are until when this host owes it to each asker to start nothing.
    """

    host: str
    lease_s: float
    fence_s: float
    kept_until: float
    valid_until: float = -math.inf
    term: int = 0
    host_epoch: int = -1
    others: Mapping[str, str] | None = None
    promises: Mapping[str, float] = field(default_factory=dict)
    losses: int = 0

    @property
    def is_alone(self) -> bool:
        """Whether the pool has no other host that could run this one's guests."""
        return self.others is not None and not self.others

    @property
    def fence_at(self) -> float:
        """When the agent kills the guests."""
        return math.inf if self.is_alone else self.kept_until + self.fence_s / 3

    @property
    def watchdog_at(self) -> float:
        """When the watchdog kills them, should the agent have failed to.

        A third before they must be dead.
        """
        return math.inf if self.is_alone else self.kept_until + self.fence_s * 2 / 3

    @property
    def promise_s(self) -> float:
        """For how long a peer must promise to start nothing, so that it outlasts our guests."""
        return self.lease_s + self.fence_s + PROMISE_MARGIN_S

    def verdict(self, now: float) -> Verdict:
        """Say what holds at `now`."""
        if now < self.valid_until - self.lease_s / 3:
            return Valid(self.valid_until)
        if now < self.valid_until:
            return Expiring(self.valid_until)
        if self.is_alone:
            return Failsafe(math.inf)
        if now < self.kept_until:
            return Failsafe(self.kept_until)
        if now < self.fence_at:
            return Lapsed(self.fence_at)
        return MustFence()

    def next_change(self, now: float) -> float:
        """Give when the verdict changes next, if nobody says anything; infinity for never."""
        moments = (
            self.valid_until - self.lease_s / 3,
            self.valid_until,
            self.kept_until,
            self.fence_at,
            self.promised_until,
        )
        return min((moment for moment in moments if moment > now), default=math.inf)

    @property
    def promised_until(self) -> float:
        """Until when this host owes it to others to start nothing."""
        return max(self.promises.values(), default=-math.inf)

    def may_start(self, now: float) -> bool:
        """Whether a guest may be brought to run here now."""
        return self.promised_until <= now < self.valid_until

    @property
    def loss_at(self) -> float:
        """When the lease counts as lost.

        From then on the leader may think the host dead, failsafe or not.
        """
        return self.valid_until + self.fence_s

    def losses_at(self, now: float) -> int:
        """Count the losses, one that is happening now included."""
        return self.losses + (1 if now >= self.loss_at else 0)

    def was_given_up(self, grant: LeaseGranted) -> bool:
        """Whether the leader had declared this host lost before it gave this grant.

        Then its guests may be started elsewhere, whatever kept them here: they are killed before the grant is taken
        and before peers are released from their promises. A host that is alone has nobody who could start them.
        """
        return 0 <= self.host_epoch < grant.host_epoch and not self.is_alone

    def granted(self, grant: LeaseGranted, *, sent_at: float) -> "LeaseGuard":
        """Take a grant that answers the request sent at `sent_at`.

        One older than what holds changes nothing.
        """
        valid_until = sent_at + grant.lease_s
        if valid_until <= self.valid_until:
            return self
        others = {uuid: address for uuid, address in grant.peers.items() if uuid != self.host}
        return replace(
            self,
            lease_s=grant.lease_s,
            fence_s=grant.fence_s,
            valid_until=valid_until,
            kept_until=max(self.kept_until, valid_until),
            term=max(self.term, grant.term),
            host_epoch=max(self.host_epoch, grant.host_epoch),
            others=others,
            losses=self.losses_at(sent_at),
        )

    def heard_peers(
        self, answers: Mapping[str, PeerAnswer | None], *, asked_at: float
    ) -> "LeaseGuard":
        """Take what the peers answered to a round of questions that began at `asked_at`.

        None is silence.
        """
        if not self.others or asked_at >= self.fence_at:
            return self
        for uuid in self.others:
            answer = answers.get(uuid)
            if answer is None or answer.host != uuid or answer.has_lease:
                return self
        return replace(self, kept_until=max(self.kept_until, asked_at + self.lease_s))

    def asked_by_peer(self, question: PeerQuestion, now: float) -> tuple[PeerAnswer, "LeaseGuard"]:
        """Answer a peer; where the answer is no, it binds."""
        kept = {asker: until for asker, until in self.promises.items() if until > now}
        if question.is_release:
            kept.pop(question.asker, None)
        has_lease = now < self.valid_until
        if not has_lease and not question.is_release:
            until = now + min(question.promise_s, PROMISE_S_MAX)
            kept[question.asker] = max(until, kept.get(question.asker, until))
        return PeerAnswer(host=self.host, has_lease=has_lease), replace(self, promises=kept)
