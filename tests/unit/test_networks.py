"""Networks, PIFs and VIFs: who has which bridge, what a VM's interfaces are, and where it may run with them."""

from typing import Any

import pytest

from pool_master.core.classes import RECORD_BUILDERS
from pool_master.core.mac import generated_mac, is_valid_mac
from pool_master.core.plan import plan
from pool_master.core.vm_lifecycle import Start, StartOn
from shared.errors import HandleInvalid, InvalidValue, NoHostsAvailable, OperationNotAllowed
from shared.network_errors import (
    BridgeNameExists,
    DeviceAlreadyExists,
    InvalidDevice,
    MacInvalid,
    MacStillExists,
    NetworkContainsPif,
    NetworkContainsVif,
    VmRequiresNetwork,
)
from shared.protocol import HostNetwork, NicConfig, StartDomain
from shared.refs import NetworkRef, VifRef
from tests.support.facts import (
    HOST,
    HOST_2,
    VM,
    a_pool,
    inventory,
    seen,
    vm_created,
    vm_started,
)
from tests.support.spec import Scenario, given

BRIDGE = HostNetwork(
    bridge="br0", device="eth0", mac="52:54:00:00:00:01", mtu=9000, libvirt_network="lan"
)


def a_pool_with_a_network(*more: Any) -> Scenario:
    """Host 1 has a bridge, host 2 has none."""
    scenario = given(*a_pool(hosts=2), *more)
    scenario.when_host_says(inventory(1, networks=(BRIDGE,))).then_so()
    return scenario


def the_network(scenario: Scenario) -> NetworkRef:
    (network,) = scenario.pool.networks
    return network


def record(scenario: Scenario, name: str, ref: str) -> dict[str, Any]:
    tables: Any = scenario.pool.tables
    built: dict[str, Any] = RECORD_BUILDERS[name](scenario.pool, tables[name][ref])
    return built


def with_vif(scenario: Scenario, device: str = "0", mac: str = "", vm: str = VM) -> VifRef:
    scenario.when_called("VIF.create", vif(scenario, device, mac, vm)).then_so()
    return list(scenario.pool.vifs)[-1]


def vif(scenario: Scenario, device: str = "0", mac: str = "", vm: str = VM) -> dict[str, Any]:
    network = the_network(scenario)
    return {"device": device, "network": network, "VM": vm, "MAC": mac, "other_config": {}}


# --- what hosts have


def test_a_hosts_bridge_becomes_a_network_and_a_pif() -> None:
    scenario = a_pool_with_a_network()

    network = record(scenario, "network", the_network(scenario))
    assert network["name_label"] == "Pool-wide network associated with eth0"
    assert (network["bridge"], network["MTU"], network["managed"]) == ("br0", 9000, False)
    (ref,) = network["PIFs"]
    pif = record(scenario, "PIF", ref)
    assert (pif["device"], pif["MAC"], pif["host"]) == ("eth0", "52:54:00:00:00:01", HOST)
    assert (pif["physical"], pif["currently_attached"]) == (True, True)
    assert record(scenario, "host", HOST)["PIFs"] == [ref]


def test_the_same_bridge_of_another_host_is_the_same_network() -> None:
    scenario = a_pool_with_a_network()
    scenario.when_host_says(inventory(2, networks=(BRIDGE,)), number=2).then_so()

    assert len(record(scenario, "network", the_network(scenario))["PIFs"]) == 2


def test_what_is_known_of_bridges_is_not_told_again() -> None:
    scenario = a_pool_with_a_network()

    scenario.when_host_says(inventory(1, networks=(BRIDGE,))).then()


def test_a_bridge_that_is_gone_is_unplugged_and_comes_back_as_the_same_pif() -> None:
    scenario = a_pool_with_a_network()
    (pif,) = scenario.pool.pifs
    scenario.when_host_says(inventory(1)).then_so()
    assert record(scenario, "PIF", pif)["currently_attached"] is False
    scenario.when_host_says(inventory(1)).then()

    scenario.when_host_says(inventory(1, networks=(BRIDGE,))).then_so()

    assert list(scenario.pool.pifs) == [pif]
    assert record(scenario, "PIF", pif)["currently_attached"] is True


# --- networks


def test_a_network_without_a_bridge_gets_the_next_free_name() -> None:
    scenario = a_pool_with_a_network()
    for _ in range(2):
        scenario.when_called("network.create", {"name_label": "n"}).then_so()

    bridges = [network.config.bridge for network in scenario.pool.networks.values()]
    assert bridges == ["br0", "xapi0", "xapi1"]


def test_a_bridge_is_one_network_and_its_name_is_one_of_linux() -> None:
    scenario = a_pool_with_a_network()

    scenario.when_called("network.create", {"bridge": "br0"}).then_refused(
        BridgeNameExists.code, "br0"
    )
    scenario.when_called("network.create", {"bridge": "b" * 16}).then_refused(
        InvalidValue.code, "bridge", "b" * 16
    )


def test_a_network_that_a_host_or_a_running_vm_has_stays() -> None:
    scenario = a_pool_with_a_network(vm_created())
    network = the_network(scenario)
    (pif,) = scenario.pool.pifs
    ref = with_vif(scenario)
    scenario.when_called("network.destroy", network).then_refused(NetworkContainsPif.code, pif)
    mac = scenario.pool.vifs[ref].config.MAC
    scenario.and_given(vm_started(nics=(mac,)))

    scenario.when_called("network.destroy", network).then_refused(NetworkContainsVif.code, ref)


def test_a_network_goes_with_the_vifs_that_wait_on_it() -> None:
    scenario = given(*a_pool(), vm_created())
    scenario.when_called("network.create", {"name_label": "n"}).then_so()
    network = the_network(scenario)
    with_vif(scenario)

    scenario.when_called("network.destroy", network).then_so()

    assert (list(scenario.pool.networks), list(scenario.pool.vifs)) == ([], [])
    assert record(scenario, "VM", VM)["VIFs"] == []


# --- VIFs


def test_a_vif_is_seen_from_its_vm_and_its_network() -> None:
    scenario = a_pool_with_a_network(vm_created())
    ref = with_vif(scenario, "3")

    assert record(scenario, "VM", VM)["VIFs"] == [ref]
    assert record(scenario, "network", the_network(scenario))["VIFs"] == [ref]
    shown = record(scenario, "VIF", ref)
    assert (shown["device"], shown["VM"], shown["currently_attached"]) == ("3", VM, False)


def test_an_address_is_made_from_the_vms_seed_as_xapi_makes_it() -> None:
    # MD5 2 * device + 1 times, and once more for the last two octets: reckoned with openssl.
    assert generated_mac("seed", 1) == "ee:ce:60:c9:09:aa"
    # 0xfe is libvirt's own, and what xapi has instead of it is a group's.
    assert generated_mac("seed", 0) == "fa:4c:0f:30:75:c6"


def test_made_addresses_are_local_unicast_and_differ_by_device() -> None:
    made = [generated_mac(f"seed {seed}", device) for seed in range(200) for device in range(16)]

    assert len(set(made)) == len(made)
    assert all(is_valid_mac(mac) for mac in made)
    assert all(int(mac[:2], 16) & 2 for mac in made)
    assert not any(mac.startswith("fe:") for mac in made)


def test_a_vif_without_an_address_gets_one_and_says_so() -> None:
    scenario = a_pool_with_a_network(vm_created())

    generated = record(scenario, "VIF", with_vif(scenario, "1"))
    given_one = record(scenario, "VIF", with_vif(scenario, "2", "02:00:00:00:00:AB"))

    assert (generated["MAC"], generated["MAC_autogenerated"]) == (generated_mac("seed", 1), True)
    assert (given_one["MAC"], given_one["MAC_autogenerated"]) == ("02:00:00:00:00:AB", False)


@pytest.mark.parametrize("mac", ["x", "02:00:00:00:00", "01:00:00:00:00:01", "02-00-00-00-00-01"])
def test_what_is_no_address_of_an_interface_is_refused(mac: str) -> None:
    scenario = a_pool_with_a_network(vm_created())

    scenario.when_called("VIF.create", vif(scenario, mac=mac)).then_refused(MacInvalid.code, mac)


def test_without_a_seed_an_address_must_be_given() -> None:
    scenario = a_pool_with_a_network(vm_created(other_config={}))

    scenario.when_called("VIF.create", vif(scenario)).then_refused(MacInvalid.code, "")


def test_a_device_number_is_given_once_and_is_a_number() -> None:
    scenario = a_pool_with_a_network(vm_created())
    with_vif(scenario, "0", "02:00:00:00:00:01")

    for wrong, error in (
        (vif(scenario, "0"), DeviceAlreadyExists("0")),
        (vif(scenario, "16"), InvalidDevice("16")),
        (vif(scenario, "eth0"), InvalidDevice("eth0")),
        (vif(scenario, "1", "02:00:00:00:00:01"), MacStillExists("02:00:00:00:00:01")),
        (vif(scenario, "1", vm="OpaqueRef:x"), HandleInvalid("VM", "OpaqueRef:x")),
    ):
        scenario.when_called("VIF.create", wrong).then_refused(*error.description)
    allowed = scenario.answer("VM.get_allowed_VIF_devices", VM)
    assert tuple(allowed) == tuple(str(number) for number in range(1, 16))


def test_a_destroyed_vm_takes_its_vifs_with_it() -> None:
    scenario = a_pool_with_a_network(vm_created())
    with_vif(scenario)

    scenario.when_called("VM.destroy", VM).then_so()

    assert list(scenario.pool.vifs) == []
    assert record(scenario, "network", the_network(scenario))["VIFs"] == []


def test_a_clone_has_the_same_interfaces_with_addresses_of_its_own() -> None:
    scenario = a_pool_with_a_network(vm_created())
    source = with_vif(scenario, "3", "02:00:00:00:00:0A")
    scenario.skip_commands(20).when_called("VM.clone", VM, "twin").then_so()

    (twin,) = (ref for ref in scenario.pool.vms if ref != VM)
    (copy,) = record(scenario, "VM", twin)["VIFs"]
    shown = record(scenario, "VIF", copy)
    seed = record(scenario, "VM", twin)["other_config"]["mac_seed"]
    assert (shown["device"], shown["VM"], shown["network"]) == ("3", twin, the_network(scenario))
    assert (shown["MAC"], shown["MAC_autogenerated"]) == (generated_mac(seed, 3), True)
    assert record(scenario, "VM", VM)["VIFs"] == [source]


# --- VIFs and hosts


def test_a_started_domain_has_the_vms_interfaces() -> None:
    scenario = a_pool_with_a_network(vm_created())
    with_vif(scenario, "1", "02:00:00:00:00:0B")
    with_vif(scenario, "0", "02:00:00:00:00:0A")

    scenario.when(Start(vm=VM, start_paused=False, force=False)).then_so()

    ((_, command),) = plan(scenario.pool, list(scenario.pool.operations))
    assert isinstance(command.action, StartDomain)
    assert command.action.config.nics == (
        NicConfig(device="0", mac="02:00:00:00:00:0a", bridge="br0", mtu=9000, network="lan"),
        NicConfig(device="1", mac="02:00:00:00:00:0b", bridge="br0", mtu=9000, network="lan"),
    )


def test_a_vm_starts_only_where_its_networks_are() -> None:
    scenario = a_pool_with_a_network(vm_created())
    with_vif(scenario)
    network = the_network(scenario)

    scenario.when(StartOn(vm=VM, host=HOST_2, start_paused=False, force=False)).then_refused(
        VmRequiresNetwork.code, VM, network
    )
    assert list(scenario.answer("VM.get_possible_hosts", VM)) == [HOST]
    scenario.when_host_says(inventory(1)).then_so()
    scenario.when(Start(vm=VM, start_paused=False, force=False)).then_refused(NoHostsAvailable.code)


def test_a_network_that_is_assumed_to_be_everywhere_is() -> None:
    scenario = a_pool_with_a_network(vm_created())
    with_vif(scenario)
    network = the_network(scenario)
    scenario.when_called(
        "network.add_to_other_config", network, "assume_network_is_shared", "true"
    ).then_so()

    assert list(scenario.answer("VM.get_possible_hosts", VM)) == [HOST, HOST_2]


def test_a_vif_is_attached_as_the_host_shows_it_until_the_vm_is_halted() -> None:
    scenario = a_pool_with_a_network(vm_created())
    shown = with_vif(scenario, "0", "02:00:00:00:00:0A")
    scenario.skip_commands(20).when(Start(vm=VM, start_paused=False, force=False)).then_so()
    late = with_vif(scenario, "1", "02:00:00:00:00:0B")

    scenario.when_done(21, seen(nics=("02:00:00:00:00:0a",))).then_so()
    attached = [record(scenario, "VIF", ref)["currently_attached"] for ref in (shown, late)]
    scenario.when_called("VIF.destroy", shown).then_refused(
        OperationNotAllowed.code, "VIF currently attached to a running VM"
    )
    scenario.skip_commands(40).when_called("VM.hard_shutdown", VM).then_so()
    scenario.when_done(41).then_so()

    assert attached == [True, False]
    assert record(scenario, "VIF", shown)["currently_attached"] is False
    scenario.when_called("VIF.destroy", shown).then_so()
