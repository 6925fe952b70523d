"""The story of a VM in a pool, before your eyes: python -m deploy.lab.story.

A VM is made, started, migrated while it counts, loses its host to a power cut, and is started elsewhere, not before its
old host is surely dead; then the log tells what happened, and the pool serves until Ctrl-C.

Rules: every call is one of XenAPI's, by its own SDK; what is claimed is looked at (the guest's own counter, the pool's
refusals), and what does not come in time is a failure with a reason. Exit codes: 0 all went well; 1 it did not; 130
interrupted before the end of the story.
"""

import argparse
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import XenAPI
from rich.console import Console as Terminal
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deploy.lab.preflight import LabFailed, LabUnavailable
from deploy.lab.stage import (
    LAB,
    SIMULATED,
    Console,
    Stage,
    StageFailed,
    StageOptions,
    real_hosts_unavailable_reason,
)
from deploy.lab.telling import StoryFailed, Telling
from pool_master.cli.settings import Target
from pool_master.cli.vm_record import vm_record

LISTEN_DEFAULT: Final = "127.0.0.1:8080"
MEMORY: Final = 96 * 2**20
TICKS_BEFORE: Final = 3
TICKS_AFTER: Final = 3
READY_S_MAX: Final = 150.0
BOOT_S_MAX: Final = 60.0
MIGRATE_S_MAX: Final = 60.0
DEATH_S_MAX: Final = 40.0
# A pool that hangs must not hang whoever started the story.
STORY_S_MAX: Final = 400
INTERRUPTED: Final = 130


class Story:
    """The acts, in order, and what one act leaves to the next."""

    def __init__(self, stage: Stage, telling: Telling) -> None:
        self._stage = stage
        self._tell = telling
        self._xenapi: Any = None
        self._hosts: dict[str, str] = {}
        self._vm = self._name = ""
        self._starts: list[str] = []
        self._guest: Console | None = None

    def play(self) -> None:
        """Play it.

        Raises:
            StoryFailed, StageFailed: something is not as it must be.
        """
        session = self.come_up()
        try:
            self._xenapi = session.xenapi
            self.show_hosts()
            self.create()
            self.start_on("host1")
            self.migrate("host1", "host2")
            self.kill("host2")
            self.start_on("host3")
            self.tell_history()
        except XenAPI.Failure as failure:
            raise StoryFailed(
                f"The pool refused: {' '.join(map(str, failure.details))}"
            ) from failure
        finally:
            session("close")()

    # --- the acts

    def come_up(self) -> Any:
        """Bring the pool up."""
        kind = (
            "three libvirt hosts in namespaces" if self._stage.is_real else "three simulated hosts"
        )
        self._tell.begin(
            f"A pool of {kind} comes up", "nats-server, master and an agent per host: vmpool up"
        )
        began = time.monotonic()
        self._tell.wait(
            self._stage.is_ready, READY_S_MAX, "the pool answers", lambda: "waiting for the pool"
        )
        self._tell.done(f"the pool answers at {self._stage.server}", began)
        return self._stage.log_in()

    def show_hosts(self) -> None:
        """Show who is there, and what earlier stories have left."""
        table = Table(box=None, padding=(0, 2, 0, 4), header_style="bold")
        for column in ("HOST", "ADDRESS", "LIVE", "SOFTWARE", "MEMORY"):
            table.add_column(column)
        for name, uuid in self._stage.host_uuids().items():
            ref = self._hosts[name] = self._xenapi.host.get_by_uuid(uuid)
            record = self._xenapi.host.get_record(ref)
            held = self._xenapi.host_metrics.get_record(record["metrics"])
            table.add_row(
                record["name_label"],
                record["address"],
                "yes" if held["live"] else "no",
                ", ".join(f"{name} {value}" for name, value in record["software_version"].items()),
                f"{int(held['memory_total']) / 2**30:.1f} GiB",
            )
        self._tell.show(table)
        for vm, record in self._xenapi.VM.get_all_records().items():
            if record["name_label"].startswith("story-"):
                self._put_away(vm, record)

    def _put_away(self, vm: str, record: dict[str, Any]) -> None:
        """Halt what an earlier story has left."""
        then = ""
        if record["power_state"] != "Halted":
            try:
                self._xenapi.VM.hard_shutdown(vm)
                then = ": it is stopped now"
            except XenAPI.Failure as failure:
                # On a host of a pool that was simulated here before, for one.
                then = f", and left as it is: {failure.details[0]}"
        name, state = record["name_label"], record["power_state"]
        self._tell.say(f"{name} of an earlier story is {state}{then}")

    def create(self) -> None:
        """Make the VM."""
        taken = {record["name_label"] for record in self._xenapi.VM.get_all_records().values()}
        number = next(n for n in range(1, len(taken) + 2) if f"story-{n}" not in taken)
        self._name = f"story-{number}"
        what = "its guest counts seconds on its serial console" if self._stage.is_real else ""
        self._tell.begin(f"A VM is made: {self._name}", what, "VM.create(record)")
        began = time.monotonic()
        record = vm_record(
            name=self._name, memory=MEMORY, vcpus=1, given=self._stage.boot_members()
        )
        self._vm = self._xenapi.VM.create(
            {key: str(value) if type(value) is int else value for key, value in record.items()}
        )
        uuid = self._xenapi.VM.get_uuid(self._vm)
        self._guest = self._stage.console(uuid)
        self._tell.done(f"{self._name} is Halted, with uuid {uuid}", began)

    def start_on(self, host: str) -> None:
        """Start the VM on a host and listen to its guest."""
        lives_before = len(self._guest.lives()) if self._guest else 0
        is_again = bool(self._starts)
        self._starts.append(host)
        title = f"It starts again, on {host}" if is_again else f"It starts on {host}"
        self._tell.begin(title, "", f"VM.start_on({self._name}, {host}, false, false)")
        began = time.monotonic()
        self._xenapi.VM.start_on(self._vm, self._hosts[host], False, False)
        self._expect_running_on(host)
        self._tell.done(f"{self._name} is Running on {host}", began)
        if self._guest is None:
            return
        guest = self._guest

        def counts() -> bool:
            lives = guest.lives()
            return len(lives) > lives_before and lives[-1][-1] >= TICKS_BEFORE

        self._tell.wait(
            counts, BOOT_S_MAX, "the guest counts", lambda: f"its guest boots{self._counter()}"
        )
        life = guest.lives()[-1]
        if life[0] != 1 or len(guest.lives()) != lives_before + 1:
            raise StoryFailed(f"The guest did not boot once: its counter shows {guest.lives()}.")
        self._tell.done(f"its guest has booted and counts: {_shown(life)}", began)

    def migrate(self, source: str, target: str) -> None:
        """Move the VM while its guest goes on counting."""
        self._tell.begin(
            f"It moves to {target} while it runs",
            "",
            f"VM.pool_migrate({self._name}, {target}, {{}})",
        )
        before = self._guest.last_tick() if self._guest else 0
        began = time.monotonic()
        task = self._xenapi.Async.VM.pool_migrate(self._vm, self._hosts[target], {})

        def ended() -> bool:
            return self._xenapi.task.get_status(task) not in {"pending", "cancelling"}

        self._tell.wait(
            ended,
            MIGRATE_S_MAX,
            "the migration ends",
            lambda: (
                f"{source} → {target}: {self._xenapi.task.get_progress(task):.0%}{self._counter()}"
            ),
        )
        if self._xenapi.task.get_status(task) != "success":
            why = " ".join(self._xenapi.task.get_error_info(task))
            raise StoryFailed(f"The migration failed: {why}")
        self._expect_running_on(target)
        self._tell.done(f"{self._name} is Running on {target}", began)
        if self._guest is None:
            return
        guest, arrived = self._guest, self._guest.last_tick()
        self._tell.wait(
            lambda: guest.last_tick() >= arrived + TICKS_AFTER,
            BOOT_S_MAX,
            "the guest goes on counting",
            lambda: f"on {target}{self._counter()}",
        )
        lives = guest.lives()
        if len(lives) != 1 or lives[0] != list(range(1, lives[0][-1] + 1)):
            raise StoryFailed(f"The guest was interrupted: its counter shows {lives}.")
        self._tell.done(
            f"the same guest counted on: {before} before, {lives[0][-1]} now, none missing, one boot",
            began,
        )

    def kill(self, host: str) -> None:
        """Cut the host's power, and see that its VM is given up when the host is surely dead, not before."""
        self._tell.begin(
            f"{host} loses its power",
            "kill -9 of everything on it; the VM may only start elsewhere when it surely runs there no more",
        )
        began = time.monotonic()
        count = self._stage.cut_power(host)
        self._tell.done(f"{count} processes of {host} are dead, its guest among them", began)
        self._tell.say("VM.power_state_reset, asked again and again", "dim")
        refused = 0

        def is_given_up() -> bool:
            nonlocal refused
            try:
                self._xenapi.VM.power_state_reset(self._vm)
            except XenAPI.Failure as failure:
                if failure.details != ["HOST_IS_LIVE", self._hosts[host]]:
                    raise
                refused += 1
                if refused == 1:
                    self._tell.done(
                        f"refused: HOST_IS_LIVE {host}: nobody has proof yet", began, "yellow"
                    )
                return False
            return True

        self._tell.wait(
            is_given_up,
            DEATH_S_MAX,
            f"{host} is given up",
            lambda: self._wake(host, began, refused),
        )
        if refused == 0:
            raise StoryFailed(f"The VM was given up at once, without proof that {host} is dead.")
        if self._is_live(host) or self._xenapi.VM.get_power_state(self._vm) != "Halted":
            raise StoryFailed(f"The VM was given up while {host} counts as live.")
        self._tell.done(
            f"accepted after {refused} refusals: {host}'s lease and fence time are over, its host_metrics.live is"
            f" false; {self._name} is Halted",
            began,
        )

    def tell_history(self) -> None:
        """Tell what the log has of the VM, and of the host it lost."""
        self._tell.begin(
            "What happened, as the log tells it",
            "who, what and why; it cannot be changed afterwards",
            f'event.get_log({{"ref": {self._name}}})',
        )
        target = Target(
            servers=(self._stage.server,),
            user=self._stage.user,
            password=self._stage.password,
            ca_file="",
            is_insecure=True,
        )
        self._tell.history(target, self._vm)

    # --- what the acts share

    def _expect_running_on(self, host: str) -> None:
        record = self._xenapi.VM.get_record(self._vm)
        seen = (record["power_state"], record["resident_on"])
        if seen != ("Running", self._hosts[host]):
            raise StoryFailed(f"The VM is {seen}, and not Running on {host}.")

    def _is_live(self, host: str) -> bool:
        metrics = self._xenapi.host.get_metrics(self._hosts[host])
        return bool(self._xenapi.host_metrics.get_live(metrics))

    def _wake(self, host: str, began: float, refused: int) -> str:
        live = "true" if self._is_live(host) else "false"
        elapsed = time.monotonic() - began
        return f"{elapsed:4.1f} s since the power cut: host_metrics.live {live}, refused {refused} times"

    def _counter(self) -> str:
        if self._guest is None:
            return ""  # a simulated guest has no console
        tick = self._guest.last_tick()
        return f", tick {tick}" if tick else ", no word yet"


def _shown(ticks: list[int]) -> str:
    return "tick " + ", ".join(map(str, ticks))


def main() -> int:
    """Play the story, then serve."""
    arguments = _parser().parse_args()
    terminal = Terminal(highlight=False, width=None if sys.stdout.isatty() else 140)
    options = _options(arguments, terminal)
    if options is None:
        return 1
    try:
        with _interruptible(), Stage(options) as stage:
            signal.alarm(STORY_S_MAX)
            return _run(stage, terminal, is_once=arguments.once)
    except KeyboardInterrupt:
        terminal.print("interrupted", style="yellow")
        return INTERRUPTED


def _run(stage: Stage, terminal: Terminal, *, is_once: bool) -> int:
    try:
        Story(stage, Telling(terminal)).play()
    except (StoryFailed, StageFailed, LabFailed, LabUnavailable) as error:
        terminal.print()
        terminal.print(Panel(Text(str(error)), title="the story has failed", border_style="red"))
        terminal.print(f"The logs are in {stage.logs}.", soft_wrap=True)
        return 1
    except OSError as error:
        terminal.print(f"The pool does not answer any more: {error}. The logs are in {stage.logs}.")
        return 1
    signal.alarm(0)
    if not is_once:
        _serve(stage, terminal)
    return 0


def _serve(stage: Stage, terminal: Terminal) -> None:
    """Leave the pool to whoever watches, until Ctrl-C."""
    vmpool = Path(sys.executable).with_name("vmpool")
    told = Text.assemble(
        ("address   ", "bold"),
        f"{stage.server}\n",
        ("user      ", "bold"),
        f"{stage.user}\n",
        ("password  ", "bold"),
        f"{stage.password}\n",
        ("try       ", "bold"),
        f"{vmpool} --data {stage.data} status\n",
        ("host2     ", "bold"),
        f"stays dead until its power is back: rm {stage.data}/hosts/host2/down\n",
        ("logs      ", "bold"),
        f"{stage.logs}",
    )
    terminal.print()
    terminal.print(Panel(told, title="the pool serves until Ctrl-C", border_style="green"))
    try:
        stage.wait()
    except KeyboardInterrupt:
        terminal.print("stopping…")


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM is Ctrl-C, and so is the end of the story's time; one of them is enough."""

    def interrupt(number: int, _frame: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGALRM:
            raise StoryFailed(f"The story has not ended within {STORY_S_MAX} s.")
        raise KeyboardInterrupt

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(each, interrupt)
    yield


def _options(arguments: argparse.Namespace, terminal: Terminal) -> StageOptions | None:
    """What the pool is made of; None where real hosts are asked for and cannot be had."""
    hypervisor = arguments.hypervisor or LAB
    if hypervisor == LAB and (reason := real_hosts_unavailable_reason()):
        if arguments.hypervisor:
            terminal.print(reason, style="red")
            return None
        hypervisor = SIMULATED
        text = (
            f"{reason}\nSo the hosts are simulated: master, agents, messaging and log are the real ones,"
            " guests are only pretended."
        )
        terminal.print(
            Panel(Text(text), title="no real hosts on this machine", border_style="yellow")
        )
    listen = arguments.listen or LISTEN_DEFAULT
    if not arguments.listen and not _is_free(LISTEN_DEFAULT):
        terminal.print(
            f"{LISTEN_DEFAULT} is taken: the pool answers on another port", style="yellow"
        )
        listen = "127.0.0.1:0"
    return StageOptions(
        data=arguments.data, hypervisor=hypervisor, listen=listen, pool=arguments.pool
    )


def _is_free(listen: str) -> bool:
    host, _, port = listen.partition(":")
    try:
        socket.create_server((host, int(port))).close()
    except OSError:
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.lab.story", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path(".vmpool"), help="everything the pool keeps"
    )
    parser.add_argument(
        "--hypervisor", choices=(LAB, SIMULATED), help="default: lab where that is possible"
    )
    parser.add_argument(
        "--listen",
        default="",
        help=f"where the API answers; default: {LISTEN_DEFAULT} where it is free",
    )
    parser.add_argument(
        "--pool", default="vmpool", help="its name, which tells labs on one machine apart"
    )
    parser.add_argument(
        "--once", action="store_true", help="end after the story instead of serving"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
