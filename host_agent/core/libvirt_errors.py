"""What libvirt's errors are in XenAPI's terms: the one place where they are translated.

Rule: the text is libvirt's own, whole, as a parameter: it is what an operator looks for.
"""

from enum import StrEnum
from typing import Final

from shared.enums import PowerState
from shared.errors import (
    BootloaderFailed,
    DomainBuilderError,
    DomainExists,
    FailedToStartEmulator,
    InternalError,
    OperationNotAllowed,
    ValueNotSupported,
    VmBadPowerState,
    VmMigrateFailed,
    XenApiError,
)

# virErrorNumber
INTERNAL_ERROR: Final = 1
NO_SUPPORT: Final = 3
INVALID_ARG: Final = 8
OPERATION_FAILED: Final = 9
NO_KERNEL: Final = 17
XML_ERROR: Final = 27
DOM_EXIST: Final = 28
XML_DETAIL: Final = 35
NO_DOMAIN: Final = 42
OPERATION_INVALID: Final = 55
CONFIG_UNSUPPORTED: Final = 67
ARGUMENT_UNSUPPORTED: Final = 74
OPERATION_UNSUPPORTED: Final = 84
XML_INVALID_SCHEMA: Final = 92

_UNSUPPORTED: Final = (NO_SUPPORT, ARGUMENT_UNSUPPORTED, OPERATION_UNSUPPORTED)
_BAD_DEFINITION: Final = (
    INVALID_ARG,
    XML_ERROR,
    XML_DETAIL,
    CONFIG_UNSUPPORTED,
    ARGUMENT_UNSUPPORTED,
    XML_INVALID_SCHEMA,
)
# Of QEMU's own complaints only the text tells which part of the boot failed.
_BOOT_TEXTS: Final = ("kernel file", "initrd", "could not load kernel")
_EMULATOR_TEXTS: Final = ("process exited", "qemu unexpectedly closed", "cannot execute binary")


class Doing(StrEnum):
    """What was tried when the error came."""

    START = "start"
    MIGRATE = "migrate"
    TUNE = "tune"
    CHANGE = "change"


def error_of(code: int, text: str, *, vm_uuid: str, doing: Doing) -> XenApiError:
    """Give the failure that clients see for one of libvirt's errors about a VM."""
    if code == NO_DOMAIN:
        return VmBadPowerState(vm_uuid, expected=(PowerState.RUNNING,), actual=PowerState.HALTED)
    if doing is Doing.START:
        return _start_error(code, text, vm_uuid)
    # Of a running guest: whatever the reason, it or its hypervisor cannot do that now.
    if code in _UNSUPPORTED or doing is Doing.TUNE:
        return OperationNotAllowed(text)
    if doing is Doing.MIGRATE:
        return VmMigrateFailed(vm_uuid, "", "", text)
    return OperationNotAllowed(text) if code == OPERATION_INVALID else InternalError(text)


def _start_error(code: int, text: str, vm_uuid: str) -> XenApiError:
    lower = text.lower()
    if code == DOM_EXIST:
        return DomainExists(vm_uuid, "-1")
    if code == NO_KERNEL or any(boot in lower for boot in _BOOT_TEXTS):
        return BootloaderFailed(vm_uuid, text)
    if code in _BAD_DEFINITION:
        return ValueNotSupported("domain", vm_uuid, text)
    if any(emulator in lower for emulator in _EMULATOR_TEXTS):
        return FailedToStartEmulator(vm_uuid, "qemu", text)
    return DomainBuilderError("start", str(code), text)
