"""Configuration of a program: one frozen dataclass, read once, checked at the start.

Rules: a TOML file first, then the environment (the prefix and the key in upper case), which wins; every key has its
meaning beside it; an unknown or wrong one ends the start with one line that names it.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A key that is wrong, and why, in one line."""


def setting(default: Any, meaning: str) -> Any:
    """Declare a key of a configuration, with its meaning."""
    return field(default=default, metadata={"meaning": meaning})


def load_settings(
    settings: type[T],
    path: Path | None,
    *,
    prefix: str,
    environment: Mapping[str, str] = os.environ,
) -> T:
    """Read the file, if any, and the environment.

    Raises:
        ConfigError: a key is unknown, missing or wrong.
    """
    values = _from_file(path) if path else {}
    known: dict[str, Field[Any]] = {each.name: each for each in fields(settings)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ConfigError(f"{name}: no such key")
    for name in known:
        text = environment.get(prefix + name.upper())
        if text is not None:
            values[name] = text
    typed = {name: _typed(name, known[name].type, value) for name, value in values.items()}
    return settings(**typed)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _typed(name: str, annotation: object, value: Any) -> Any:
    is_text = isinstance(value, str)
    try:
        if annotation is str and is_text:
            return value
        if annotation is bool and (isinstance(value, bool) or value in {"true", "false"}):
            return value in {True, "true"}
        if annotation is int and not isinstance(value, bool | float):
            return int(value)
        if annotation is float and not isinstance(value, bool):
            return float(value)
        if annotation == tuple[str, ...]:
            parts = value.split(",") if is_text else list(value)
            if all(isinstance(part, str) for part in parts):
                return tuple(part.strip() for part in parts if part.strip())
    except (TypeError, ValueError):
        pass
    wanted = getattr(annotation, "__name__", "list of strings")
    raise ConfigError(f"{name}: {value!r} is not a {wanted}")
