"""Processes of a simulated world on one event loop: each can be stopped, continued and killed, as real ones are.

One job: know to which process each callback belongs, and run it, keep it back, or never run it.

Rules: a context variable names the process, so tasks, timers and what they start belong to it without knowing. A killed
process runs nothing any more, no `finally` either: kill -9. A stopped one finds all that has come due when it continues.
What belongs to nobody is the world: links, disks, watchdogs, clients. Sets of tasks and futures iterate in an order that
a seed decides, not an address in memory.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from anyio._backends import _asyncio as anyio_backend

from simulator.virtual_time import VirtualTimeLoop

T = TypeVar("T")

_PROCESS: ContextVar["Process | None"] = ContextVar("process", default=None)
TEARDOWN_S_MAX = 3_600.0


class Process:
    """One process. It owns what is spawned in it, and what that spawns."""

    def __init__(self, loop: "SimulationLoop", name: str) -> None:
        self.name = name
        self.is_stopped = False
        self.is_dead = False
        self.on_death: list[Callable[[], None]] = []
        self.kept: list[asyncio.Handle] = []
        self.remains: list[asyncio.Task[Any]] = []
        self._loop = loop
        self._context = Context()
        self._context.run(_PROCESS.set, self)
        loop.processes.append(self)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin something in this process."""
        return self._loop.create_task(work, context=self._context.copy())

    def call(self, callback: Callable[[], object]) -> None:
        """Have the process do something as soon as it can."""
        self._loop.call_soon(callback, context=self._context.copy())

    def stop(self) -> None:
        """SIGSTOP."""
        self.is_stopped = True

    def go_on(self) -> None:
        """SIGCONT: what has come due meanwhile is done now, in its order."""
        self.is_stopped = False
        if not self.is_dead:
            self.release()

    def kill(self) -> None:
        """SIGKILL."""
        if self.is_dead:
            return
        self.is_dead = True
        # A task that nobody holds is closed by the garbage collector, which would run its `finally` blocks.
        self.remains = self._loop.tasks_of(self)
        for tell in self.on_death:
            tell()

    def release(self) -> None:
        """Hand what was kept back to the loop."""
        kept, self.kept = self.kept, []
        for handle in kept:
            self._loop.run_soon(handle)


class _Gated(asyncio.Handle):
    def _run(self) -> None:
        context: Context = self._context  # type: ignore[attr-defined]
        process = context.get(_PROCESS)
        is_over: bool = self._loop.is_over  # type: ignore[attr-defined]
        if is_over or process is None or not (process.is_stopped or process.is_dead):
            super()._run()
        else:
            process.kept.append(self)


class _GatedTimer(_Gated, asyncio.TimerHandle):
    pass


class _SerialTask(asyncio.Task[Any]):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.serial: int = next(kwargs["loop"].serials)  # before the base hashes it
        context: Context | None = kwargs.get("context")
        self.process = _PROCESS.get() if context is None else context.get(_PROCESS)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.serial


class _SerialFuture(asyncio.Future[Any]):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.serial: int = next(kwargs["loop"].serials)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.serial


class SimulationLoop(VirtualTimeLoop):
    """A virtual-time loop that knows processes."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        # From 0 in every world: the order of a set depends on the numbers, not only on their order.
        self.serials = itertools.count()
        self.is_over = False
        super().__init__()

    def create_future(self) -> asyncio.Future[Any]:
        return _SerialFuture(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        return _SerialTask(coro, loop=self, name=name, context=context)

    def _call_soon(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.Handle:
        handle = _Gated(callback, args, self, context)
        self.run_soon(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        timer = _GatedTimer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def run_soon(self, handle: asyncio.Handle) -> None:
        """Run a handle in the next round."""
        self._ready.append(handle)  # type: ignore[attr-defined]

    def tasks_of(self, process: Process) -> list[asyncio.Task[Any]]:
        """Give the tasks of a process that have not ended."""
        return [
            task
            for task in asyncio.all_tasks(self)
            if isinstance(task, _SerialTask) and task.process is process
        ]

    def end(self) -> None:
        """Let the dead run their `finally` blocks, so that nothing is left over; nobody looks any more."""
        self.is_over = True
        for task in sorted(asyncio.all_tasks(self), key=hash):
            task.cancel()
        for process in self.processes:
            process.release()


def in_world(call: Callable[..., T], *args: Any) -> T:
    """Call something on nobody's behalf: what it schedules outlives whoever asked."""
    context = copy_context()
    context.run(_PROCESS.set, None)
    return context.run(call, *args)


class _Ordered(dict[Any, None]):
    """What anyio needs of a set, in the order of insertion."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def remove(self, item: Any) -> None:
        del self[item]


@contextmanager
def ordered_cancel_scopes() -> Iterator[None]:
    """Make anyio cancel nested scopes in the order in which they were entered, not by address."""
    scope = anyio_backend.CancelScope
    original = scope.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._child_scopes = _Ordered()

    scope.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        scope.__init__ = original  # type: ignore[method-assign]


def run_world(main: Callable[[SimulationLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main(loop)` in a world of its own, and end everything that it has started."""
    loop = SimulationLoop()
    try:
        with ordered_cancel_scopes():
            try:
                return loop.run_until_complete(main(loop))
            finally:
                loop.end()
                loop.run_until_complete(_all_ended())
                loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _all_ended() -> None:
    me = asyncio.current_task()
    while left := [task for task in asyncio.all_tasks() if task is not me]:
        async with asyncio.timeout(TEARDOWN_S_MAX):
            await asyncio.wait(left)
        for task in left:
            if not task.cancelled():
                task.exception()
