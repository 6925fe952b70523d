"""Write an initramfs: the "newc" cpio format, which the kernel unpacks at boot.

Written here so that neither the cpio program nor device nodes on the building machine are needed.
"""

import stat
from dataclasses import dataclass
from typing import BinaryIO

_ALIGNMENT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CpioEntry:
    """One file, directory, symbolic link or device node of the archive."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> CpioEntry:
    """A directory that everybody may enter."""
    return CpioEntry(path=path, mode=stat.S_IFDIR | 0o755)


def executable(path: str, content: bytes) -> CpioEntry:
    """A regular file with its execute bits set; modules do not mind them."""
    return CpioEntry(path=path, mode=stat.S_IFREG | 0o755, content=content)


def symlink(path: str, target: str) -> CpioEntry:
    """A symbolic link."""
    return CpioEntry(path=path, mode=stat.S_IFLNK | 0o777, content=target.encode())


def character_device(path: str, device: tuple[int, int]) -> CpioEntry:
    """A character device node, given by its major and minor number."""
    return CpioEntry(path=path, mode=stat.S_IFCHR | 0o600, device=device)


def write_archive(output: BinaryIO, entries: list[CpioEntry]) -> None:
    """Write the entries in the order given; parents must precede their children."""
    for number, entry in enumerate(entries, start=1):
        _write_entry(output, entry, number)
    _write_entry(output, CpioEntry(path="TRAILER!!!", mode=0), 0)


def _write_entry(output: BinaryIO, entry: CpioEntry, inode: int) -> None:
    name = entry.path.encode() + b"\0"
    major, minor = entry.device
    # inode, mode, uid, gid, links, time, size, file system's device, node's device, name, checksum.
    # The time is always 0: the same contents give the same archive.
    numbers = (inode, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, major, minor, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    output.write(_padded(header + name))
    output.write(_padded(entry.content))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT_BYTES)
