"""Decides between KVM and emulation by running a guest, because /dev/kvm opens on machines where no guest boots.

The guest is a boot sector that tells QEMU's debug exit device to end with a status that nothing else has. It comes
after the firmware, as every guest does: there are machines whose KVM runs single instructions but no firmware, or that
one so slowly that emulation is faster.
"""

import functools
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

_PROBE_S_MAX: Final = 3.0
_EXIT_PORT: Final = "0xf4"
# mov al, 0x10; out 0xf4, al; jmp to itself. QEMU ends with twice the value, plus one.
_CODE: Final = bytes((0xB0, 0x10, 0xE6, 0xF4, 0xEB, 0xFE))
_EXIT_STATUS: Final = 0x21
_BOOT_SECTOR: Final = _CODE.ljust(510, b"\0") + b"\x55\xaa"


@functools.cache
def probe_accelerator() -> str:
    """Give "kvm" where a guest really ran under it, else "tcg". Blocks up to three seconds, once per process."""
    return "kvm" if runs_a_guest("kvm") else "tcg"


def runs_a_guest(accelerator: str) -> bool:
    """Say whether QEMU runs a guest with this accelerator here, having tried."""
    emulator = shutil.which("qemu-system-x86_64") or shutil.which("qemu-kvm", path="/usr/libexec")
    if platform.machine() != "x86_64" or emulator is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.write_bytes(_BOOT_SECTOR)
        command = [
            *(emulator, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-machine", "pc", "-accel", accelerator, "-m", "16"),
            *("-drive", f"file={disk},format=raw,if=ide"),
            *("-device", f"isa-debug-exit,iobase={_EXIT_PORT},iosize=0x04"),
        ]
        try:
            ended = subprocess.run(  # noqa: S603 - fixed arguments
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROBE_S_MAX,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return ended.returncode == _EXIT_STATUS
