"""Waiting for objects to change: what event.from, synchronous operations and waiting callers have in common.

Rules: a waiter is woken after the change is applied, never before; a waiter that leaves takes its place in line with it;
waking costs what is woken, not what waits.
"""

import asyncio
import contextlib
from typing import Final

from pool_master.shell.writer import Commit

ANY: Final = "*"


class Changes:
    """Who waits for which object; tell it every commit."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    def tell(self, commit: Commit) -> None:
        """Wake those that wait for what this commit touched."""
        refs = dict.fromkeys(ref for touched in commit.touched for _, ref in touched)
        if refs:
            self.wake(ANY)
        for ref in refs:
            self.wake(ref)

    def wake(self, ref: str) -> None:
        """Wake those that wait for one object."""
        for future in self._waiting.pop(ref, ()):
            if not future.done():
                future.set_result(None)

    def wake_all(self) -> None:
        """Wake everybody: this master stops leading."""
        for ref in list(self._waiting):
            self.wake(ref)

    async def wait(self, ref: str, timeout_s: float) -> bool:
        """Wait until the object changes after this call; False where the time runs out first."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(ref, set()).add(future)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await future
                    return True
            return False
        finally:
            waiting = self._waiting.get(ref)
            if waiting is not None:
                waiting.discard(future)
                if not waiting:
                    del self._waiting[ref]
