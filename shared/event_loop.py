"""Runs a program on the fastest event loop there is."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


def run(program: Coroutine[object, object, T]) -> T:
    """Run a program to its end: on uvloop where its wheel is installed, on asyncio's own loop elsewhere."""
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - an optional wheel

        return uvloop.run(program)
    return asyncio.run(program)
