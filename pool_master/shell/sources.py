"""Where a master gets what nothing can derive: the time of day, ids and chance.

Rules: the shell asks here and nowhere else, so that the simulator can give its own, and a seed replays a run.
"""

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """`now` is in UTC; `new_id` gives a uuid that nobody else has; `chance` gives a number in [0, 1)."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    chance: Callable[[], float] = random.random  # spreads retries, no secret


REAL_SOURCES = Sources()
