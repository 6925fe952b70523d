"""What a terminal is shown: tables, states, JSON.

Rules: names come from users and are never read as markup; what is not a terminal gets plain text of any width, so that
pipes see whole lines; JSON goes to standard output alone, progress and remarks to standard error.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from functools import cached_property
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_COLUMNS: Final = 400
UUID_SHORT: Final = 8
WIDE_COLUMNS: Final = 110
STATE_STYLES: Final = {
    "Running": "green",
    "Paused": "yellow",
    "Suspended": "yellow",
    "Halted": "dim",
    "live": "green",
    "disabled": "yellow",
    "lost": "bold red",
}


class Terminal:
    """Where a command's words go."""

    def __init__(self, *, is_json: bool = False) -> None:
        self.is_json = is_json

    @cached_property
    def out(self) -> Console:
        """Results."""
        return _console(is_error=False)

    @cached_property
    def err(self) -> Console:
        """Progress, remarks and errors."""
        return _console(is_error=True)

    def show(self, value: Any) -> None:
        """Print a result as JSON."""
        print(as_json(value))

    def say(self, text: str, style: str = "") -> None:
        """Print a line for people; with --json it would be in the way."""
        if not self.is_json:
            self.out.print(Text(text, style=style))

    def remark(self, text: str, style: str = "dim") -> None:
        """Print a line beside the results."""
        self.err.print(Text(text, style=style))


def _console(*, is_error: bool) -> Console:
    console = Console(stderr=is_error, markup=False, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(stderr=is_error, markup=False, highlight=False, width=PIPE_COLUMNS)
    return console


def as_json(value: Any, *, is_compact: bool = False) -> str:
    """Give a value as JSON text."""
    return json.dumps(value, indent=None if is_compact else 2, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """Give an empty table in the house's look; columns named in `right` hold numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        is_number = column in right
        made.add_column(
            column,
            justify="right" if is_number else "left",
            no_wrap=is_number or column not in {"NAME", "WHAT", "DOING"},
            overflow="fold",
        )
    return made


def styled(word: str, shown: str = "") -> Text:
    """Give a state in its colour."""
    return Text(shown or word, style=STATE_STYLES.get(word, ""))


def shown_uuid(uuid: str, console: Console) -> str:
    """Give as much of a uuid as the terminal is wide enough for; commands take such a beginning too."""
    return uuid if console.width >= WIDE_COLUMNS else uuid[:UUID_SHORT]


def bar(share: float, width: int = 16) -> Text:
    """Give a bar that is filled so far."""
    share = min(max(share, 0.0), 1.0)
    filled = round(share * width)
    style = "green" if share < 0.75 else "yellow" if share < 0.95 else "red"
    return Text.assemble(("█" * filled, style), ("░" * (width - filled), "dim"))


def facts(pairs: Iterable[tuple[str, Any]]) -> Table:
    """Give names and values, one pair a line."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    return made


def is_interactive() -> bool:
    """Say whether a person can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()
