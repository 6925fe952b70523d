"""A VM's VIFs: which numbers are free, what a host is told of them, and what keeps them from a host."""

from typing import Final

from pool_master.core import network_events as nev
from pool_master.core.changed import changed
from pool_master.core.mac import generated_mac
from pool_master.core.network import Pif, Vif
from pool_master.core.pool import Pool
from pool_master.core.vm import Vm
from shared.network_errors import VmRequiresNetwork
from shared.protocol import NicConfig
from shared.refs import HostRef, PifRef, VifRef, VmRef, derive, derive_ref

DEVICES: Final = tuple(str(number) for number in range(16))


def vifs_of(pool: Pool, vm: VmRef) -> list[Vif]:
    """Give the VM's VIFs, by device."""
    found = [pool.vifs[VifRef(ref)] for ref in pool.linked("VM.VIFs", vm)]
    return sorted(found, key=lambda vif: int(vif.config.device))


def free_devices(pool: Pool, vm: VmRef) -> tuple[str, ...]:
    """Give the device numbers that a new VIF may have."""
    used = [vif.config.device for vif in vifs_of(pool, vm)]
    return tuple(device for device in DEVICES if device not in used)


def copies_of_vifs(
    pool: Pool, source: VmRef, made: VmRef, seed: str, identity: str
) -> list[nev.VifCreated]:
    """Give the VIFs of a clone or copy: as the source's, but with addresses made from the new VM's `seed`, as xapi does."""
    copies = []
    for vif in vifs_of(pool, source):
        purpose = f"VIF/{vif.config.device}"
        mac = generated_mac(seed, int(vif.config.device))
        copies.append(
            nev.VifCreated(
                vif=VifRef(derive_ref(identity, purpose)),
                uuid=derive(identity, purpose),
                config=changed(vif.config, VM=made, MAC=mac),
                is_mac_generated=True,
            )
        )
    return copies


def network_error(pool: Pool, vm: Vm, host: HostRef) -> VmRequiresNetwork | None:
    """Say which network of the VM the host lacks."""
    for ref in pool.linked("VM.VIFs", vm.ref):
        if error := lacking_network(pool, vm, pool.vifs[VifRef(ref)], host):
            return error
    return None


def lacking_network(pool: Pool, vm: Vm, vif: Vif, host: HostRef) -> VmRequiresNetwork | None:
    """Say whether the host lacks this VIF's network."""
    network = pool.networks[vif.config.network]
    is_assumed = network.config.other_config.get("assume_network_is_shared") == "true"
    if is_assumed or _pif_on(pool, host, vif) is not None:
        return None
    return VmRequiresNetwork(vm.ref, network.ref)


def _pif_on(pool: Pool, host: HostRef, vif: Vif) -> Pif | None:
    for ref in pool.linked("host.PIFs", host):
        pif = pool.pifs[PifRef(ref)]
        if pif.network == vif.config.network and pif.currently_attached:
            return pif
    return None


def nics_on(pool: Pool, vm: Vm, host: HostRef) -> tuple[NicConfig, ...]:
    """Give the interfaces of a domain that the host is to build."""
    return tuple(nic_on(pool, vif, host) for vif in vifs_of(pool, vm.ref))


def nic_on(pool: Pool, vif: Vif, host: HostRef) -> NicConfig:
    """Give a VIF as the host has to make it."""
    pif = _pif_on(pool, host, vif)
    network = pool.networks[vif.config.network].config
    return NicConfig(
        device=vif.config.device,
        mac=vif.config.MAC.lower(),
        bridge=network.bridge,
        mtu=network.MTU,
        network="" if pif is None else pif.libvirt_network,
    )
