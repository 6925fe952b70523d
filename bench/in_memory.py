"""What needs no process beside this one: replay, and memory per VM."""

import gc
import time
import tracemalloc
from collections.abc import Callable

import msgpack

from bench.figures import Figure
from bench.made_up_log import ME, created, opening, records
from pool_master.core import evolve
from pool_master.core.event_codec import event_from_plain, event_to_plain
from pool_master.core.events import Recorded
from pool_master.core.pool import Pool
from pool_master.core.records import EMPTY_TAIL, Break, follow
from pool_master.shell.follower import events_of

REPLAY_EVENTS = 300_000
MEMORY_VMS = 10_000
# The fastest of some: what disturbs a pass on a shared machine only ever makes it slower.
PASSES = 3


def replay() -> Figure:
    """Replay verified records into a Pool; the floor is unpacking the same bytes."""
    made = records(REPLAY_EVENTS, vms=1_000)
    floor_s = min(_took_s(_unpack, made) for _ in range(PASSES))
    took_s = min(_took_s(_replay, made) for _ in range(PASSES))
    return Figure(
        name=f"replay of {REPLAY_EVENTS:,} events, verified",
        value=REPLAY_EVENTS / took_s,
        unit="events/s",
        floor_name="msgpack alone",
        floor=REPLAY_EVENTS / floor_s,
        goal=100_000,
        is_time=False,
    )


def _took_s(work: Callable[[list[bytes]], None], made: list[bytes]) -> float:
    began = time.perf_counter()
    work(made)
    return time.perf_counter() - began


def _unpack(made: list[bytes]) -> None:
    for data in made:
        body, _ = msgpack.unpackb(data)
        msgpack.unpackb(body, strict_map_key=False)


def _replay(made: list[bytes]) -> None:
    pool, tail = Pool(), EMPTY_TAIL
    for position, data in enumerate(made, start=1):
        followed = follow(tail, position, data)
        assert not isinstance(followed, Break)
        tail, record = followed
        for recorded in events_of(record):
            pool.stamp(evolve.apply(pool, recorded))
    assert pool.sequence == REPLAY_EVENTS


def memory_per_vm() -> Figure:
    """Memory that a VM costs, as replayed from the log; the floor is its creation event, decoded."""
    plain = [event_to_plain(_recorded(number, created(number))) for number in range(MEMORY_VMS)]
    packed = [msgpack.packb(each) for each in plain]
    del plain
    gc.collect()
    tracemalloc.start()
    kept = [msgpack.unpackb(each, strict_map_key=False) for each in packed]
    floor = tracemalloc.get_traced_memory()[0] / MEMORY_VMS
    del kept
    gc.collect()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    pool = Pool()
    for number, event in enumerate(opening(), start=1):
        pool.stamp(evolve.apply(pool, _recorded(number, event)))
    for number, each in enumerate(packed):
        recorded = event_from_plain(
            msgpack.unpackb(each, strict_map_key=False), sequence=number + 10, term=1
        )
        pool.stamp(evolve.apply(pool, recorded))
    del recorded
    gc.collect()
    value = (tracemalloc.get_traced_memory()[0] - before) / MEMORY_VMS
    tracemalloc.stop()
    return Figure(
        name=f"memory a VM, of {MEMORY_VMS:,}",
        value=value,
        unit="bytes",
        floor_name="its creation event, decoded",
        floor=floor,
        goal=4_096,
    )


def _recorded(number: int, event: object) -> Recorded:
    return Recorded(number, 1, number, ME, f"c{number}", "VM.create", event)  # type: ignore[arg-type]
