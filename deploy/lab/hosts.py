"""The lab: several real libvirt hosts on one machine, to be migrated between, killed and cut off.

A host is a network namespace on a bridge plus a holder process with its own mounts and host name,
in which runs a libvirtd. Whatever else shall run on a host is started with the command line that
`Lab.argv_in` gives. All calls block for a bounded time; from asyncio use `asyncio.to_thread`.
"""

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Self

from deploy.lab import network as wires
from deploy.lab.host_files import forget_volatile_state, write_host_files
from deploy.lab.network import LabNetwork
from deploy.lab.preflight import LabFailed, LabUnavailable, lab_unavailable_reason, require_root
from deploy.lab.processes import command_of, kill_all, processes_in, signal_all, wait_until

HOSTS_MAX: Final = 64

_HOLDER: Final = Path(__file__).with_name("holder.sh")
_STATE_FILE: Final = "lab.json"
# Each host mounts its own over these: a data folder below one of them would vanish in the hosts.
_HIDDEN: Final = (
    "/run",
    "/etc/libvirt",
    "/var/lib/libvirt",
    "/var/log/libvirt",
    "/var/cache/libvirt",
)
# Programs on a host inherit nothing by accident from whoever started the lab.
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}
_HOLDER_S_MAX: Final = 10.0
_LIBVIRTD_S_MAX: Final = 60.0
_ANSWER_S_MAX: Final = 5.0


def default_cache() -> Path:
    """Where this user's labs keep what takes long to make: the guest image, QEMU's capabilities."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vmpool-lab"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabConfig:
    """What a lab is made from; `cache` outlives it and is shared by all labs."""

    data: Path
    hosts: int = 3
    name: str = "vmpool"
    cache: Path = field(default_factory=default_cache)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabHost:
    """One host of the lab, as the others know it."""

    index: int
    name: str
    uuid: str
    address: str
    netns: str
    folder: Path
    libvirt_uri_local: str = "qemu:///system"

    @property
    def migrate_uri(self) -> str:
        """Where another host sends a guest to."""
        return f"qemu+tcp://{self.address}/system"


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab on this machine; the object holds no resource, everything lives until `down`."""

    config: LabConfig

    @classmethod
    def up(cls, config: LabConfig) -> Self:
        """Build the lab, or repair the one that is there: dead hosts are started again."""
        if reason := lab_unavailable_reason():
            raise LabUnavailable(reason)
        config = _checked(config)
        lab = cls(config)
        lab._claim()
        was_alive = any(lab._holder_pid(host) is not None for host in lab.hosts)
        try:
            lab._build()
        except BaseException:
            # Guests of a lab that was up before survive a failed repair.
            if not was_alive:
                lab.down()
            raise
        return lab

    @classmethod
    def open(cls, data: Path) -> Self:
        """The lab that was built in this data folder."""
        state = data.resolve() / _STATE_FILE
        try:
            stored = json.loads(state.read_text())
        except FileNotFoundError as error:
            raise LabUnavailable(f"There is no lab in {data}: bring one up first.") from error
        return cls(
            LabConfig(
                data=data.resolve(),
                hosts=stored["hosts"],
                name=stored["name"],
                cache=Path(stored["cache"]),
            )
        )

    def down(self) -> None:
        """Kill and remove everything, a crashed lab's remains included; logs and disks stay."""
        require_root()
        for host in self.hosts:
            kill_all(partial(self._processes, host), what=host.name)
            wires.disconnect_host(self.network, host.index)
        wires.disconnect_bridge(self.network)
        for host in self.hosts:
            forget_volatile_state(host.folder)
        (self.config.data / _STATE_FILE).unlink(missing_ok=True)

    @property
    def network(self) -> LabNetwork:
        """The names and addresses on the wire."""
        return LabNetwork(self.config.name)

    @property
    def hosts(self) -> tuple[LabHost, ...]:
        """All hosts, host 1 first."""
        return tuple(self._host(index) for index in range(1, self.config.hosts + 1))

    @property
    def shared(self) -> Path:
        """A folder that every host, and the machine itself, sees at this path."""
        return self.config.data / "shared"

    def argv_in(self, host: LabHost, argv: Sequence[str]) -> list[str]:
        """The command line that runs a program on a host, in the folder /; use absolute paths."""
        holder = self._holder_pid(host)
        if holder is None:
            raise LabFailed(f"{host.name} is not up.")
        return ["nsenter", "--target", str(holder), "--net", "--mount", "--uts", "--", *argv]

    def answers(self, host: LabHost) -> bool:
        """Whether the host's libvirtd answers a call."""
        if self._holder_pid(host) is None:
            return False
        argv = self.argv_in(host, ["virsh", "--connect", host.libvirt_uri_local, "hostname"])
        try:
            return _run(argv, seconds_max=_ANSWER_S_MAX).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def start_host(self, host: LabHost) -> None:
        """Start the host's libvirtd and wait until it answers; one that answers is left alone."""
        if self.answers(host):
            return
        argv = self.argv_in(host, ["libvirtd", "--daemon", "--listen"])
        try:
            started = _run(argv, seconds_max=_LIBVIRTD_S_MAX)
        except subprocess.TimeoutExpired as error:
            raise LabFailed(f"libvirtd of {host.name} does not become ready.") from error
        if started.returncode != 0:
            raise LabFailed(f"libvirtd of {host.name} did not start: {started.stderr.strip()}")
        wait_until(
            partial(self.answers, host),
            seconds_max=_LIBVIRTD_S_MAX,
            what=f"libvirtd of {host.name} answers (see {host.folder / 'libvirtd.log'})",
        )

    def kill_host(self, host: LabHost) -> None:
        """Cut the host's power: everything on it dies at once, its disks stay."""
        kill_all(self._programs(host), what=host.name)
        forget_volatile_state(host.folder)

    def kill_libvirtd(self, host: LabHost) -> None:
        """SIGKILL the host's libvirtd alone; its guests run on."""

        def find() -> frozenset[int]:
            return frozenset(p for p in self.programs_on(host) if command_of(p)[:1] == ["libvirtd"])

        kill_all(find, what=f"libvirtd of {host.name}")

    def freeze_host(self, host: LabHost) -> None:
        """Stop everything on the host where it stands."""
        signal_all(self._programs(host), signal.SIGSTOP)

    def thaw_host(self, host: LabHost) -> None:
        """Let a frozen host go on."""
        signal_all(self._programs(host), signal.SIGCONT)

    def partition_host(self, host: LabHost) -> None:
        """Pull the host's network cable."""
        wires.set_cable(self.network, host.index, state="down")

    def heal_host(self, host: LabHost) -> None:
        """Plug the host's network cable in again."""
        wires.set_cable(self.network, host.index, state="up")

    def programs_on(self, host: LabHost) -> frozenset[int]:
        """The processes on a host: its libvirtd, its guests and whatever else was started there."""
        return self._processes(host) - {self._holder_pid(host)}

    def _programs(self, host: LabHost) -> Callable[[], frozenset[int]]:
        return partial(self.programs_on, host)

    def _processes(self, host: LabHost) -> frozenset[int]:
        netns = self.network.netns_path(host.index)
        return processes_in(netns=netns, run_folder=host.folder / "run")

    def _host(self, index: int) -> LabHost:
        return LabHost(
            index=index,
            name=f"host{index}",
            uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.config.data.as_uri()}#{index}")),
            address=self.network.address(index),
            netns=self.network.netns(index),
            folder=self.config.data / f"host{index}",
        )

    def _holder_pid(self, host: LabHost) -> int | None:
        pid_file = host.folder / "holder.pid"
        try:
            pid = int(pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        # The number alone could belong to anybody by now.
        return pid if command_of(pid) == _holder_command(pid_file) else None

    def _claim(self) -> None:
        """Take the lab's name and data folder, or refuse if another living lab has one of them."""
        state = self.config.data / _STATE_FILE
        if state.exists() and (standing := Lab.open(self.config.data)).config != self.config:
            raise LabUnavailable(
                f"{self.config.data} holds the lab {standing.config.name!r} with"
                f" {standing.config.hosts} hosts: take it down first."
            )
        owner = wires.owner_of(self.network)
        if owner is not None and owner != str(self.config.data):
            self._evict(Path(owner))
        wires.refuse_taken_subnet(self.network)
        self.shared.mkdir(parents=True, exist_ok=True)
        # Before anything is made: what a crash leaves must be found by `open` and `down`.
        config = self.config
        stored = {"name": config.name, "hosts": config.hosts, "cache": str(config.cache)}
        state.write_text(json.dumps(stored))

    def _evict(self, owner: Path) -> None:
        """Remove the remains of a crashed lab with the same wires, or refuse if it lives."""
        remains = Lab(LabConfig(data=owner, hosts=HOSTS_MAX, name=self.config.name))
        lives = any(remains._processes(host) for host in remains.hosts)
        if lives and (owner / _STATE_FILE).exists():
            raise LabUnavailable(
                f"The lab in {owner} has the network {self.network.bridge}: give this one another"
                f" name, or run: python -m deploy.lab down --data {owner}"
            )
        remains.down()

    @property
    def _libvirt_cache(self) -> Path:
        return self.config.cache / "libvirt"

    def _build(self) -> None:
        self._libvirt_cache.mkdir(parents=True, exist_ok=True)
        wires.connect_bridge(self.network, self.config.data)
        for host in self.hosts:
            if self._holder_pid(host) is None:
                self._make_host(host)
        # Each libvirtd takes its time on one CPU; together they use all.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(self.start_host, self.hosts))
        # On a machine's first lab libvirt asks QEMU for what it can do, which takes seconds. Done
        # here, once for all hosts, it does not hide in the first start or migration of a guest.
        first = self.hosts[0]
        argv = self.argv_in(first, ["virsh", "--connect", first.libvirt_uri_local, "capabilities"])
        _run(argv, seconds_max=_LIBVIRTD_S_MAX)

    def _make_host(self, host: LabHost) -> None:
        kill_all(partial(self._processes, host), what=f"what was {host.name}")
        wires.connect_host(self.network, host.index)
        write_host_files(
            host.folder,
            uuid=host.uuid,
            address=host.address,
            addresses_by_name={other.name: other.address for other in self.hosts},
        )
        forget_volatile_state(host.folder)
        self._start_holder(host)

    def _start_holder(self, host: LabHost) -> None:
        inside = ["sh", str(_HOLDER), str(host.folder), host.name, str(self._libvirt_cache)]
        # setsid --fork hands the holder to the machine's init, which reaps it one day.
        # slave: a namespace deleted outside must not live on in here; mounts in here stay in here.
        argv = [
            *("setsid", "--fork"),
            *("nsenter", f"--net={self.network.netns_path(host.index)}"),
            *("unshare", "--mount", "--uts", "--propagation", "slave"),
            *inside,
        ]
        log = host.folder / "holder.log"
        with log.open("wb") as output:
            subprocess.run(
                argv,
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_ENVIRONMENT,
                timeout=_HOLDER_S_MAX,
            )
        wait_until(
            lambda: self._holder_pid(host) is not None,
            seconds_max=_HOLDER_S_MAX,
            what=f"{host.name} stands (see {log})",
        )


def _holder_command(pid_file: Path) -> list[str]:
    return ["tail", "-f", str(pid_file)]


def _checked(config: LabConfig) -> LabConfig:
    """The configuration with its real data folder, if a lab can be made of it."""
    data, cache = config.data.resolve(), config.cache.resolve()
    if not 1 <= config.hosts <= HOSTS_MAX:
        raise LabUnavailable(f"A lab has 1 to {HOSTS_MAX} hosts, not {config.hosts}.")
    if any(data.is_relative_to(hidden) for hidden in _HIDDEN):
        raise LabUnavailable(f"{data} would be invisible in the hosts: use another data folder.")
    return replace(config, data=data, cache=cache)


def _run(argv: list[str], *, seconds_max: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_ENVIRONMENT,
        timeout=seconds_max,
    )
