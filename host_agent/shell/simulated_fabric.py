"""A simulated cluster: what its hosts run, whoever looks, and the ground truth for checkers.

One job: change domains as real hypervisors and their guests do, agents living or not.

Rules: synchronous and without tasks, so nothing of it dies with an agent. What takes time (a guest that powers off, a
migration) is written down with the moment at which it happens, and happens when anybody looks after that moment. The
moment of a migration's hand-over is one atomic `move` in the store.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from host_agent.shell.fabric_store import FabricStore, MemoryStore, SimulatedDomain
from shared.enums import OnCrashBehaviour, OnNormalExit
from shared.protocol import DomainChange, DomainState

Listener = Callable[[str], None]

ACTIVE_STATES: Final = (DomainState.RUNNING, DomainState.PAUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningGuest:
    """One guest with a machine under it: running, or paused and able to run."""

    host: str
    vm_uuid: str
    incarnation: int
    state: DomainState


def loop_time() -> float:
    """Give the running loop's time, virtual or not; outside of one the clock that loops use by default."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


class SimulatedFabric:
    """All hosts of one simulated cluster; a host exists as soon as it is named."""

    def __init__(
        self, store: FabricStore | None = None, *, clock: Callable[[], float] = loop_time
    ) -> None:
        self.store: FabricStore = store or MemoryStore()
        self._clock = clock
        self._listeners: dict[str, Listener] = {}

    def listen(self, host: str, listener: Listener | None) -> None:
        """Call `listener(vm_uuid)` on every change on the host; the last one to ask is the one who hears."""
        if listener is None:
            self._listeners.pop(host, None)
        else:
            self._listeners[host] = listener

    # What guests and the world do.

    def running(self) -> list[RunningGuest]:
        """Give every guest that runs now, on whichever host: more than one of a VM is the worst of failures."""
        return [
            RunningGuest(
                host=host,
                vm_uuid=domain.config.vm_uuid,
                incarnation=domain.config.incarnation,
                state=domain.state,
            )
            for host in self.store.hosts()
            for domain in self.domains(host)
            if domain.state in ACTIVE_STATES
        ]

    def guest_power_off(self, vm_uuid: str) -> None:
        """The guest powers itself off."""
        self._change_running(vm_uuid, lambda domain: stopped(domain, DomainChange.POWERED_OFF))

    def guest_reboot(self, vm_uuid: str) -> None:
        """The guest reboots itself, or ends where the VM's settings say so."""
        self._change_running(vm_uuid, rebooted)

    def guest_crash(self, vm_uuid: str) -> None:
        """The guest panics; its domain stays in memory only where the VM's settings say so."""
        self._change_running(vm_uuid, crashed)

    def kill_host(self, host: str) -> None:
        """Cut a host's power: guests and copies are gone at once, definitions stay on its disk."""
        with self.store.lock():
            for domain in self._settled_domains(host):
                if domain.comes_from:
                    self.store.remove(host, domain.config.vm_uuid)
                else:
                    self.store.write(host, stopped(domain, DomainChange.DESTROYED))
            self.store.set_dead(host, dead=True)

    def revive_host(self, host: str) -> None:
        """Give a host its power back; it runs nothing."""
        with self.store.lock():
            self.store.set_dead(host, dead=False)

    def is_dead(self, host: str) -> bool:
        """Say whether the host is without power."""
        return self.store.is_dead(host)

    # What a host's hypervisor does.

    def now(self) -> float:
        """Give the fabric's time."""
        return self._clock()

    def domains(self, host: str) -> list[SimulatedDomain]:
        """Give the host's domains as they are now, by VM, without copies that have never run."""
        with self.store.lock():
            return [domain for domain in self._settled_domains(host) if not domain.comes_from]

    def look(self, host: str, vm_uuid: str) -> SimulatedDomain | None:
        """Give one domain as it is now, an incoming copy included."""
        with self.store.lock():
            return self._settled(host, vm_uuid)

    def put(self, host: str, domain: SimulatedDomain) -> None:
        """Put a domain, replacing what was there."""
        with self.store.lock():
            self._write(host, domain)

    def change(
        self,
        host: str,
        vm_uuid: str,
        changed: Callable[[SimulatedDomain | None], SimulatedDomain | None],
    ) -> SimulatedDomain | None:
        """Look at a domain and replace it by what `changed` makes of it (None: nothing is left), in one step."""
        with self.store.lock():
            before = self._settled(host, vm_uuid)
            after = changed(before)
            if after is not before:
                if after is not None:
                    self._write(host, after)
                else:
                    self.store.remove(host, vm_uuid)
                    self._tell(host, vm_uuid)
            return after

    def begin_migration(self, host: str, vm_uuid: str, destination: str, *, ends_at: float) -> bool:
        """Let a running domain move to `destination` at `ends_at`; False where it cannot."""
        with self.store.lock():
            domain = self._settled(host, vm_uuid)
            if domain is None or domain.moves_to or destination == host:
                return False
            there = self._settled(destination, vm_uuid)
            is_taken = there is not None and (there.domid >= 0 or bool(there.comes_from))
            if is_taken or self.store.is_dead(destination):
                return False
            leaving = replace(domain, moves_to=destination, moves_at=ends_at)
            # The source first: a copy whose source does not know of it is removed by whoever sees it.
            self._write(host, leaving)
            copy = replace(leaving, state=DomainState.PAUSED, domid=-1, powers_off_at=0.0)
            self._write(destination, replace(copy, moves_to="", comes_from=host))
            return True

    def end_migration(self, host: str, vm_uuid: str) -> None:
        """Give up a migration that goes out; none is fine."""
        with self.store.lock():
            domain = self._settled(host, vm_uuid)
            if domain is not None and domain.moves_to:
                self._write(host, _staying(domain))

    def cut_hand_over(self, host: str, vm_uuid: str, *, arrived: bool) -> None:
        """Cut a migration at its hand-over: the source stands still, the destination runs or never will by itself."""
        with self.store.lock():
            domain = self._settled(host, vm_uuid)
            if domain is None or not domain.moves_to:
                return
            if arrived:
                self._write(domain.moves_to, _arrived(domain))
            standing = replace(domain, state=DomainState.PAUSED, is_undecided=True, moves_at=0.0)
            self._write(host, standing)

    # How time passes.

    def _settled_domains(self, host: str) -> list[SimulatedDomain]:
        found = (self._settle(host, domain) for domain in self.store.domains(host))
        return [domain for domain in found if domain is not None]

    def _settled(self, host: str, vm_uuid: str) -> SimulatedDomain | None:
        domain = self.store.read(host, vm_uuid)
        return domain and self._settle(host, domain)

    def _settle(self, host: str, domain: SimulatedDomain) -> SimulatedDomain | None:
        """Let happen what is due by now; give what the host has then."""
        now = self.now()
        vm_uuid = domain.config.vm_uuid
        if domain.moves_to == host:
            # The process that moved it died before it could say so.
            arrived = _arrived(domain)
            self._write(host, arrived)
            return arrived
        if domain.comes_from:
            source = self.store.read(domain.comes_from, vm_uuid)
            if source is None or source.moves_to != host:
                # The one place where a copy ends whose migration did: nothing that ends one need think of it.
                self.store.remove(host, vm_uuid)
                return None
            self._settle(domain.comes_from, source)
            return self.store.read(host, vm_uuid)
        move_is_due = 0 < domain.moves_at <= now
        runs = domain.state is DomainState.RUNNING
        is_first = not move_is_due or domain.powers_off_at <= domain.moves_at
        if runs and 0 < domain.powers_off_at <= now and is_first:
            off = stopped(domain, DomainChange.POWERED_OFF)
            self._write(host, off)
            return off
        return self._move(host, domain) if move_is_due else domain

    def _move(self, host: str, domain: SimulatedDomain) -> SimulatedDomain | None:
        vm_uuid = domain.config.vm_uuid
        copy = self.store.read(domain.moves_to, vm_uuid)
        if copy is None or copy.comes_from != host or self.store.is_dead(domain.moves_to):
            staying = _staying(domain)
            self._write(host, staying)
            return staying
        self.store.move(host, domain.moves_to, vm_uuid)
        self._write(domain.moves_to, _arrived(domain))
        self._tell(host, vm_uuid)
        return None

    def _change_running(
        self, vm_uuid: str, changed: Callable[[SimulatedDomain], SimulatedDomain]
    ) -> None:
        for host in self.store.hosts():
            self.change(
                host,
                vm_uuid,
                lambda domain: (
                    changed(domain)
                    if domain is not None and domain.state is DomainState.RUNNING
                    else domain
                ),
            )

    def _write(self, host: str, domain: SimulatedDomain) -> None:
        if domain.state is DomainState.RUNNING and not domain.has_run:
            domain = replace(domain, has_run=True)
        self.store.write(host, domain)
        self._tell(host, domain.config.vm_uuid)

    def _tell(self, host: str, vm_uuid: str) -> None:
        if listener := self._listeners.get(host):
            listener(vm_uuid)


def new_domid(incarnation: int, *, moves: int = 0) -> int:
    """Give a domain id that differs for every start and every arrival, as a hypervisor's do."""
    return incarnation * 1_000 + moves


def happened(domain: SimulatedDomain, change: DomainChange) -> SimulatedDomain:
    """The domain after one more change."""
    return replace(domain, changes=domain.changes + 1, last_change=change)


def stopped(domain: SimulatedDomain, change: DomainChange) -> SimulatedDomain:
    """Only the definition is left. What has stopped already stays as it is."""
    if domain.domid < 0:
        return domain
    off = replace(_staying(domain), state=DomainState.SHUTOFF, domid=-1, powers_off_at=0.0)
    return happened(off, change)


def rebooted(domain: SimulatedDomain) -> SimulatedDomain:
    """The domain after its guest has reset the machine."""
    if domain.config.actions_after_reboot is OnNormalExit.DESTROY:
        return stopped(domain, DomainChange.POWERED_OFF)
    return happened(domain, DomainChange.REBOOTED)


def crashed(domain: SimulatedDomain) -> SimulatedDomain:
    """The domain after its guest's panic."""
    if domain.config.actions_after_crash is OnCrashBehaviour.PRESERVE:
        return happened(replace(domain, state=DomainState.CRASHED), DomainChange.CRASHED)
    return replace(stopped(domain, DomainChange.CRASHED), state=DomainState.CRASHED)


def _staying(domain: SimulatedDomain) -> SimulatedDomain:
    return replace(domain, moves_to="", moves_at=0.0, is_undecided=False)


def _arrived(domain: SimulatedDomain) -> SimulatedDomain:
    """The domain at its destination. A guest that was asked to power off still does."""
    moved = replace(_staying(domain), domid=domain.domid + 1)
    return happened(moved, DomainChange.MIGRATED_IN)
