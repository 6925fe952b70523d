"""Takes the host's inventory so that it fits between the reports before and after it.

Rule: an inventory that misses what an earlier report told would make the log halt a guest that
runs. So whatever was reported while it was taken is looked at once more, until nothing was.
"""

from typing import Final

from host_agent.shell.hypervisor import Hypervisor
from shared.protocol import (
    CommandFailed,
    CommandSucceeded,
    DomainChanged,
    DomainObservation,
    HostInventory,
    ReportBody,
)

LOOKS_MAX: Final = 20


class Touched:
    """Notes which VMs reports were about, while somebody wants to know."""

    def __init__(self) -> None:
        self.vms: dict[str, None] = {}

    def note(self, body: ReportBody) -> None:
        """Note the VM of a report."""
        match body:
            case CommandSucceeded() | CommandFailed():
                self.vms[body.vm_uuid] = None
            case DomainChanged():
                self.vms[body.observation.vm_uuid] = None
            case _:
                pass


async def take_inventory(
    hypervisor: Hypervisor, touched: Touched, *, address: str, peer_address: str, is_first: bool
) -> HostInventory | None:
    """Give the host's inventory; None where too much happens to get a clear sight of it.

    Between its return and its report nothing may be awaited.

    Raises:
        HypervisorUnavailable: the hypervisor does not answer.
    """
    described = await hypervisor.describe()
    unknown = await hypervisor.unknown_domains()
    touched.vms.clear()
    domains = {seen.vm_uuid: seen for seen in await hypervisor.inventory()}
    looks = 0
    while touched.vms:
        looks += 1
        if looks > LOOKS_MAX:
            return None
        again = list(touched.vms)
        touched.vms.clear()
        for vm_uuid in again:
            _put(domains, vm_uuid, await hypervisor.observe(vm_uuid))
    return HostInventory(
        hostname=described.hostname,
        address=address,
        hypervisor=described.hypervisor,
        migrate_uri=described.migrate_uri,
        memory_total=described.memory_total,
        memory_free=described.memory_free,
        cpu_count=described.cpu_count,
        cpu_info=described.cpu_info,
        software_version=described.software_version,
        capabilities=described.capabilities,
        domains=tuple(domains[vm_uuid] for vm_uuid in sorted(domains)),
        unknown_domains=unknown,
        peer_address=peer_address,
        is_first=is_first,
        networks=described.networks,
    )


def _put(
    domains: dict[str, DomainObservation], vm_uuid: str, seen: DomainObservation | None
) -> None:
    if seen is None:
        domains.pop(vm_uuid, None)
    else:
        domains[vm_uuid] = seen
