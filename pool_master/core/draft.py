"""A decision of several steps, each of which sees what the ones before it have made."""

from pool_master.core import events as ev
from pool_master.core import evolve
from pool_master.core.context import Context
from pool_master.core.pool import Pool
from shared.codec import moment_to_us


class Draft:
    """Events so far, and the pool as they leave it; the pool that it began with stays as it is."""

    def __init__(self, pool: Pool, context: Context) -> None:
        self.pool = pool.fork()
        self.events: list[ev.Event] = []
        self.context = context

    def add(self, *events: ev.Event) -> None:
        """Decide these too."""
        for event in events:
            recorded = ev.Recorded(
                self.pool.sequence + 1,
                self.pool.term,
                max(self.pool.time_us, moment_to_us(self.context.now)),
                self.context.actor,
                self.context.command_id,
                self.context.label,
                event,
            )
            evolve.apply(self.pool, recorded)
            self.events.append(event)
