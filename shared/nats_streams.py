"""The streams of one pool: what each must promise, made where missing and checked where there.

Rules: the log is for ever, nobody can delete from it, and each record is on the disk before it is
acknowledged; everything else is bounded, and is transport. Commands can always be planned again, so
the oldest go first when nobody reads them. Reports cannot: a full stream refuses them, and they
stay in the agent's journal; what a guest did by itself is told once, so reports are on the disk, too,
before they are acknowledged. On one server nobody waits for the disk with commands and events: what
a power cut takes, or a kill of the server alone (measured: half of the kills under load, up to 40
acknowledged messages, sequences given out again), is sent again from the log. Replicas have no such
setting.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from shared.bus import BusUnavailable
from shared.nats_jetstream import JetStream
from shared.nats_link import StreamRefused
from shared.subjects import Subjects

NANOSECONDS: Final = 1_000_000_000
MEBIBYTE: Final = 1024 * 1024

DUPLICATES_SEEN_S: Final = 120
COMMANDS_PER_HOST_MAX: Final = 10_000
COMMAND_BYTES_MAX: Final = 256 * MEBIBYTE
COMMAND_AGE_S_MAX: Final = 3600
REPORT_BYTES_MAX: Final = 256 * MEBIBYTE
EVENT_BYTES_MAX: Final = 1024 * MEBIBYTE
EVENT_AGE_S_MAX: Final = 7 * 24 * 3600

ASK_S_MAX: Final = 3.0
STREAM_NOT_FOUND: Final = 10059


class WrongStream(Exception):
    """A stream is there whose settings would break a promise: an operator must look at it."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One stream: `must` is checked where it is there already, `bounds` an operator may tune.

    `is_durable`: what it acknowledges survives a kill and a power cut.
    """

    name: str
    must: dict[str, Any]
    bounds: dict[str, Any] = field(default_factory=dict)
    is_durable: bool = False


async def ensure(
    streams: JetStream, subjects: Subjects, *, replicas: int, timeout_s: float
) -> None:
    """Make the pool's streams and the leadership bucket; check those that are there.

    Raises:
        WrongStream: one is there that would break a promise.
        BusUnavailable: no answer in time.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    for wanted in _wanted_streams(subjects, replicas):
        reply = await _made_by(deadline, streams, wanted)
        _check(wanted, reply["config"])


async def _made_by(deadline: float, streams: JetStream, wanted: _Wanted) -> dict[str, Any]:
    """Ask again and again: servers that elect their first leader may drop a question; to make what is there is harmless."""
    while True:
        left_s = deadline - asyncio.get_running_loop().time()
        try:
            return await _made(streams, wanted, timeout_s=max(0.05, min(ASK_S_MAX, left_s)))
        except BusUnavailable:
            if left_s <= ASK_S_MAX:
                raise


async def _made(streams: JetStream, wanted: _Wanted, *, timeout_s: float) -> dict[str, Any]:
    try:
        return await streams.api(f"STREAM.INFO.{wanted.name}", {}, timeout_s=timeout_s)
    except StreamRefused as refusal:
        if refusal.code != STREAM_NOT_FOUND:
            raise
    config = {"name": wanted.name, "storage": "file", **wanted.must, **wanted.bounds}
    return await streams.api(f"STREAM.CREATE.{wanted.name}", config, timeout_s=timeout_s)


def _check(wanted: _Wanted, config: dict[str, Any]) -> None:
    for setting, value in wanted.must.items():
        # The server leaves out what is zero, false or empty.
        if (found := config.get(setting) or type(value)()) != value:
            raise WrongStream(f"stream {wanted.name} has {setting} {found!r}, and needs {value!r}")
    if wanted.is_durable and config.get("persist_mode") == "async":
        raise WrongStream(f"stream {wanted.name} acknowledges before it writes (persist_mode)")


def _wanted_streams(subjects: Subjects, replicas: int) -> list[_Wanted]:
    common = {"storage": "file", "num_replicas": replicas, "sealed": False}
    forever = {"max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1}
    unread = {"retention": "workqueue", **common}
    duplicates: dict[str, Any] = {"duplicate_window": DUPLICATES_SEEN_S * NANOSECONDS}
    # Of nats-server 2.12 and newer; older ones pass over it and wait for the disk.
    hasty: dict[str, Any] = {**duplicates, "persist_mode": "async"} if replicas == 1 else duplicates
    return [
        _Wanted(
            subjects.log_stream,
            {"subjects": [subjects.log], "retention": "limits", **common, **forever}
            | {"deny_delete": True, "deny_purge": True, "allow_direct": True},
            is_durable=True,
        ),
        _Wanted(
            subjects.command_stream,
            {"subjects": [subjects.every_command], **unread, "discard": "old"},
            {"max_msgs_per_subject": COMMANDS_PER_HOST_MAX, "max_bytes": COMMAND_BYTES_MAX}
            | {"max_age": COMMAND_AGE_S_MAX * NANOSECONDS, "allow_direct": True, **hasty},
        ),
        _Wanted(
            subjects.report_stream,
            {"subjects": [subjects.every_report], **unread, "discard": "new"},
            {"max_bytes": REPORT_BYTES_MAX, "allow_direct": True, **duplicates},
            is_durable=True,
        ),
        _Wanted(
            subjects.event_stream,
            {"subjects": [subjects.every_event], "retention": "limits", **common},
            {"max_bytes": EVENT_BYTES_MAX, "max_age": EVENT_AGE_S_MAX * NANOSECONDS}
            | {"discard": "old", "allow_direct": True, **hasty},
        ),
        _Wanted(
            f"KV_{subjects.leader_bucket}",
            {"subjects": [f"$KV.{subjects.leader_bucket}.>"], "retention": "limits", **common}
            | {"max_age": 0, "deny_delete": True, "allow_rollup_hdrs": True},
            {"max_msgs_per_subject": 1, "discard": "new", "allow_direct": True},
            is_durable=True,
        ),
    ]
