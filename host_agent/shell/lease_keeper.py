"""Keeps the host's lease, and its guests only as long as somebody vouches for them.

One job: do what `core.lease_guard` says: ask the leader, ask the peers, keep the watchdog wound up,
kill the guests. Three loops, so that none waits for another's timeout.

Rules: a promise to a peer is durable before it is given; the watchdog is wound up only after a
grant or the peers' word, never for merely being alive.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol, cast

import anyio
import structlog

from host_agent.core.journal_state import NoteKept, TermSeen
from host_agent.core.lease_guard import (
    PROMISE_S_MAX,
    Expiring,
    Failsafe,
    Lapsed,
    LeaseGuard,
    MustFence,
    PeerAnswer,
    PeerQuestion,
    Valid,
)
from host_agent.shell.bell import Bell
from host_agent.shell.journal import Journal
from host_agent.shell.metrics import Metrics
from host_agent.shell.peers import Peers
from shared.bus import Bus, BusUnavailable
from shared.codec import DecodeError, decode, encode
from shared.membership import peers_digest
from shared.protocol import LeaseGranted, LeaseRefused, LeaseReply, LeaseRequest

LEASE_NOTE: Final = "lease"
PROMISES_NOTE: Final = "promises"
LEASE_REPLY: Final = cast("type[LeaseReply]", LeaseReply)

log = structlog.get_logger(__name__)


class Watchdog(Protocol):
    """Something outside the agent that kills the guests when nobody winds it up any more."""

    async def start(self) -> float | None:
        """Begin, taking over from a former agent's watchdog; give the deadline that one had.

        None: there was none. Infinity: there was one, without a deadline.
        """
        ...

    async def wind(self, deadline: float) -> None:
        """Kill the guests at `deadline` (monotonic seconds) unless wound up again.

        Infinity: never.
        """
        ...

    async def close(self) -> None:
        """Let go of it; it goes on without us."""
        ...


def _kept(guard: LeaseGuard) -> tuple[object, ...]:
    """What an agent must know of the last grant after its own restart."""
    return guard.others, guard.lease_s, guard.fence_s, guard.host_epoch


class LeaseKeeper:
    """One host's lease. `changed` rings whenever the guard has news."""

    def __init__(
        self,
        *,
        host: str,
        subject: str,
        bus: Bus,
        journal: Journal,
        peers: Peers,
        watchdog: Watchdog,
        metrics: Metrics,
        clock: Callable[[], float],
        heartbeat_s: float,
        first_lease_s: float,
        first_fence_s: float,
        kill_guests: Callable[[], Awaitable[None]],
        on_reply: Callable[[LeaseReply], None],
    ) -> None:
        self.changed = Bell()
        self._host = host
        self._subject = subject
        self._bus = bus
        self._journal = journal
        self._peers = peers
        self._watchdog = watchdog
        self._metrics = metrics
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._kill_guests = kill_guests
        self._on_reply = on_reply
        self.guard = LeaseGuard(
            host=host, lease_s=first_lease_s, fence_s=first_fence_s, kept_until=-math.inf
        )
        self._was_in_failsafe = False

    async def prepare(self) -> None:
        """Take over what the former agent on this host left.

        Its lease's times, promises, deadline.
        """
        now = self._clock()
        if note := self._journal.state.notes.get(LEASE_NOTE):
            grant = decode(bytes.fromhex(note), LeaseGranted)
            others = {uuid: to for uuid, to in grant.peers.items() if uuid != self._host}
            self.guard = replace(
                self.guard,
                lease_s=grant.lease_s,
                fence_s=grant.fence_s,
                others=others,
                host_epoch=grant.host_epoch,
            )
        if note := self._journal.state.notes.get(PROMISES_NOTE):
            promises = decode(bytes.fromhex(note), dict[str, float])
            # After a reboot the clock began anew: no promise is longer than this.
            capped = {asker: min(until, now + PROMISE_S_MAX) for asker, until in promises.items()}
            self.guard = replace(self.guard, promises=capped)
        deadline = await self._watchdog.start()
        if deadline is None or math.isinf(deadline):
            kept_until = now + self.guard.lease_s
        else:
            kept_until = deadline - self.guard.fence_s * 2 / 3
        self.guard = replace(self.guard, kept_until=kept_until)
        await self._wind()

    async def run(self) -> None:
        """Keep the lease for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._ask_leader)
            tasks.start_soon(self._ask_peers)
            tasks.start_soon(self._watch)

    def may_start(self) -> bool:
        """Whether a guest may be brought to run now."""
        return self.guard.may_start(self._clock())

    def host_epoch(self) -> int:
        """Count how often the leader has given this host up, as the newest grant says."""
        return self.guard.host_epoch

    def losses(self) -> int:
        """Count how often the fence point has been passed."""
        return self.guard.losses_at(self._clock())

    async def wait_changed(self, *, timeout_s: float) -> None:
        """Wait until the lease may have changed, by a word or by time."""
        soon = self.guard.next_change(self._clock()) - self._clock()
        await self.changed.wait(timeout_s=max(0.0, min(timeout_s, soon)))

    async def answer_peer(self, question: PeerQuestion) -> PeerAnswer:
        """Answer another host's question; a no is a promise, and durable before it is given."""
        answer, guard = self.guard.asked_by_peer(question, self._clock())
        is_new = guard.promises != self.guard.promises
        self.guard = guard
        if is_new:
            kept = encode(dict(guard.promises), dict[str, float])
            await self._journal.write(NoteKept(name=PROMISES_NOTE, value=kept.hex()))
            self.changed.ring()
        return answer

    # --- the leader -----------------------------------------------------------------------------

    async def _ask_leader(self) -> None:
        while True:
            sent_at = self._clock()
            await self._ask_leader_once(sent_at)
            await anyio.sleep(max(0.0, sent_at + self._heartbeat_s - self._clock()))

    async def _ask_leader_once(self, sent_at: float) -> None:
        state = self._journal.state
        request = LeaseRequest(
            host=self._host,
            journal=state.journal,
            epoch=state.epoch,
            peer_address=self._peers.address,
            peers_known=peers_digest(self.guard.others or ()),
        )
        try:
            data = await self._bus.request(
                self._subject, encode(request), timeout_s=2 * self._heartbeat_s
            )
            reply = decode(data, LEASE_REPLY)
        except BusUnavailable:
            return
        except DecodeError as error:
            self._metrics.undecodable.inc()
            log.warning("lease.undecodable", why=str(error))
            return
        await self._take(reply, sent_at)

    async def _take(self, reply: LeaseReply, sent_at: float) -> None:
        if reply.term > self._journal.state.highest_term:
            await self._journal.write(TermSeen(term=reply.term))
        match reply:
            case LeaseGranted():
                await self._take_grant(reply, sent_at)
            case LeaseRefused(reason=reason):
                log.warning("lease.refused", reason=reason, term=reply.term)
        self._on_reply(reply)

    async def _take_grant(self, grant: LeaseGranted, sent_at: float) -> None:
        if self.guard.was_given_up(grant):
            # Failsafe may have kept them longer than the leader counts on.
            await self._kill_guests()
        before = self.guard
        self.guard = before.granted(grant, sent_at=sent_at)
        if _kept(self.guard) != _kept(before):
            kept = encode(replace(grant, wants_inventory=False))
            await self._journal.write(NoteKept(name=LEASE_NOTE, value=kept.hex()))
        await self._wind()
        self.changed.ring()
        if self._was_in_failsafe:
            self._was_in_failsafe = False
            await self._release_peers()

    async def _wind(self) -> None:
        await self._watchdog.wind(self.guard.watchdog_at)

    # --- the peers ------------------------------------------------------------------------------

    async def _ask_peers(self) -> None:
        while True:
            asked_at = self._clock()
            verdict = self.guard.verdict(asked_at)
            if isinstance(verdict, Expiring | Failsafe | Lapsed) and self.guard.others:
                answers = await self._ask_all(self.guard.others, is_release=False)
                self.guard = self.guard.heard_peers(answers, asked_at=asked_at)
                self._was_in_failsafe = True
                await self._wind()
                self.changed.ring()
                await anyio.sleep(max(0.0, asked_at + self._heartbeat_s / 2 - self._clock()))
            else:
                await self.wait_changed(timeout_s=self._heartbeat_s)

    async def _ask_all(
        self, others: Mapping[str, str], *, is_release: bool
    ) -> dict[str, PeerAnswer | None]:
        answers: dict[str, PeerAnswer | None] = {}
        question = PeerQuestion(
            asker=self._host, promise_s=self.guard.promise_s, is_release=is_release
        )

        async def ask(uuid: str, address: str) -> None:
            answers[uuid] = await self._peers.ask(
                address, question, timeout_s=self._heartbeat_s / 2
            )

        async with anyio.create_task_group() as tasks:
            for uuid, address in others.items():
                tasks.start_soon(ask, uuid, address)
        return answers

    async def _release_peers(self) -> None:
        if self.guard.others:
            await self._ask_all(self.guard.others, is_release=True)

    # --- the guests -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        told: type | None = None
        while True:
            verdict = self.guard.verdict(self._clock())
            self._metrics.lease_valid.set(isinstance(verdict, Valid | Expiring))
            if type(verdict) is not told:
                told = type(verdict)
                log.info("lease.verdict", verdict=str(verdict))
                if isinstance(verdict, MustFence):
                    self._metrics.fences.inc()
            if isinstance(verdict, MustFence):
                await self._kill_guests()
                await self.changed.wait(timeout_s=self._heartbeat_s)
            else:
                await self.wait_changed(timeout_s=math.inf)
