"""What is new about a libvirt host's domains.

Rules: libvirt's events only say where to look; news is what differs from what was last told, and what the agent itself
brought about counts as told. A domain waits once however often it changes, so what waits is bounded by the number of
domains. After a reconnection everything is looked at: changes are found even where their events were lost.
"""

import asyncio
import contextlib

from host_agent.core.domain_state import DomainSight, change_between
from shared.protocol import DomainChange, DomainChanged, DomainObservation, DomainState


class DomainNews:
    """The news of one host."""

    def __init__(self) -> None:
        self.must_look_at_all = False
        self._told: dict[str, DomainObservation] = {}
        self._killed: dict[str, int] = {}
        self._pending: dict[str, DomainChange | None] = {}
        self._wake = asyncio.Event()

    def begin(self, observations: tuple[DomainObservation, ...]) -> None:
        """Count what the inventory has told; forget what waits."""
        self._told = {seen.vm_uuid: seen for seen in observations}
        self._pending.clear()
        self.must_look_at_all = False

    def hear(self, vm_uuid: str, hint: DomainChange | None) -> None:
        """Note that something happened to a domain."""
        self._pending[vm_uuid] = hint or self._pending.get(vm_uuid)
        self._wake.set()

    def wake(self) -> None:
        """End the waiting: the connection is lost."""
        self._wake.set()

    def hear_all(self, vm_uuids: tuple[str, ...]) -> None:
        """Note that anything may have happened to these and to all known domains."""
        for vm_uuid in dict.fromkeys((*vm_uuids, *self._told)):
            self.hear(vm_uuid, None)
        self.must_look_at_all = False

    def remember(self, vm_uuid: str, seen: DomainObservation | None) -> None:
        """Count a domain as told."""
        if seen is None:
            self._told.pop(vm_uuid, None)
        else:
            self._told[vm_uuid] = seen

    def remember_killed(self, vm_uuid: str) -> None:
        """Count a domain's end by our own hand as told, and let it be shown from now on."""
        if seen := self._told.get(vm_uuid):
            self._killed[vm_uuid] = seen.incarnation
            self._told[vm_uuid] = self.shown(seen)

    def forget_killed(self, vm_uuid: str) -> bool:
        """Let a domain be shown as libvirt has it again; say whether it was not."""
        return self._killed.pop(vm_uuid, None) is not None

    def shown(self, seen: DomainObservation) -> DomainObservation:
        """Give a domain as it is to be reported.

        To libvirt a guest whose process we killed still runs until it notices, and has crashed after that.
        """
        if self._killed.get(seen.vm_uuid) != seen.incarnation:
            return seen
        return DomainObservation(
            vm_uuid=seen.vm_uuid, incarnation=seen.incarnation, state=DomainState.SHUTOFF
        )

    async def wait(self, wait_s_max: float) -> list[tuple[str, DomainChange | None]]:
        """Give the VMs worth a look and the hints about them; none after a while, or when woken."""
        # Not wait_for: until Python 3.12 it can swallow a cancellation.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s_max):
                await self._wake.wait()
        self._wake.clear()
        pending = list(self._pending.items())
        self._pending.clear()
        return pending

    def compare(
        self, vm_uuid: str, sight: DomainSight | None, hint: DomainChange | None
    ) -> DomainChanged | None:
        """Give what is new about a domain and count it as told."""
        told = self._told.get(vm_uuid)
        change = change_between(told, sight, hint=hint)
        self.remember(vm_uuid, sight.observation if sight else None)
        if change is None and hint is DomainChange.REBOOTED and sight is not None:
            change = DomainChange.REBOOTED if sight.is_active else None
        if change is None:
            return None
        if sight is not None:
            return DomainChanged(change=change, observation=sight.observation)
        assert told is not None
        gone = DomainObservation(
            vm_uuid=vm_uuid, incarnation=told.incarnation, state=DomainState.SHUTOFF
        )
        return DomainChanged(change=change, observation=gone)
