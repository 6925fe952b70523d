"""What is new about a libvirt host's domains.

Rules: libvirt's events only say where to look; news is what differs from what was last told, and what the agent itself
brought about counts as told. A domain waits once however often it changes, so what waits is bounded by the number of
domains. After a reconnection everything is looked at: changes are found even where their events were lost.
"""

import asyncio
import contextlib
from typing import Final

from host_agent.core.domain_state import DomainSight, change_between
from shared.protocol import DomainChange, DomainChanged, DomainObservation, DomainState

# No machine boots faster than this.
_REBOOT_S_MAX: Final = 1.0


class DomainNews:
    """The news of one host."""

    def __init__(self) -> None:
        self.must_look_at_all = False
        self._told: dict[str, DomainObservation] = {}
        self._killed: dict[str, int] = {}
        self._rebooted_at: dict[str, float] = {}
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

    def take_hint(self, vm_uuid: str) -> DomainChange | None:
        """Give what was heard of a domain since, None where nothing was."""
        return self._pending.pop(vm_uuid, None)

    def is_told_active(self, vm_uuid: str) -> bool:
        """Say whether a domain was last told of as running, paused or crashed in its place."""
        told = self._told.get(vm_uuid)
        return told is not None and told.domid >= 0

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
            self._rebooted_at.pop(vm_uuid, None)
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
            change = self._reboot(vm_uuid) if sight.is_active else None
        if change is None:
            return None
        if sight is not None:
            return DomainChanged(change=change, observation=sight.observation)
        assert told is not None
        gone = DomainObservation(
            vm_uuid=vm_uuid, incarnation=told.incarnation, state=DomainState.SHUTOFF
        )
        return DomainChanged(change=change, observation=gone)

    def _reboot(self, vm_uuid: str) -> DomainChange | None:
        """QEMU tells of one reboot several times within moments: firmware and guest both reset the machine."""
        now = asyncio.get_running_loop().time()
        is_echo = now - self._rebooted_at.get(vm_uuid, -_REBOOT_S_MAX) < _REBOOT_S_MAX
        self._rebooted_at[vm_uuid] = now
        return None if is_echo else DomainChange.REBOOTED
