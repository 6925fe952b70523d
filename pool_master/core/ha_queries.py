"""Questions to the failover planner: how many host failures the pool bears, and what would become of whom."""

from dataclasses import dataclass
from typing import Final

from pool_master.core import events as ev
from pool_master.core import evolve
from pool_master.core.datamodel import BOOL, INT, STRING, Message, map_of, query, ref_to
from pool_master.core.events import Actor, ActorKind, Recorded
from pool_master.core.ha_plan import (
    PRIORITIES,
    RESTART,
    guest_of,
    is_protected,
    layout_of,
    max_failures,
    place_all_or_most,
    plan_exists,
)
from pool_master.core.lookup import host_of, vm_of
from pool_master.core.pool import Pool
from shared.errors import HostNotEnoughFreeMemory, InvalidValue, NoHostsAvailable
from shared.refs import HostRef, VmRef


def _what_if(pool: Pool, facts: list[ev.Event]) -> Pool:
    """Give a fork of the pool in which these are true."""
    fork = pool.fork()
    nobody = Actor(ActorKind.MASTER, pool.master)
    for fact in facts:
        sequence = fork.sequence + 1
        evolve.apply(fork, Recorded(sequence, pool.term, pool.time_us, nobody, "", "what if", fact))
    return fork


@dataclass(frozen=True, slots=True, kw_only=True)
class HaFailoverPlanExists:
    """Returns true if a VM failover plan exists for up to 'n' host failures."""

    n: int


def answer_ha_failover_plan_exists(pool: Pool, request: HaFailoverPlanExists) -> bool:
    """XenAPI reference 6.4."""
    return plan_exists(layout_of(pool), request.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class HaComputeMaxHostFailuresToTolerate:
    """Returns the maximum number of host failures we could tolerate before we would be unable to restart VMs."""


def answer_ha_compute_max_host_failures_to_tolerate(
    pool: Pool, _request: HaComputeMaxHostFailuresToTolerate
) -> int:
    """XenAPI reference 6.4."""
    return max_failures(layout_of(pool))


@dataclass(frozen=True, slots=True, kw_only=True)
class HaComputeHypotheticalMaxHostFailuresToTolerate:
    """Returns the maximum number of host failures we could tolerate if these VMs, and no others, had these priorities."""

    configuration: dict[VmRef, str]


def answer_ha_compute_hypothetical_max_host_failures_to_tolerate(
    pool: Pool, request: HaComputeHypotheticalMaxHostFailuresToTolerate
) -> int:
    """XenAPI reference 6.4."""
    for ref, priority in request.configuration.items():
        vm_of(pool, ref)
        if priority not in PRIORITIES:
            raise InvalidValue("ha_restart_priority", priority)
    facts: list[ev.Event] = []
    for vm in pool.vms.values():
        priority = request.configuration.get(vm.ref, "")
        for name, value in (
            ("ha_restart_priority", priority),
            ("ha_always_run", priority == RESTART),
        ):
            if getattr(vm.config, name) != value:
                facts.append(ev.FieldSet(object_class="VM", ref=vm.ref, field=name, value=value))
    return max_failures(layout_of(_what_if(pool, facts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class HaComputeVmFailoverPlan:
    """Return a VM failover plan assuming a given subset of hosts fail, and VMs beside."""

    failed_hosts: tuple[HostRef, ...]
    failed_vms: tuple[VmRef, ...]


def answer_ha_compute_vm_failover_plan(
    pool: Pool, request: HaComputeVmFailoverPlan
) -> dict[str, dict[str, str]]:
    """XenAPI reference 6.4: each VM with its new host, or with the error that its restart would have."""
    failed = [vm_of(pool, ref).ref for ref in request.failed_vms]
    facts: list[ev.Event] = []
    for host in request.failed_hosts:
        failed += [
            ref
            for ref in pool.residents_of(host_of(pool, host).ref)
            if pool.vms[ref].resident_on == host and is_protected(pool.vms[ref])
        ]
        facts.append(ev.HostLost(host=host, evidence="what if"))
    facts += [ev.VmHalted(vm=ref, reason="what if") for ref in dict.fromkeys(failed)]
    fork = _what_if(pool, facts)
    guests = [guest_of(fork, fork.vms[ref]) for ref in dict.fromkeys(failed)]
    places = place_all_or_most(guests, layout_of(fork).free)
    plan = {}
    for guest in guests:
        if guest.vm in places:
            plan[str(guest.vm)] = {"host": str(places[guest.vm])}
        else:
            error = HostNotEnoughFreeMemory if guest.may_boot_on else NoHostsAvailable
            plan[str(guest.vm)] = {"error_code": error.code}
    return plan


MESSAGES: Final[tuple[Message, ...]] = (
    query(
        HaFailoverPlanExists,
        answer_ha_failover_plan_exists,
        name="ha_failover_plan_exists",
        returns=BOOL,
    ),
    query(
        HaComputeMaxHostFailuresToTolerate,
        answer_ha_compute_max_host_failures_to_tolerate,
        name="ha_compute_max_host_failures_to_tolerate",
        returns=INT,
    ),
    query(
        HaComputeHypotheticalMaxHostFailuresToTolerate,
        answer_ha_compute_hypothetical_max_host_failures_to_tolerate,
        name="ha_compute_hypothetical_max_host_failures_to_tolerate",
        returns=INT,
        errors=("INVALID_VALUE",),
    ),
    query(
        HaComputeVmFailoverPlan,
        answer_ha_compute_vm_failover_plan,
        name="ha_compute_vm_failover_plan",
        returns=map_of(ref_to("VM"), map_of(STRING, STRING)),
    ),
)
