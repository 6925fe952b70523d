"""`vmpool audit`, `events` and `log verify` against a real pool, also while its master dies."""

import json
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.cli import (
    COMMAND_S_MAX,
    argv,
    environment,
    hear_ctrl_c,
    made,
    refusal,
    told,
    vmpool,
)
from tests.support.pool import RunningPool, running_pool, until

pytestmark = pytest.mark.nats

# Far below the time for which a reader waits in one call.
TOLD_S_MAX = 12.0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    with running_pool(tmp_path_factory.mktemp("cli"), hosts=2) as running:
        yield running


def test_the_audit_tells_who_did_what_to_one_vm(pool: RunningPool) -> None:
    uuid = made(pool, "watched")
    vmpool(pool, "vm", "start", "watched", "--on", "host1")
    vmpool(pool, "vm", "stop", "watched")
    vmpool(pool, "vm", "destroy", uuid)
    story = vmpool(pool, "audit", "--vm", uuid).stdout
    wanted = (
        "watched is made  VM.create",
        "start_on of watched is accepted, on host1  VM.start_on",
        "watched is Running on host1",
        "watched is Halted",
        "watched is gone for good  VM.destroy",
    )
    places = [story.find(text) for text in wanted]
    assert -1 not in places
    assert places == sorted(places)

    raw = told(pool, "audit", "--vm", "watched")
    assert {"VmCreated", "OperationAccepted", "VmStarted", "VmDestroyed"} <= {
        e["type"] for e in raw
    }
    by_host = told(pool, "audit", "--vm", uuid, "--actor", "host1")
    assert {event["actor"].partition(":")[0] for event in by_host} == {"host"}
    only = told(pool, "audit", "--vm", uuid, "--type", "VmStarted")
    assert [event["type"] for event in only] == ["VmStarted"]
    assert told(pool, "audit", "--vm", uuid, "--until", "1h") == []
    newest = told(pool, "audit", "--limit", "3")
    sequences = [int(event["sequence"]) for event in newest]
    assert sequences == list(range(sequences[0], sequences[0] + 3))
    assert sequences[-1] == int(vmpool(pool, "event-get-current-id").stdout)


def test_the_log_is_verified_and_a_changed_copy_is_found(pool: RunningPool, tmp_path: Path) -> None:
    verified = told(pool, "log", "verify")
    assert verified["is_sound"] is True
    assert verified["stream"]["records"] > 1

    held = json.loads((pool.data / "vmpool.json").read_text())
    with (
        closing(sqlite3.connect(held["mirror"])) as source,
        closing(sqlite3.connect(tmp_path / "copy.sqlite")) as copy,
    ):
        source.backup(copy)
        copy.execute("UPDATE records SET data = zeroblob(length(data)) WHERE position = 2")
        copy.commit()
    (tmp_path / "vmpool.json").write_text(
        json.dumps({**held, "mirror": str(tmp_path / "copy.sqlite")})
    )
    told_of = vmpool(pool, "log", "verify", "--data", str(tmp_path), code=1).stdout
    assert "history is not what was written. copy, record 2" in told_of
    refusal(pool, "log", "verify", "--data", str(tmp_path / "nowhere"))


class Follower:
    """A child that follows the log; its lines are collected as they come."""

    def __init__(self, pool: RunningPool, *words: str) -> None:
        self.child = subprocess.Popen(
            argv("events", "--follow", "--all", "--json", *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(pool.data),
            preexec_fn=hear_ctrl_c,
        )
        self.events: list[dict[str, str]] = []
        self.remarks: list[str] = []
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._hear)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.events.append(json.loads(line))

    def _hear(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.remarks.append(line.strip())

    def stop(self) -> int:
        self.child.send_signal(signal.SIGINT)
        code = self.child.wait(COMMAND_S_MAX)
        for reader in self._readers:
            reader.join()
        for stream in (self.child.stdout, self.child.stderr):
            assert stream is not None
            stream.close()
        return code


def test_following_has_no_gap_when_the_master_dies(pool: RunningPool) -> None:
    follower = Follower(pool, "--after", "0")
    try:
        before = made(pool, "before-the-fall")
        until(
            lambda: before in json.dumps(follower.events),
            what="the first VM is told of",
            seconds_max=TOLD_S_MAX,
        )
        pool.kill("master")
        until(lambda: any("is away" in x for x in follower.remarks), what="its absence is said")
        until(lambda: any("is back" in x for x in follower.remarks), what="its return is said")
        after = made(pool, "after-the-fall")
        until(
            lambda: after in json.dumps(follower.events),
            what="the second VM is told of",
            seconds_max=TOLD_S_MAX,
        )
    finally:
        code = follower.stop()
    assert code == 130
    sequences = [int(event["sequence"]) for event in follower.events]
    assert sequences == list(range(1, len(sequences) + 1))
    assert not any("leaves out" in remark for remark in follower.remarks)
    assert "MasterElected" in {event["type"] for event in follower.events[2:]}
