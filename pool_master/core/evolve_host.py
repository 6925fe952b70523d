"""What events make true of hosts, of the pool itself, and of fields that users set, of whichever class."""

from typing import Any, assert_never

from pool_master.core import events as ev
from pool_master.core.changed import changed
from pool_master.core.datamodel import EMPTY_MAP
from pool_master.core.evolve_network import drop_pifs_of
from pool_master.core.evolve_storage import drop_pbds_of_host
from pool_master.core.evolve_vm import Touched
from pool_master.core.fields import stored_value
from pool_master.core.host import Host, HostMetrics
from pool_master.core.network import Network, Vif
from pool_master.core.pool import Pool, StaleDomain
from pool_master.core.pool_record import PoolRecord
from pool_master.core.storage import Vbd, Vdi
from pool_master.core.vm import Vm
from shared.codec import moment_from_us
from shared.refs import (
    NULL_HOST,
    HostMetricsRef,
    derive,
    derive_ref,
)

# Journals of a host's agent that are remembered as over: a report of theirs can only be a redelivery.
PAST_JOURNALS_MAX = 16


def evolve_membership(
    pool: Pool,
    event: ev.HostJoined | ev.HostForgotten | ev.HostEnabled | ev.HostDisabled,
    _recorded: ev.Recorded,
) -> Touched:
    """A host joins, leaves, or may be given new VMs or not."""
    match event:
        case ev.HostJoined():
            metrics = HostMetrics(
                ref=HostMetricsRef(derive_ref(event.uuid, "host_metrics")),
                host=event.host,
                uuid=derive(event.uuid, "host_metrics"),
            )
            pool.host_metrics[metrics.ref] = metrics
            pool.uuids["host_metrics", metrics.uuid] = metrics.ref
            pool.uuids["host", event.uuid] = event.host
            pool.hosts[event.host] = Host(
                ref=event.host,
                uuid=event.uuid,
                name_label=event.name_label,
                hostname=event.hostname,
                address=event.address,
                metrics=metrics.ref,
            )
            return [("host", event.host), ("host_metrics", metrics.ref), *_elect_if_none(pool)]
        case ev.HostForgotten():
            gone = pool.hosts.pop(event.host, None)
            if gone is None:
                return []
            old = pool.host_metrics.pop(gone.metrics)
            del pool.uuids["host", gone.uuid], pool.uuids["host_metrics", old.uuid]
            pool.residents.pop(event.host, None)
            for stale in list(pool.stale_domains.values()):
                if stale.host == event.host:
                    del pool.stale_domains[stale.key]
            gone_with_it = [*drop_pifs_of(pool, event.host), *drop_pbds_of_host(pool, event.host)]
            lost = [("host", event.host), ("host_metrics", old.ref), *gone_with_it]
            return [*lost, *_elect_if_none(pool)]
        case ev.HostEnabled() | ev.HostDisabled():
            host = pool.hosts.get(event.host)
            if host is None:
                return []
            pool.hosts[event.host] = changed(host, enabled=isinstance(event, ev.HostEnabled))
            return [("host", event.host)]
    assert_never(event)


def _elect_if_none(pool: Pool) -> Touched:
    """XenAPI says that the master is one of the hosts: name the first one, since ours need not run on any."""
    record = pool.record
    if record.master in pool.hosts:
        return []
    pool.pools[record.ref] = changed(record, master=next(iter(pool.hosts), NULL_HOST))
    return [("pool", record.ref)]


def evolve_host_word(
    pool: Pool,
    event: ev.HostReportsSeen | ev.HostAgentStarted | ev.HostDescribed,
    recorded: ev.Recorded,
) -> Touched:
    """A host has said who it is, or up to where it has spoken."""
    host = pool.hosts.get(event.host)
    if host is None:
        return []
    match event:
        case ev.HostReportsSeen():
            pool.hosts[host.ref] = changed(
                host, journal=event.journal, report_sequence=event.sequence
            )
            return []
        case ev.HostAgentStarted():
            is_same = event.journal == host.journal
            is_other = not is_same and host.journal != ""
            past = (*host.past_journals, host.journal) if is_other else host.past_journals
            pool.hosts[host.ref] = changed(
                host,
                journal=event.journal,
                past_journals=past[-PAST_JOURNALS_MAX:],
                epoch=event.epoch,
                report_sequence=host.report_sequence if is_same else 0,
            )
            return []
        case ev.HostDescribed():
            pool.hosts[host.ref] = changed(
                host,
                hostname=event.hostname,
                address=event.address,
                hypervisor=event.hypervisor,
                migrate_uri=event.migrate_uri,
                cpu_info=event.cpu_info,
                software_version=event.software_version,
                capabilities=event.capabilities,
                unknown_domains=event.unknown_domains,
                peer_address=event.peer_address,
            )
            pool.host_metrics[host.metrics] = changed(
                pool.host_metrics[host.metrics],
                memory_total=event.memory_total,
                memory_free=event.memory_free,
                cpu_count=event.cpu_count,
                last_updated=moment_from_us(recorded.time_us),
            )
            return [("host", host.ref), ("host_metrics", host.metrics)]
    assert_never(event)


def set_live(pool: Pool, event: ev.HostCameAlive | ev.HostLost, recorded: ev.Recorded) -> Touched:
    """A host is alive, or was given up."""
    host = pool.hosts.get(event.host)
    if host is None:
        return []
    is_live, now = isinstance(event, ev.HostCameAlive), moment_from_us(recorded.time_us)
    metrics = pool.host_metrics[host.metrics]
    pool.host_metrics[host.metrics] = changed(metrics, live=is_live, last_updated=now)
    if not is_live:
        pool.hosts[host.ref] = changed(host, lost_count=host.lost_count + 1)
    # What may be done to its VMs depends on whether somebody is there to do it.
    vms = [("VM", ref) for ref in pool.residents_of(host.ref)]
    return [("host", host.ref), ("host_metrics", host.metrics), *vms]


def evolve_stale(
    pool: Pool,
    event: ev.StaleDomainFound | ev.StaleDomainDropped | ev.StaleDomainKept,
    recorded: ev.Recorded,
) -> Touched:
    """An incarnation must be dropped, or no longer."""
    stale = StaleDomain(event.host, event.vm_uuid, event.incarnation, found=recorded.sequence)
    if isinstance(event, ev.StaleDomainFound):
        pool.stale_domains[stale.key] = stale
    else:
        pool.stale_domains.pop(stale.key, None)
    return []


def evolve_pool(
    pool: Pool, event: ev.PoolCreated | ev.MasterElected, _recorded: ev.Recorded
) -> Touched:
    """The log begins, or somebody else leads."""
    match event:
        case ev.PoolCreated():
            pool.pools[event.pool] = PoolRecord(
                ref=event.pool, uuid=event.uuid, name_label=event.name_label
            )
            pool.uuids["pool", event.uuid] = event.pool
        case ev.MasterElected():
            pool.term = event.term
            pool.master = event.master
            pool.master_address = event.address
    return [("pool", record) for record in pool.pools]


def evolve_field(
    pool: Pool, event: ev.FieldSet | ev.MapKeySet | ev.MapKeyRemoved, _recorded: ev.Recorded
) -> Touched:
    """A field has the value that a user gave it."""
    table = pool.tables[event.object_class]
    record = table.get(event.ref)
    if record is None:
        return []
    holder: Any = record
    value: Any
    is_config = (
        isinstance(record, Vm | Network | Vif | Vdi | Vbd)
        and event.field in record.config.__struct_fields__
    )
    if is_config:
        holder = record.config
    match event:
        case ev.FieldSet():
            value = stored_value(type(holder), event.field, event.value)
        case ev.MapKeySet():
            held = {**getattr(holder, event.field), event.key: event.value}
            value = stored_value(type(holder), event.field, held)
        case ev.MapKeyRemoved():
            old = getattr(holder, event.field)
            value = {key: kept for key, kept in old.items() if key != event.key} or EMPTY_MAP
    new = changed(holder, **{event.field: value})
    table[event.ref] = changed(record, config=new) if is_config else new
    touched: Touched = [(event.object_class, event.ref)]
    return touched
