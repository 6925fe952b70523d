"""What is new on one host of a simulated fabric.

Rules: news is the difference between a domain and what was last told of it; what the agent itself brought about counts
as told. A domain waits once however often it changes, so what waits is bounded by the number of domains.
"""

import asyncio
import contextlib
from dataclasses import dataclass, replace

from host_agent.shell.fabric_store import SimulatedDomain
from host_agent.shell.simulated_fabric import SimulatedFabric
from shared.protocol import DomainChange, DomainState


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A change that was not told yet."""

    change: DomainChange
    domain: SimulatedDomain


class FabricNews:
    """The news of one host. `poll_s` is how often a shared folder is looked at; 0: this process has all of it."""

    def __init__(self, fabric: SimulatedFabric, host: str, *, poll_s: float) -> None:
        self._fabric = fabric
        self._host = host
        self._poll_s = poll_s
        self._polls_at = 0.0
        self._told: dict[str, SimulatedDomain] = {}
        self._stamps: dict[str, object] = {}
        self._changed: dict[str, None] = {}
        self._due: dict[str, float] = {}
        self._wake = asyncio.Event()

    def open(self) -> None:
        """Listen from now on; what is there already is the inventory's to tell."""
        self._stamps = self._fabric.store.stamps(self._host)
        self._told = {domain.config.vm_uuid: domain for domain in self._fabric.domains(self._host)}
        # Copies that come in wait too: an arrival is news even if nobody is left to tell of it.
        self._changed = dict.fromkeys(sorted(self._stamps))
        self._fabric.listen(self._host, self._hear)

    def close(self) -> None:
        """Stop listening."""
        self._fabric.listen(self._host, None)

    def remember(self, vm_uuid: str, domain: SimulatedDomain | None) -> None:
        """Count a domain as told."""
        if domain is None:
            self._told.pop(vm_uuid, None)
        elif not domain.comes_from:
            self._told[vm_uuid] = domain

    def compare(self, vm_uuid: str, domain: SimulatedDomain | None) -> News | None:
        """Give what is new about a domain and count it as told."""
        self._note_due(vm_uuid, domain)
        if domain is not None and domain.comes_from:
            return None
        told = self._told.get(vm_uuid)
        self.remember(vm_uuid, domain)
        if domain is not None:
            is_new = told is None or _picture(told) != _picture(domain)
            return News(change=domain.last_change, domain=domain) if is_new else None
        if told is None:
            return None
        gone = replace(told, state=DomainState.SHUTOFF, domid=-1)
        change = DomainChange.MIGRATED_OUT if told.moves_to else DomainChange.DESTROYED
        return News(change=change, domain=gone)

    async def wait_for_changed(self) -> list[str]:
        """Give the VMs worth a look as soon as there are some, or after a while none."""
        if not self._changed:
            # Not wait_for: until Python 3.12 it can swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._wait_s()):
                    await self._wake.wait()
        self._wake.clear()
        self._find_changed()
        changed = list(self._changed)
        self._changed.clear()
        return changed

    def _wait_s(self) -> float | None:
        moments = list(self._due.values())
        if self._poll_s:
            moments.append(self._polls_at)
        return max(0.0, min(moments) - self._fabric.now()) if moments else None

    def _find_changed(self) -> None:
        """Find what other processes changed, and what is due by itself."""
        now = self._fabric.now()
        for vm_uuid in [vm_uuid for vm_uuid, moment in self._due.items() if moment <= now]:
            del self._due[vm_uuid]
            self._changed[vm_uuid] = None
        if self._poll_s and self._polls_at <= now:
            self._polls_at = now + self._poll_s
            stamps = self._fabric.store.stamps(self._host)
            for vm_uuid in sorted(stamps.keys() | self._stamps.keys()):
                if stamps.get(vm_uuid) != self._stamps.get(vm_uuid):
                    self._changed[vm_uuid] = None
            self._stamps = stamps

    def _note_due(self, vm_uuid: str, domain: SimulatedDomain | None) -> None:
        moments = (domain.powers_off_at, domain.moves_at) if domain else ()
        if due := [moment for moment in moments if moment > self._fabric.now()]:
            self._due[vm_uuid] = min(due)
        else:
            self._due.pop(vm_uuid, None)

    def _hear(self, vm_uuid: str) -> None:
        self._changed[vm_uuid] = None
        self._wake.set()


def _picture(domain: SimulatedDomain) -> tuple[int, int, DomainState, int]:
    """What makes news when it differs."""
    return domain.config.incarnation, domain.domid, domain.state, domain.changes
