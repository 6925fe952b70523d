"""The house's rules that a linter does not know: lengths, purity, words, golden events, empty __init__ files.

A rule that is broken today may stay broken where the ratchet lists it, with a count that may only shrink.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from pool_master.core.events import EVENT_TYPES
from tests.golden.write import path_of

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = ("pool_master", "host_agent", "shared", "simulator", "deploy", "bench", "tests")
FILE_LINES_MAX: Final = 450
FUNCTION_LINES_MAX: Final = 50

# Offenders of today, by path or path::function, and their lines: only ever made smaller, and taken out when they are.
RATCHET: Final[dict[str, int]] = {
    "host_agent/shell/agent.py::__init__": 61,
    "pool_master/core/implied.py::_lookups": 63,
}

# Where somebody's machine shines through: a path that exists nowhere else.
FORBIDDEN: Final = tuple(
    re.compile(rf"(?<![\w.]){start}/\w") for start in ("/home", "/Users", "/work")
)
TEXT_SUFFIXES: Final = (".py", ".md", ".toml", ".yml", ".yaml", ".sh", ".conf", ".service", ".json")
BARE_TODO: Final = re.compile(r"#\s*(?:TODO|FIXME|XXX)\b", re.IGNORECASE)
UNORDERED_CALLS: Final = ("set", "frozenset")
KEEPING_ORDER: Final = ("list", "tuple", "enumerate", "iter", "next", "zip", "map", "filter")


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def too_long() -> dict[str, int]:
    found: dict[str, int] = {}
    for path in python_files(*PACKAGES):
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > FILE_LINES_MAX:
            found[name_of(path)] = lines
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES_MAX:
                    found[f"{name_of(path)}::{node.name}"] = length
    return found


def test_no_file_and_no_function_grows_too_long() -> None:
    grown = {name: length for name, length in too_long().items() if length > RATCHET.get(name, 0)}
    assert grown == {}, f"over {FILE_LINES_MAX} lines a file, {FUNCTION_LINES_MAX} a function"


def test_the_ratchet_only_ever_shrinks() -> None:
    present = too_long()
    stale = {name: length for name, length in RATCHET.items() if present.get(name, 0) < length}
    assert stale == {}, "shorter now: take it out of the ratchet, or lower its count"


def is_unordered(node: ast.expr) -> bool:
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    if is_call and isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in UNORDERED_CALLS
    return isinstance(node, ast.Set | ast.SetComp)


def set_iterations(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        match node:
            case ast.For(iter=iterated) | ast.comprehension(iter=iterated) if is_unordered(
                iterated
            ):
                yield iterated.lineno
            case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in KEEPING_ORDER:
                if is_unordered(first):
                    yield first.lineno
            case ast.Starred(value=value) if is_unordered(value):
                yield value.lineno
            case _:
                pass


def test_no_core_walks_over_a_set() -> None:
    """Its order is not the same on every master, nor at every start."""
    found = [
        f"{name_of(path)}:{line}"
        for path in python_files("pool_master/core", "host_agent/core")
        for line in set_iterations(tree_of(path))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "for x in {1, 2}: pass",
        "[x for x in set(y)]",
        "list(frozenset(y))",
        "f(*{x for x in y})",
        "next(iter({1}))",
    ],
)
def test_a_walk_over_a_set_is_found(source: str) -> None:
    assert list(set_iterations(ast.parse(source))) == [1]


def test_an_init_file_is_empty() -> None:
    full = [
        name_of(path)
        for path in python_files(*PACKAGES)
        if path.name == "__init__.py" and path.read_text(encoding="utf-8").strip()
    ]
    assert full == []


def test_what_is_to_be_done_is_not_left_in_comments() -> None:
    found = [
        f"{name_of(path)}:{number}"
        for path in python_files(*PACKAGES)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if BARE_TODO.search(line)
    ]
    assert found == []


def text_files() -> Iterator[Path]:
    for folder in (*PACKAGES, "docs", ".github"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts:
                yield path
    yield from sorted(path for path in ROOT.iterdir() if path.suffix in TEXT_SUFFIXES)


def test_no_path_of_anybodys_machine_is_written_down() -> None:
    found = [
        f"{name_of(path)}: {match[0]}"
        for path in text_files()
        for pattern in FORBIDDEN
        if (match := pattern.search(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_every_event_has_a_golden_file() -> None:
    missing = [name for name in EVENT_TYPES if not path_of(name).exists()]
    assert missing == [], "run: python -m tests.golden.write"
