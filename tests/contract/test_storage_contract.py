"""What every storage keeps to: directories of real image files, and the simulation."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from host_agent.shell.file_storage import FileStorage
from host_agent.shell.simulated_storage import FolderMapping, SimulatedStorage
from host_agent.shell.storage import Cancelled, Storage, Work
from shared.storage_errors import SrBackendFailure, SrFull, SrNotEmpty
from shared.storage_protocol import (
    DiskOrder,
    StorageConfig,
)

FILES, MEMORY, FOLDER = "image files", "simulated in memory", "simulated in a folder"
MIB = 1024 * 1024

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="there is no qemu-img")
on_every_storage = pytest.mark.parametrize(
    "kind", [pytest.param(FILES, marks=needs_qemu), MEMORY, FOLDER]
)


def storage_of(kind: str, folder: Path) -> Storage:
    match kind:
        case "image files":
            return FileStorage()
        case "simulated in memory":
            return SimulatedStorage({}, "a")
        case _:
            return SimulatedStorage(FolderMapping(folder / "entries"), "a")


@contextlib.asynccontextmanager
async def an_sr(kind: str, folder: Path) -> AsyncIterator[tuple[Storage, StorageConfig]]:
    storage = storage_of(kind, folder)
    config = StorageConfig(
        sr_uuid=str(uuid.uuid4()),
        type="file",
        device_config={"location": str(folder / "sr")},
    )
    await storage.attach(config, is_new=True)
    yield storage, config


def new_name(made_as: str = "qcow2") -> str:
    return f"{uuid.uuid4()}.{made_as}"


def calm() -> Work:
    return Work(lambda _share: None, lambda: False)


async def empty_disk(storage: Storage, sr: StorageConfig, made_as: str = "qcow2") -> str:
    name = new_name(made_as)
    await storage.make((DiskOrder(storage=sr, name=name, size=MIB, format=made_as),), calm())
    return name


async def names_in(storage: Storage, sr: StorageConfig) -> list[str]:
    return sorted(disk.location for disk in (await storage.scan(sr)).disks)


@on_every_storage
@pytest.mark.parametrize("made_as", ["qcow2", "raw"])
async def test_a_disk_that_is_made_is_found_with_its_size(
    kind: str, made_as: str, tmp_path: Path
) -> None:
    async with an_sr(kind, tmp_path) as (storage, sr):
        name = await empty_disk(storage, sr, made_as)

        found = await storage.scan(sr)

        assert [(x.location, x.virtual_size, x.format) for x in found.disks] == [
            (name, MIB, made_as)
        ]
        assert found.physical_size > 0


@on_every_storage
async def test_everything_may_be_done_twice(kind: str, tmp_path: Path) -> None:
    async with an_sr(kind, tmp_path) as (storage, sr):
        await storage.attach(sr, is_new=True)
        orders = (DiskOrder(storage=sr, name=new_name(), size=MIB),)
        first = await storage.make(orders, calm())
        assert (await storage.make(orders, calm())).disks == first.disks
        name = orders[0].name
        for _ in range(2):
            seen = await storage.resize(sr, name, made_as="qcow2", size=2 * MIB)
            assert seen.disks[0].virtual_size == 2 * MIB
        for _ in range(2):
            await storage.delete(sr, name)
        for _ in range(2):
            await storage.detach(sr, is_final=True)


def clone_order(sr: StorageConfig, source: str) -> DiskOrder:
    return DiskOrder(
        storage=sr,
        name=new_name(),
        size=MIB,
        source=source,
        source_storage=sr,
        base=new_name(),
    )


@on_every_storage
async def test_a_clone_leaves_its_source_and_a_base(kind: str, tmp_path: Path) -> None:
    async with an_sr(kind, tmp_path) as (storage, sr):
        source = await empty_disk(storage, sr)
        order = clone_order(sr, source)
        for _ in range(2):  # begun again by an agent that died in between
            seen = await storage.make((order,), calm())
            assert [x.location for x in seen.disks] == [order.base, order.name]
        assert await names_in(storage, sr) == sorted([source, order.base, order.name])


@on_every_storage
async def test_a_clone_of_what_nobody_wrote_to_shares_the_base_that_is_there(
    kind: str, tmp_path: Path
) -> None:
    async with an_sr(kind, tmp_path) as (storage, sr):
        source = await empty_disk(storage, sr)
        first = clone_order(sr, source)
        await storage.make((first,), calm())
        second = DiskOrder(
            storage=sr,
            name=new_name(),
            size=MIB,
            source=first.base,
            source_storage=sr,
            base=first.base,
        )
        await storage.make((second,), calm())
        assert await names_in(storage, sr) == sorted([source, first.base, first.name, second.name])


@on_every_storage
async def test_nothing_is_left_where_one_of_several_disks_cannot_be_made(
    kind: str, tmp_path: Path
) -> None:
    async with an_sr(kind, tmp_path) as (storage, sr):
        source = await empty_disk(storage, sr)
        orders = (
            clone_order(sr, source),
            DiskOrder(storage=sr, name=new_name(), size=MIB, source=new_name(), source_storage=sr),
        )
        with pytest.raises(SrBackendFailure):
            await storage.make(orders, calm())
        assert await names_in(storage, sr) == [source]


@on_every_storage
async def test_nothing_is_left_where_the_work_is_cancelled(kind: str, tmp_path: Path) -> None:
    async with an_sr(kind, tmp_path) as (storage, sr):
        source = await empty_disk(storage, sr)
        shares: list[float] = []
        work = Work(shares.append, lambda: len(shares) > 1)
        orders = tuple(clone_order(sr, source) for _ in range(1)) + tuple(
            DiskOrder(storage=sr, name=new_name(), size=MIB, source=source, source_storage=sr)
            for _ in range(3)
        )
        with pytest.raises(Cancelled):
            await storage.make(orders, work)
        assert await names_in(storage, sr) == [source]


@on_every_storage
async def test_another_sr_is_not_taken_for_the_one_that_was_meant(
    kind: str, tmp_path: Path
) -> None:
    async with an_sr(kind, tmp_path) as (storage, sr):
        other = StorageConfig(
            sr_uuid=str(uuid.uuid4()), type="file", device_config=sr.device_config
        )
        for is_new in (True, False):
            with pytest.raises(SrBackendFailure):
                await storage.attach(other, is_new=is_new)
        with pytest.raises(SrBackendFailure):
            await storage.scan(other)


@on_every_storage
async def test_an_sr_with_disks_is_not_destroyed(kind: str, tmp_path: Path) -> None:
    async with an_sr(kind, tmp_path) as (storage, sr):
        name = await empty_disk(storage, sr)
        with pytest.raises(SrNotEmpty):
            await storage.detach(sr, is_final=True)
        assert await names_in(storage, sr) == [name]


# --- what only real files can show


def qemu_io(path: Path, command: str) -> str:
    words = ["qemu-io", "-f", "qcow2", "-c", command, str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def backing(path: Path) -> str | None:
    words = ["qemu-img", "info", "--output=json", "-f", "qcow2", str(path)]
    said = subprocess.run(words, capture_output=True, check=True).stdout
    found: str | None = json.loads(said).get("backing-filename")
    return found


@needs_qemu
async def test_source_and_clone_hold_what_the_source_held_and_go_their_own_ways(
    tmp_path: Path,
) -> None:
    async with an_sr(FILES, tmp_path) as (storage, sr):
        folder = tmp_path / "sr"
        source = await empty_disk(storage, sr)
        qemu_io(folder / source, "write -P 7 0 64k")
        order = clone_order(sr, source)
        await storage.make((order,), calm())
        qemu_io(folder / order.name, "write -P 9 0 4k")

        assert backing(folder / source) == backing(folder / order.name) == order.base
        assert "Pattern verification failed" not in qemu_io(folder / source, "read -P 7 0 64k")
        assert "Pattern verification failed" not in qemu_io(folder / order.name, "read -P 9 0 4k")
        assert "Pattern verification failed" not in qemu_io(folder / order.name, "read -P 7 4k 60k")


@needs_qemu
async def test_a_copy_needs_nothing_of_its_source(tmp_path: Path) -> None:
    async with an_sr(FILES, tmp_path) as (storage, sr):
        folder = tmp_path / "sr"
        source = await empty_disk(storage, sr)
        qemu_io(folder / source, "write -P 7 0 64k")
        clone = clone_order(sr, source)
        await storage.make((clone,), calm())
        copy = DiskOrder(
            storage=sr, name=new_name(), size=MIB, source=clone.name, source_storage=sr
        )
        shares: list[float] = []
        await storage.make((copy,), Work(shares.append, lambda: False))

        assert backing(folder / copy.name) is None
        assert "Pattern verification failed" not in qemu_io(folder / copy.name, "read -P 7 0 64k")


@needs_qemu
async def test_a_draft_that_a_killed_agent_left_is_begun_anew(tmp_path: Path) -> None:
    async with an_sr(FILES, tmp_path) as (storage, sr):
        name = new_name()
        (tmp_path / "sr" / f".{name}.tmp").write_bytes(b"half of it")
        await storage.make((DiskOrder(storage=sr, name=name, size=MIB),), calm())
        assert [path.name for path in (tmp_path / "sr").iterdir() if path.suffix == ".tmp"] == []
        assert await names_in(storage, sr) == [name]


@needs_qemu
async def test_an_agent_that_stops_leaves_the_work_to_its_successor(tmp_path: Path) -> None:
    async with an_sr(FILES, tmp_path) as (storage, sr):
        source = await empty_disk(storage, sr)
        order = clone_order(sr, source)
        making = asyncio.create_task(storage.make((order,), calm()))
        await asyncio.sleep(0.03)
        making.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await making

        await storage.make((order,), calm())

        assert await names_in(storage, sr) == sorted([source, order.base, order.name])


@needs_qemu
async def test_a_missing_mount_is_not_written_to(tmp_path: Path) -> None:
    storage = FileStorage()
    (tmp_path / "mnt").mkdir()
    sr = StorageConfig(
        sr_uuid=str(uuid.uuid4()),
        type="nfs",
        shared=True,
        device_config={"location": str(tmp_path / "mnt")},
    )
    with pytest.raises(SrBackendFailure):
        await storage.attach(sr, is_new=False)
    with pytest.raises(SrBackendFailure):
        await empty_disk(storage, sr)
    assert list((tmp_path / "mnt").iterdir()) == []


async def test_a_full_sr_says_so() -> None:
    storage = SimulatedStorage({}, "a")
    sr = StorageConfig(sr_uuid="u", type="file", device_config={"location": "/sr"})
    await storage.attach(sr, is_new=True)
    with pytest.raises(SrFull):
        await storage.make((DiskOrder(storage=sr, name=new_name(), size=1 << 50),), calm())
