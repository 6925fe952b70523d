"""From a DomainConfig to libvirt's domain XML, and from a domain's XML back to what is vmpool's in it.

Rules: the definition carries its VM, incarnation and config as metadata, so that a host without an agent's memory still
knows what it runs. Names are safe whatever the VM is called; what XML cannot hold is left out of titles and arguments.
What the guest does by itself ends where the agent learns of it; the one thing libvirt does alone is a reset in place.
"""

import base64
import binascii
import re
from dataclasses import dataclass, replace
from typing import Final
from xml.etree.ElementTree import Element, ParseError, SubElement, register_namespace, tostring

import defusedxml.ElementTree

from host_agent.core.scheduling import (
    CAP_PERIOD_US,
    assert_cpuset,
    number,
    quota_of,
    shares_of,
)
from shared.codec import DecodeError, decode, encode
from shared.enums import OnCrashBehaviour, OnNormalExit
from shared.protocol import (
    DomainConfig,
    NicConfig,
)
from shared.storage_protocol import DiskConfig

METADATA_NAMESPACE: Final = "urn:vmpool:domain:1"
NAME_PREFIX: Final = "vmpool-"

register_namespace("vmpool", METADATA_NAMESPACE)

# XML 1.0, production Char; line breaks and tabs are legal there but not in a title or an argument.
_UNPRINTABLE: Final = re.compile("[^\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
_UNSAFE_IN_NAME: Final = re.compile(r"[^A-Za-z0-9-]+")

_BOOT_DEVICES: Final = {"c": "hd", "d": "cdrom", "n": "network"}
_DOMAIN_TYPES: Final = {("qemu", "kvm"): "kvm", ("qemu", "tcg"): "qemu"}

_ON_CRASH: Final = {
    OnCrashBehaviour.DESTROY: "destroy",
    OnCrashBehaviour.COREDUMP_AND_DESTROY: "coredump-destroy",
    # Whether and where it runs again is the leader's decision: it needs a new incarnation.
    OnCrashBehaviour.RESTART: "destroy",
    OnCrashBehaviour.COREDUMP_AND_RESTART: "coredump-destroy",
    # QEMU cannot rename a running domain, and two of one VM must never be: the crashed one goes.
    OnCrashBehaviour.RENAME_RESTART: "destroy",
    OnCrashBehaviour.PRESERVE: "preserve",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainEmulation:
    """How this host runs domains. `driver` is libvirt's (qemu, test, xen), `accelerator` kvm or tcg.

    With a `console_folder` everything that a guest writes to its serial console is kept there, in a file per VM.
    """

    driver: str
    accelerator: str = "tcg"
    arch: str = "x86_64"
    console_folder: str = ""
    has_vnc: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainMetadata:
    """What vmpool wrote into a domain's definition."""

    vm_uuid: str
    incarnation: int
    config: DomainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainConsoles:
    """Where a running domain's consoles are; empty where it has none."""

    rfb: str = ""
    vt100: str = ""


def domain_xml(config: DomainConfig, emulation: DomainEmulation) -> str:
    """Give the definition of the domain of one incarnation.

    Raises:
        InvalidValue: VCPUs_params holds what is no number or no list of CPUs.
    """
    domain_type = _DOMAIN_TYPES.get((emulation.driver, emulation.accelerator), emulation.driver)
    domain = Element("domain", type=domain_type)
    _text(domain, "name", domain_name(config.vm_uuid))
    _text(domain, "uuid", config.vm_uuid)
    if title := _printable(config.name_label):
        _text(domain, "title", title)
    _metadata(domain, config)
    _text(domain, "memory", str(config.memory_static_max), unit="b")
    _text(domain, "currentMemory", str(config.memory_target), unit="b")
    _vcpus(domain, config)
    _boot(domain, config, emulation)
    features = SubElement(domain, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    if domain_type == "kvm":
        # Migratable between unlike machines, and still the host's own features.
        SubElement(domain, "cpu", mode="host-model")
    SubElement(domain, "clock", offset="utc")
    _text(domain, "on_poweroff", "destroy")
    resets = config.actions_after_reboot is OnNormalExit.RESTART
    _text(domain, "on_reboot", "restart" if resets else "destroy")
    _text(domain, "on_crash", _ON_CRASH[config.actions_after_crash])
    _devices(domain, config, emulation)
    _strip_unprintable(domain)
    return tostring(domain, encoding="unicode")


def domain_name(vm_uuid: str) -> str:
    """Give the domain's name: safe as a file name and on a command line."""
    return NAME_PREFIX + _UNSAFE_IN_NAME.sub("", vm_uuid)


def console_path(vm_uuid: str, emulation: DomainEmulation) -> str:
    """Give the file that keeps the guest's serial console."""
    return f"{emulation.console_folder}/{domain_name(vm_uuid)}.log"


def read_metadata(xml: str) -> DomainMetadata | None:
    """Give what vmpool wrote into a definition, None where it is not vmpool's."""
    try:
        domain = defusedxml.ElementTree.fromstring(xml)
    except ParseError:
        return None
    found = domain.find(f"metadata/{{{METADATA_NAMESPACE}}}domain")
    if found is None:
        return None
    try:
        config = decode(base64.b64decode(found.text or "", validate=True), DomainConfig)
    except (DecodeError, binascii.Error):
        return None
    return DomainMetadata(vm_uuid=config.vm_uuid, incarnation=config.incarnation, config=config)


def renewed(xml: str, incarnation: int) -> str:
    """Give a definition of vmpool's as that of another incarnation of the same domain."""
    metadata = read_metadata(xml)
    assert metadata is not None, "only what is vmpool's is ever made anew"
    domain: Element = defusedxml.ElementTree.fromstring(xml)
    parent = domain.find("metadata")
    assert parent is not None
    domain.remove(parent)
    _metadata(domain, replace(metadata.config, incarnation=incarnation))
    return tostring(domain, encoding="unicode")


def read_consoles(xml: str) -> DomainConsoles:
    """Give the consoles of a running domain."""
    domain = defusedxml.ElementTree.fromstring(xml)
    rfb = vt100 = ""
    graphics = domain.find("devices/graphics[@type='vnc']")
    if graphics is not None and int(graphics.get("port", "-1")) > 0:
        rfb = f"{graphics.get('listen', '127.0.0.1')}:{graphics.get('port')}"
    console = domain.find("devices/console[@type='pty']/source")
    if console is not None:
        vt100 = console.get("path", "")
    return DomainConsoles(rfb=rfb, vt100=vt100)


def nic_xml(nic: NicConfig) -> str:
    """Give the definition of one network interface, for a domain that runs."""
    holder = Element("devices")
    _nic(holder, nic)
    return tostring(holder[0], encoding="unicode")


def read_nics(xml: str) -> tuple[str, ...]:
    """Give the MACs of a domain's network interfaces, in lower case and in the domain's order."""
    domain = defusedxml.ElementTree.fromstring(xml)
    found = (mac.get("address", "") for mac in domain.iterfind("devices/interface/mac"))
    return tuple(mac.lower() for mac in found)


def has_only_shared_disks(metadata: DomainMetadata | None) -> bool:
    """Say whether another host sees all that the guest writes to; not so where it has no disk at all."""
    disks = metadata.config.disks if metadata else ()
    return bool(disks) and all(disk.is_shared or disk.read_only for disk in disks)


def _metadata(domain: Element, config: DomainConfig) -> None:
    ours = SubElement(SubElement(domain, "metadata"), f"{{{METADATA_NAMESPACE}}}domain")
    ours.set("incarnation", str(config.incarnation))
    ours.text = base64.b64encode(encode(config)).decode()


def _vcpus(domain: Element, config: DomainConfig) -> None:
    params = config.vcpus_params
    vcpu = _text(domain, "vcpu", str(config.vcpus_max), placement="static")
    vcpu.set("current", str(config.vcpus_at_startup))
    if mask := params.get("mask"):
        assert_cpuset(mask)
        vcpu.set("cpuset", mask)
    weight, cap = number(params, "weight"), number(params, "cap")
    if weight or cap:
        tune = SubElement(domain, "cputune")
        if weight:
            _text(tune, "shares", str(shares_of(weight)))
        if cap:
            _text(tune, "global_period", str(CAP_PERIOD_US))
            _text(tune, "global_quota", str(quota_of(cap)))


def _boot(domain: Element, config: DomainConfig, emulation: DomainEmulation) -> None:
    os = SubElement(domain, "os")
    is_paravirtual = emulation.driver == "xen" and bool(config.kernel)
    _text(os, "type", "linux" if is_paravirtual else "hvm").set("arch", emulation.arch)
    if config.kernel:
        _text(os, "kernel", config.kernel)
        if config.ramdisk:
            _text(os, "initrd", config.ramdisk)
        if arguments := _printable(config.kernel_args):
            _text(os, "cmdline", arguments)
        return
    for letter in dict.fromkeys(config.boot_order):
        if device := _BOOT_DEVICES.get(letter):
            SubElement(os, "boot", dev=device)


def _devices(domain: Element, config: DomainConfig, emulation: DomainEmulation) -> None:
    devices = SubElement(domain, "devices")
    cdroms = 0
    for place, disk in enumerate(config.disks):
        _disk(devices, disk, _target(disk, place - cdroms, cdroms, emulation), emulation)
        cdroms += disk.is_cdrom
    for nic in config.nics:
        _nic(devices, nic)
    serial = SubElement(devices, "serial", type="pty")
    if emulation.driver == "qemu" and emulation.console_folder:
        # Appended to, or a migration and a resume would begin an empty file.
        SubElement(serial, "log", file=console_path(config.vm_uuid, emulation), append="on")
    SubElement(serial, "target", port="0")
    if emulation.driver == "qemu":
        if emulation.has_vnc:
            vnc = SubElement(devices, "graphics", type="vnc", port="-1", autoport="yes")
            SubElement(vnc, "listen", type="address", address="127.0.0.1")
        SubElement(devices, "memballoon", model="virtio")
        # Without it a guest's panic is a guest that hangs.
        SubElement(devices, "panic", model="isa")


def _target(disk: DiskConfig, disk_index: int, cdrom_index: int, emulation: DomainEmulation) -> str:
    """Name the disk as the guest's bus does: in the order of the config, whatever XenAPI calls it."""
    if disk.is_cdrom:
        # Drives begin at the second IDE channel, where a PC has them; its two places are soon taken.
        return f"hd{_letters(cdrom_index + 2)}" if cdrom_index < 2 else f"sd{_letters(cdrom_index)}"
    return ("xvd" if emulation.driver == "xen" else "vd") + _letters(disk_index)


def _letters(index: int) -> str:
    """Count as disks are counted: a to z, then aa."""
    before, last = divmod(index, 26)
    return (_letters(before - 1) if before else "") + chr(ord("a") + last)


def _disk(devices: Element, disk: DiskConfig, target: str, emulation: DomainEmulation) -> None:
    is_block = disk.source.startswith("/dev/")
    element = SubElement(devices, "disk", type="block" if is_block else "file")
    element.set("device", "cdrom" if disk.is_cdrom else "disk")
    if emulation.driver == "qemu":
        # No cache: what the guest flushed is on the disk, and the other host of a migration sees it.
        SubElement(element, "driver", name="qemu", type=disk.format, cache="none")
    if disk.source:
        SubElement(element, "source", {"dev" if is_block else "file": disk.source})
    bus = {"hd": "ide", "sd": "sata", "vd": "virtio"}.get(target[:2], "xen")
    SubElement(element, "target", dev=target, bus=bus)
    if disk.is_sharable:
        SubElement(element, "shareable")
    if disk.read_only or disk.is_cdrom:
        SubElement(element, "readonly")


def _nic(devices: Element, nic: NicConfig) -> None:
    kind = "network" if nic.network else "bridge" if nic.bridge else "ethernet"
    element = SubElement(devices, "interface", type=kind)
    SubElement(element, "mac", address=nic.mac)
    if source := nic.network or nic.bridge:
        SubElement(element, "source", {kind: source})
    SubElement(element, "model", type="virtio")
    SubElement(element, "mtu", size=str(nic.mtu))


def _text(parent: Element, tag: str, text: str, **attributes: str) -> Element:
    element = SubElement(parent, tag, attributes)
    element.text = text
    return element


def _strip_unprintable(domain: Element) -> None:
    """Leave out of every text and attribute what XML cannot hold; libvirt will say if something is missing then."""
    for element in domain.iter():
        element.text = element.text and _printable(element.text)
        for name, value in element.attrib.items():
            element.set(name, _printable(value))


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub(" ", text).strip()
