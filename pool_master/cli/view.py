"""The pool at one moment, as `status` and the lists show it: plain rows made from records.

Rules: pure, so that it can be tested on records alone; a VM whose host is lost is never in good health.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

NULL: Final = "OpaqueRef:NULL"
UNFINISHED: Final = ("pending", "cancelling")
Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VmRow:
    """A VM as a list shows it; `is_lost` says that its host does not answer, so that its state is only hoped."""

    ref: str
    uuid: str
    name: str
    power_state: str
    host: str
    is_lost: bool
    is_template: bool
    vcpus: int
    memory: int
    operations: tuple[str, ...]

    @property
    def state(self) -> str:
        """The state in words."""
        return f"{self.power_state}? host lost" if self.is_lost else self.power_state


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRow:
    """A host as a list shows it; memory in bytes."""

    ref: str
    uuid: str
    name: str
    address: str
    is_live: bool
    is_enabled: bool
    is_master: bool
    memory_total: int
    memory_promised: int
    vms: int

    @property
    def state(self) -> str:
        """The state in one word; what was never heard of is lost too."""
        if not self.is_live:
            return "lost"
        return "live" if self.is_enabled else "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A task as a list shows it."""

    ref: str
    uuid: str
    name: str
    status: str
    progress: float
    created: str
    about: str
    error_info: tuple[str, ...] = ()

    @property
    def is_running(self) -> bool:
        """Whether it has no end yet."""
        return self.status in UNFINISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """Everything at a glance."""

    name: str
    uuid: str
    master: str
    hosts: tuple[HostRow, ...]
    vms: tuple[VmRow, ...]
    tasks: tuple[TaskRow, ...]
    vms_by_state: Mapping[str, int] = field(default_factory=dict)


def lost_hosts(hosts: Records, metrics: Records) -> frozenset[str]:
    """Give the references of the hosts that are not live."""
    return frozenset(
        ref for ref, host in hosts.items() if not metrics.get(host["metrics"], {}).get("live")
    )


def vm_rows(vms: Records, hosts: Records, lost: frozenset[str]) -> tuple[VmRow, ...]:
    """Give the VMs by name; control domains are the hosts' own affair."""
    rows = [_vm_row(ref, vm, hosts, lost) for ref, vm in vms.items() if not vm["is_control_domain"]]
    return tuple(sorted(rows, key=lambda row: (row.name.casefold(), row.uuid)))


def _vm_row(ref: str, vm: Mapping[str, Any], hosts: Records, lost: frozenset[str]) -> VmRow:
    home = vm["resident_on"]
    planned = vm["scheduled_to_be_resident_on"]
    return VmRow(
        ref=ref,
        uuid=vm["uuid"],
        name=vm["name_label"],
        power_state=vm["power_state"],
        host=_name(hosts, home if home != NULL else planned),
        is_lost=home in lost,
        is_template=bool(vm["is_a_template"]),
        vcpus=int(vm["VCPUs_max"]),
        memory=int(vm["memory_static_max"]),
        operations=tuple(vm["current_operations"].values()),
    )


def host_rows(
    hosts: Records, metrics: Records, promised: Mapping[str, int], master: str
) -> tuple[HostRow, ...]:
    """Give the hosts by name."""
    rows = [
        HostRow(
            ref=ref,
            uuid=host["uuid"],
            name=host["name_label"],
            address=host["address"],
            is_live=bool(metrics.get(host["metrics"], {}).get("live")),
            is_enabled=bool(host["enabled"]),
            is_master=ref == master,
            memory_total=int(metrics.get(host["metrics"], {}).get("memory_total", 0)),
            memory_promised=promised.get(ref, 0),
            vms=len(host["resident_VMs"]),
        )
        for ref, host in hosts.items()
    ]
    return tuple(sorted(rows, key=lambda row: (row.name.casefold(), row.uuid)))


def task_rows(tasks: Records, vms: Records) -> tuple[TaskRow, ...]:
    """Give the tasks, oldest first, each with the VM that it is about, if one holds it."""
    about = {task: vm["name_label"] for vm in vms.values() for task in vm["current_operations"]}
    rows = [
        TaskRow(
            ref=ref,
            uuid=task["uuid"],
            name=task["name_label"],
            status=task["status"],
            progress=float(task["progress"]),
            created=str(getattr(task["created"], "value", task["created"])),
            about=about.get(ref, ""),
            error_info=tuple(task["error_info"]),
        )
        for ref, task in tasks.items()
    ]
    return tuple(sorted(rows, key=lambda row: (row.created, row.uuid)))


def count_states(rows: tuple[VmRow, ...]) -> dict[str, int]:
    """Count the VMs by state; those of lost hosts apart, templates not at all."""
    counts: dict[str, int] = {}
    for row in rows:
        if not row.is_template:
            state = "on a lost host" if row.is_lost else row.power_state
            counts[state] = counts.get(state, 0) + 1
    return counts


def _name(records: Records, ref: str) -> str:
    if ref == NULL:
        return ""
    return str(records.get(ref, {}).get("name_label", ref))
