"""The lab is what other integration tests stand on: its hosts must be real, and gone afterwards."""

import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from deploy.lab.guest_image import COMMAND_LINE, GuestImage, build_guest_image
from deploy.lab.hosts import Lab, LabConfig, LabHost, default_cache
from deploy.lab.network import LabNetwork
from deploy.lab.preflight import LabFailed, LabUnavailable, lab_unavailable_reason
from deploy.lab.processes import wait_until

REASON = lab_unavailable_reason()
pytestmark = [pytest.mark.lab, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

NAME = "test-lab"
OTHER_NAME = "test-lab-other"
MIGRATE = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
)
BOOT_S_MAX = 30.0
DOMAIN_XML = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>96</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{image.kernel}</kernel>
    <initrd>{image.initrd}</initrd>
    <cmdline>{command_line}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <serial type='file'><source path='{console}' append='on'/></serial>
    <memballoon model='virtio'/>
    <panic model='isa'/>
  </devices>
</domain>
"""


@dataclass(frozen=True, slots=True)
class Console:
    """What a guest has said, on whichever host it was."""

    path: Path

    def ticks(self) -> list[int]:
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        return [int(number) for number in re.findall(r"^tick (\d+) .*\n", text, re.MULTILINE)]

    def goes_on(self) -> None:
        said = len(self.ticks())
        wait_until(
            lambda: len(self.ticks()) > said + 1, seconds_max=BOOT_S_MAX, what="the guest goes on"
        )

    def is_silent(self) -> bool:
        said = len(self.ticks())
        time.sleep(2.2)  # A guest that runs says two ticks in this time.
        return len(self.ticks()) == said


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return build_guest_image(default_cache())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(LabConfig(data=tmp_path_factory.mktemp("lab"), hosts=2, name=NAME))
    try:
        yield lab
    finally:
        lab.down()


def connect(host: LabHost) -> "closing[libvirt.virConnect]":
    return closing(libvirt.open(host.migrate_uri))


def start_guest(lab: Lab, host: LabHost, image: GuestImage, *, name: str) -> Console:
    """Define and start a guest, and wait until it has ticked twice."""
    console = Console(lab.shared / f"{name}.console")
    xml = DOMAIN_XML.format(name=name, image=image, command_line=COMMAND_LINE, console=console.path)
    with connect(host) as connection:
        connection.defineXML(xml).create()
    wait_until(lambda: 2 in console.ticks(), seconds_max=BOOT_S_MAX, what="the guest ticks")
    return console


def running(host: LabHost) -> list[str]:
    with connect(host) as connection:
        active = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        return sorted(domain.name() for domain in active)


def remains(data: Path, *names: str) -> list[str]:
    """Whatever of the named labs in the data folder is still on this machine."""
    links = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    netns = subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True).stdout
    found = [
        line
        for name in names
        for line in (*links.splitlines(), *netns.splitlines())
        if LabNetwork(name).bridge in line or f"{name}-host" in line
    ]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(data) in line]
    return found + processes_of(data)


def processes_of(data: Path) -> list[str]:
    """Processes that see the data folder mounted anywhere, or name it in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text(errors="replace")
            mounts = (process / "mountinfo").read_text()
        except OSError:
            continue  # Gone, or a zombie on its way out.
        if str(data) in command or str(data) in mounts:
            found.append(f"{process.name} {command}")
    return found


def test_a_migrated_guest_is_the_same_running_guest(lab: Lab, image: GuestImage) -> None:
    first, second = lab.hosts
    console = start_guest(lab, first, image, name="migrated")

    with connect(first) as source:
        domain = source.lookupByName("migrated")
        domain.migrateToURI3(second.migrate_uri, {}, MIGRATE)
    console.goes_on()

    # Each tick once: it neither booted anew nor ran on both hosts.
    assert console.ticks() == list(range(1, len(console.ticks()) + 1))
    assert running(first) == []
    assert running(second) == ["migrated"]

    with connect(second) as target:
        domain = target.lookupByName("migrated")
        domain.shutdown()
        wait_until(lambda: not domain.isActive(), seconds_max=10, what="the guest powers off")
    assert "power button" in console.path.read_text()


def test_the_guest_reports_a_crash_through_its_panic_device(lab: Lab, image: GuestImage) -> None:
    first, _ = lab.hosts
    crashing = DOMAIN_XML.format(
        name="crashing",
        image=image,
        command_line=f"{COMMAND_LINE} vmpool.panic_after=1",
        console=lab.shared / "crashing.console",
    )

    with connect(first) as connection:
        domain = connection.defineXML(crashing)
        domain.create()
        wait_until(lambda: not domain.isActive(), seconds_max=BOOT_S_MAX, what="the guest crashes")
        _, reason = domain.state()

    assert reason == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED


def test_a_frozen_host_stands_still_until_it_is_thawed(lab: Lab, image: GuestImage) -> None:
    first, second = lab.hosts
    console = start_guest(lab, first, image, name="frozen")

    lab.freeze_host(first)
    try:
        assert console.is_silent()
        assert lab.answers(second)
    finally:
        lab.thaw_host(first)

    console.goes_on()
    assert lab.answers(first)
    assert console.ticks() == list(range(1, len(console.ticks()) + 1))


def test_a_guest_outlives_its_libvirtd_but_not_its_host(lab: Lab, image: GuestImage) -> None:
    first, second = lab.hosts
    console = start_guest(lab, first, image, name="doomed")
    elsewhere = lab.programs_on(second)

    lab.kill_libvirtd(first)
    console.goes_on()
    lab.start_host(first)
    assert "doomed" in running(first)

    lab.kill_host(first)
    assert lab.programs_on(first) == frozenset()
    assert console.is_silent()
    assert lab.programs_on(second) == elsewhere

    lab.start_host(first)
    assert running(first) == []
    with connect(first) as connection:
        assert connection.lookupByName("doomed").isPersistent()


def test_a_partitioned_host_is_unreachable_but_alive(lab: Lab) -> None:
    first, second = lab.hosts

    def reaches(source: LabHost, target: LabHost) -> bool:
        uri = target.migrate_uri
        argv = lab.argv_in(source, ["timeout", "1", "virsh", "--connect", uri, "hostname"])
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0

    assert reaches(first, second)
    lab.partition_host(first)
    try:
        assert not reaches(first, second)
        assert not reaches(second, first)
        assert lab.answers(first)
        with pytest.raises(OSError):  # noqa: PT011 - refused, timed out and unreachable all do
            socket.create_connection((first.address, 16509), timeout=0.5).close()
    finally:
        lab.heal_host(first)
    wait_until(lambda: reaches(second, first), seconds_max=10, what="the cable works again")


def test_a_host_sees_itself_as_a_machine_of_its_own(lab: Lab) -> None:
    def said(host: LabHost, *argv: str) -> str:
        result = subprocess.run(lab.argv_in(host, argv), check=True, capture_output=True, text=True)
        return result.stdout.strip()

    before = Path("/etc/hosts").read_text()
    first, second = lab.hosts
    (lab.shared / "note").write_text("seen by all")

    assert said(first, "uname", "-n") == "host1"
    assert said(second, "uname", "-n") == "host2"
    assert said(first, "ls", "/sys/class/net").split() == ["eth0", "lo"]
    assert said(first, "getent", "hosts", "host2").split() == [second.address, "host2"]
    assert said(second, "cat", str(lab.shared / "note")) == "seen by all"
    assert first.uuid != second.uuid
    for host in lab.hosts:
        with connect(host) as connection:
            assert f"<uuid>{host.uuid}</uuid>" in connection.getCapabilities()
    assert Path("/etc/hosts").read_text() == before


def test_bringing_up_a_standing_lab_repairs_only_its_dead_hosts(lab: Lab) -> None:
    first, second = lab.hosts
    untouched = lab.programs_on(second)
    lab.kill_host(first)
    holder = int((first.folder / "holder.pid").read_text())
    subprocess.run(["kill", "-9", str(holder)], check=True)

    repaired = Lab.up(lab.config)

    assert repaired == lab == Lab.open(lab.config.data)
    assert all(lab.answers(host) for host in lab.hosts)
    assert lab.programs_on(second) == untouched


def test_a_second_lab_is_refused_a_name_in_use_and_lives_beside_under_its_own(
    lab: Lab, tmp_path: Path
) -> None:
    with pytest.raises(LabUnavailable, match="another name"):
        Lab.up(LabConfig(data=tmp_path, hosts=1, name=NAME))
    with pytest.raises(LabUnavailable, match="take it down first"):
        Lab.up(LabConfig(data=lab.config.data, hosts=1, name=NAME))

    other = Lab.up(LabConfig(data=tmp_path, hosts=1, name=OTHER_NAME))
    other.down()

    assert remains(tmp_path, OTHER_NAME) == []
    assert all(lab.answers(host) for host in lab.hosts)


def test_a_lab_that_cannot_be_completed_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "host2").write_text("in the way of the second host's folder")

    with pytest.raises(OSError, match="host2"):
        Lab.up(LabConfig(data=tmp_path, hosts=2, name=OTHER_NAME))

    assert remains(tmp_path, OTHER_NAME) == []


def test_down_leaves_nothing_behind(tmp_path: Path, image: GuestImage) -> None:
    lab = Lab.up(LabConfig(data=tmp_path, hosts=2, name=OTHER_NAME))
    first, _ = lab.hosts
    start_guest(lab, first, image, name="left")
    lab.freeze_host(first)
    with subprocess.Popen(lab.argv_in(first, ["sleep", "600"])) as agent:
        wait_until(lambda: agent.pid in lab.programs_on(first), seconds_max=5, what="it runs")
        assert remains(tmp_path, OTHER_NAME) != []

        lab.down()

        assert agent.wait(timeout=5) == -9
    assert remains(tmp_path, OTHER_NAME) == []
    lab.down()
    with pytest.raises(LabUnavailable, match="no lab"):
        Lab.open(tmp_path)
    with pytest.raises(LabFailed, match="not up"):
        lab.argv_in(first, ["true"])


@pytest.mark.parametrize("crash", ["holders dead", "namespaces unnamed"])
def test_down_cleans_up_after_a_crashed_lab(
    tmp_path: Path, crash: str, request: pytest.FixtureRequest
) -> None:
    lab = Lab.up(LabConfig(data=tmp_path, hosts=1, name=OTHER_NAME))
    request.addfinalizer(lab.down)
    (host,) = lab.hosts
    breakers: dict[str, Callable[[], list[str]]] = {
        "holders dead": lambda: ["kill", "-9", (host.folder / "holder.pid").read_text().strip()],
        "namespaces unnamed": lambda: ["ip", "netns", "delete", host.netns],
    }
    subprocess.run(breakers[crash](), check=True)
    assert lab.programs_on(host) != frozenset()

    Lab.open(tmp_path).down()

    assert remains(tmp_path, OTHER_NAME) == []
