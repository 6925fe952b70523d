"""Where a simulated cluster keeps its domains: in memory, or in a folder that several processes share.

Rules: a domain is filed under the host that has it; `move` is atomic, so that a guest is on exactly one host at every
moment, a kill -9 included. Nothing is flushed to the disk: a folder stands for the hosts' memory, not for their disks.
"""

import contextlib
import fcntl
import os
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from shared.codec import decode, encode
from shared.protocol import DomainChange, DomainConfig, DomainState

_DEAD: Final = ".dead"
_IMAGES: Final = ".images"
_LOCK: Final = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedDomain:
    """A domain of a simulated host. Times are the fabric's clock; 0 means never.

    `moves_to` and `moves_at` are a migration that goes out; `comes_from` marks an incoming copy that has never run.
    `is_undecided`: the hand-over was cut, and the VCPUs stand still until somebody decides.
    `has_run`: its VCPUs have run since it was built; one that stands still since then has touched nothing.
    `changes` counts what happened to it, `last_change` is what was last.
    """

    config: DomainConfig
    state: DomainState
    domid: int
    changes: int = 0
    last_change: DomainChange = DomainChange.STARTED
    powers_off_at: float = 0.0
    moves_to: str = ""
    moves_at: float = 0.0
    comes_from: str = ""
    is_undecided: bool = False
    has_run: bool = False


class FabricStore(Protocol):
    """The domains of all hosts of one fabric."""

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes out while reading and writing."""
        ...

    def hosts(self) -> list[str]:
        """Give the names of all hosts that ever had a domain or died."""
        ...

    def domains(self, host: str) -> list[SimulatedDomain]:
        """Give the host's domains, by VM."""
        ...

    def stamps(self, host: str) -> dict[str, object]:
        """Give something per VM that changes whenever the domain does; cheaper than reading them."""
        ...

    def read(self, host: str, vm_uuid: str) -> SimulatedDomain | None:
        """Give one domain."""
        ...

    def write(self, host: str, domain: SimulatedDomain) -> None:
        """Put a domain, replacing what was there."""
        ...

    def remove(self, host: str, vm_uuid: str) -> None:
        """Remove a domain; none is fine."""
        ...

    def move(self, source: str, destination: str, vm_uuid: str) -> None:
        """File the source's domain under the destination, replacing what was there, in one step."""
        ...

    def write_image(self, image: str, domain: SimulatedDomain) -> None:
        """Keep a domain's memory where all hosts see it."""
        ...

    def read_image(self, image: str) -> SimulatedDomain | None:
        """Give the domain whose memory is kept under this name."""
        ...

    def remove_image(self, image: str) -> None:
        """Remove an image; none is fine."""
        ...

    def is_dead(self, host: str) -> bool:
        """Say whether the host is without power."""
        ...

    def set_dead(self, host: str, *, dead: bool) -> None:
        """Cut the power or give it back."""
        ...


class MemoryStore:
    """A fabric within one process."""

    def __init__(self) -> None:
        self._domains: dict[str, dict[str, SimulatedDomain]] = {}
        self._dead: set[str] = set()
        self._images: dict[str, SimulatedDomain] = {}

    def lock(self) -> AbstractContextManager[None]:
        """Nothing to lock: one event loop, and no await between reading and writing."""
        return contextlib.nullcontext()

    def hosts(self) -> list[str]:
        """Give all hosts, by name."""
        return sorted(self._domains.keys() | self._dead)

    def domains(self, host: str) -> list[SimulatedDomain]:
        """Give the host's domains, by VM."""
        of_host = self._domains.get(host, {})
        return [of_host[vm_uuid] for vm_uuid in sorted(of_host)]

    def stamps(self, host: str) -> dict[str, object]:
        """The domains themselves are compared: they are immutable."""
        return dict(self._domains.get(host, {}))

    def read(self, host: str, vm_uuid: str) -> SimulatedDomain | None:
        """Give one domain."""
        return self._domains.get(host, {}).get(vm_uuid)

    def write(self, host: str, domain: SimulatedDomain) -> None:
        """Put a domain."""
        self._domains.setdefault(host, {})[domain.config.vm_uuid] = domain

    def remove(self, host: str, vm_uuid: str) -> None:
        """Remove a domain."""
        self._domains.get(host, {}).pop(vm_uuid, None)

    def move(self, source: str, destination: str, vm_uuid: str) -> None:
        """File the domain elsewhere."""
        self._domains.setdefault(destination, {})[vm_uuid] = self._domains[source].pop(vm_uuid)

    def write_image(self, image: str, domain: SimulatedDomain) -> None:
        """Keep an image."""
        self._images[image] = domain

    def read_image(self, image: str) -> SimulatedDomain | None:
        """Give an image."""
        return self._images.get(image)

    def remove_image(self, image: str) -> None:
        """Remove an image."""
        self._images.pop(image, None)

    def is_dead(self, host: str) -> bool:
        """Say whether the host is without power."""
        return host in self._dead

    def set_dead(self, host: str, *, dead: bool) -> None:
        """Cut the power or give it back."""
        if dead:
            self._dead.add(host)
        else:
            self._dead.discard(host)


class FolderStore:
    """A fabric that agents share as separate processes: a folder per host, a file per domain."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        # It lives as long as the store does; readers come and go within one process.
        weakref.finalize(self, os.close, self._lock)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder's lock; the kernel lets go of it when its holder dies."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def hosts(self) -> list[str]:
        """Give all hosts, by name."""
        return sorted(
            entry.name
            for entry in os.scandir(self._folder)
            if entry.is_dir() and not entry.name.startswith(".")
        )

    def domains(self, host: str) -> list[SimulatedDomain]:
        """Give the host's domains, by VM."""
        found = (self.read(host, vm_uuid) for vm_uuid in sorted(self.stamps(host)))
        return [domain for domain in found if domain is not None]

    def stamps(self, host: str) -> dict[str, object]:
        """Give each file's inode and time: every write is a new file."""
        stamps: dict[str, object] = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder / host) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        stamps[entry.name] = (status.st_ino, status.st_mtime_ns)
        return stamps

    def read(self, host: str, vm_uuid: str) -> SimulatedDomain | None:
        """Give one domain."""
        try:
            with open(f"{self._folder}/{host}/{vm_uuid}", "rb", buffering=0) as file:
                return decode(file.read(), SimulatedDomain)
        except FileNotFoundError:
            return None

    def write(self, host: str, domain: SimulatedDomain) -> None:
        """Put a domain: whole or not at all."""
        # Every change of every simulated guest comes through here: plain strings are several times as fast as paths.
        folder, name = f"{self._folder}/{host}", domain.config.vm_uuid
        draft, data = f"{folder}/.{name}", encode(domain)
        try:
            _write(draft, data)
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
            _write(draft, data)
        os.rename(draft, f"{folder}/{name}")

    def remove(self, host: str, vm_uuid: str) -> None:
        """Remove a domain."""
        (self._folder / host / vm_uuid).unlink(missing_ok=True)

    def move(self, source: str, destination: str, vm_uuid: str) -> None:
        """File the domain elsewhere: one rename."""
        (self._folder / destination).mkdir(exist_ok=True)
        (self._folder / source / vm_uuid).rename(self._folder / destination / vm_uuid)

    def write_image(self, image: str, domain: SimulatedDomain) -> None:
        """Keep an image: whole or not at all."""
        target = self._folder / _IMAGES / image
        target.parent.mkdir(exist_ok=True)
        draft = target.with_name(f".{image}")
        draft.write_bytes(encode(domain))
        draft.rename(target)

    def read_image(self, image: str) -> SimulatedDomain | None:
        """Give an image."""
        try:
            return decode((self._folder / _IMAGES / image).read_bytes(), SimulatedDomain)
        except FileNotFoundError:
            return None

    def remove_image(self, image: str) -> None:
        """Remove an image."""
        (self._folder / _IMAGES / image).unlink(missing_ok=True)

    def is_dead(self, host: str) -> bool:
        """Say whether the host is without power."""
        return (self._folder / host / _DEAD).exists()

    def set_dead(self, host: str, *, dead: bool) -> None:
        """Cut the power or give it back."""
        marker = self._folder / host / _DEAD
        marker.parent.mkdir(exist_ok=True)
        if dead:
            marker.touch()
        else:
            marker.unlink(missing_ok=True)


def _write(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)
