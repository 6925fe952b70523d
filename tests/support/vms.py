"""VMs as clients make them."""

from typing import Any

MIB = 1024 * 1024


def vm_record(name: str, **members: Any) -> dict[str, Any]:
    """A record for VM.create with every mandatory member, as the SDK sends it."""
    record: dict[str, Any] = {
        "name_label": name,
        "name_description": "",
        "user_version": "1",
        "is_a_template": False,
        "affinity": "OpaqueRef:NULL",
        "memory_static_max": str(128 * MIB),
        "memory_dynamic_max": str(128 * MIB),
        "memory_dynamic_min": str(128 * MIB),
        "memory_static_min": str(64 * MIB),
        "VCPUs_params": {},
        "VCPUs_max": "1",
        "VCPUs_at_startup": "1",
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "destroy",
        "PV_bootloader": "",
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {},
        "platform": {},
        "PCI_bus": "",
        "other_config": {},
        "recommendations": "",
    }
    return record | members


def halted_vm(xenapi: Any, name: str, **members: Any) -> str:
    """Create a VM through a session's `xenapi` proxy; give its reference."""
    reference: str = xenapi.VM.create(vm_record(name, **members))
    return reference
