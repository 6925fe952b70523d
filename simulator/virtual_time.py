"""An asyncio loop whose clock jumps to the next timer when nothing is ready.

Hours pass in no time, always the same way.

Rules: no threads and no sockets on this loop; whoever needs time asks `loop.time()`
(`anyio.current_time()`). A program that waits for something that no timer will ever bring is stuck,
and says so instead of hanging.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")

ROUNDING_S_MAX = 1e-6
RUN_S_MAX = 7 * 86_400.0
# A machine that has been up for a while: code that takes 0 for "never" is not put to the test here.
STARTS_AT_S = 1_000.0


class StuckError(RuntimeError):
    """Nothing is ready and no timer is set: every task waits for another."""


class _JumpingSelector(selectors.BaseSelector):
    """Stands where the loop asks the kernel to wait.

    Moves the clock instead. Descriptors are noted, never watched.
    """

    def __init__(self) -> None:
        self.now = STARTS_AT_S
        self.next_timer: Callable[[], float | None] = lambda: None
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        return self._keys[number]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StuckError("nothing is ready and no timer is set")
        self.now += max(timeout, 0.0)
        # Adding rounds: who slept until a moment must not wake a last bit before it.
        timer = self.next_timer()
        if timeout > 0.0 and timer is not None and abs(timer - self.now) < ROUNDING_S_MAX:
            self.now = max(self.now, timer)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._jumping.next_timer = self._next_timer

    def _next_timer(self) -> float | None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return timers[0].when() if timers else None

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumping.now


def run_virtual(main: Coroutine[Any, Any, T], *, limit_s: float = RUN_S_MAX) -> T:
    """Run `main` on a loop of its own with virtual time.

    Raises:
        StuckError: every task waits for another.
        TimeoutError: `main` is not done after `limit_s` virtual seconds.
    """

    async def bounded() -> T:
        async with asyncio.timeout(limit_s):
            return await main

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(bounded())


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test of a coroutine function: it runs on virtual time."""

    @wraps(test)
    def run() -> None:
        run_virtual(test())

    # pytest would look through the wrapping and take the test for a coroutine.
    del run.__wrapped__
    return run
