"""SRs that are directories: disks are image files, made by qemu-img.

Rules: a file gets its name when it is whole and flushed, by a rename; a name is a uuid that was never used before, so a
file under it is the one that was wanted. A clone makes its source's file the base by a second name for it (a hard link)
and puts an empty overlay in its place by a rename: at every moment the source's name leads to all its content. Formats
are always named: guessing one from the content would let a guest choose what its host opens.
"""

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Final

import anyio
import structlog

from host_agent.shell.storage import Work, full
from shared.storage_errors import SrBackendFailure, SrNotEmpty, SrUnknownDriver
from shared.storage_protocol import (
    DiskObservation,
    DiskOrder,
    StorageConfig,
    StorageObservation,
)

TYPES: Final = ("file", "nfs")
MARKER: Final = ".vmpool-sr"
NAME: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(qcow2|raw)")
NO_SPACE: Final = "No space left on device"
PROGRESS: Final = re.compile(rb"\(\s*(\d+\.\d+)/100%\)")
LOOK_PAUSE_S: Final = 0.2
DISKS_MAX: Final = 10_000

log = structlog.get_logger(__name__)


class FileStorage:
    """Directories of this host."""

    async def attach(self, storage: StorageConfig, *, is_new: bool) -> StorageObservation:
        """Mark a new SR's directory with its uuid, or find the mark."""
        folder = _folder(storage)

        def mark() -> None:
            if is_new and storage.type == "file":
                folder.mkdir(parents=True, exist_ok=True)
            marker = folder / MARKER
            if is_new and folder.is_dir() and not marker.exists():
                _write_flushed(marker, storage.sr_uuid)
            _check(storage)

        await anyio.to_thread.run_sync(mark)
        return await self._observation(storage)

    async def detach(self, storage: StorageConfig, *, is_final: bool) -> None:
        """A directory needs no letting go of."""
        if not is_final:
            return
        folder = _folder(storage)

        def clear() -> None:
            marker = folder / MARKER
            if not marker.exists() or marker.read_text() != storage.sr_uuid:
                return
            if _names(folder):
                raise SrNotEmpty
            for draft in folder.glob(".*.tmp"):
                draft.unlink(missing_ok=True)
            marker.unlink()
            _flush_folder(folder)

        await anyio.to_thread.run_sync(clear)

    async def scan(self, storage: StorageConfig) -> StorageObservation:
        """Look at every image file."""
        folder = await anyio.to_thread.run_sync(_check, storage)
        names = await anyio.to_thread.run_sync(_names, folder)
        disks = [await _observe(folder / name) for name in names[:DISKS_MAX]]
        return await self._observation(storage, *disks)

    async def make(self, orders: tuple[DiskOrder, ...], work: Work) -> StorageObservation:
        """Make the files, one after another."""
        disks: list[DiskObservation] = []
        try:
            for number, order in enumerate(orders):
                part = work.part(number, len(orders))
                work.check()
                disks += await self._make_one(order, part)
            work.check()
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):  # an agent that stops goes on later
                for order in reversed(orders):
                    await anyio.to_thread.run_sync(_unmake, order)
            raise
        return await self._observation(orders[0].storage, *disks)

    async def _make_one(self, order: DiskOrder, work: Work) -> list[DiskObservation]:
        folder = await anyio.to_thread.run_sync(_check, order.storage)
        path = folder / order.name
        bases = []
        if order.base and order.source != order.base:
            await self._make_base(order, work)
            bases = [await _observe(folder / order.base)]
        if not path.exists():
            if order.base:
                await _overlay(folder / order.base, path, order, work)
            elif order.source:
                await _copy(order, path, work)
            else:
                create = ("create", "-q", "-f", order.format)
                await _made(path, order, work, *create, "{}", str(order.size))
        return [*bases, await _observe(path)]

    async def _make_base(self, order: DiskOrder, work: Work) -> None:
        folder = _folder(order.storage)
        source, base = folder / order.source, folder / order.base

        def link() -> None:
            if not base.exists():
                os.link(source, base)
                _flush_folder(folder)

        await anyio.to_thread.run_sync(link)
        if await anyio.to_thread.run_sync(os.path.samefile, source, base):
            await _overlay(base, source, order, work)

    async def delete(self, storage: StorageConfig, location: str) -> StorageObservation:
        """Remove the file."""
        folder = await anyio.to_thread.run_sync(_check, storage)

        def remove() -> None:
            (folder / _plain(location)).unlink(missing_ok=True)
            _flush_folder(folder)

        await anyio.to_thread.run_sync(remove)
        return await self._observation(storage)

    async def resize(
        self, storage: StorageConfig, location: str, *, made_as: str, size: int
    ) -> StorageObservation:
        """Let the image grow."""
        folder = await anyio.to_thread.run_sync(_check, storage)
        path = folder / _plain(location)
        if (await _observe(path)).virtual_size < size:
            await _run(size, folder, "resize", "-q", "-f", made_as, str(path), str(size))
            await anyio.to_thread.run_sync(_flush, path)
        return await self._observation(storage, await _observe(path))

    async def _observation(
        self, storage: StorageConfig, *disks: DiskObservation
    ) -> StorageObservation:
        free = await anyio.to_thread.run_sync(os.statvfs, _folder(storage))
        size = free.f_blocks * free.f_frsize
        return StorageObservation(
            physical_size=size,
            physical_utilisation=size - free.f_bavail * free.f_frsize,
            disks=disks,
        )


def _folder(storage: StorageConfig) -> Path:
    if storage.type not in TYPES:
        raise SrUnknownDriver(storage.type)
    return Path(storage.device_config["location"])


def _check(storage: StorageConfig) -> Path:
    """Give the SR's directory where it is the right one: an unmounted mount point is a directory too.

    Raises:
        SrBackendFailure: it is not.
    """
    folder = _folder(storage)
    try:
        found = (folder / MARKER).read_text()
    except FileNotFoundError:
        raise SrBackendFailure(
            "", "", f"{folder} is not there, or not an SR (no {MARKER})"
        ) from None
    if found != storage.sr_uuid:
        raise SrBackendFailure("", "", f"{folder} belongs to another SR, {found}")
    return folder


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name))


def _plain(location: str) -> str:
    if not NAME.fullmatch(location):
        raise SrBackendFailure("", "", f"{location} is not the name of a disk")
    return location


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _unmake(order: DiskOrder) -> None:
    """Leave nothing of a disk that is not wanted any more: its source is as it was, under its own name."""
    folder = _folder(order.storage)
    path = folder / order.name
    path.unlink(missing_ok=True)
    _draft(path).unlink(missing_ok=True)
    if order.base and order.source != order.base:
        source, base = folder / order.source, folder / order.base
        _draft(source).unlink(missing_ok=True)
        if base.exists():
            if source.exists() and source.samefile(base):
                base.unlink()
            else:
                base.replace(
                    source
                )  # Nobody has written to the overlay: the operation holds the disk.
    _flush_folder(folder)


async def _overlay(base: Path, path: Path, order: DiskOrder, work: Work) -> None:
    backing = ("-F", order.source_format, "-b", base.name)
    create = ("create", "-q", "-f", order.format, *backing)
    await _made(path, order, work, *create, "{}", str(order.size))


async def _copy(order: DiskOrder, path: Path, work: Work) -> None:
    assert order.source_storage is not None
    source_folder = await anyio.to_thread.run_sync(_check, order.source_storage)
    source = source_folder / _plain(order.source)
    formats = ("-f", order.source_format, "-O", order.format)
    await _made(path, order, work, "convert", "-p", *formats, str(source), "{}")


async def _made(path: Path, order: DiskOrder, work: Work, *command: str) -> None:
    """Run qemu-img on a draft ("{}"), flush it, and give it its name."""
    _plain(path.name)
    draft = _draft(path)
    await anyio.to_thread.run_sync(lambda: draft.unlink(missing_ok=True))
    words = [str(draft) if word == "{}" else word for word in command]
    await _run(order.size, path.parent, *words, work=work)

    def name() -> None:
        _flush(draft)
        draft.replace(path)
        _flush_folder(path.parent)

    await anyio.to_thread.run_sync(name)


async def _run(size: int, folder: Path, *command: str, work: Work | None = None) -> bytes:
    process = await asyncio.create_subprocess_exec(
        "qemu-img",
        *command,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said = bytearray()
    assert process.stdout is not None
    assert process.stderr is not None
    problems = asyncio.ensure_future(process.stderr.read())
    try:
        while True:
            if work is not None:
                work.check()
            try:
                async with asyncio.timeout(LOOK_PAUSE_S):
                    piece = await process.stdout.read(65_536)
            except TimeoutError:
                continue
            if not piece:
                break
            said += piece
            if work is not None and (shares := PROGRESS.findall(piece)):
                work.on_progress(float(shares[-1]) / 100)
        text = (await problems).decode(errors="replace").strip()
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        problems.cancel()
    if code == 0:
        return bytes(said)
    if NO_SPACE in text:
        free = os.statvfs(folder)
        raise full(size, free.f_bavail * free.f_frsize)
    raise SrBackendFailure(str(code), "", text[:500])


async def _observe(path: Path) -> DiskObservation:
    """Look at an image without asking it which format it is, and whoever has it open."""
    made_as = path.suffix[1:]
    said = await _run(0, path.parent, "info", "-U", "-f", made_as, "--output=json", str(path))
    info = json.loads(said)
    return DiskObservation(
        location=path.name,
        virtual_size=int(info["virtual-size"]),
        physical_utilisation=int(info.get("actual-size", 0)),
        format=made_as,
    )


def _write_flushed(path: Path, text: str) -> None:
    draft = _draft(path)
    draft.write_text(text)
    _flush(draft)
    draft.replace(path)
    _flush_folder(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_flush_folder = _flush
