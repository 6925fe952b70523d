"""The story of `make run`, held to what the hypervisors show and the log says, not to what it claims itself."""

import asyncio
import importlib.util
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.preflight import lab_unavailable_reason
from deploy.lab.stage import Console
from host_agent.shell.fabric_store import FolderStore
from host_agent.shell.simulated_fabric import SimulatedFabric
from pool_master.core import events as ev
from pool_master.core.records import unseal
from pool_master.shell.follower import events_of
from pool_master.shell.mirror import Mirror
from shared.protocol import DomainState
from shared.supervision import die_with_parent
from tests.support.http import short_folder
from tests.support.pool import processes_naming, until

LAB_POOL = "story-test"
STORY_S_MAX = 170.0
STOP_S_MAX = 60.0
SAMPLE_S = 0.05
LOOK_S_MAX = 20.0

Look = Callable[[], set[tuple[str, str]]]


def argv(data: Path, *options: str) -> list[str]:
    program = [sys.executable, "-u", "-m", "deploy.lab.story", "--listen", "127.0.0.1:0"]
    return [*program, "--data", str(data), *options]


@contextmanager
def playing(data: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the story; what it says goes to DATA.out."""
    with told(data).open("wb") as output:
        process = subprocess.Popen(
            argv(data, *options),
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent,
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write(told(data).read_text())
        raise
    finally:
        process.terminate()
        process.wait(STOP_S_MAX)


def told(data: Path) -> Path:
    return data.with_name(f"{data.name}.out")


class Observer:
    """Looks at all hypervisors over and over; what runs in two looks in a row ran all the time between them."""

    def __init__(self, look: Look) -> None:
        self.seen: set[str] = set()
        self.doubled: list[set[tuple[str, str]]] = []
        self._look = look
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._observe, daemon=True)

    def __enter__(self) -> "Observer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(LOOK_S_MAX)
        assert not self._thread.is_alive(), "a hypervisor does not answer"

    def _observe(self) -> None:
        before: set[tuple[str, str]] = set()
        while not self._is_over.wait(SAMPLE_S):
            now = self._look()
            self.seen |= {host for host, _ in now}
            throughout = before & now
            if len({guest for _, guest in throughout}) < len(throughout):
                self.doubled.append(throughout)
            before = now


def history(data: Path) -> list[Any]:
    """All events, from the master's verified copy of the log."""

    async def read() -> list[Any]:
        mirror = await Mirror.open(data / "master" / "log.sqlite")
        try:
            records = await mirror.records(after=0, limit=100_000)
        finally:
            await mirror.close()
        return [one.event for record in records for one in events_of(unseal(record.data))]

    return asyncio.run(read())


def assert_told_truly(data: Path) -> None:
    """What the log says happened, in the order that makes it safe."""
    events = history(data)
    (created,) = [event for event in events if isinstance(event, ev.VmCreated)]
    names = {event.host: event.name_label for event in events if isinstance(event, ev.HostJoined)}
    kinds = ev.OperationAccepted | ev.VmStarted | ev.VmMigrated | ev.VmHalted | ev.VmReset
    of_vm = [event for event in events if isinstance(event, kinds) and event.vm == created.vm]
    assert [type(event) for event in of_vm] == [
        *(ev.OperationAccepted, ev.VmStarted, ev.OperationAccepted, ev.VmMigrated),
        *(ev.VmReset, ev.OperationAccepted, ev.VmStarted),
    ]
    first, second = (event for event in of_vm if isinstance(event, ev.VmStarted))
    (moved,) = (event for event in of_vm if isinstance(event, ev.VmMigrated))
    (lost,) = (event for event in events if isinstance(event, ev.HostLost))
    places = [names[host] for host in (first.host, moved.host, lost.host, second.host)]
    assert places == ["host1", "host2", "host2", "host3"]
    assert (first.incarnation, second.incarnation) == (1, 2)
    reset, again = of_vm[4], of_vm[5]
    assert events.index(moved) < events.index(lost) < events.index(reset) < events.index(again)
    output = told(data).read_text()
    assert output.index("HOST_IS_LIVE host2") < output.index("accepted after")


# --- on simulated hosts


def simulated_guests(data: Path) -> Look:
    def look() -> set[tuple[str, str]]:
        if not (data / "fabric").exists():
            return set()
        running = SimulatedFabric(FolderStore(data / "fabric")).running()
        return {
            (guest.host, guest.vm_uuid) for guest in running if guest.state is DomainState.RUNNING
        }

    return look


@pytest.mark.nats
def test_the_story_on_simulated_hosts(tmp_path: Path) -> None:
    data = tmp_path / "pool"
    with (
        Observer(simulated_guests(data)) as observer,
        playing(data, "--hypervisor", "simulated", "--once") as story,
    ):
        assert story.wait(STORY_S_MAX) == 0

    # On the other hosts the guest may stay for less than a look; where it was then, the log says.
    assert "host2" in observer.seen
    assert observer.doubled == []
    assert_told_truly(data)
    assert processes_naming(data) == {}


@pytest.mark.nats
def test_a_second_story_goes_on_with_the_same_pool_and_serves_until_it_is_stopped(
    tmp_path: Path,
) -> None:
    data = tmp_path / "pool"
    simulated = ("--hypervisor", "simulated")
    with playing(data, *simulated, "--once") as story:
        assert story.wait(STORY_S_MAX) == 0
    assert (data / "hosts/host2/down").exists()

    with playing(data, *simulated) as story:
        until(
            lambda: "serves until" in told(data).read_text() or story.poll() is not None,
            what="the second story serves",
            seconds_max=STORY_S_MAX,
        )
        story.send_signal(signal.SIGTERM)
        assert story.wait(STOP_S_MAX) == 0

    output = told(data).read_text()
    assert "story-1 of an earlier story" in output
    assert "story-2 is Running on host2" in output
    assert processes_naming(data) == {}
    created = [event for event in history(data) if isinstance(event, ev.VmCreated)]
    assert [event.config.name_label for event in created] == ["story-1", "story-2"]


def test_a_port_that_is_taken_is_said_at_once(tmp_path: Path) -> None:
    import socket

    data = tmp_path / "pool"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = ("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        with playing(data, "--hypervisor", "simulated", "--once", *listen) as story:
            assert story.wait(STOP_S_MAX) == 1
    assert "Address already in use" in told(data).read_text()
    assert processes_naming(data) == {}


# --- on real hosts

REASON = lab_unavailable_reason() or (
    None if importlib.util.find_spec("libvirt") else "libvirt-python is not installed"
)


def real_guests(data: Path) -> Look:
    """Ask each host's libvirtd; one that does not answer runs nothing that anybody could know of."""
    import libvirt

    libvirt.registerErrorHandler(lambda *_: None, None)
    connections: dict[Path, Any] = {}

    def running_on(socket: Path) -> set[str]:
        try:
            # Not over the lab's network: a cable that is gone says nothing, a closed socket does.
            uri = f"qemu+unix:///system?socket={socket}"
            connection = connections.get(socket) or libvirt.open(uri)
            connections[socket] = connection
            domains = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            states = [(domain.UUIDString(), domain.state()[0]) for domain in domains]
        except libvirt.libvirtError:
            connections.pop(socket, None)
            return set()
        return {uuid for uuid, state in states if state == libvirt.VIR_DOMAIN_RUNNING}

    def look() -> set[tuple[str, str]]:
        folders = sorted((data / "lab").glob("host*"))
        return {
            (folder.name, uuid)
            for folder in folders
            for uuid in running_on(folder / "run/libvirt/libvirt-sock")
        }

    return look


@pytest.mark.lab
@pytest.mark.libvirt
@pytest.mark.nats
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_the_story_on_real_hosts() -> None:
    # A path to a Unix socket has room for 107 characters.
    with short_folder() as folder:
        play_on_real_hosts(folder / "pool")


def play_on_real_hosts(data: Path) -> None:
    from tests.integration.test_lab import remains

    options = ("--hypervisor", "lab", "--once", "--pool", LAB_POOL)
    with Observer(real_guests(data)) as observer, playing(data, *options) as story:
        assert story.wait(STORY_S_MAX) == 0

    # On the other hosts the guest may stay for less than a look; where it was then, the log says.
    assert "host2" in observer.seen
    assert observer.doubled == []
    assert_told_truly(data)
    (console,) = (data / "lab/shared/consoles").glob("*.log")
    migrated, restarted = Console(console).lives()
    # Each tick once through the migration: the guest neither stopped nor booted on the way.
    assert migrated == list(range(1, len(migrated) + 1))
    assert len(migrated) >= 6
    assert restarted == list(range(1, len(restarted) + 1))
    assert remains(data, LAB_POOL) == []
