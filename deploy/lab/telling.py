"""How the story is told: acts with what is called, what came of it after how long, and where a wait stands.

Rules: names of things are never read as markup; where output is no terminal, only what has come true is printed.
"""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from rich.console import Console, RenderableType
from rich.text import Text

from pool_master.cli.client import PoolClient
from pool_master.cli.events import Printer
from pool_master.cli.history import Names
from pool_master.cli.render import Terminal
from pool_master.cli.settings import Target

T = TypeVar("T")

POLL_S: Final = 0.1
# What befell the hosts is not in a VM's own history.
HOST_EVENTS: Final = ("HostLost", "HostCameAlive")


class StoryFailed(Exception):
    """Something did not go as it must; the text says what."""


class Telling:
    """Writes the story to a terminal."""

    def __init__(self, terminal: Console) -> None:
        self.terminal = terminal
        self._act = 0

    def begin(self, title: str, why: str, call: str = "") -> None:
        """Open an act."""
        self._act += 1
        self.terminal.print()
        self.terminal.print(Text.assemble((f"{self._act}. ", "bold cyan"), (title, "bold")))
        for line, style in ((why, ""), (call, "magenta")):
            if line:
                self.terminal.print(Text(f"   {line}", style=style))

    def say(self, text: str, style: str = "") -> None:
        """Add a remark."""
        self.terminal.print(Text(f"   {text}", style=style))

    def show(self, what: RenderableType) -> None:
        """Add a table."""
        self.terminal.print(what)

    def done(self, text: str, began: float, style: str = "green") -> None:
        """Say what has come true, and after how long."""
        elapsed = f"   {time.monotonic() - began:5.1f} s  "
        self.terminal.print(Text.assemble((elapsed, "dim"), (text, style)))

    def wait(
        self, condition: Callable[[], T], seconds_max: float, what: str, shown: Callable[[], str]
    ) -> T:
        """Poll until the condition holds, and show where it stands meanwhile.

        Raises:
            StoryFailed: it does not hold in time.
        """
        deadline = time.monotonic() + seconds_max
        with self.terminal.status(Text(shown())) as status:
            while not (found := condition()):
                if time.monotonic() > deadline:
                    raise StoryFailed(
                        f"Waited {seconds_max:.0f} s in vain until {what}: {shown()}."
                    )
                status.update(Text(shown()))
                time.sleep(POLL_S)
        return found

    def history(self, target: Target, vm: str) -> None:
        """Tell what the log has of a VM, and of the hosts meanwhile, as `vmpool audit` does."""
        client = PoolClient(target)
        try:
            found = client.call("event.get_log", {"ref": vm, "limit": "1000"})
            since = found[0]["sequence"]
            for name in HOST_EVENTS:
                found += client.call("event.get_log", {"type": name, "after": since})
            events = {int(event["sequence"]): event for event in found}
            printer = Printer(_HereTerminal(self.terminal), Names(client), with_noise=False)
            printer.show([events[sequence] for sequence in sorted(events)])
        finally:
            client.logout()


class _HereTerminal(Terminal):
    """The command line's terminal, where the story is told."""

    def __init__(self, out: Console) -> None:
        super().__init__()
        self.__dict__["out"] = out  # what is cached is not made
