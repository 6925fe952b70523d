"""The record that VM.create wants, from a few options."""

import json
import sys
from pathlib import Path
from typing import Any, Final

from pool_master.cli.failures import Failed, Misused

# The constructor's members that have no default (XenAPI class reference), for a guest that needs nothing special.
TEMPLATE: Final[dict[str, Any]] = {
    "user_version": 1,
    "is_a_template": False,
    "affinity": "OpaqueRef:NULL",
    "memory_static_max": 0,
    "memory_dynamic_max": 0,
    "memory_dynamic_min": 0,
    "memory_static_min": 0,
    "VCPUs_params": {},
    "VCPUs_max": 1,
    "VCPUs_at_startup": 1,
    "actions_after_shutdown": "destroy",
    "actions_after_reboot": "restart",
    "actions_after_crash": "destroy",
    "PV_bootloader": "",
    "PV_kernel": "",
    "PV_ramdisk": "",
    "PV_args": "",
    "PV_bootloader_args": "",
    "PV_legacy_args": "",
    "HVM_boot_policy": "",
    "HVM_boot_params": {},
    "platform": {},
    "PCI_bus": "",
    "other_config": {},
    "recommendations": "",
}
MEMORY_DEFAULT: Final = 256 * 2**20
BOOT_DEVICES: Final = frozenset("acdn")


def vm_record(
    *,
    name: str = "",
    memory: int = 0,
    vcpus: int = 0,
    boot_order: str = "",
    given: dict[str, Any] | None = None,
    **members: str,
) -> dict[str, Any]:
    """Give a whole record: `given` (from a file) over the template, options over both.

    Raises:
        Misused: a boot order of devices that are none.
    """
    record = {**TEMPLATE, "memory_static_max": MEMORY_DEFAULT, **(given or {})}
    if memory:
        record |= {
            "memory_static_max": memory,
            "memory_dynamic_max": memory,
            "memory_dynamic_min": memory,
        }
    for member in ("memory_dynamic_max", "memory_dynamic_min"):
        record[member] = record[member] or record["memory_static_max"]
    if vcpus:
        record |= {"VCPUs_max": vcpus, "VCPUs_at_startup": vcpus}
    if boot_order:
        if not set(boot_order) <= BOOT_DEVICES:
            raise Misused(f"--boot-order {boot_order}: letters of c (disk), d (CD), n (network)")
        record |= {"HVM_boot_policy": "BIOS order", "HVM_boot_params": {"order": boot_order}}
    record |= {key: value for key, value in members.items() if value}
    if name:
        record["name_label"] = name
    if not record.get("name_label"):
        raise Misused("a VM needs a name: give one, or name_label in the JSON")
    return record


def record_from(path: str) -> dict[str, Any]:
    """Give the JSON object in a file; "-" is standard input.

    Raises:
        Failed: it cannot be read.
        Misused: it is none.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except OSError as error:
        raise Failed(f"{path} cannot be read: {error.strerror}") from error
    try:
        held = json.loads(text)
    except ValueError as error:
        raise Misused(f"{path} is not JSON: {error}") from error
    if not isinstance(held, dict):
        raise Misused(f"{path} must hold one JSON object: the members of a VM record")
    return held
