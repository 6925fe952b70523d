"""Reading the log through event.get_log: what fits, the newest of it, and what comes.

Rules: an answer is bounded, and continued by the sequence of its last event; names of what is gone are looked up in the
log itself, once.
"""

import json
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from pool_master.cli.client import PoolClient
from pool_master.cli.failures import CliError, NotFound
from pool_master.cli.lookup import find
from pool_master.cli.story import NOISE

PAGE: Final = 1_000
WINDOW_MIN: Final = 512
WINDOW_GROWTH: Final = 8
LOOKUPS_MAX: Final = 2_000

LogEvent = dict[str, str]
Filter = dict[str, str]


def pages(client: PoolClient, wanted: Filter, *, after: int) -> Iterator[list[LogEvent]]:
    """Give what fits after a position up to the log's end, oldest first."""
    while True:
        found = client.call("event.get_log", {**wanted, "after": str(after), "limit": str(PAGE)})
        if found:
            yield found
        if len(found) < PAGE:
            return
        after = int(found[-1]["sequence"])


def newest(client: PoolClient, wanted: Filter, *, limit: int, with_noise: bool) -> list[LogEvent]:
    """Give the last `limit` events that fit, oldest first: a window at the log's end, widened until it holds enough."""
    end = int(client.call("event.get_current_id"))
    window = max(WINDOW_MIN, limit)
    while True:
        after = max(0, end - window)
        kept: deque[LogEvent] = deque(maxlen=limit)
        for page in pages(client, wanted, after=after):
            kept.extend(event for event in page if with_noise or event["type"] not in NOISE)
        if len(kept) == limit or after == 0:
            return list(kept)
        window *= WINDOW_GROWTH


def object_filter(client: PoolClient, vm: str) -> Filter:
    """Give the filter for one VM; one that is gone is still in the log."""
    if not vm:
        return {}
    try:
        return {"ref": find(client, "VM", vm)}
    except NotFound:
        for page in pages(client, {"type": "VmCreated"}, after=0):
            for event in page:
                made = json.loads(event["detail"])
                if vm in {made["vm"], made["uuid"], made["config"]["name_label"]}:
                    return {"ref": made["vm"]}
        raise


def actor_filter(client: PoolClient, actor: str) -> Filter:
    """Give the filter for who did it: a user, a master, or a host by its name."""
    if not actor:
        return {}
    kind, _, name = actor.rpartition(":")
    if kind in {"", "host"}:
        with suppress(NotFound):
            return {"actor": client.call("host.get_uuid", find(client, "host", name))}
    return {"actor": actor}


class Names:
    """Names of references, as far as somebody still knows them."""

    def __init__(self, client: PoolClient) -> None:
        self._client = client
        self._known: dict[str, str] = {"OpaqueRef:NULL": "nobody"}
        self._lookups = 0
        self._has_read = False

    def __call__(self, ref: str) -> str:
        """Give the name; the reference itself where nobody knows one."""
        if not self._has_read:
            self._has_read = True
            self._read_living()
        if ref in self._known:
            return self._known[ref]
        name = ref
        if ref.startswith("OpaqueRef:") and self._lookups < LOOKUPS_MAX:
            self._lookups += 1
            with suppress(CliError):
                name = self._from_log(ref) or ref
        self._known[ref] = name
        return name

    def learn(self, event: LogEvent) -> None:
        """Take note of the names in an event."""
        detail = json.loads(event["detail"])
        self._learn(event["type"], detail)

    def _read_living(self) -> None:
        for class_name in ("VM", "host", "pool"):
            with suppress(CliError):
                for ref, record in self._client.call(f"{class_name}.get_all_records").items():
                    self._known[ref] = record["name_label"] or record["uuid"]
                    if class_name == "host":
                        self._known[record["uuid"]] = record["name_label"] or record["uuid"]

    def _from_log(self, ref: str) -> str:
        """Look where the object was born; a task is called by what it does."""
        for event in self._client.call("event.get_log", {"ref": ref, "limit": "5"}):
            self._learn(event["type"], json.loads(event["detail"]))
        return self._known.get(ref, "")

    def _learn(self, event_type: str, detail: dict[str, Any]) -> None:
        match event_type:
            case "VmCreated":
                self._known.setdefault(detail["vm"], detail["config"]["name_label"])
            case "HostJoined":
                self._known.setdefault(detail["host"], detail["name_label"])
                self._known.setdefault(detail["uuid"], detail["name_label"])
            case "TaskCreated":
                self._known.setdefault(detail["task"], self._task_name(detail))
            case "OperationAccepted":
                self._known[detail["task"]] = f"{detail['operation']} of {self(detail['vm'])}"
            case "FieldSet" if detail["field"] == "name_label" and detail["ref"] in self._known:
                self._known[detail["ref"]] = str(detail["value"])

    def _task_name(self, detail: dict[str, Any]) -> str:
        label = str(detail["name_label"]).removeprefix("Async.")
        about = next(iter(detail.get("parameters") or ()), "")
        is_object = isinstance(about, str) and about.startswith("OpaqueRef:")
        return f"{label} of {self(about)}" if is_object else label
