"""A hypervisor that only pretends: one host of a SimulatedFabric behind the agent's port.

Rules: asyncio alone, no thread, no wall clock, no randomness; durations and failures are data. The fabric keeps the
guests, so an agent may die and come back. An effect happens in one step after its duration: an agent that dies before
has done nothing, one that dies after has done all.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final

from host_agent.shell.fabric_news import FabricNews
from host_agent.shell.fabric_store import SimulatedDomain
from host_agent.shell.hypervisor import (
    HostDescription,
    HypervisorUnavailable,
    MigrationStatus,
    Progress,
)
from host_agent.shell.simulated_deeds import brought_up, signalled, tuned, with_device
from host_agent.shell.simulated_fabric import (
    ACTIVE_STATES,
    SimulatedFabric,
    happened,
    stopped,
)
from shared.enums import PowerState
from shared.errors import (
    DomainExists,
    VmBadPowerState,
    VmHasNoSuspendVdi,
    VmMigrateFailed,
)
from shared.protocol import (
    DeviceChange,
    DomainChange,
    DomainChanged,
    DomainConfig,
    DomainObservation,
    DomainSignal,
    DomainState,
    DomainTuning,
    HostNetwork,
    MigrateDomain,
)

SCHEME: Final = "simulated://"
IGNORES_SHUTDOWN: Final = "vmpool-ignores-shutdown"
HOLDS_ON_TO_DEVICES: Final = "vmpool-holds-on-to-devices"

Faults = Callable[[str], Exception | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedTimings:
    """How long things take, in seconds. `poll_s` is how often a shared folder is looked at; 0: it is not shared."""

    call_s: float = 0.0
    start_s: float = 0.0
    shutdown_s: float = 0.0
    migrate_s: float = 0.0
    poll_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedMachine:
    """What a simulated host is made of."""

    memory_total: int = 64 << 30
    cpu_count: int = 16
    vendor: str = "GenuineSimulation"
    features: str = "00000000-00000000-00000000-00000000"
    bridges: tuple[str, ...] = ("xenbr0",)


def no_faults(_: str) -> Exception | None:
    """Nothing ever fails."""
    return None


class SimulatedHypervisor:
    """One host of a fabric.

    `faults` is asked at named points and gives what to raise there: before an effect under the method's name, after it
    under the name + ".answer", while memory is copied under "migrate.copy", and under "migrate.hand_over.arrived" and
    "migrate.hand_over.lost" to cut a migration where only the destination knows its end.
    """

    def __init__(
        self,
        fabric: SimulatedFabric,
        host_name: str,
        *,
        timings: SimulatedTimings = SimulatedTimings(),
        machine: SimulatedMachine = SimulatedMachine(),
        faults: Faults = no_faults,
    ) -> None:
        self._fabric = fabric
        self._host = host_name
        self._timings = timings
        self._machine = machine
        self._faults = faults
        self._news = FabricNews(fabric, host_name, poll_s=timings.poll_s)

    async def open(self) -> None:
        """Begin to listen; what is there already is the inventory's to tell."""
        await self._point("open")
        self._news.open()

    async def close(self) -> None:
        """Stop listening; guests run on."""
        self._news.close()

    async def describe(self) -> HostDescription:
        """Say what the host is."""
        await self._point("describe")
        used = sum(
            domain.config.memory_static_max
            for domain in self._fabric.domains(self._host)
            if domain.domid >= 0
        )
        machine = self._machine
        return HostDescription(
            hostname=self._host,
            hypervisor="simulated",
            migrate_uri=f"{SCHEME}{self._host}",
            memory_total=machine.memory_total,
            memory_free=max(0, machine.memory_total - used),
            cpu_count=machine.cpu_count,
            cpu_info={
                "cpu_count": str(machine.cpu_count),
                "vendor": machine.vendor,
                "modelname": "simulated",
                "features": machine.features,
            },
            software_version={"hypervisor": "simulated"},
            capabilities=("pause", "live-migration", "crash-detection"),
            networks=tuple(HostNetwork(bridge=bridge) for bridge in machine.bridges),
        )

    async def inventory(self) -> tuple[DomainObservation, ...]:
        """Give all domains of the host."""
        await self._point("inventory")
        return tuple(self._observation(domain) for domain in self._fabric.domains(self._host))

    async def unknown_domains(self) -> tuple[str, ...]:
        """A simulated host has only vmpool's domains."""
        await self._point("unknown_domains")
        return ()

    async def observe(self, vm_uuid: str) -> DomainObservation | None:
        """Give one domain."""
        await self._point("observe")
        domain = self._fabric.look(self._host, vm_uuid)
        return None if domain is None or domain.comes_from else self._observation(domain)

    async def start(self, config: DomainConfig, *, paused: bool) -> DomainObservation:
        """Run the incarnation of `config`."""
        await self._point("start", duration_s=self._timings.start_s)

        state = DomainState.PAUSED if paused else DomainState.RUNNING

        def started(domain: SimulatedDomain | None) -> SimulatedDomain:
            return brought_up(domain, config, state)

        return self._answer("start", self._change(config.vm_uuid, started))

    async def pause(self, vm_uuid: str, incarnation: int) -> DomainObservation:
        """Stop the VCPUs."""
        await self._point("pause")

        def paused(domain: SimulatedDomain | None) -> SimulatedDomain:
            found = self._active(domain, vm_uuid, incarnation)
            if found.state is DomainState.PAUSED:
                return found
            return happened(replace(found, state=DomainState.PAUSED), DomainChange.PAUSED)

        return self._answer("pause", self._change(vm_uuid, paused))

    async def unpause(self, vm_uuid: str, incarnation: int) -> DomainObservation:
        """Let the VCPUs run; an undecided migration is decided for this host by it."""
        await self._point("unpause")

        def unpaused(domain: SimulatedDomain | None) -> SimulatedDomain:
            found = self._active(domain, vm_uuid, incarnation)
            if found.state is DomainState.RUNNING:
                return found
            if found.is_undecided:
                found = replace(found, is_undecided=False, moves_to="")
            return happened(replace(found, state=DomainState.RUNNING), DomainChange.RESUMED)

        return self._answer("unpause", self._change(vm_uuid, unpaused))

    async def request_shutdown(self, vm_uuid: str, incarnation: int) -> None:
        """Ask the guest; whether it listens is its own affair."""
        await self._point("request_shutdown")

        def asked(domain: SimulatedDomain | None) -> SimulatedDomain:
            found = self._running(domain, vm_uuid, incarnation)
            if found.config.platform.get(IGNORES_SHUTDOWN) == "true" or found.powers_off_at:
                return found
            return replace(found, powers_off_at=self._fabric.now() + self._timings.shutdown_s)

        self._change(vm_uuid, asked)
        self._raise_fault("request_shutdown.answer")

    async def tune(self, vm_uuid: str, incarnation: int, tuning: DomainTuning) -> DomainObservation:
        """Change the running domain."""
        await self._point("tune")
        changed = self._change(
            vm_uuid, lambda domain: tuned(self._running(domain, vm_uuid, incarnation), tuning)
        )
        return self._answer("tune", changed)

    async def change_device(
        self, vm_uuid: str, incarnation: int, change: DeviceChange
    ) -> DomainObservation:
        """Attach a device, or take one away, unless the guest holds on to it."""
        await self._point("change_device")

        def changed(domain: SimulatedDomain | None) -> SimulatedDomain:
            found = self._running(domain, vm_uuid, incarnation)
            holds_on = found.config.platform.get(HOLDS_ON_TO_DEVICES) == "true"
            return with_device(found, change, holds_on=holds_on)

        return self._answer("change_device", self._change(vm_uuid, changed))

    async def signal(self, vm_uuid: str, incarnation: int, signal: DomainSignal) -> None:
        """Press a key, or pull a trigger; what the guest makes of it is its own deed."""
        await self._point("signal")
        now = self._fabric.now()
        self._fabric.change(
            self._host,
            vm_uuid,
            lambda domain: signalled(self._running(domain, vm_uuid, incarnation), signal, now=now),
        )
        self._raise_fault("signal.answer")

    async def suspend(self, vm_uuid: str, incarnation: int, image: str) -> None:
        """Save the domain; its end and its image are one step."""
        await self._point("suspend")
        store = self._fabric.store

        def saved(domain: SimulatedDomain | None) -> SimulatedDomain | None:
            kept = store.read_image(image)
            if domain is None and kept is not None and kept.config.vm_uuid == vm_uuid:
                return None
            store.write_image(image, self._running(domain, vm_uuid, incarnation))
            return None

        self._change(vm_uuid, saved)
        self._raise_fault("suspend.answer")

    async def resume(self, vm_uuid: str, incarnation: int, image: str) -> DomainObservation:
        """Make a domain of an image."""
        await self._point("resume", duration_s=self._timings.start_s)
        kept = self._fabric.store.read_image(image)
        if kept is None or kept.config.vm_uuid != vm_uuid:
            raise VmHasNoSuspendVdi(vm_uuid)
        wanted = replace(kept.config, incarnation=incarnation)

        def resumed(domain: SimulatedDomain | None) -> SimulatedDomain:
            return brought_up(domain, wanted, DomainState.PAUSED)

        return self._answer("resume", self._change(vm_uuid, resumed))

    async def discard_image(self, image: str) -> None:
        """Remove an image."""
        await self._point("discard_image")
        self._fabric.store.remove_image(image)

    async def destroy(self, vm_uuid: str, incarnation: int) -> None:
        """Stop and forget the domain."""
        await self._point("destroy")

        def destroyed(domain: SimulatedDomain | None) -> SimulatedDomain | None:
            if domain is None or domain.comes_from:
                return domain
            if domain.config.incarnation != incarnation:
                raise DomainExists(vm_uuid, str(domain.domid))
            return None

        self._change(vm_uuid, destroyed)
        self._raise_fault("destroy.answer")

    async def migrate(
        self, vm_uuid: str, incarnation: int, destination: MigrateDomain, progress: Progress
    ) -> None:
        """Move the domain; the fabric moves it at its time, whether anybody waits for it or not."""
        await self._point("migrate")
        target = destination.destination_uri.removeprefix(SCHEME) or destination.destination_host
        self._running(self._fabric.look(self._host, vm_uuid), vm_uuid, incarnation)
        begins_at = self._fabric.now()
        # Never due at once: 0 is never, and a migration has a middle that can fail.
        ends_at = begins_at + max(self._timings.migrate_s, 1e-6)
        if not self._fabric.begin_migration(self._host, vm_uuid, target, ends_at=ends_at):
            raise VmMigrateFailed(vm_uuid, self._host, target, "the destination does not take it")
        self._news.remember(vm_uuid, self._fabric.look(self._host, vm_uuid))
        try:
            for step in range(1, 11):
                progress((step - 1) / 10)
                self._raise_fault("migrate.copy")
                self._cut_hand_over(vm_uuid, target, is_last=step == 10)
                step_ends_at = begins_at + (ends_at - begins_at) * step / 10
                await asyncio.sleep(max(0.0, step_ends_at - self._fabric.now()))
                domain = self._fabric.look(self._host, vm_uuid)
                if domain is None or not domain.moves_to:
                    break
        except Exception:
            # A fault, not a cancellation: an agent that is gone does not stop a migration.
            domain = self._fabric.look(self._host, vm_uuid)
            if domain is not None and not domain.is_undecided:
                self._fabric.end_migration(self._host, vm_uuid)
            raise
        if self._fabric.look(self._host, vm_uuid) is not None:
            raise VmMigrateFailed(vm_uuid, self._host, target, "the domain has not moved")
        progress(1.0)
        self._raise_fault("migrate.answer")

    def _cut_hand_over(self, vm_uuid: str, target: str, *, is_last: bool) -> None:
        for end in ("arrived", "lost") if is_last else ():
            if error := self._faults(f"migrate.hand_over.{end}"):
                self._fabric.cut_hand_over(self._host, vm_uuid, arrived=end == "arrived")
                raise VmMigrateFailed(vm_uuid, self._host, target, str(error))

    async def cancel_migration(self, vm_uuid: str) -> None:
        """Give up a migration that has not come to its hand-over."""
        await self._point("cancel_migration")
        domain = self._fabric.look(self._host, vm_uuid)
        if domain is not None and not domain.is_undecided:
            self._fabric.end_migration(self._host, vm_uuid)

    async def migration_status(self, vm_uuid: str, incarnation: int) -> MigrationStatus:
        """Say where the incarnation stands."""
        await self._point("migration_status")
        domain = self._fabric.look(self._host, vm_uuid)
        if domain is None or domain.comes_from or domain.config.incarnation != incarnation:
            return MigrationStatus.NOT_HERE
        if domain.is_undecided:
            return MigrationStatus.UNDECIDED
        return MigrationStatus.UNDER_WAY if domain.moves_to else MigrationStatus.HERE

    async def settle_incoming(self, vm_uuid: str, incarnation: int) -> DomainObservation | None:
        """Say whether the incarnation arrived; if not, it never will."""
        await self._point("settle_incoming")
        domain = self._change(
            vm_uuid, lambda domain: None if domain is None or domain.comes_from else domain
        )
        if domain is None or domain.config.incarnation != incarnation or domain.domid < 0:
            return None
        return self._observation(domain)

    async def destroy_all_fast(self) -> tuple[str, ...]:
        """Kill all guests; a host without power has none."""
        killed = []
        for domain in self._fabric.domains(self._host):
            if domain.domid >= 0:
                vm_uuid = domain.config.vm_uuid
                self._change(
                    vm_uuid, lambda domain: domain and stopped(domain, DomainChange.FENCED)
                )
                killed.append(vm_uuid)
        return tuple(killed)

    async def events(self) -> AsyncIterator[DomainChanged]:
        """Tell what changes."""
        while True:
            for vm_uuid in await self._news.wait_for_changed():
                if changed := self._news_of(vm_uuid):
                    yield changed

    def _news_of(self, vm_uuid: str) -> DomainChanged | None:
        domain = self._fabric.look(self._host, vm_uuid)
        if news := self._news.compare(vm_uuid, domain):
            return DomainChanged(change=news.change, observation=self._observation(news.domain))
        return None

    def _change(
        self,
        vm_uuid: str,
        changed: Callable[[SimulatedDomain | None], SimulatedDomain | None],
    ) -> SimulatedDomain | None:
        """Change a domain by the agent's own will: not news."""
        domain = self._fabric.change(self._host, vm_uuid, changed)
        self._news.remember(vm_uuid, domain)
        return domain

    def _answer(self, name: str, domain: SimulatedDomain | None) -> DomainObservation:
        self._raise_fault(f"{name}.answer")
        assert domain is not None
        return self._observation(domain)

    async def _point(self, name: str, *, duration_s: float = 0.0) -> None:
        """Take the time that `name` takes, and fail where the host is dead or a fault is wanted."""
        self._assert_alive()
        # Even without a duration others get their turn, as they do at a real hypervisor's call.
        await asyncio.sleep(duration_s + self._timings.call_s)
        self._assert_alive()
        self._raise_fault(name)

    def _assert_alive(self) -> None:
        if self._fabric.is_dead(self._host):
            raise HypervisorUnavailable(f"simulated host {self._host} has no power")

    def _raise_fault(self, point: str) -> None:
        if error := self._faults(point):
            raise error

    def _active(
        self, domain: SimulatedDomain | None, vm_uuid: str, incarnation: int
    ) -> SimulatedDomain:
        if (
            domain is None
            or domain.comes_from
            or domain.config.incarnation != incarnation
            or domain.state not in ACTIVE_STATES
        ):
            raise VmBadPowerState(vm_uuid, expected=(PowerState.RUNNING,), actual=PowerState.HALTED)
        return domain

    def _running(
        self, domain: SimulatedDomain | None, vm_uuid: str, incarnation: int
    ) -> SimulatedDomain:
        found = self._active(domain, vm_uuid, incarnation)
        if found.state is not DomainState.RUNNING:
            raise VmBadPowerState(vm_uuid, expected=(PowerState.RUNNING,), actual=PowerState.PAUSED)
        return found

    def _observation(self, domain: SimulatedDomain) -> DomainObservation:
        config, machine = domain.config, self._machine
        is_active = domain.domid >= 0
        return DomainObservation(
            vm_uuid=config.vm_uuid,
            incarnation=config.incarnation,
            state=domain.state,
            domid=domain.domid,
            memory_actual=config.memory_target if is_active else 0,
            vcpus=config.vcpus_at_startup if is_active else 0,
            cpu_flags={"vendor": machine.vendor, "features": machine.features} if is_active else {},
            nics=tuple(nic.mac for nic in config.nics) if is_active else (),
        )
