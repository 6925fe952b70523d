"""Build the lab's tiny guest: a distribution kernel and an initramfs that counts on the console.

Nothing is installed on the machine: packages are downloaded with apt-get and unpacked in a
temporary folder. Under emulation the guest counts seconds after power on. See `init` beside this
file for what it prints and for the kernel arguments by which a test makes it power off, reboot or
crash by itself.

A crash (`vmpool.panic_after=N`, an NMI with `unknown_nmi_panic`) reaches libvirt only through a
panic device, `<panic model='isa'/>`: the guest loads pvpanic, QEMU reports the panic, and libvirt
carries out `<on_crash>`. Without the device a panicked guest hangs and stays "running"; with
`panic=N` on the command line it reboots itself after N seconds, which libvirt sees as a reboot.
"""

import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.lab.cpio import (
    CpioEntry,
    character_device,
    directory,
    executable,
    symlink,
    write_archive,
)

COMMAND_LINE: Final = "console=ttyS0 sysrq_always_enabled quiet"

_INIT: Final = Path(__file__).with_name("init")
# The distributions' packages for a kernel without most drivers; the first one known wins.
_KERNEL_PACKAGES: Final = ("linux-image-cloud-amd64", "linux-image-kvm", "linux-image-virtual")
# Each after what it needs. One that a kernel has built in is left out.
_MODULES: Final = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_balloon",
    "evdev",
    "button",
    "pvpanic",
    "pvpanic-mmio",
)
_DOWNLOAD_S_MAX: Final = 300.0
_COMMAND_S_MAX: Final = 60.0


class GuestImageUnavailable(Exception):
    """The guest cannot be built on this machine; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What a domain needs for a direct kernel boot, with `COMMAND_LINE` as its command line."""

    kernel: Path
    initrd: Path


def build_guest_image(cache: Path) -> GuestImage:
    """The guest image below `cache`: built at the first call, found by the later ones."""
    # The name follows from what is put in, so a changed init is never answered with an old image.
    recipe = hashlib.sha256(_INIT.read_bytes() + repr(_MODULES).encode()).hexdigest()[:12]
    folder = cache.resolve() / f"guest-{recipe}"
    image = GuestImage(kernel=folder / "vmlinuz", initrd=folder / "initrd")
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".guest-", dir=cache) as work:
            built = _build(Path(work))
            try:
                built.rename(folder)
            except OSError:
                # Somebody built the same image meanwhile; any other failure is a real one.
                if not folder.exists():
                    raise
    return image


def _build(work: Path) -> Path:
    unpacked = work / "unpacked"
    for package in (*_kernel_packages(), "busybox-static"):
        _unpack(package, work, unpacked)
    image = work / "image"
    image.mkdir(mode=0o755)
    shutil.copyfile(_only(unpacked, "vmlinuz-*"), image / "vmlinuz")
    with (image / "initrd").open("wb") as output:
        write_archive(output, _initramfs(unpacked))
    return image


def _kernel_packages() -> list[str]:
    """The package with the kernel and, where they are split, the one with its modules."""
    for meta_package in _KERNEL_PACKAGES:
        kernels = _dependencies(meta_package, r"linux-image-(?:unsigned-)?\d.*")
        if kernels:
            return [kernels[0], *_dependencies(kernels[0], r"linux-modules-\d.*")]
    raise GuestImageUnavailable(
        f"apt knows none of {', '.join(_KERNEL_PACKAGES)}: run apt-get update on Debian or Ubuntu"
    )


def _dependencies(package: str, wanted: str) -> list[str]:
    result = _run(["apt-cache", "depends", package], check=False)
    return re.findall(rf"Depends: ({wanted})$", result, flags=re.MULTILINE)


def _unpack(package: str, work: Path, target: Path) -> None:
    # As root apt-get would download as the user _apt, who may not write here.
    download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package]
    _run(download, folder=work, seconds_max=_DOWNLOAD_S_MAX)
    archive = _only(work, f"{package}_*.deb")
    _run(["dpkg-deb", "--extract", str(archive), str(target)])
    archive.unlink()


def _initramfs(unpacked: Path) -> list[CpioEntry]:
    modules = {
        name: content for name in _MODULES if (content := _module(unpacked, name)) is not None
    }
    order = "".join(f"{name}\n" for name in modules).encode()
    return [
        *(directory(path) for path in ("bin", "dev", "modules", "proc", "sys")),
        character_device("dev/console", (5, 1)),
        executable("bin/busybox", _only(unpacked, "busybox", at="*bin").read_bytes()),
        symlink("bin/sh", "busybox"),
        executable("init", _INIT.read_bytes()),
        executable("modules/order", order),
        *(executable(f"modules/{name}.ko", content) for name, content in modules.items()),
    ]


def _module(unpacked: Path, name: str) -> bytes | None:
    """The module unpacked, or None where the kernel has it built in."""
    found = sorted(unpacked.rglob(f"{name}.ko*"))
    if not found:
        return None
    path = found[0]
    match path.suffix:
        case ".ko":
            return path.read_bytes()
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".zst":
            _run(["zstd", "--quiet", "--decompress", str(path)])
            return path.with_suffix("").read_bytes()
        case _:
            raise GuestImageUnavailable(f"kernel module {path.name} is packed in an unknown way")


def _only(folder: Path, pattern: str, *, at: str = "") -> Path:
    found = [
        path for path in folder.rglob(pattern) if path.is_file() and path.parent.match(at or "*")
    ]
    if len(found) != 1:
        raise GuestImageUnavailable(f"expected one {pattern} in the packages, found {len(found)}")
    return found[0]


def _run(
    argv: list[str],
    *,
    folder: Path | None = None,
    check: bool = True,
    seconds_max: float = _COMMAND_S_MAX,
) -> str:
    try:
        result = subprocess.run(
            argv,
            cwd=folder,
            check=check,
            capture_output=True,
            text=True,
            # apt-cache translates the word "Depends".
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            timeout=seconds_max,
        )
    except FileNotFoundError as error:
        raise GuestImageUnavailable(f"{argv[0]} is needed to build the lab's guest") from error
    except subprocess.CalledProcessError as error:
        raise GuestImageUnavailable(f"{' '.join(argv)} failed: {error.stderr.strip()}") from error
    return result.stdout
