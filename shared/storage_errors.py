"""XenAPI failures of storage and devices: one class per code, as in errors.py."""

from shared.errors import XenApiError


class SrUnknownDriver(XenApiError):
    """SR_UNKNOWN_DRIVER [type]."""

    code = "SR_UNKNOWN_DRIVER"


class SrHasPbd(XenApiError):
    """SR_HAS_PBD [sr]: a PBD is still plugged."""

    code = "SR_HAS_PBD"


class SrHasNoPbds(XenApiError):
    """SR_HAS_NO_PBDS [sr]: no live host has it plugged."""

    code = "SR_HAS_NO_PBDS"


class SrNotEmpty(XenApiError):
    """SR_NOT_EMPTY []: it still has disks."""

    code = "SR_NOT_EMPTY"


class SrFull(XenApiError):
    """SR_FULL [requested bytes, bytes there are]."""

    code = "SR_FULL"


class SrBackendFailure(XenApiError):
    """SR_BACKEND_FAILURE [status, output, what went wrong]."""

    code = "SR_BACKEND_FAILURE"


class PbdExists(XenApiError):
    """PBD_EXISTS [sr, host, pbd]."""

    code = "PBD_EXISTS"


class VdiInUse(XenApiError):
    """VDI_IN_USE [vdi, operation]."""

    code = "VDI_IN_USE"


class VdiMissing(XenApiError):
    """VDI_MISSING [sr, vdi]."""

    code = "VDI_MISSING"


class VdiReadonly(XenApiError):
    """VDI_READONLY [vdi]."""

    code = "VDI_READONLY"


class DeviceAlreadyAttached(XenApiError):
    """DEVICE_ALREADY_ATTACHED [device]."""

    code = "DEVICE_ALREADY_ATTACHED"


class VbdCdsMustBeReadonly(XenApiError):
    """VBD_CDS_MUST_BE_READONLY []."""

    code = "VBD_CDS_MUST_BE_READONLY"
