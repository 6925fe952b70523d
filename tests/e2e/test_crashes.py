"""kill -9 between any two steps of an operation: it ends with its true outcome, exactly once, and the log still verifies.

One pool of real processes goes through all the moments, one after another; what must be true is read from the log, from the
hypervisors and from the API, never from what a part says of itself.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import XenAPI

from host_agent.shell.fabric_store import FolderStore
from host_agent.shell.simulated_fabric import SimulatedFabric
from tests.support.pool import RunningPool, running_pool, until
from tests.support.vms import halted_vm

SETTLE_S_MAX: Final = 60.0
HARM: Final = Path(__file__).parent.parent / "support" / "crash"

START_MOMENTS: Final = (
    "before_append:OperationAccepted",
    "after_append:OperationAccepted",
    "before_dispatch",
    "after_dispatch",
    "before_append:VmStarted",
    "after_append:VmStarted",
)
MIGRATE_MOMENTS: Final = (
    "before_append:OperationAccepted",
    "after_append:OperationAccepted",
    "after_dispatch",
    "before_append:OperationAdvanced",
    "after_append:OperationAdvanced",
    "before_append:VmMigrated",
    "after_append:VmMigrated",
)
AGENT_MOMENTS: Final = ("after_begin", "before_outcome", "after_outcome")


class Bench:
    """A pool that can be harmed, and one VM on it."""

    def __init__(self, pool: RunningPool, crash_file: Path) -> None:
        self.pool = pool
        self._crash_file = crash_file
        with pool.session() as xenapi:
            self.hosts: list[str] = xenapi.host.get_all()

    def steady(self) -> None:
        """Wait until this master has granted every host a lease or two.

        Masters that die every second leave hosts without leases, and what these do then is another test's.
        """

        def is_steady() -> bool:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.pool.server}/metrics") as page,
            ):
                for line in page.read().decode().splitlines():
                    if line.startswith('vmpool_leases_total{answer="LeaseGranted"}'):
                        return float(line.split()[1]) >= 2 * len(self.hosts)
            return False

        until(is_steady, what="every host has a lease of this master", seconds_max=SETTLE_S_MAX)

    def arm(self, moment: str, victim: str) -> None:
        """Let the victim (`self`, or a part of the pool) die at that moment."""
        pid = "self" if victim == "self" else str(self.pool.pids[victim])
        self._crash_file.write_text(f"{pid} {moment}")

    def is_armed(self) -> bool:
        """Whether the moment has not come."""
        return self._crash_file.exists()

    def call(self, method: str, *parameters: Any) -> "Outcome":
        """Make one call in a thread of its own; the connection may be cut."""
        outcome = Outcome()

        def run() -> None:
            try:
                with self.pool.session() as xenapi:
                    message = xenapi
                    for part in method.split("."):
                        message = getattr(message, part)
                    message(*parameters)
                    outcome.is_acknowledged = True
            except XenAPI.Failure as failure:
                outcome.failure = list(failure.details)
            except OSError:
                pass  # The connection was cut: the client knows nothing.
            except Exception as error:  # noqa: BLE001 - http.client has many names for a cut connection
                outcome.cut = repr(error)

        outcome.thread = threading.Thread(target=run)
        outcome.thread.start()
        return outcome

    def settled(self, vm: str) -> dict[str, Any]:
        """Wait until the pool answers again and nothing is in flight on the VM; give its record."""

        def record() -> dict[str, Any] | None:
            with contextlib.suppress(OSError, XenAPI.Failure), self.pool.session() as xenapi:
                live = [
                    xenapi.host_metrics.get_live(xenapi.host.get_metrics(h)) for h in self.hosts
                ]
                found: dict[str, Any] = xenapi.VM.get_record(vm)
                if all(live) and not found["current_operations"]:
                    return found
            return None

        found = until(record, what="the operation ends", seconds_max=SETTLE_S_MAX)
        assert found is not None
        return found

    def history(self, vm: str) -> list[dict[str, str]]:
        """All that the log says of the VM."""
        with self.pool.session() as xenapi:
            told: list[dict[str, str]] = xenapi.event.get_log({"ref": vm, "limit": "1000"})
        return told

    def running_on(self, vm_uuid: str) -> list[str]:
        """The hosts whose hypervisor runs the VM."""
        fabric = SimulatedFabric(FolderStore(self.pool.data / "fabric"))
        return [guest.host for guest in fabric.running() if guest.vm_uuid == vm_uuid]


class Outcome:
    """What became of a call."""

    def __init__(self) -> None:
        self.is_acknowledged = False
        self.failure: list[str] = []
        self.cut = ""
        self.thread = threading.Thread()


@contextlib.contextmanager
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    crash_file = tmp_path / "crash"
    monkeypatch.setenv("VMPOOL_CRASH_FILE", str(crash_file))
    paths = [str(HARM), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    with running_pool(tmp_path, hosts=3, hypervisor="simulated") as pool:
        yield Bench(pool, crash_file)
        verify(pool)


def verify(pool: RunningPool) -> None:
    """The log's chain is whole, in the stream and in the copy."""
    done = subprocess.run(
        [sys.executable, "-m", "pool_master.cli.app", "--data", str(pool.data), "log", "verify"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check_history(told: list[dict[str, str]], full: list[dict[str, str]]) -> None:
    """Every accepted operation has exactly one end, and no incarnation started twice."""
    accepted = [
        json.loads(each["detail"])["task"] for each in told if each["type"] == "OperationAccepted"
    ]
    assert len(accepted) == len(set(accepted)), "an operation was accepted twice"
    ends = Counter(
        json.loads(each["detail"])["task"]
        for each in full
        if each["type"] in {"TaskSucceeded", "TaskFailed"}
    )
    for task in accepted:
        assert ends[task] == 1, f"{task} ended {ends[task]} times"
    started = [
        json.loads(each["detail"])["incarnation"] for each in told if each["type"] == "VmStarted"
    ]
    assert len(started) == len(set(started)), f"an incarnation was started twice: {started}"


def go_through(stage: Bench, vm: str, outcome: Outcome) -> dict[str, Any]:
    until(lambda: not stage.is_armed(), what="the crash comes")
    # The call first: while the log is away it waits, and nothing of it can be seen.
    outcome.thread.join(SETTLE_S_MAX)
    assert not outcome.thread.is_alive(), "a client still waits for an operation that has ended"
    record = stage.settled(vm)
    with stage.pool.session() as xenapi:
        full = xenapi.event.get_log({"limit": "1000", "after": "0"})
        while len(full) % 1000 == 0 and full:
            full += xenapi.event.get_log({"limit": "1000", "after": full[-1]["sequence"]})
    check_history(stage.history(vm), full)
    where = stage.running_on(record["uuid"])
    story = "\n".join(
        f"{x['sequence']} {x['time']} {x['type']} {x['cause']} {x['detail']}" for x in full[-25:]
    )
    if record["power_state"] == "Running":
        with stage.pool.session() as xenapi:
            assert where == [xenapi.host.get_name_label(record["resident_on"])], story
    else:
        assert where == [], story
    return record


@pytest.mark.nats
def test_start_on_survives_the_master_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench(tmp_path, monkeypatch) as stage:
        for victim in ("self", "nats"):
            for moment in START_MOMENTS:
                stage.steady()
                with stage.pool.session() as xenapi:
                    vm = halted_vm(xenapi, f"{victim} {moment}")
                stage.arm(moment, victim)
                outcome = stage.call("VM.start_on", vm, stage.hosts[0], False, False)
                record = go_through(stage, vm, outcome)
                is_promised = (victim, moment) != ("self", "before_append:OperationAccepted")
                expected = "Running" if is_promised or outcome.is_acknowledged else "Halted"
                assert record["power_state"] == expected, (victim, moment, outcome.failure)


@pytest.mark.nats
def test_pool_migrate_survives_the_master_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench(tmp_path, monkeypatch) as stage:
        for victim in ("self", "nats"):
            for moment in MIGRATE_MOMENTS:
                stage.steady()
                with stage.pool.session() as xenapi:
                    vm = halted_vm(xenapi, f"{victim} {moment}")
                    xenapi.VM.start_on(vm, stage.hosts[0], False, False)
                stage.arm(moment, victim)
                outcome = stage.call("VM.pool_migrate", vm, stage.hosts[1], {})
                record = go_through(stage, vm, outcome)
                is_promised = (victim, moment) != ("self", "before_append:OperationAccepted")
                arrived = record["resident_on"] == stage.hosts[1]
                assert record["power_state"] == "Running"
                assert arrived == (is_promised or outcome.is_acknowledged), (victim, moment)


@pytest.mark.nats
def test_operations_survive_the_agent_between_its_hypervisor_and_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench(tmp_path, monkeypatch) as stage:
        for moment in AGENT_MOMENTS:
            with stage.pool.session() as xenapi:
                vm = halted_vm(xenapi, moment)
            stage.arm(moment, "self")
            outcome = stage.call("VM.start_on", vm, stage.hosts[0], False, False)
            record = go_through(stage, vm, outcome)
            assert outcome.is_acknowledged, (moment, outcome.failure, outcome.cut)
            assert record["power_state"] == "Running"
            stage.arm(moment, "self")
            outcome = stage.call("VM.pool_migrate", vm, stage.hosts[1], {})
            record = go_through(stage, vm, outcome)
            # An agent that died before it began to move the guest says so: the guest stays, and the caller is told.
            assert outcome.is_acknowledged or outcome.failure[:2] == ["VM_MIGRATE_FAILED", vm]
            assert record["power_state"] == "Running"
            assert record["resident_on"] == stage.hosts[1 if outcome.is_acknowledged else 0]
            stage.arm(moment, "self")
            outcome = stage.call("VM.hard_shutdown", vm)
            record = go_through(stage, vm, outcome)
            assert record["power_state"] == "Halted"
