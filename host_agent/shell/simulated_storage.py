"""Storage that only pretends: disks are entries of a mapping, as domains of a SimulatedFabric are.

Rules: no clock, no thread; an effect happens in one step. A directory of one host is filed under the host, a shared one
under its path alone, so that what only claims to be shared shows.
"""

import asyncio
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from host_agent.shell.storage import Work, full
from shared.codec import decode, encode
from shared.storage_errors import SrBackendFailure, SrNotEmpty
from shared.storage_protocol import (
    DiskObservation,
    DiskOrder,
    StorageConfig,
    StorageObservation,
)

Faults = Callable[[str], Exception | None]
MARKER: Final = "sr"
SIZE: Final = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedDisk:
    """A disk; `backing` is the one that it is built on, `content` stands for what it holds."""

    size: int
    format: str
    backing: str = ""
    content: str = ""


class FolderMapping(MutableMapping[str, bytes]):
    """A mapping that several processes share: a file per entry."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, key: str) -> Path:
        return self._folder / key.replace("%", "%25").replace("/", "%2F")

    def __getitem__(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(key)
        draft = path.with_suffix(".tmp")
        draft.write_bytes(value)
        draft.replace(path)

    def __delitem__(self, key: str) -> None:
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        names = sorted(p.name for p in self._folder.glob("*") if p.suffix != ".tmp")
        return iter([name.replace("%2F", "/").replace("%25", "%") for name in names])

    def __len__(self) -> int:
        return len(list(iter(self)))


def _never(_: str) -> Exception | None:
    return None


class SimulatedStorage:
    """One host's way to the disks; `faults` gives what to raise at the point of that name, before the effect."""

    def __init__(
        self,
        disks: MutableMapping[str, bytes],
        host_name: str,
        *,
        faults: Faults = _never,
        copy_s: float = 0.0,
    ) -> None:
        self._disks = disks
        self._host = host_name
        self._faults = faults
        self._copy_s = copy_s

    async def attach(self, storage: StorageConfig, *, is_new: bool) -> StorageObservation:
        """Mark or find the SR."""
        await self._point("attach")
        if is_new:
            self._disks.setdefault(self._key(storage, MARKER), storage.sr_uuid.encode())
        self._check(storage)
        return self._observation(storage)

    async def detach(self, storage: StorageConfig, *, is_final: bool) -> None:
        """Forget the SR, for good."""
        await self._point("detach")
        marker = self._key(storage, MARKER)
        if not is_final or self._disks.get(marker) != storage.sr_uuid.encode():
            return
        if self._names(storage):
            raise SrNotEmpty
        del self._disks[marker]

    async def scan(self, storage: StorageConfig) -> StorageObservation:
        """Give all disks."""
        await self._point("scan")
        self._check(storage)
        return self._observation(storage, *self._names(storage))

    async def make(self, orders: tuple[DiskOrder, ...], work: Work) -> StorageObservation:
        """Make all, or none."""
        names: list[str] = []
        try:
            for number, order in enumerate(orders):
                work.on_progress(number / len(orders))
                await self._point("make")
                if order.source and not order.base:
                    await asyncio.sleep(self._copy_s)
                work.check()
                names += self._make_one(order)
            work.check()
        except Exception:
            for order in reversed(orders):
                self._unmake(order)
            raise
        work.on_progress(1.0)
        return self._observation(orders[0].storage, *names)

    def _make_one(self, order: DiskOrder) -> list[str]:
        self._check(order.storage)
        if order.size > SIZE:
            raise full(order.size, SIZE)
        storage, names = order.storage, [order.name]
        if order.base and order.source != order.base:
            names.insert(0, order.base)
            if self._key(storage, order.base) not in self._disks:
                source = self._read(storage, order.source)
                self._write(storage, order.base, source)
                overlay = SimulatedDisk(size=source.size, format="qcow2", backing=order.base)
                self._write(storage, order.source, overlay)
        if self._key(storage, order.name) not in self._disks:
            content = ""
            if order.source and not order.base:
                assert order.source_storage is not None
                content = self.content(order.source_storage, order.source)
            made = SimulatedDisk(
                size=order.size, format=order.format, backing=order.base, content=content
            )
            self._write(storage, order.name, made)
        return names

    def _unmake(self, order: DiskOrder) -> None:
        storage = order.storage
        self._disks.pop(self._key(storage, order.name), None)
        if order.base and order.source != order.base:
            base = self._disks.pop(self._key(storage, order.base), None)
            if base is not None:
                self._disks[self._key(storage, order.source)] = base

    async def delete(self, storage: StorageConfig, location: str) -> StorageObservation:
        """Delete a disk."""
        await self._point("delete")
        self._check(storage)
        self._disks.pop(self._key(storage, location), None)
        return self._observation(storage)

    async def resize(
        self, storage: StorageConfig, location: str, *, made_as: str, size: int
    ) -> StorageObservation:
        """Let a disk grow."""
        await self._point("resize")
        self._check(storage)
        disk = self._read(storage, location)
        grown = SimulatedDisk(
            size=max(size, disk.size), format=made_as, backing=disk.backing, content=disk.content
        )
        self._write(storage, location, grown)
        return self._observation(storage, location)

    def write(self, storage: StorageConfig, location: str, content: str) -> None:
        """Be the guest: write to the disk."""
        disk = self._read(storage, location)
        written = SimulatedDisk(
            size=disk.size, format=disk.format, backing=disk.backing, content=content
        )
        self._write(storage, location, written)

    def content(self, storage: StorageConfig, location: str) -> str:
        """Be the guest: read from the disk."""
        disk = self._read(storage, location)
        if disk.content or not disk.backing:
            return disk.content
        return self.content(storage, disk.backing)

    def _place(self, storage: StorageConfig) -> str:
        location = storage.device_config["location"]
        return location if storage.shared else f"{self._host}:{location}"

    def _key(self, storage: StorageConfig, name: str) -> str:
        return f"{self._place(storage)}|{name}"

    def _names(self, storage: StorageConfig) -> list[str]:
        prefix = self._key(storage, "")
        names = [key.removeprefix(prefix) for key in self._disks if key.startswith(prefix)]
        return sorted(name for name in names if name != MARKER)

    def _read(self, storage: StorageConfig, name: str) -> SimulatedDisk:
        data = self._disks.get(self._key(storage, name))
        if data is None:
            raise SrBackendFailure("", "", f"{name} is not there")
        return decode(data, SimulatedDisk)

    def _write(self, storage: StorageConfig, name: str, disk: SimulatedDisk) -> None:
        self._disks[self._key(storage, name)] = encode(disk)

    def _check(self, storage: StorageConfig) -> None:
        if self._disks.get(self._key(storage, MARKER)) != storage.sr_uuid.encode():
            raise SrBackendFailure("", "", f"{self._place(storage)} is not this SR")

    def _observation(self, storage: StorageConfig, *names: str) -> StorageObservation:
        disks = [(name, self._read(storage, name)) for name in names]
        return StorageObservation(
            physical_size=SIZE,
            physical_utilisation=0,
            disks=tuple(
                DiskObservation(
                    location=name,
                    virtual_size=disk.size,
                    physical_utilisation=0,
                    format=disk.format,
                )
                for name, disk in disks
            ),
        )

    async def _point(self, name: str) -> None:
        await asyncio.sleep(0)
        if error := self._faults(name):
            raise error
