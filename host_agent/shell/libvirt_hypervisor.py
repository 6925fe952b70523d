"""The agent's port on libvirt: QEMU by a daemon or embedded, and libvirt's own test driver.

Rules: blocking calls run in threads of their own, few and bounded, migrations apart from the rest. A call whose
connection breaks is made again on a new one until `reconnect_s_max` has passed; all but a migration may be. Whoever
changes or looks at a VM holds that VM's lock, so that events never tell what a call is about to answer.
"""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from host_agent.core.domain_state import DomainSight
from host_agent.core.domain_xml import DomainEmulation, domain_xml
from host_agent.shell.accelerator import probe_accelerator
from host_agent.shell.domain_news import DomainNews
from host_agent.shell.host_bridges import host_bridges, joined
from host_agent.shell.hypervisor import (
    HostDescription,
    HypervisorUnavailable,
    MigrationStatus,
    Progress,
)
from host_agent.shell.libvirt_connection import LibvirtConnection
from host_agent.shell.libvirt_deeds import send, tune
from host_agent.shell.libvirt_devices import change_device, was_asked_before
from host_agent.shell.libvirt_settings import (
    LibvirtSettings,
    assert_bootable,
    embedded_root,
    migration_target,
    prepare_embedded,
)
from host_agent.shell.qemu_processes import kill_guests
from shared.errors import OperationNotAllowed, VmMigrateFailed, VmNoSuspendSr, XenApiError
from shared.protocol import (
    DeviceChange,
    DomainChange,
    DomainChanged,
    DomainConfig,
    DomainObservation,
    DomainSignal,
    DomainState,
    DomainTuning,
    MigrateDomain,
)

T = TypeVar("T")

_RECONNECT_PAUSE_S_MIN: Final = 0.1
_RECONNECT_PAUSE_S_MAX: Final = 2.0
_LOOK_PERIOD_S: Final = 2.0
_PROGRESS_PERIOD_S: Final = 0.5
_HINT_S_MAX: Final = 0.3
# What libvirt does not end in this time is killed by its process.
_KILL_GRACE_S: Final = 1.0


class LibvirtHypervisor:
    """One host's libvirt."""

    def __init__(self, settings: LibvirtSettings) -> None:
        self._settings = settings
        self._calls = ThreadPoolExecutor(settings.calls_max, "libvirt-call")
        self._migrations = ThreadPoolExecutor(settings.migrations_max, "libvirt-migration")
        self._connection: LibvirtConnection | None = None
        self._connecting = asyncio.Lock()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._news = DomainNews()
        self._emulation = DomainEmulation(driver="")

    # The host.

    async def open(self) -> None:
        """Connect, decide how guests run here, and begin to listen."""
        if root := embedded_root(self._settings.uri):
            await asyncio.to_thread(prepare_embedded, root)
        connection = await self._connected()
        accelerator = self._settings.accelerator
        if connection.driver == "qemu" and not accelerator:
            accelerator = await asyncio.to_thread(probe_accelerator)
        self._emulation = DomainEmulation(
            driver=connection.driver,
            accelerator=accelerator or "none",
            console_folder=self._settings.console_folder,
            has_vnc=self._settings.has_vnc,
        )
        self._news.begin(await self.inventory())

    async def close(self) -> None:
        """Let go of the connection; guests run on, except the test driver's, which live in this process."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._calls, connection.close)

    async def describe(self) -> HostDescription:
        """Say what the host is."""
        facts = await self._call(LibvirtConnection.facts)
        networks = await self._call(LibvirtConnection.networks)
        emulation = self._emulation
        # libvirt's test driver runs nothing on this machine.
        bridges = await asyncio.to_thread(host_bridges) if emulation.driver != "test" else ()
        is_remote = emulation.driver == "qemu" and not embedded_root(self._settings.uri)
        migrate_uri = self._settings.migrate_uri or f"qemu+tls://{facts.hostname}/system"
        can_crash = emulation.driver == "qemu"
        return HostDescription(
            hostname=facts.hostname,
            hypervisor=emulation.driver,
            migrate_uri=migrate_uri if is_remote else "",
            memory_total=facts.memory_total,
            memory_free=min(facts.memory_free, facts.memory_total),
            cpu_count=facts.cpu_count,
            cpu_info={"cpu_count": str(facts.cpu_count), **facts.cpu},
            software_version={
                "hypervisor": facts.hypervisor_version,
                "libvirt": facts.libvirt_version,
                "accelerator": emulation.accelerator,
            },
            capabilities=(
                "pause",
                *(("live-migration",) if is_remote else ()),
                *(("crash-detection",) if can_crash else ()),
            ),
            networks=joined(bridges, networks),
        )

    async def inventory(self) -> tuple[DomainObservation, ...]:
        """Give all of vmpool's domains."""
        ours, _ = await self._call(LibvirtConnection.sights)
        seen = [self._news.shown(sight.observation) for sight in ours if not sight.is_incoming]
        return tuple(sorted(seen, key=lambda each: each.vm_uuid))

    async def unknown_domains(self) -> tuple[str, ...]:
        """Give the names of the others."""
        _, others = await self._call(LibvirtConnection.sights)
        return tuple(sorted(others))

    async def observe(self, vm_uuid: str) -> DomainObservation | None:
        """Give one domain."""
        sight = await self._look(vm_uuid)
        return None if sight is None else sight.observation

    # One VM.

    async def start(self, config: DomainConfig, *, paused: bool) -> DomainObservation:
        """Run the incarnation of `config`."""
        xml = domain_xml(config, self._emulation)
        vm_uuid, incarnation = config.vm_uuid, config.incarnation
        if self._emulation.driver == "qemu":
            await asyncio.to_thread(assert_bootable, config)
        async with self._lock(vm_uuid):
            await self._bury(vm_uuid)
            sight = await self._call(
                lambda libvirt: libvirt.start(vm_uuid, incarnation, xml, paused=paused),
                s_max=self._settings.start_s_max,
            )
            return self._told(sight)

    async def _bury(self, vm_uuid: str) -> None:
        """Wait until libvirt has noticed that a guest's process is gone, where we killed it."""
        if self._news.forget_killed(vm_uuid):
            await self._call(lambda libvirt: libvirt.kill(vm_uuid))

    async def pause(self, vm_uuid: str, incarnation: int) -> DomainObservation:
        """Stop the VCPUs."""
        return await self._bring_to(vm_uuid, incarnation, DomainState.PAUSED)

    async def unpause(self, vm_uuid: str, incarnation: int) -> DomainObservation:
        """Let the VCPUs run."""
        return await self._bring_to(vm_uuid, incarnation, DomainState.RUNNING)

    async def _bring_to(
        self, vm_uuid: str, incarnation: int, state: DomainState
    ) -> DomainObservation:
        async with self._lock(vm_uuid):
            return self._told(
                await self._call(lambda libvirt: libvirt.bring_to(vm_uuid, incarnation, state))
            )

    async def request_shutdown(self, vm_uuid: str, incarnation: int) -> None:
        """Press the guest's power button."""
        await self._call(lambda libvirt: libvirt.shutdown(vm_uuid, incarnation))

    async def tune(self, vm_uuid: str, incarnation: int, tuning: DomainTuning) -> DomainObservation:
        """Change the running domain."""
        driver = self._emulation.driver
        async with self._lock(vm_uuid):
            sight = await self._call(
                lambda libvirt: libvirt.tune(
                    vm_uuid, incarnation, lambda domain: tune(domain, tuning, driver=driver)
                )
            )
            return self._told(sight)

    async def change_device(
        self, vm_uuid: str, incarnation: int, change: DeviceChange
    ) -> DomainObservation:
        """Attach a device, or ask the guest to let go of one."""
        async with self._lock(vm_uuid):
            try:
                sight = await self._call(
                    lambda libvirt: libvirt.tune(
                        vm_uuid, incarnation, lambda domain: change_device(domain, change)
                    )
                )
            except OperationNotAllowed as error:
                if not was_asked_before(error):
                    raise
                sight = await self._call(
                    lambda libvirt: libvirt.tune(vm_uuid, incarnation, lambda _: None)
                )
            return self._told(sight)

    async def signal(self, vm_uuid: str, incarnation: int, signal: DomainSignal) -> None:
        """Press a key, or pull a trigger; what the guest makes of it is its own affair, and news."""
        driver = self._emulation.driver
        async with self._lock(vm_uuid):
            await self._call(
                lambda libvirt: libvirt.signal(
                    vm_uuid, incarnation, lambda domain: send(domain, signal, driver=driver)
                )
            )

    async def suspend(self, vm_uuid: str, incarnation: int, image: str) -> None:
        """Save the domain; libvirt goes on with it whatever becomes of us."""
        if not self._settings.suspend_folder:
            raise VmNoSuspendSr(vm_uuid)
        path = self._image(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        async with self._lock(vm_uuid):
            await self._call(
                lambda libvirt: libvirt.save(vm_uuid, incarnation, path),
                s_max=self._settings.save_s_max,
            )
            self._news.remember(vm_uuid, None)

    async def resume(self, vm_uuid: str, incarnation: int, image: str) -> DomainObservation:
        """Make a domain of an image."""
        path = self._image(image)
        async with self._lock(vm_uuid):
            await self._bury(vm_uuid)
            sight = await self._call(
                lambda libvirt: libvirt.restore(vm_uuid, incarnation, path),
                s_max=self._settings.save_s_max,
            )
            return self._told(sight)

    async def discard_image(self, image: str) -> None:
        """Remove an image."""
        await asyncio.to_thread(self._image(image).unlink, missing_ok=True)

    def _image(self, image: str) -> Path:
        # The name is the master's; that it stays in the folder is ours to see to.
        return Path(self._settings.suspend_folder) / f"{Path(image).name}.save"

    async def destroy(self, vm_uuid: str, incarnation: int) -> None:
        """Stop and forget the domain."""
        async with self._lock(vm_uuid):
            await self._call(lambda libvirt: libvirt.destroy(vm_uuid, incarnation))
            self._news.remember(vm_uuid, None)
            self._news.forget_killed(vm_uuid)

    async def migrate(
        self, vm_uuid: str, incarnation: int, destination: MigrateDomain, progress: Progress
    ) -> None:
        """Move the domain; libvirt goes on with it whatever becomes of us."""
        if self._emulation.driver != "qemu" or embedded_root(self._settings.uri):
            raise OperationNotAllowed(
                f"{self._settings.uri} cannot migrate: that takes a libvirtd on either host"
            )
        connection = await self._connected()
        target = migration_target(destination)
        moving = asyncio.get_running_loop().run_in_executor(
            self._migrations, connection.migrate, vm_uuid, incarnation, target
        )
        try:
            while not (await asyncio.wait({moving}, timeout=_PROGRESS_PERIOD_S))[0]:
                await self._tell_progress(vm_uuid, progress)
            moving.result()
        except VmMigrateFailed as error:
            # Gone from here proves no arrival: the guest may have ended, or been ended, on its way.
            status = await self.migration_status(vm_uuid, incarnation)
            name, text = destination.destination_host, error.parameters[-1]
            raise VmMigrateFailed(vm_uuid, "", name, f"{text} ({status})") from error
        finally:
            # An error that nobody waits for any more is nobody's.
            moving.add_done_callback(lambda done: done.cancelled() or done.exception())
        progress(1.0)

    async def _tell_progress(self, vm_uuid: str, progress: Progress) -> None:
        with contextlib.suppress(XenApiError, HypervisorUnavailable):
            done = await self._call(lambda libvirt: libvirt.progress(vm_uuid))
            if done is not None:
                progress(done)

    async def cancel_migration(self, vm_uuid: str) -> None:
        """Give up a migration."""
        await self._call(lambda libvirt: libvirt.abort_migration(vm_uuid))

    async def migration_status(self, vm_uuid: str, incarnation: int) -> MigrationStatus:
        """Say where the incarnation stands."""
        return await self._call(lambda libvirt: libvirt.migration_status(vm_uuid, incarnation))

    async def settle_incoming(self, vm_uuid: str, incarnation: int) -> DomainObservation | None:
        """Say whether the incarnation arrived; if not, it never will."""
        async with self._lock(vm_uuid):
            sight = await self._call(lambda libvirt: libvirt.remove_incoming(vm_uuid, incarnation))
            return None if sight is None else sight.observation

    async def destroy_all_fast(self) -> tuple[str, ...]:
        """Kill all guests: libvirt may do it in its way for a moment, then their processes are killed."""
        killed: dict[str, None] = {}
        with contextlib.suppress(TimeoutError, XenApiError, OSError):
            async with asyncio.timeout(_KILL_GRACE_S):
                await self._kill_by_libvirt(killed)
        if self._emulation.driver == "qemu":
            root = embedded_root(self._settings.uri)
            under = "" if root is None else str(root)
            with contextlib.suppress(OSError):
                for vm_uuid in await asyncio.to_thread(kill_guests, under=under):
                    self._news.remember_killed(vm_uuid)
                    killed[vm_uuid] = None
        return tuple(sorted(killed))

    async def _kill_by_libvirt(self, killed: dict[str, None]) -> None:
        connection = self._connection
        if connection is None:
            return
        loop = asyncio.get_running_loop()
        ours, _ = await loop.run_in_executor(self._calls, connection.sights)
        for seen in (self._news.shown(sight.observation) for sight in ours):
            if seen.domid >= 0:
                killed[seen.vm_uuid] = None
                # Before it is: the event of its end may come first.
                self._news.remember(seen.vm_uuid, seen)
                self._news.remember_killed(seen.vm_uuid)
        kills = (loop.run_in_executor(self._calls, connection.kill, vm_uuid) for vm_uuid in killed)
        await asyncio.gather(*kills, return_exceptions=True)

    # Events.

    async def events(self) -> AsyncIterator[DomainChanged]:
        """Tell what changes; after a lost connection what had changed meanwhile."""
        while True:
            await self._connected()
            if self._news.must_look_at_all:
                seen = await self.inventory()
                self._news.hear_all(tuple(each.vm_uuid for each in seen))
            for vm_uuid, hint in await self._news.wait(_LOOK_PERIOD_S):
                if changed := await self._news_of(vm_uuid, hint):
                    yield changed

    async def _news_of(self, vm_uuid: str, hint: DomainChange | None) -> DomainChanged | None:
        try:
            async with self._lock(vm_uuid):
                sight = await self._look(vm_uuid)
                if sight is None and hint is None and self._news.is_told_active(vm_uuid):
                    # An answer can outrun the event that says why a domain is gone.
                    await asyncio.sleep(_HINT_S_MAX)
                    hint = self._news.take_hint(vm_uuid)
                return self._news.compare(vm_uuid, sight, hint)
        except HypervisorUnavailable:
            self._news.hear(vm_uuid, hint)
            raise

    async def _look(self, vm_uuid: str) -> DomainSight | None:
        sight = await self._call(lambda libvirt: libvirt.look(vm_uuid))
        if sight is None or sight.is_incoming:
            return None
        return replace(sight, observation=self._news.shown(sight.observation))

    def _told(self, sight: DomainSight) -> DomainObservation:
        self._news.remember(sight.observation.vm_uuid, sight.observation)
        return sight.observation

    def _lock(self, vm_uuid: str) -> asyncio.Lock:
        return self._locks.setdefault(vm_uuid, asyncio.Lock())

    # Calls and connections.

    async def _call(
        self, call: Callable[[LibvirtConnection], T], *, s_max: float | None = None
    ) -> T:
        """Make a repeatable call, on a new connection where the old one breaks."""
        loop = asyncio.get_running_loop()
        gives_up_at = loop.time() + self._settings.reconnect_s_max
        while True:
            connection = await self._connected()
            try:
                async with asyncio.timeout(s_max or self._settings.call_s_max):
                    return await loop.run_in_executor(self._calls, call, connection)
            except TimeoutError as error:
                self._lose(connection)
                raise HypervisorUnavailable("libvirt did not answer in time") from error
            except HypervisorUnavailable:
                self._lose(connection)
                if loop.time() >= gives_up_at:
                    raise

    async def _connected(self) -> LibvirtConnection:
        """Give a connection that holds, connecting with growing pauses up to a bound."""
        async with self._connecting:
            loop = asyncio.get_running_loop()
            if self._connection is not None and self._connection.is_alive():
                return self._connection
            pause_s = _RECONNECT_PAUSE_S_MIN
            gives_up_at = loop.time() + self._settings.reconnect_s_max
            while True:
                try:
                    self._connection = await self._connect(loop)
                except HypervisorUnavailable:
                    if loop.time() + pause_s >= gives_up_at:
                        raise
                else:
                    self._news.must_look_at_all = True
                    return self._connection
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RECONNECT_PAUSE_S_MAX)

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> LibvirtConnection:
        def tell(callback: Callable[..., None], *arguments: object) -> None:
            # libvirt's thread may outlive the loop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(callback, *arguments)

        def connect() -> LibvirtConnection:
            return LibvirtConnection(
                self._settings.uri,
                hear=lambda vm_uuid, hint: tell(self._news.hear, vm_uuid, hint),
                lost=lambda: tell(self._news.wake),
            )

        try:
            async with asyncio.timeout(self._settings.call_s_max):
                return await loop.run_in_executor(self._calls, connect)
        except TimeoutError as error:
            raise HypervisorUnavailable(f"{self._settings.uri} does not answer") from error

    def _lose(self, connection: LibvirtConnection) -> None:
        if self._connection is connection:
            self._connection = None
            self._calls.submit(connection.close)
