"""What events make true of high availability: whether it is on, what it has planned, which starts it owes."""

from typing import assert_never

from pool_master.core import events as ev
from pool_master.core.changed import changed
from pool_master.core.datamodel import EMPTY_MAP
from pool_master.core.evolve_vm import Touched
from pool_master.core.pool import Pool
from pool_master.core.restart import Restart
from shared.codec import EPOCH, moment_from_us


def evolve_ha(
    pool: Pool,
    event: ev.HaEnabled | ev.HaDisabled | ev.HaRestartsHeld | ev.FailoverPlanned,
    _recorded: ev.Recorded,
) -> Touched:
    """High availability is on or off, held back, or has a plan."""
    record = pool.pools.get(event.pool)
    if record is None:
        return []
    match event:
        case ev.HaEnabled():
            configuration = event.configuration or EMPTY_MAP
            record = changed(record, ha_enabled=True, ha_configuration=configuration)
        case ev.HaDisabled():
            pool.restarts.clear()
            record = changed(
                record,
                ha_enabled=False,
                ha_configuration=EMPTY_MAP,
                ha_plan_exists_for=0,
                ha_overcommitted=False,
                ha_restarts_held_until=EPOCH,
            )
        case ev.HaRestartsHeld():
            record = changed(record, ha_restarts_held_until=moment_from_us(event.until_us))
        case ev.FailoverPlanned():
            record = changed(
                record,
                ha_plan_exists_for=event.plan_exists_for,
                ha_overcommitted=event.is_overcommitted,
            )
        case _:
            assert_never(event)
    pool.pools[record.ref] = record
    return [("pool", record.ref)]


def evolve_restart(
    pool: Pool,
    event: ev.VmRestartDue | ev.VmRestartTried | ev.VmRestartEnded | ev.VmRestartGivenUp,
    recorded: ev.Recorded,
) -> Touched:
    """A start is owed, was tried, or is owed no more."""
    now = moment_from_us(recorded.time_us)
    owed = pool.restarts.get(event.vm)
    if isinstance(event, ev.VmRestartDue):
        if event.vm in pool.vms:
            pool.restarts[event.vm] = Restart(
                vm=event.vm,
                reason=event.reason,
                due_at=now,
                not_before=moment_from_us(event.not_before_us),
                host=event.host,
            )
        return []
    if owed is None:
        return []
    match event:
        case ev.VmRestartTried():
            pool.restarts[event.vm] = changed(
                owed,
                tries=owed.tries + 1,
                tried=tuple(dict.fromkeys((*owed.tried, event.host))),
                tried_at=now,
                task=event.task,
            )
        case ev.VmRestartEnded():
            del pool.restarts[event.vm]
        case ev.VmRestartGivenUp():
            pool.restarts[event.vm] = changed(owed, is_given_up=True)
        case _:
            assert_never(event)
    return []
