"""The log as a story: one sentence per event.

Rules: every event type has its sentence; one that a newer server sends is told by its own name and fields; a reference is
told by the name of what it refers to, as far as somebody still knows it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pool_master.cli.sizes import format_size

Name = Callable[[str], str]
# Bookkeeping, which nobody asks about unless they ask for everything.
NOISE: Final = frozenset(
    {
        "HostReportsSeen",
        "HostAgentStarted",
        "OperationAdvanced",
        "OperationProgressed",
        "ObjectTouched",
        "TaskCreated",
        "TaskDestroyed",
    }
)
NULL: Final = "OpaqueRef:NULL"
VALUE_CHARACTERS_MAX: Final = 80

_SENTENCES: Final[dict[str, str]] = {
    "PoolCreated": "the pool {name_label} begins",
    "MasterElected": "{master} leads from now on, at {address} (term {term})",
    "HostJoined": "{host} joins the pool",
    "HostForgotten": "{host} leaves the pool for good",
    "HostDescribed": "{host} says what it is: {cpu_count} CPUs, {memory_total:size} of memory, {hypervisor}",
    "HostAgentStarted": "the agent of {host} speaks (its start number {epoch})",
    "HostCameAlive": "{host} is live",
    "HostLost": "{host} is lost: {evidence}",
    "HostEnabled": "{host} takes new VMs",
    "HostDisabled": "{host} takes no new VMs",
    "HostReportsSeen": "reports of {host} up to number {sequence} are in the log",
    "StaleDomainFound": "{host} still has an old domain of {vm_uuid} (incarnation {incarnation}): it must go",
    "StaleDomainDropped": "{host} has dropped the old domain of {vm_uuid} (incarnation {incarnation})",
    "StaleDomainKept": "{host} could not drop the old domain of {vm_uuid} (incarnation {incarnation}): {error_info}",
    "VmCreated": "{vm} is made",
    "VmDestroyed": "{vm} is gone for good",
    "VmStarted": "{vm} is {power_state} on {host} (incarnation {incarnation})",
    "VmHalted": "{vm} is Halted: {reason}",
    "VmPaused": "{vm} is Paused",
    "VmUnpaused": "{vm} is Running again",
    "VmRebooted": "the guest in {vm} rebooted itself",
    "VmSuspended": "{vm} is suspended to disk",
    "VmResumed": "{vm} is resumed on {host}",
    "VmTuned": "{vm} has {vcpus} VCPUs and {memory_actual} bytes of memory now",
    "VmMigrated": "{vm} now runs on {host}",
    "VmReset": "{vm} is declared Halted: {evidence}",
    "HaEnabled": "high availability is on: protected VMs are restarted",
    "HaDisabled": "high availability is off: no VM is restarted",
    "HaRestartsHeld": "high availability begins no restart for a while",
    "FailoverPlanned": "the pool has a plan for {plan_exists_for} host failures{shortage}",
    "VmRestartDue": "{vm} is to be restarted: {reason}",
    "VmRestartTried": "high availability starts {vm} on {host}",
    "VmRestartEnded": "{vm} is not to be restarted any more: {reason}",
    "VmRestartGivenUp": "{vm} could not be restarted, and is given up: {error_info}",
    "FieldSet": "{field} of {ref} is set to {value}",
    "MapKeySet": "{field} of {ref} has {key} = {value}",
    "MapKeyRemoved": "{field} of {ref} has no {key} any more",
    "ObjectTouched": "somebody waits for an event on {ref}",
    "TaskCreated": "{name_label} is asked for",
    "TaskUpdated": "{task} is updated by its owner",
    "TaskDestroyed": "the task {task} is cleared away",
    "OperationAccepted": "{operation} of {vm} is accepted{place}",
    "OperationAdvanced": "{task} goes on with step {step} at {host}",
    "OperationProgressed": "{task} is at {progress:share}",
    "CancelRequested": "{task} is asked to stop",
    "TaskSucceeded": "{task} is done",
    "TaskFailed": "{task} failed: {error_info}",
    "DeviceOperationAccepted": "{operation} of {device} on {host} begins ({task})",
    "VifPlugged": "the guest has the network interface {vif}",
    "VifUnplugged": "the guest has let go of the network interface {vif}",
    "NetworkCreated": "the network {network} is made",
    "NetworkDestroyed": "the network {network} is gone",
    "PifIntroduced": "{host} has the network {network}, by {device}",
    "PifUnplugged": "the bridge of the PIF {pif} is gone",
    "VifCreated": "the network interface {vif} is made",
    "VifDestroyed": "the network interface {vif} is gone",
    "SrCreated": "the SR {name_label} of type {type} joins the pool",
    "SrForgotten": "the SR {sr} leaves the pool",
    "SrMeasured": "{sr} has {physical_size:size}, of which {physical_utilisation:size} are taken",
    "PbdCreated": "{host} may use the SR {sr}",
    "PbdDestroyed": "the PBD {pbd} is gone",
    "PbdAttached": "the PBD {pbd} is plugged",
    "PbdDetached": "the PBD {pbd} is unplugged",
    "VdiCreated": "the disk {vdi} is made",
    "VdiRebased": "the disk {vdi} goes on from {parent}",
    "VdiMeasured": "the disk {vdi} has {virtual_size:size}",
    "VdiDestroyed": "the disk {vdi} is gone for good",
    "VbdCreated": "a VM has the disk or drive {vbd}",
    "VbdDestroyed": "the disk or drive {vbd} is taken out",
    "StorageOperationAccepted": "{name_label} is accepted, on {host}",
    "StorageOperationAdvanced": "{task} goes on with step {step}, the disk {vdi}",
}
# The log leaves out what is a field's default.
_DEFAULTS: Final[dict[str, dict[str, str]]] = {
    "VmStarted": {"power_state": "Running"},
    "VmRestartGivenUp": {"error_info": ""},
}
# What a host's report is called in words; a user's cause is the message itself.
_REPORTS: Final = {
    "CommandSucceeded": "the host did what it was told",
    "CommandFailed": "the host could not do what it was told",
    "CommandProgressed": "the host is at it",
    "DomainChanged": "the host saw it happen",
    "HostInventory": "the host told what it has",
}
_STYLES: Final = {
    "HostLost": "bold red",
    "VmRestartDue": "yellow",
    "VmRestartGivenUp": "bold red",
    "TaskFailed": "red",
    "VmReset": "red",
    "StaleDomainFound": "red",
    "VmDestroyed": "yellow",
    "HostForgotten": "yellow",
    "HostDisabled": "yellow",
    "CancelRequested": "yellow",
    "VmStarted": "green",
    "VmMigrated": "green",
    "VmUnpaused": "green",
    "HostCameAlive": "green",
    "MasterElected": "bold cyan",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One event, told."""

    sequence: int
    moment: datetime
    who: str
    what: str
    why: str
    style: str
    is_noise: bool


def tell(event: Mapping[str, str], name_of: Name) -> Chapter:
    """Tell one event of event.get_log."""
    return Chapter(
        sequence=int(event["sequence"]),
        moment=datetime.fromisoformat(event["time"]),
        who=_who(event["actor"], name_of),
        what=_what(event["type"], _detail(event), name_of),
        why=_why(event["cause"]),
        style=_STYLES.get(event["type"], ""),
        is_noise=event["type"] in NOISE,
    )


def _who(actor: str, name_of: Name) -> str:
    kind, _, name = actor.partition(":")
    match kind:
        case "user":
            return name
        case "master":
            return f"master {name}" if name not in {"", "master"} else "the master"
        case _:
            return name_of(name)


def _why(cause: str) -> str:
    return _REPORTS.get(cause, cause.removeprefix("Async."))


def _detail(event: Mapping[str, str]) -> dict[str, Any]:
    try:
        held = json.loads(event["detail"])
    except ValueError:
        return {}
    return held if isinstance(held, dict) else {}


def _what(event_type: str, detail: dict[str, Any], name_of: Name) -> str:
    held = {**_DEFAULTS.get(event_type, {}), **detail}
    words = {key: _Word(_said(value, name_of)) for key, value in held.items()}
    if event_type == "OperationAccepted":
        words["place"] = _Word(_place(detail, name_of))
    if event_type == "FailoverPlanned":
        words["shortage"] = _Word(
            ", fewer than it is to tolerate" if "is_overcommitted" in detail else ""
        )
    template = _SENTENCES.get(event_type)
    if template is not None:
        try:
            return " ".join(template.format(**words).split())
        except KeyError:
            pass  # an event of another version: tell what it has
    shown = ", ".join(f"{key} {word}" for key, word in words.items() if word)
    return " ".join(f"{event_type}: {shown}".split())


def _place(detail: dict[str, Any], name_of: Name) -> str:
    host, destination = detail.get("host", NULL), detail.get("destination", NULL)
    if destination != NULL:
        return f", from {name_of(host)} to {name_of(destination)}"
    return f", on {name_of(host)}" if host != NULL else ""


def _said(value: Any, name_of: Name) -> str:
    if isinstance(value, str):
        text = name_of(value) if value.startswith("OpaqueRef:") else value
    elif isinstance(value, list):
        text = " ".join(_said(item, name_of) for item in value)
    else:
        text = json.dumps(value, ensure_ascii=False)
    if len(text) > VALUE_CHARACTERS_MAX:
        return text[: VALUE_CHARACTERS_MAX - 1] + "…"
    return text


class _Word(str):
    """A field's value, which knows how to be shown."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        match spec:
            case "size":
                return format_size(int(self)) if self.isdecimal() else str(self)
            case "share":
                return f"{float(self):.0%}" if self.replace(".", "", 1).isdecimal() else str(self)
            case _:
                return str(self)
