"""VCPUs_params (weight, cap, mask) in the terms of the kernel and of libvirt.

Rules: Xen's scheduler and the kernel's CPU cgroup count differently from the same middle: weight 256 is 1024 shares. Xen's
cap is for the whole domain, in hundredths of one CPU; 0 is its word for "no such limit", and so is a missing key.
"""

import re
from typing import Final

from shared.errors import InvalidValue

CAP_PERIOD_US: Final = 100_000
_XEN_WEIGHT: Final = 256
_CGROUP_SHARES: Final = 1024
_CGROUP_SHARES_MIN: Final = 2
_CGROUP_SHARES_MAX: Final = 262_144
_CPUSET: Final = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*", re.ASCII)
# More than any host has, and few enough to count one by one.
_CPUS_MAX: Final = 8192


def number(params: dict[str, str], key: str) -> int:
    """Give a parameter's value.

    Raises:
        InvalidValue: it is no number.
    """
    value = params.get(key, "0")
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise InvalidValue(f"VCPUs_params:{key}", value)
    return int(value)


def shares_of(weight: int) -> int:
    """Give the CPU cgroup's shares."""
    shares = weight * _CGROUP_SHARES // _XEN_WEIGHT
    return min(max(shares, _CGROUP_SHARES_MIN), _CGROUP_SHARES_MAX)


def quota_of(cap: int) -> int:
    """Give the domain's time (us) in each period of CAP_PERIOD_US."""
    return cap * CAP_PERIOD_US // 100


def assert_cpuset(mask: str) -> None:
    """Refuse what is no list of CPUs.

    Raises:
        InvalidValue: it is none.
    """
    if not _CPUSET.fullmatch(mask):
        raise InvalidValue("VCPUs_params:mask", mask)


def cpu_map(mask: str) -> tuple[bool, ...]:
    """Give whether each CPU, from the first on, is in the mask.

    Raises:
        InvalidValue: it is no list of CPUs.
    """
    assert_cpuset(mask)
    wanted: dict[int, bool] = {}
    for part in mask.split(","):
        first, _, last = part.partition("-")
        if int(last or first) >= _CPUS_MAX:
            raise InvalidValue("VCPUs_params:mask", mask)
        wanted |= dict.fromkeys(range(int(first), int(last or first) + 1), True)
    if not wanted:
        raise InvalidValue("VCPUs_params:mask", mask)
    return tuple(wanted.get(cpu, False) for cpu in range(max(wanted) + 1))
