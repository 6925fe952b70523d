"""When a host is given up: its lease is over and its fence time too, its power is off, or an operator says that it is dead.

Rules: no proof, no HostLost. While a host is being given up nobody grants it a lease. Power is cut only where the lease has
ended for certain, this leader hears the pool, and another host holds a lease: when everybody is silent the trouble may be
ours. A fence agent that fails proves nothing: the arithmetic of the lease goes on regardless.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from pool_master.core.context import Context
from pool_master.core.events import Actor, ActorKind, Event
from pool_master.core.host import Host
from pool_master.core.host_death import decide_declare_dead
from pool_master.core.lease import LeaseTable
from pool_master.core.lookup import host_of
from pool_master.core.pool import Pool
from pool_master.core.reconcile import decide_host_lost
from pool_master.shell.fencing import Fencing
from pool_master.shell.writer import Wish, Writer
from shared.errors import HostIsLive, XenApiError
from shared.refs import HostRef

log = structlog.get_logger(__name__)

WATCH_S: Final = 0.25
# So long without a word from the store or any host, and it is the leader that is cut off.
DEAF_S: Final = 2.0
FENCE_AGAIN_S: Final = 10.0


class HostFate:
    """Says which hosts are lost, for as long as its writer leads."""

    def __init__(
        self,
        writer: Writer,
        leases: LeaseTable,
        fencing: Fencing,
        *,
        has_authority: Callable[[], bool],
        heard_at: Callable[[], float],
        forget: Callable[[str], None],
    ) -> None:
        self._writer = writer
        self._leases = leases
        self._fencing = fencing
        self._has_authority = has_authority
        self._heard_at = heard_at
        self._forget = forget
        self._giving_up: dict[str, int] = {}
        self._shot_at: dict[str, float] = {}

    def refuses(self, host_uuid: str) -> bool:
        """Whether this host must get no lease now: one would vouch for guests that others may start."""
        return host_uuid in self._giving_up

    async def watch(self) -> None:
        """Declare lost whose guests are surely dead; asks the lease table often, and the log only then."""
        me = Actor(ActorKind.MASTER, self._writer.pool.master)
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(WATCH_S)
                for host in list(self._writer.pool.hosts.values()):
                    if self._is_lost(self._writer.pool, host):
                        self._forget(host.uuid)
                        with self._given_up(host.uuid):
                            await self._declare_lost(host, me, self._is_lost)
                    elif self._is_to_be_shot(host):
                        self._shot_at[host.uuid] = asyncio.get_running_loop().time()
                        group.create_task(self._shoot(host, me))

    @contextlib.contextmanager
    def _given_up(self, host_uuid: str) -> Iterator[None]:
        self._giving_up[host_uuid] = self._giving_up.get(host_uuid, 0) + 1
        try:
            yield
        finally:
            self._giving_up[host_uuid] -= 1
            if not self._giving_up[host_uuid]:
                del self._giving_up[host_uuid]

    # --- by the lease alone

    def _is_lost(self, pool: Pool, host: Host) -> bool:
        """Whether a host that the log has as live is surely dead, as far as this master can tell."""
        now = asyncio.get_running_loop().time()
        if self._is_deaf(now):
            self._leases.hear_nobody(now)
        is_dead = self._leases.is_surely_dead(host.uuid, now)
        return is_dead and pool.is_live(host.ref) and self._has_authority()

    def _is_deaf(self, now: float) -> bool:
        return now - self._heard_at() > DEAF_S

    async def _declare_lost(
        self, host: Host, me: Actor, is_so: Callable[[Pool, Host], bool], evidence: str = ""
    ) -> None:
        def decide(pool: Pool) -> list[Event]:
            # Again: the log may have been away since, and with it the host.
            if not is_so(pool, host):
                return []
            return decide_host_lost(pool, host.ref, evidence or self._evidence(host))

        try:
            identity = f"lost/{host.ref}/{self._writer.tail.position}"
            cause = "fenced" if evidence else "lease expired"
            await self._writer.submit(Wish(decide, me, identity, cause))
        except XenApiError as error:
            log.warning("host_link.lost_undeclared", host=host.uuid, why=str(error))

    def _evidence(self, host: Host) -> str:
        times = self._leases.times
        granted = self._leases.surely_dead_at(host.uuid) - times.dead_after_s
        return (
            f"no lease since {asyncio.get_running_loop().time() - granted:.1f} s"
            f" (lease {times.lease_s:g} s, fence {times.fence_s:g} s, margin {times.margin_s:g} s)"
        )

    # --- by its power

    def _is_to_be_shot(self, host: Host) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._shot_at.get(host.uuid, -FENCE_AGAIN_S) < FENCE_AGAIN_S:
            return False
        is_possible = self._fencing.is_possible(host.uuid) and not self.refuses(host.uuid)
        return (
            is_possible
            and not self._is_deaf(now)
            and self._others_live(host, now)
            and (self._may_be_given_up(self._writer.pool, host))
        )

    def _others_live(self, host: Host, now: float) -> bool:
        others = [each.uuid for each in self._writer.pool.hosts.values() if each.ref != host.ref]
        return any(self._leases.holds(uuid, now) for uuid in others)

    def _may_be_given_up(self, pool: Pool, host: Host) -> bool:
        now = asyncio.get_running_loop().time()
        is_over = not self._leases.may_hold(host.uuid, now)
        return is_over and pool.is_live(host.ref) and self._has_authority()

    async def _shoot(self, host: Host, me: Actor) -> None:
        with self._given_up(host.uuid):
            evidence = await self._fencing.power_off(host.uuid)
            if evidence:
                self._forget(host.uuid)
                await self._declare_lost(host, me, self._may_be_given_up, evidence)

    # --- by an operator's word

    async def declare_dead(self, ref: HostRef, reason: str, context: Context) -> None:
        """Take an operator's word that a host is dead.

        Raises:
            HostIsLive: it has a lease, or may have one that another leader granted.
        """
        host = host_of(self._writer.pool, ref)

        def decide(pool: Pool) -> list[Event]:
            if self._leases.may_hold(host.uuid, asyncio.get_running_loop().time()):
                raise HostIsLive(ref)
            return decide_declare_dead(pool, ref, reason, context)

        with self._given_up(host.uuid):
            self._forget(host.uuid)
            await self._writer.submit(
                Wish(decide, context.actor, context.command_id, context.label)
            )
