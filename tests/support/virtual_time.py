"""An asyncio loop whose clock jumps to the next timer when nothing is ready.

Hours pass in no time, always the same way.

Rules: no threads and no sockets on this loop; whoever needs time asks `loop.time()`
(`anyio.current_time()`). A program that waits for something that no timer will ever bring is stuck,
and says so instead of hanging.
"""

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

RUN_S_MAX = 7 * 86_400.0


class StuckError(RuntimeError):
    """Nothing is ready and no timer is set: every task waits for another."""


class _JumpingSelector(selectors.BaseSelector):
    """Stands where the loop asks the kernel to wait.

    Moves the clock instead. Descriptors are noted, never watched.
    """

    def __init__(self) -> None:
        self.now = 0.0
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
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, which starts at 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # Adding up jumps rounds: without this slack a timer could be missed by the last bit and
        # cost a second jump.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
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
