"""What a domain's definition holds, and that it can be read back whatever the VM is called."""

from xml.etree.ElementTree import Element

import defusedxml.ElementTree
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_agent.core.domain_xml import (
    DomainEmulation,
    DomainMetadata,
    domain_name,
    domain_xml,
    has_only_shared_disks,
    read_consoles,
    read_metadata,
    read_nics,
)
from shared.enums import OnCrashBehaviour, OnNormalExit
from shared.errors import InvalidValue
from shared.protocol import (
    DomainConfig,
    NicConfig,
)
from shared.storage_protocol import DiskConfig

VM = "5b6bd8d8-8f0c-4a7c-a9f2-8a1e6dd0c0de"
TCG = DomainEmulation(driver="qemu", accelerator="tcg")
KVM = DomainEmulation(driver="qemu", accelerator="kvm")


def config(**changes: object) -> DomainConfig:
    values: dict[str, object] = {
        "vm_uuid": VM,
        "name_label": "guest",
        "incarnation": 4,
        "memory_static_max": 512 << 20,
        "memory_target": 256 << 20,
        "vcpus_max": 4,
        "vcpus_at_startup": 2,
    }
    return DomainConfig(**{**values, **changes})  # type: ignore[arg-type]


def tree(given: DomainConfig, emulation: DomainEmulation = TCG) -> Element:
    parsed: Element = defusedxml.ElementTree.fromstring(domain_xml(given, emulation))
    return parsed


def attributes(parent: Element, path: str) -> dict[str, str]:
    found = parent.find(path)
    assert found is not None
    return found.attrib


def text_of(domain: Element, path: str) -> str | None:
    return domain.findtext(path)


texts = st.text(max_size=40)


configs = st.builds(
    DomainConfig,
    vm_uuid=st.just(VM),
    name_label=texts,
    incarnation=st.integers(min_value=0, max_value=2**53),
    memory_static_max=st.just(1 << 30),
    memory_target=st.just(1 << 29),
    vcpus_max=st.just(2),
    vcpus_at_startup=st.just(1),
    vcpus_params=st.just({}),
    kernel=texts,
    ramdisk=texts,
    kernel_args=texts,
    boot_order=texts,
    platform=st.dictionaries(texts, texts, max_size=3),
    disks=st.lists(st.builds(DiskConfig, device=texts, source=texts, format=texts)).map(tuple),
    nics=st.lists(st.builds(NicConfig, device=texts, mac=texts, bridge=texts)).map(tuple),
)


@given(wanted=configs, driver=st.sampled_from(["qemu", "test", "xen"]))
def test_whatever_a_vm_is_called_its_definition_parses_and_gives_the_config_back(
    wanted: DomainConfig, driver: str
) -> None:
    xml = domain_xml(wanted, DomainEmulation(driver=driver, console_folder="/console"))

    assert read_metadata(xml) == DomainMetadata(
        vm_uuid=VM, incarnation=wanted.incarnation, config=wanted
    )


@given(text=st.text(alphabet=st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs"])))
def test_titles_hold_no_control_characters(text: str) -> None:
    title = text_of(tree(config(name_label=text)), "title") or ""

    assert not [character for character in title if ord(character) < 0x20 or character == "\x7f"]


@given(vm_uuid=texts)
def test_a_domains_name_is_safe_as_a_file_name_and_on_a_command_line(vm_uuid: str) -> None:
    name = domain_name(vm_uuid)

    assert name.startswith("vmpool-")
    assert name.replace("-", "").isalnum()
    assert name.isascii()


@pytest.mark.parametrize(
    "xml",
    [
        "<domain/>",
        "not xml",
        "<domain><metadata/></domain>",
        "<domain><metadata><d xmlns='urn:vmpool:domain:1'/></metadata></domain>",
        "<domain><metadata><domain xmlns='urn:vmpool:domain:1'>!</domain></metadata></domain>",
        "<domain><metadata><domain xmlns='urn:vmpool:domain:1'>wA==</domain></metadata></domain>",
        "<domain><metadata><domain xmlns='urn:other'>wA==</domain></metadata></domain>",
    ],
)
def test_a_definition_that_is_not_ours_has_no_metadata(xml: str) -> None:
    assert read_metadata(xml) is None


def test_memory_is_the_ceiling_and_the_target_and_vcpus_the_ceiling_and_the_start() -> None:
    domain = tree(config())

    assert text_of(domain, "memory") == str(512 << 20)
    assert text_of(domain, "currentMemory") == str(256 << 20)
    vcpu = domain.find("vcpu")
    assert vcpu is not None
    assert (vcpu.text, vcpu.get("current")) == ("4", "2")


@pytest.mark.parametrize(
    ("emulation", "domain_type"),
    [
        (TCG, "qemu"),
        (KVM, "kvm"),
        (DomainEmulation(driver="test"), "test"),
        (DomainEmulation(driver="xen"), "xen"),
    ],
)
def test_the_type_of_a_domain_follows_driver_and_accelerator(
    emulation: DomainEmulation, domain_type: str
) -> None:
    assert tree(config(), emulation).get("type") == domain_type


def test_a_kernel_is_booted_directly_and_no_firmware_order_is_given() -> None:
    domain = tree(config(kernel="/k", ramdisk="/r", kernel_args="console=ttyS0"))

    assert text_of(domain, "os/kernel") == "/k"
    assert text_of(domain, "os/initrd") == "/r"
    assert text_of(domain, "os/cmdline") == "console=ttyS0"
    assert domain.findall("os/boot") == []


def test_a_ramdisk_without_a_kernel_is_ignored() -> None:
    assert tree(config(ramdisk="/r")).find("os/initrd") is None


def test_a_kernel_without_more_has_neither_ramdisk_nor_arguments() -> None:
    domain = tree(config(kernel="/k"))

    assert domain.find("os/initrd") is None
    assert domain.find("os/cmdline") is None


def test_firmware_boots_in_the_order_of_the_letters() -> None:
    boots = tree(config(boot_order="dnxdc")).findall("os/boot")

    assert [boot.get("dev") for boot in boots] == ["cdrom", "network", "hd"]


def test_a_paravirtual_xen_guest_boots_its_kernel_as_one() -> None:
    xen = DomainEmulation(driver="xen")

    assert text_of(tree(config(kernel="/k"), xen), "os/type") == "linux"
    assert text_of(tree(config(), xen), "os/type") == "hvm"


def test_scheduling_is_left_alone_unless_asked_for() -> None:
    domain = tree(config())

    assert domain.find("cputune") is None
    assert "cpuset" not in attributes(domain, "vcpu")


def test_xens_weight_cap_and_mask_become_shares_a_quota_of_the_whole_and_a_set_of_cpus() -> None:
    domain = tree(config(vcpus_params={"weight": "512", "cap": "150", "mask": "0,2-3"}))

    assert text_of(domain, "cputune/shares") == "2048"
    assert text_of(domain, "cputune/global_period") == "100000"
    assert text_of(domain, "cputune/global_quota") == "150000"
    vcpu = domain.find("vcpu")
    assert vcpu is not None
    assert vcpu.get("cpuset") == "0,2-3"


@pytest.mark.parametrize(("weight", "shares"), [("65535", "262140"), ("99999999", "262144")])
def test_a_weight_stays_within_what_the_kernel_takes(weight: str, shares: str) -> None:
    assert text_of(tree(config(vcpus_params={"weight": weight})), "cputune/shares") == shares


def test_a_cap_alone_sets_no_shares() -> None:
    domain = tree(config(vcpus_params={"cap": "50"}))

    assert domain.find("cputune/shares") is None
    assert text_of(domain, "cputune/global_quota") == "50000"


@pytest.mark.parametrize(
    "params", [{"weight": "heavy"}, {"cap": "-1"}, {"mask": "0;rm"}, {"cap": "9" * 10}]
)
def test_scheduling_parameters_that_make_no_sense_are_refused(params: dict[str, str]) -> None:
    with pytest.raises(InvalidValue):
        domain_xml(config(vcpus_params=params), TCG)


@pytest.mark.parametrize(
    ("action", "on_crash"),
    [
        (OnCrashBehaviour.DESTROY, "destroy"),
        (OnCrashBehaviour.COREDUMP_AND_DESTROY, "coredump-destroy"),
        (OnCrashBehaviour.RESTART, "destroy"),
        (OnCrashBehaviour.COREDUMP_AND_RESTART, "coredump-destroy"),
        (OnCrashBehaviour.RENAME_RESTART, "destroy"),
        (OnCrashBehaviour.PRESERVE, "preserve"),
    ],
)
def test_libvirt_never_restarts_a_crashed_guest_by_itself(
    action: OnCrashBehaviour, on_crash: str
) -> None:
    assert text_of(tree(config(actions_after_crash=action)), "on_crash") == on_crash


@pytest.mark.parametrize(
    ("action", "on_reboot"), [(OnNormalExit.RESTART, "restart"), (OnNormalExit.DESTROY, "destroy")]
)
def test_a_reboot_is_a_reset_in_place_or_an_end(action: OnNormalExit, on_reboot: str) -> None:
    domain = tree(config(actions_after_reboot=action, actions_after_shutdown=OnNormalExit.RESTART))

    assert text_of(domain, "on_reboot") == on_reboot
    assert text_of(domain, "on_poweroff") == "destroy"


def test_a_qemu_guest_can_be_balloned_watched_and_seen_to_crash() -> None:
    domain = tree(config(), DomainEmulation(driver="qemu", console_folder="/console"))

    assert domain.find("devices/memballoon[@model='virtio']") is not None
    assert domain.find("devices/panic") is not None
    log = domain.find("devices/serial/log")
    assert log is not None
    assert log.attrib == {"file": f"/console/vmpool-{VM}.log", "append": "on"}
    listen = domain.find("devices/graphics[@type='vnc']/listen")
    assert listen is not None
    assert listen.get("address") == "127.0.0.1"


def test_a_guest_without_a_screen_or_a_console_folder_has_neither() -> None:
    domain = tree(config(), DomainEmulation(driver="qemu", has_vnc=False))

    assert domain.find("devices/graphics") is None
    assert domain.find("devices/serial/log") is None


def test_disks_keep_their_order_and_cdroms_get_a_bus_of_their_own() -> None:
    disks = (
        DiskConfig(device="0", source="/dev/sr/a", format="raw"),
        DiskConfig(device="3", source="", is_cdrom=True),
        DiskConfig(device="1", source="/sr/b.qcow2", format="qcow2", read_only=True),
        DiskConfig(device="4", source="/iso", is_cdrom=True),
        DiskConfig(device="5", source="/iso", is_cdrom=True),
    )

    found = tree(config(disks=disks)).findall("devices/disk")

    targets = [attributes(disk, "target") for disk in found]
    assert [(target["dev"], target["bus"]) for target in targets] == [
        ("vda", "virtio"),
        ("hdc", "ide"),
        ("vdb", "virtio"),
        ("hdd", "ide"),
        ("sdc", "sata"),
    ]
    assert [disk.get("type") for disk in found] == ["block", "file", "file", "file", "file"]
    assert [disk.find("source") is not None for disk in found] == [True, False, True, True, True]
    assert [disk.find("readonly") is not None for disk in found] == [False, *[True] * 4]
    driver = found[2].find("driver")
    assert driver is not None
    assert driver.attrib == {"name": "qemu", "type": "qcow2", "cache": "none"}


def test_disks_go_on_after_the_alphabet() -> None:
    disks = tuple(DiskConfig(device=str(place), source=f"/{place}") for place in range(28))

    found = tree(config(disks=disks)).findall("devices/disk")

    assert [attributes(disk, "target")["dev"] for disk in found[25:]] == ["vdz", "vdaa", "vdab"]


def test_a_xen_disk_is_xens() -> None:
    disks = (DiskConfig(device="0", source="/dev/a"),)
    target = tree(config(disks=disks), DomainEmulation(driver="xen")).find("devices/disk/target")

    assert target is not None
    assert target.attrib == {"dev": "xvda", "bus": "xen"}


def test_a_nic_is_on_its_bridge_or_on_none() -> None:
    nics = (
        NicConfig(device="0", mac="52:54:00:00:00:01", bridge="xenbr0", mtu=9000),
        NicConfig(device="1", mac="52:54:00:00:00:02", bridge=""),
    )

    first, second = tree(config(nics=nics)).findall("devices/interface")

    source, mtu = first.find("source"), first.find("mtu")
    assert source is not None
    assert mtu is not None
    assert (first.get("type"), source.get("bridge"), mtu.get("size")) == (
        "bridge",
        "xenbr0",
        "9000",
    )
    assert (second.get("type"), second.find("source")) == ("ethernet", None)


def test_a_nic_on_a_libvirt_network_names_it_and_is_read_back() -> None:
    nic = NicConfig(device="0", mac="52:54:00:00:00:AB", bridge="virbr0", network="default")
    xml = domain_xml(config(nics=(nic,)), TCG)

    interface = tree(config(nics=(nic,))).find("devices/interface")
    assert interface is not None
    assert interface.get("type") == "network"
    assert attributes(interface, "source") == {"network": "default"}
    assert read_nics(xml) == ("52:54:00:00:00:ab",)


SHARED = DiskConfig(device="0", source="/sr/a", is_shared=True)


@pytest.mark.parametrize(
    ("disks", "is_shared"),
    [
        ((), False),
        ((SHARED,), True),
        ((SHARED, DiskConfig(device="1", source="/iso", read_only=True)), True),
        ((SHARED, DiskConfig(device="1", source="/tmp/local")), False),
    ],
)
def test_a_single_local_disk_makes_a_migration_unsafe(
    disks: tuple[DiskConfig, ...], is_shared: bool
) -> None:
    metadata = read_metadata(domain_xml(config(disks=disks), TCG))

    assert has_only_shared_disks(metadata) is is_shared
    assert has_only_shared_disks(None) is False


def test_the_consoles_of_a_running_domain_are_found() -> None:
    xml = """<domain><devices>
      <graphics type='vnc' port='5901' listen='127.0.0.1'/>
      <console type='pty'><source path='/dev/pts/7'/></console>
    </devices></domain>"""

    consoles = read_consoles(xml)

    assert (consoles.rfb, consoles.vt100) == ("127.0.0.1:5901", "/dev/pts/7")


@pytest.mark.parametrize("devices", ["", "<graphics type='vnc' port='-1'/><console type='pty'/>"])
def test_a_domain_that_does_not_run_has_no_consoles(devices: str) -> None:
    consoles = read_consoles(f"<domain><devices>{devices}</devices></domain>")

    assert (consoles.rfb, consoles.vt100) == ("", "")
