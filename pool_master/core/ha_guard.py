"""The overcommit guard: what would leave protected VMs without a place when hosts fail is refused beforehand.

Rules: it guards a plan that there is (XenAPI reference 6.4); a pool that has none, tolerates no failure, or whose
ha_allow_overcommit says so, may do anything.
"""

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.draft import Draft
from pool_master.core.ha_plan import layout_of, max_failures, plan_exists
from pool_master.core.pool import Pool
from shared.errors import HaOperationWouldBreakFailoverPlan


def preserving_plan(pool: Pool, events: list[ev.Event], context: Context) -> list[ev.Event]:
    """Give the events back, if the failover plan survives them.

    Raises:
        HaOperationWouldBreakFailoverPlan: it does not.
    """
    record = pool.record
    failures = record.ha_host_failures_to_tolerate
    if not record.ha_enabled or record.ha_allow_overcommit or not failures or not events:
        return events
    if plan_exists(layout_of(pool), failures):
        draft = Draft(pool, context)
        draft.add(*events)
        if not plan_exists(layout_of(draft.pool), failures):
            raise HaOperationWouldBreakFailoverPlan()
    return events


def planned(pool: Pool) -> list[ev.Event]:
    """Give what the planner has to say now, if it differs from what the pool's record says."""
    record = pool.record
    if not record.ha_enabled:
        return []
    layout, wanted = layout_of(pool), record.ha_host_failures_to_tolerate
    exists_for = max_failures(layout, wanted)
    is_overcommitted = exists_for < wanted or not plan_exists(layout, 0)
    if (exists_for, is_overcommitted) == (record.ha_plan_exists_for, record.ha_overcommitted):
        return []
    return [
        ev.FailoverPlanned(
            pool=record.ref, plan_exists_for=exists_for, is_overcommitted=is_overcommitted
        )
    ]
