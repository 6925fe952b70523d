"""One connection to libvirt: its calls, blocking, in the agent's terms.

Rules: with libvirt_process.py the only file that imports libvirt. Every method blocks and belongs into a thread; every
one looks before it does, so that it may be repeated. libvirt's errors end here: as XenApiError, or as HypervisorUnavailable
where the connection itself is gone. libvirt's events come from one thread per process; what hears them must not block.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import libvirt

from host_agent.core.domain_state import DomainSight, assert_running, change_hint, state_of
from host_agent.core.domain_xml import (
    has_only_shared_disks,
    read_consoles,
    read_metadata,
    read_nics,
    renewed,
)
from host_agent.core.host_capabilities import cpu_flags, read_host_cpu
from host_agent.core.libvirt_errors import NO_DOMAIN, Doing, error_of
from host_agent.shell.hypervisor import HypervisorUnavailable, MigrationStatus
from host_agent.shell.libvirt_images import image_xml, is_image_of, restore, save
from host_agent.shell.libvirt_process import is_kept_open, open_libvirt
from host_agent.shell.libvirt_settings import HostFacts, MigrationTarget, version_text
from shared.errors import DomainExists, VmHasNoSuspendVdi
from shared.protocol import DomainChange, DomainObservation, DomainState, HostNetwork

Hear = Callable[[str, DomainChange | None], None]

KIB: Final = 1024
# A frozen libvirtd is given up after this long without an answer to a ping.
_KEEPALIVE_S: Final = 3
_KEEPALIVE_MISSES_MAX: Final = 3

_OPERATION: Final = libvirt.VIR_DOMAIN_JOB_OPERATION
_GOING_OUT: Final = libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
_COMING_IN: Final = libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN

_MIGRATE_FLAGS: Final = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
    | libvirt.VIR_MIGRATE_AUTO_CONVERGE
)


class LibvirtConnection:
    """An open connection; `hear(vm_uuid, hint)` and `lost()` are called from libvirt's thread."""

    def __init__(self, uri: str, *, hear: Hear, lost: Callable[[], None]) -> None:
        try:
            self._connection: Any = open_libvirt(uri)
        except libvirt.libvirtError as error:
            raise HypervisorUnavailable(f"{uri}: {error}") from error
        self._is_embedded = is_kept_open(uri)
        self._hear = hear
        self._lost = lost
        self._callbacks: list[int] = []
        with self._translated("", Doing.CHANGE):
            self.driver: str = self._connection.getType().lower()
            self._cpu = read_host_cpu(self._connection.getCapabilities())
            self._listen()

    def _listen(self) -> None:
        # Not every driver has all of them; what is missing is found by looking.
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.setKeepAlive(_KEEPALIVE_S, _KEEPALIVE_MISSES_MAX)
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.registerCloseCallback(lambda *_: self._lost(), None)
        for event_id, callback in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._on_reboot),
        ):
            with contextlib.suppress(libvirt.libvirtError):
                self._callbacks.append(
                    self._connection.domainEventRegisterAny(None, event_id, callback, None)
                )

    def _on_lifecycle(self, _: Any, domain: Any, event: int, detail: int, __: Any) -> None:
        self._hear(domain.UUIDString(), change_hint(event, detail))

    def _on_reboot(self, _: Any, domain: Any, __: Any) -> None:
        self._hear(domain.UUIDString(), DomainChange.REBOOTED)

    def is_alive(self) -> bool:
        """Say whether the connection still holds; does not ask the other side."""
        try:
            return bool(self._connection.isAlive())
        except libvirt.libvirtError:
            return False

    def close(self) -> None:
        """Close it, dead or alive."""
        for callback in self._callbacks:
            with contextlib.suppress(libvirt.libvirtError):
                self._connection.domainEventDeregisterAny(callback)
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.unregisterCloseCallback()
        if not self._is_embedded:
            with contextlib.suppress(libvirt.libvirtError):
                self._connection.close()

    def facts(self) -> HostFacts:
        """Say what the host is."""
        with self._translated("", Doing.CHANGE):
            _, memory_mib, cpu_count, *_ = self._connection.getInfo()
            return HostFacts(
                hostname=self._connection.getHostname(),
                memory_total=memory_mib * KIB * KIB,
                memory_free=self._memory_free(),
                cpu_count=cpu_count,
                cpu=self._cpu,
                libvirt_version=version_text(self._connection.getLibVersion()),
                hypervisor_version=version_text(self._connection.getVersion()),
            )

    def networks(self) -> list[HostNetwork]:
        """Give the bridges of libvirt's own networks that are up; none where the driver has no networks."""
        found = []
        with self._translated("", Doing.CHANGE), _ignoring(libvirt.VIR_ERR_NO_SUPPORT):
            up = libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE
            for network in self._connection.listAllNetworks(up):
                # Not every network has a bridge, and it may end while we look.
                with contextlib.suppress(libvirt.libvirtError):
                    bridge = network.bridgeName()
                    found.append(HostNetwork(bridge=bridge, libvirt_network=network.name()))
        return found

    def _memory_free(self) -> int:
        """What guests could have: the page cache gives way to them."""
        try:
            stats = self._connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS, 0)
        except libvirt.libvirtError:
            return int(self._connection.getFreeMemory())
        return KIB * sum(int(stats.get(name, 0)) for name in ("free", "buffers", "cached"))

    def sights(self) -> tuple[list[DomainSight], list[str]]:
        """Give all domains that are vmpool's and the names of the others."""
        ours: list[DomainSight] = []
        others: list[str] = []
        with self._translated("", Doing.CHANGE):
            for domain in self._connection.listAllDomains(0):
                # A domain may end while we look.
                with _ignoring(libvirt.VIR_ERR_NO_DOMAIN):
                    if sight := self._sight(domain):
                        ours.append(sight)
                    else:
                        others.append(domain.name())
        return ours, others

    def look(self, vm_uuid: str) -> DomainSight | None:
        """Give one domain, None where there is none or it is not vmpool's."""
        with self._translated(vm_uuid, Doing.CHANGE), _ignoring(libvirt.VIR_ERR_NO_DOMAIN):
            domain = self._find(vm_uuid)
            return self._sight(domain) if domain else None
        return None

    def migration_status(self, vm_uuid: str, incarnation: int) -> MigrationStatus:
        """Say where an incarnation stands here."""
        sight = self.look(vm_uuid)
        if sight is None or sight.observation.incarnation != incarnation or not sight.is_active:
            return MigrationStatus.NOT_HERE
        if sight.is_leaving:
            return MigrationStatus.UNDER_WAY
        if sight.is_incoming:
            return MigrationStatus.NOT_HERE
        return MigrationStatus.UNDECIDED if sight.is_standing else MigrationStatus.HERE

    def progress(self, vm_uuid: str) -> float | None:
        """Give how far a domain's migration has come, None where that is not known."""
        with self._translated(vm_uuid, Doing.CHANGE), _ignoring(libvirt.VIR_ERR_NO_DOMAIN):
            domain = self._find(vm_uuid)
            stats = _job_of(domain) if domain else {}
            total = stats.get(libvirt.VIR_DOMAIN_JOB_DATA_TOTAL, 0)
            done = stats.get(libvirt.VIR_DOMAIN_JOB_DATA_PROCESSED, 0)
            return min(1.0, done / total) if total else None
        return None

    def start(self, vm_uuid: str, incarnation: int, xml: str, *, paused: bool) -> DomainSight:
        """Define and run a domain; what older or ended definition there is gives way."""
        with self._translated(vm_uuid, Doing.START):
            if sight := self._make_room(vm_uuid, incarnation):
                return sight
            domain = self._connection.defineXML(xml)
            try:
                self._create(domain, paused=paused)
            except libvirt.libvirtError:
                if self.is_alive():
                    self._undefine(domain)
                raise
            started = self._sight(domain)
            assert started is not None
            return started

    def _make_room(self, vm_uuid: str, incarnation: int) -> DomainSight | None:
        """Give the incarnation where it is up already; else take away what is left of it or of older ones."""
        domain = self._find(vm_uuid)
        if domain is None:
            return None
        sight = self._sight(domain)
        if sight is not None and sight.is_up(incarnation):
            return sight
        if sight is None or sight.is_active or sight.observation.incarnation > incarnation:
            raise DomainExists(vm_uuid, str(domain.ID()))
        self._undefine(domain)
        return None

    def save(self, vm_uuid: str, incarnation: int, path: Path) -> None:
        """Write the domain's memory to a file and forget the domain."""
        with self._translated(vm_uuid, Doing.CHANGE):
            domain = self._find(vm_uuid)
            sight = self._sight(domain) if domain else None
            is_up = sight is not None and sight.is_up(incarnation)
            if sight is not None and is_up:
                assert_running(sight)
                save(domain, path)
            elif not is_image_of(self._connection, path, vm_uuid):
                raise error_of(NO_DOMAIN, "", vm_uuid=vm_uuid, doing=Doing.CHANGE)
            if sight is not None and sight.observation.incarnation == incarnation:
                self._undefine(domain)

    def restore(self, vm_uuid: str, incarnation: int, path: Path) -> DomainSight:
        """Make a domain, standing still, of a file."""
        with self._translated(vm_uuid, Doing.START):
            if sight := self._make_room(vm_uuid, incarnation):
                return sight
            if not is_image_of(self._connection, path, vm_uuid):
                raise VmHasNoSuspendVdi(vm_uuid)
            xml = renewed(image_xml(self._connection, path), incarnation)
            domain = self._connection.defineXML(xml)
            try:
                restore(self._connection, path, xml, driver=self.driver)
                domain = self._connection.lookupByUUIDString(vm_uuid)
                if self.driver == "test":
                    domain.suspend()
            except libvirt.libvirtError:
                if self.is_alive():
                    self._undefine(domain)
                raise
            restored = self._sight(domain)
            assert restored is not None
            return restored

    def _create(self, domain: Any, *, paused: bool) -> None:
        if self.driver == "test":
            # It has no way to begin paused; nobody sees the moment between, for nothing runs in it.
            domain.create()
            if paused:
                domain.suspend()
        else:
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)

    def bring_to(self, vm_uuid: str, incarnation: int, state: DomainState) -> DomainSight:
        """Stop the VCPUs (PAUSED) or let them run (RUNNING)."""
        with self._translated(vm_uuid, Doing.CHANGE):
            domain, sight = self._up(vm_uuid, incarnation)
            if sight.observation.state is state:
                return sight
            if state is DomainState.PAUSED:
                domain.suspend()
            else:
                domain.resume()
            return self._up(vm_uuid, incarnation)[1]

    def shutdown(self, vm_uuid: str, incarnation: int) -> None:
        """Press the power button."""
        with self._translated(vm_uuid, Doing.CHANGE):
            domain, sight = self._up(vm_uuid, incarnation)
            assert_running(sight)
            if self.driver == "qemu":
                domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
            else:
                domain.shutdown()

    def tune(self, vm_uuid: str, incarnation: int, deed: Callable[[Any], None]) -> DomainSight:
        """Do something to the running domain, and look what became of it."""
        self.signal(vm_uuid, incarnation, deed)
        with self._translated(vm_uuid, Doing.CHANGE):
            return self._up(vm_uuid, incarnation)[1]

    def signal(self, vm_uuid: str, incarnation: int, deed: Callable[[Any], None]) -> None:
        """Do something to the running domain, whatever becomes of it."""
        with self._translated(vm_uuid, Doing.TUNE):
            domain, sight = self._up(vm_uuid, incarnation)
            assert_running(sight)
            deed(domain)

    def destroy(self, vm_uuid: str, incarnation: int) -> None:
        """Stop a domain and forget it; an incoming copy is nobody's yet and stays."""
        with self._translated(vm_uuid, Doing.CHANGE), _ignoring(libvirt.VIR_ERR_NO_DOMAIN):
            domain = self._find(vm_uuid)
            if domain is None:
                return
            sight = self._sight(domain)
            if sight is None or sight.observation.incarnation != incarnation:
                raise DomainExists(vm_uuid, str(domain.ID()))
            if not sight.is_incoming:
                self._stop(domain)
                self._undefine(domain)

    def remove_incoming(self, vm_uuid: str, incarnation: int) -> DomainSight | None:
        """Give the incarnation where it runs here; else make sure that no copy of it is left."""
        with self._translated(vm_uuid, Doing.CHANGE), _ignoring(libvirt.VIR_ERR_NO_DOMAIN):
            domain = self._find(vm_uuid)
            sight = self._sight(domain) if domain else None
            if sight is None or sight.observation.incarnation != incarnation:
                return None
            if not sight.is_incoming:
                return sight if sight.is_active else None
            self._stop(domain)
        return None

    def kill(self, vm_uuid: str) -> None:
        """Stop a domain of whatever incarnation, keeping its definition."""
        with self._translated(vm_uuid, Doing.CHANGE):
            if domain := self._find(vm_uuid):
                self._stop(domain)

    def migrate(self, vm_uuid: str, incarnation: int, target: MigrationTarget) -> None:
        """Move a running domain; goes on in libvirt whoever waits."""
        with self._translated(vm_uuid, Doing.MIGRATE):
            domain, sight = self._up(vm_uuid, incarnation)
            assert_running(sight)
            flags = _MIGRATE_FLAGS
            # libvirt takes a folder that hosts share for a local one; only the config knows better.
            is_unsafe = has_only_shared_disks(read_metadata(domain.XMLDesc(0)))
            flags |= libvirt.VIR_MIGRATE_UNSAFE if is_unsafe else 0
            flags |= libvirt.VIR_MIGRATE_COMPRESSED if target.is_compressed else 0
            parameters = {}
            if target.migrate_uri:
                parameters[libvirt.VIR_MIGRATE_PARAM_URI] = target.migrate_uri
            domain.migrateToURI3(target.destination_uri, parameters, flags)

    def abort_migration(self, vm_uuid: str) -> None:
        """Stop a migration that goes out; none is fine."""
        with self._translated(vm_uuid, Doing.CHANGE), _ignoring(libvirt.VIR_ERR_OPERATION_INVALID):
            domain = self._find(vm_uuid)
            if domain and _job_of(domain).get(_OPERATION) == _GOING_OUT:
                domain.abortJob()

    def _find(self, vm_uuid: str) -> Any:
        with _ignoring(libvirt.VIR_ERR_NO_DOMAIN):
            return self._connection.lookupByUUIDString(vm_uuid)
        return None

    def _up(self, vm_uuid: str, incarnation: int) -> tuple[Any, DomainSight]:
        domain = self._find(vm_uuid)
        sight = self._sight(domain) if domain else None
        if sight is None or not sight.is_up(incarnation):
            raise error_of(NO_DOMAIN, "", vm_uuid=vm_uuid, doing=Doing.CHANGE)
        return domain, sight

    def _sight(self, domain: Any) -> DomainSight | None:
        xml = domain.XMLDesc(0)
        metadata = read_metadata(xml)
        if metadata is None:
            return None
        state, reason = domain.state()
        _, _, memory_kib, vcpus, _ = domain.info()
        is_active = bool(domain.isActive())
        consoles = read_consoles(xml)
        job = _job_of(domain) if is_active else {}
        is_leaving = job.get(_OPERATION) == _GOING_OUT
        observation = DomainObservation(
            vm_uuid=metadata.vm_uuid,
            incarnation=metadata.incarnation,
            state=state_of(state, reason, is_leaving=is_leaving),
            domid=domain.ID() if is_active else -1,
            memory_actual=memory_kib * KIB if is_active else 0,
            vcpus=vcpus if is_active else 0,
            console_rfb=consoles.rfb if is_active else "",
            console_vt100=consoles.vt100 if is_active else "",
            cpu_flags=cpu_flags(self._cpu) if is_active else {},
            nics=read_nics(xml) if is_active else (),
        )
        sight = DomainSight(
            observation=observation, state=state, reason=reason, is_leaving=is_leaving
        )
        if observation.state is not DomainState.PAUSED:
            return sight
        return replace(sight, is_incoming=_is_incoming(domain, metadata.incarnation, job))

    def _stop(self, domain: Any) -> None:
        with _ignoring(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
            domain.destroy()

    def _undefine(self, domain: Any) -> None:
        with _ignoring(libvirt.VIR_ERR_NO_DOMAIN):
            if self.driver == "qemu":
                flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                domain.undefineFlags(flags | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
            else:
                domain.undefine()

    @contextlib.contextmanager
    def _translated(self, vm_uuid: str, doing: Doing) -> Iterator[None]:
        try:
            yield
        except libvirt.libvirtError as error:
            if not self.is_alive():
                raise HypervisorUnavailable(str(error)) from error
            code, text = error.get_error_code(), error.get_error_message()
            raise error_of(code, text, vm_uuid=vm_uuid, doing=doing) from error


def _is_incoming(domain: Any, incarnation: int, job: dict[str, Any]) -> bool:
    """Say whether a domain that stands still is a copy on its way in: its job says so, or it was never defined here."""
    if job.get(_OPERATION) == _COMING_IN or not domain.isPersistent():
        return True
    defined = read_metadata(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    return defined is None or defined.incarnation != incarnation


def _job_of(domain: Any) -> dict[str, Any]:
    """Give the job that runs on a domain; empty where none does, or the driver has no jobs."""
    try:
        job: dict[str, Any] = domain.jobStats()
    except libvirt.libvirtError as error:
        # "migration statistics are available only on the source host" is all it says of one that comes in.
        is_incoming = error.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED
        return {_OPERATION: _COMING_IN} if is_incoming else {}
    return {} if job.get("type", 0) == libvirt.VIR_DOMAIN_JOB_NONE else job


@contextlib.contextmanager
def _ignoring(*codes: int) -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in codes:
            raise
