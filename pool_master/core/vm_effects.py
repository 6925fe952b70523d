"""What each field of XenAPI's VM class does to a guest: beside the datamodel, for docs/api/vm-fields.md.

Rules: one line a field; `kvm` says what it does to a guest of QEMU, `xen` to one of libvirt's Xen driver, for which the same
definition is written but which no test here has ever run; an empty text means that it does nothing there but be stored.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Effect:
    """What a field does to guests; `note` says what it is for where it does nothing."""

    kvm: str = ""
    xen: str = ""
    note: str = ""


def _alike(text: str) -> Effect:
    return Effect(text, text)


_SYSTEMS: Final = "maintained by the pool"
_RESERVED: Final = "a guest has none in this version"

EFFECTS: Final[dict[str, Effect]] = {
    "uuid": _alike("the domain's uuid and part of its name"),
    "allowed_operations": Effect(note=_SYSTEMS),
    "current_operations": Effect(note=_SYSTEMS),
    "power_state": Effect(note=f"{_SYSTEMS}, from what hosts show"),
    "name_label": _alike("the domain's title"),
    "name_description": Effect(note="for people"),
    "user_version": Effect(note="for the authors of templates"),
    "is_a_template": Effect(note="a template is never started"),
    "suspend_VDI": Effect(note="the image is a file in the hosts' suspend_folder, no VDI"),
    "resident_on": Effect(note=f"{_SYSTEMS}, from what hosts show"),
    "affinity": Effect(note="the first choice of start and resume"),
    "memory_static_max": _alike("the domain's memory; its balloon cannot grow beyond"),
    "memory_dynamic_max": _alike("the balloon's target, at boot and while it runs"),
    "memory_dynamic_min": Effect(note="what is reserved on the host, from the promise on"),
    "memory_static_min": Effect(note="the least that a dynamic value can become"),
    "VCPUs_params": Effect(
        "weight: CPU shares; cap: CPU quota (both need a CPU cgroup); mask: the CPUs it runs on",
        "weight, cap and mask of the definition",
    ),
    "VCPUs_max": _alike("the most VCPUs that can be plugged in"),
    "VCPUs_at_startup": _alike("the VCPUs at boot, and now where they were set live"),
    "actions_after_shutdown": Effect(note="restart: a new incarnation on the same host"),
    "actions_after_reboot": _alike("restart: a reset in place; destroy: the domain ends"),
    "actions_after_crash": _alike(
        "preserve: the crashed domain stays; coredump: libvirt dumps it; restart: a new incarnation"
    ),
    "consoles": Effect("VNC and the serial console, where the host offers them", "the console"),
    "VIFs": _alike("network interfaces on the hosts' bridges"),
    "VBDs": _alike("disks, where the pool has storage"),
    "crash_dumps": Effect(note=_RESERVED),
    "VTPMs": Effect(note=_RESERVED),
    "PV_bootloader": Effect(note="no boot loader of the host's is run"),
    "PV_kernel": Effect("booted directly", "booted directly, paravirtualized"),
    "PV_ramdisk": _alike("the initrd of that kernel"),
    "PV_args": _alike("the command line of that kernel"),
    "PV_bootloader_args": Effect(note="no boot loader of the host's is run"),
    "PV_legacy_args": Effect(note="ignored, as by today's xapi"),
    "HVM_boot_policy": Effect(note="a VM without PV_kernel boots by firmware"),
    "HVM_boot_params": _alike("order: the devices that the firmware tries"),
    "platform": Effect(note="nomigrate and vcpu-unrestricted are kept to by the pool"),
    "PCI_bus": Effect(note="ignored, as by today's xapi"),
    "other_config": Effect(note="mac_seed: made at create"),
    "domid": Effect(note=f"{_SYSTEMS}, from what hosts show"),
    "domarch": Effect(note="never filled in"),
    "last_boot_CPU_flags": Effect(note="what resume compares a host's processor with"),
    "is_control_domain": Effect(note="a host's own system is no VM here"),
    "metrics": Effect(note=_SYSTEMS),
    "guest_metrics": Effect(note="no guest agent is asked in this version"),
    "recommendations": Effect(note="for user interfaces"),
}
