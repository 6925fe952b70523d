"""What the agent needs from a hypervisor: one port, the same for libvirt and for the simulation.

Rules: every domain is named by its VM and its incarnation, and a domain of another incarnation is never touched. Every
method may be repeated: what is done already is success. A refusal is a XenApiError with XenAPI's code; a hypervisor
that does not answer is HypervisorUnavailable, after which the effect is unknown and only a look can tell.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from shared.protocol import (
    DeviceChange,
    DomainChanged,
    DomainConfig,
    DomainObservation,
    DomainSignal,
    DomainTuning,
    HostNetwork,
    MigrateDomain,
)

Progress = Callable[[float], None]


class HypervisorUnavailable(OSError):
    """No answer from the hypervisor, reconnecting included; its guests may well be running."""


class MigrationStatus(StrEnum):
    """Where an incarnation stands on the host that is asked."""

    HERE = "here"  # it is on this host and does not move
    UNDER_WAY = "under_way"  # it is on this host, and a migration to another one is running
    UNDECIDED = "undecided"  # its VCPUs stand still at the hand-over: only the destination knows whether it runs there
    NOT_HERE = "not_here"  # this host has no such domain, or an incoming copy that has never run


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDescription:
    """What the host is. `cpu_info` has cpu_count, vendor, modelname and features; memory is in bytes.

    `migrate_uri` is where other hosts' hypervisors reach this one: the `destination_uri` of migrations to it.
    """

    hostname: str
    hypervisor: str
    migrate_uri: str
    memory_total: int
    memory_free: int
    cpu_count: int
    cpu_info: dict[str, str] = field(default_factory=dict)
    software_version: dict[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    networks: tuple[HostNetwork, ...] = ()


class Hypervisor(Protocol):
    """A host's hypervisor. Any method may raise HypervisorUnavailable, except `close` and `destroy_all_fast`."""

    async def open(self) -> None:
        """Connect; may be called again after `close`."""
        ...

    async def close(self) -> None:
        """Let go of the connection; guests run on."""
        ...

    async def describe(self) -> HostDescription:
        """Say what the host is and how much memory is free now."""
        ...

    async def inventory(self) -> tuple[DomainObservation, ...]:
        """Give all domains that carry vmpool's metadata, running or only defined, by VM.

        An incoming copy that has never run is not among them: it is not a domain yet.
        """
        ...

    async def unknown_domains(self) -> tuple[str, ...]:
        """Give the names of the domains that are not vmpool's."""
        ...

    async def observe(self, vm_uuid: str) -> DomainObservation | None:
        """Give one domain as `inventory` would, None where it has none."""
        ...

    async def start(self, config: DomainConfig, *, paused: bool) -> DomainObservation:
        """Run the incarnation of `config`; one that runs or is paused already is left as it is.

        What an older or the same incarnation left behind, not running, is replaced.

        Raises:
            DomainExists: another incarnation runs, or a newer one has been here; nothing was touched.
            BootloaderFailed, DomainBuilderError, FailedToStartEmulator, ValueNotSupported: nothing is left of it.
        """
        ...

    async def pause(self, vm_uuid: str, incarnation: int) -> DomainObservation:
        """Stop the VCPUs.

        Raises:
            VmBadPowerState: the incarnation is not running here.
        """
        ...

    async def unpause(self, vm_uuid: str, incarnation: int) -> DomainObservation:
        """Let the VCPUs run; also ends UNDECIDED in favour of this host, so ask the destination to settle first.

        Raises:
            VmBadPowerState: the incarnation is not running or paused here.
        """
        ...

    async def request_shutdown(self, vm_uuid: str, incarnation: int) -> None:
        """Ask the guest to power off; returns at once, `events` tells when it has.

        Raises:
            VmBadPowerState: the incarnation is not running here.
        """
        ...

    async def tune(self, vm_uuid: str, incarnation: int, tuning: DomainTuning) -> DomainObservation:
        """Change the VCPUs, memory or scheduling of the running domain.

        A guest gives memory back, or takes it, in its own time: `observe` tells how far it has come.

        Raises:
            VmBadPowerState: the incarnation is not running here.
            OperationNotAllowed: the hypervisor or the guest cannot do that.
            InvalidValue: a parameter is no number or no list of CPUs.
        """
        ...

    async def change_device(
        self, vm_uuid: str, incarnation: int, change: DeviceChange
    ) -> DomainObservation:
        """Attach a device to the running domain, or ask its guest to let go of one, which takes it its own time.

        What is so already stays so: `observe` tells whether the guest has let go.

        Raises:
            VmBadPowerState: the incarnation is not running here.
            OperationNotAllowed: the hypervisor or the guest cannot do that.
        """
        ...

    async def signal(self, vm_uuid: str, incarnation: int, signal: DomainSignal) -> None:
        """Let the running guest feel a key or a trigger. A repeated one is felt twice.

        Raises:
            VmBadPowerState: the incarnation is not running here.
            OperationNotAllowed, ValueNotSupported: the hypervisor or the guest has no such thing.
        """
        ...

    async def suspend(self, vm_uuid: str, incarnation: int, image: str) -> None:
        """Save the running domain's memory as `image`, which other hosts see too, and forget the domain.

        Done already, where the domain is gone and the image whole, is success.

        Raises:
            VmBadPowerState: the incarnation is not running here.
            VmNoSuspendSr: this host has no place for images.
        """
        ...

    async def resume(self, vm_uuid: str, incarnation: int, image: str) -> DomainObservation:
        """Make a new incarnation of the VM's saved image, standing still; the image stays as it is.

        Raises:
            DomainExists: another incarnation runs, or a newer one has been here; nothing was touched.
            VmHasNoSuspendVdi: there is no such image, or it is not this VM's.
        """
        ...

    async def discard_image(self, image: str) -> None:
        """Remove an image; none is fine."""
        ...

    async def destroy(self, vm_uuid: str, incarnation: int) -> None:
        """Stop the domain at once and forget its definition; gone already is success.

        Raises:
            DomainExists: the domain is of another incarnation or not vmpool's; nothing was touched.
        """
        ...

    async def migrate(
        self, vm_uuid: str, incarnation: int, destination: MigrateDomain, progress: Progress
    ) -> None:
        """Move the running domain; returns when it runs there and nothing of it is here.

        Goes on without the agent where it is cancelled from outside or the agent dies: see `migration_status`.

        Raises:
            VmBadPowerState: the incarnation is not running here.
            VmMigrateFailed: it did not arrive, or nobody here can know (UNDECIDED).
            OperationNotAllowed: this hypervisor cannot migrate.
        """
        ...

    async def cancel_migration(self, vm_uuid: str) -> None:
        """Give up a migration that runs, which then fails; too late or none is no error."""
        ...

    async def migration_status(self, vm_uuid: str, incarnation: int) -> MigrationStatus:
        """Say where the incarnation stands on this host, for an agent that lost sight of a migration."""
        ...

    async def settle_incoming(self, vm_uuid: str, incarnation: int) -> DomainObservation | None:
        """Give the domain where the incarnation has arrived here; else remove its incoming copy for good and give None."""
        ...

    async def destroy_all_fast(self) -> tuple[str, ...]:
        """Kill every vmpool guest of this host now, best effort and without raising; give the VMs that were killed.

        Definitions stay, so that the host can still say what it had. `events` does not tell of it.
        """
        ...

    def events(self) -> AsyncIterator[DomainChanged]:
        """Tell what changes by itself or by a foreign hand, from the last `open` on, while it is iterated.

        What this port's own calls brought about is in their results and not told again, except that arrivals and
        departures by migration always are. Several changes of one domain between two looks may be told as the last.
        Only one iterator at a time.
        """
        ...
