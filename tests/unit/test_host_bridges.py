"""What the kernel shows of bridges, as a host tells it."""

from pathlib import Path

from host_agent.shell.host_bridges import host_bridges, joined
from shared.protocol import HostNetwork


def a_bridge(folder: Path, name: str, *ports: str, mtu: int = 1500) -> None:
    (folder / name / "bridge").mkdir(parents=True)
    (folder / name / "mtu").write_text(f"{mtu}\n")
    (folder / name / "address").write_text("52:54:00:00:00:01\n")
    for port in ports:
        (folder / name / "brif" / port).mkdir(parents=True)


def test_a_bridge_is_told_with_its_physical_uplink(tmp_path: Path) -> None:
    a_bridge(tmp_path, "br0", "vnet0", "eth0", mtu=9000)
    (tmp_path / "eth0" / "device").mkdir(parents=True)
    (tmp_path / "vnet0").mkdir()

    assert host_bridges(tmp_path) == (
        HostNetwork(bridge="br0", device="eth0", mac="52:54:00:00:00:01", mtu=9000),
    )


def test_a_host_without_bridges_or_without_sysfs_has_none(tmp_path: Path) -> None:
    (tmp_path / "eth0").mkdir()

    assert host_bridges(tmp_path) == ()
    assert host_bridges(tmp_path / "nowhere") == ()


def test_a_bridge_of_a_libvirt_network_is_told_once() -> None:
    kernels = (HostNetwork(bridge="virbr0", mac="m", mtu=1400), HostNetwork(bridge="br0"))
    libvirts = [
        HostNetwork(bridge="virbr0", libvirt_network="default"),
        HostNetwork(bridge="virbr9", libvirt_network="other"),
    ]

    assert joined(kernels, libvirts) == (
        HostNetwork(bridge="br0"),
        HostNetwork(bridge="virbr0", mac="m", mtu=1400, libvirt_network="default"),
        HostNetwork(bridge="virbr9", libvirt_network="other"),
    )
