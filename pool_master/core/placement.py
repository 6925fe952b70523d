"""Where a VM may boot, and where it is put: memory accounting and the choice of a host.

Rules: measured free memory is never used (XenAPI reference 1.6): what counts is what was promised. A VM counts on every
host on which it resides or holds a reservation, so a migrating VM counts twice and a starting one at once (invariant 8).
"""

from typing import Final

from pool_master.core.disks import attach_error, missing_sr
from pool_master.core.pool import Pool
from pool_master.core.vifs import network_error
from pool_master.core.vm import Vm
from shared.enums import OnCrashBehaviour
from shared.errors import (
    HandleInvalid,
    HostDisabled,
    HostNotEnoughFreeMemory,
    HostNotEnoughPcpus,
    HostNotLive,
    InvalidValue,
    MemoryConstraintViolation,
    NoHostsAvailable,
    ValueNotSupported,
    VmRequiresSr,
    XenApiError,
)
from shared.refs import NULL_HOST, HostRef

MIB: Final = 1024 * 1024
# What QEMU needs beside the guest's memory: a floor, and a share of the guest's maximum for its page tables.
OVERHEAD_FLOOR: Final = 16 * MIB
OVERHEAD_SHARE: Final = 128


def memory_overhead(vm: Vm) -> int:
    """Give the memory (bytes) that the host needs for the VM beside the guest's own."""
    return OVERHEAD_FLOOR + vm.config.memory_static_max // OVERHEAD_SHARE


def memory_needed(vm: Vm) -> int:
    """Give what the VM takes from a host (bytes): its dynamic minimum, clamped into the static range, and overhead.

    A minimum that is being raised counts already, one that is being lowered counts still.
    """
    minimum = max(vm.config.memory_dynamic_min, vm.memory_promised)
    return boot_memory(vm, minimum) + memory_overhead(vm)


def boot_memory(vm: Vm, memory: int) -> int:
    """Clamp a dynamic value (bytes) into the static range, as start does."""
    return max(vm.config.memory_static_min, min(vm.config.memory_static_max, memory))


def memory_available(pool: Pool, host: HostRef, *, without: Vm | None = None) -> int:
    """Give the memory (bytes) of a host that nobody was promised; `without` is not counted."""
    total = pool.host_metrics[pool.hosts[host].metrics].memory_total
    promised = sum(
        memory_needed(pool.vms[ref])
        for ref in pool.residents_of(host)
        if without is None or ref != without.ref
    )
    return max(0, total - promised)


def boot_error(
    pool: Pool, vm: Vm, host: HostRef, *, is_memory_counted: bool = True
) -> XenApiError | None:
    """Say why `vm` could not boot on `host`; None where it could (order: XenAPI reference 1.6).

    Without `is_memory_counted`: why it could not, however much of the host's memory were free.
    """
    if host not in pool.hosts:
        return HandleInvalid("host", host)
    return (
        config_error(vm)
        or _host_error(pool, vm, host)
        or network_error(pool, vm, host)
        or (memory_error(pool, vm, host) if is_memory_counted else None)
        or _pcpu_error(pool, vm, host)
        or _storage_error(pool, vm, host)
    )


def config_error(vm: Vm) -> XenApiError | None:
    """Say what in the VM's own configuration keeps it from booting anywhere."""
    config = vm.config
    if config.VCPUs_max < 1:
        return InvalidValue("VCPUs-max", config.VCPUs_max)
    if config.VCPUs_at_startup < 1:
        return InvalidValue("VCPUs-at-startup", config.VCPUs_at_startup)
    if config.VCPUs_at_startup > config.VCPUs_max:
        return ValueNotSupported("VCPUs-at-startup", config.VCPUs_at_startup, "more than VCPUs-max")
    is_coercible = (
        config.memory_static_max >= config.memory_static_min
        and config.memory_dynamic_max >= config.memory_dynamic_min
    )
    if not is_coercible or config.memory_static_max < 1:
        return MemoryConstraintViolation("static_min <= static_max, dynamic_min <= dynamic_max")
    if config.actions_after_crash is OnCrashBehaviour.RENAME_RESTART:
        return ValueNotSupported(
            "actions-after-crash", config.actions_after_crash, "a domain cannot be renamed here"
        )
    return None


def _host_error(pool: Pool, vm: Vm, host: HostRef) -> XenApiError | None:
    if not pool.is_live(host):
        return HostNotLive()
    if not pool.hosts[host].enabled and vm.resident_on != host:
        return HostDisabled(host)
    return None


def memory_error(pool: Pool, vm: Vm, host: HostRef) -> XenApiError | None:
    """Say whether the host lacks the memory."""
    needed = memory_needed(vm)
    available = memory_available(pool, host, without=vm)
    if needed > available:
        return HostNotEnoughFreeMemory(needed=needed, available=available)
    return None


def _storage_error(pool: Pool, vm: Vm, host: HostRef) -> XenApiError | None:
    sr = missing_sr(pool, vm, host)
    return attach_error(pool, vm) if sr is None else VmRequiresSr(vm.ref, sr)


def _pcpu_error(pool: Pool, vm: Vm, host: HostRef) -> XenApiError | None:
    if vm.config.platform.get("vcpu-unrestricted", "").lower() in {"true", "1"}:
        return None
    pcpus = pool.host_metrics[pool.hosts[host].metrics].cpu_count
    if vm.config.VCPUs_max > pcpus:
        return HostNotEnoughPcpus(vcpus=vm.config.VCPUs_max, pcpus=pcpus)
    return None


def possible_hosts(pool: Pool, vm: Vm) -> list[HostRef]:
    """Give the hosts on which the VM could boot now."""
    if vm.scheduled_to_be_resident_on != NULL_HOST:
        return [vm.scheduled_to_be_resident_on]
    return [host for host in pool.hosts if boot_error(pool, vm, host) is None]


def choose_host(pool: Pool, vm: Vm, chance: float, *, without: tuple[HostRef, ...] = ()) -> HostRef:
    """Choose a host for a start (XenAPI reference 1.7): affinity first, then where most memory would stay free.

    `chance` in [0, 1) picks among the best, so that a burst of starts spreads: index floor(n * chance^2). `without`: not
    these, whatever they have.

    Raises:
        HostNotEnoughFreeMemory: hosts would do but for memory.
        NoHostsAvailable: none would.
    """
    if error := config_error(vm):
        raise error
    fitting = [host for host in possible_hosts(pool, vm) if host not in without]
    if vm.config.affinity in fitting:
        return vm.config.affinity
    if fitting:
        by_room = sorted(
            fitting, key=lambda host: memory_available(pool, host, without=vm), reverse=True
        )
        return by_room[int(len(by_room) * chance * chance)]
    for host in pool.hosts:
        error = boot_error(pool, vm, host)
        if isinstance(error, HostNotEnoughFreeMemory | HostNotEnoughPcpus | VmRequiresSr):
            raise error
    raise NoHostsAvailable()
