"""Where the pool is and who asks: command line, then environment, then the data folder's vmpool.json, then defaults.

The data folder is --data or VMPOOL_DATA, else ./.vmpool if it holds a vmpool.json, else ~/.vmpool.

Rules: nothing is read before a command needs it; a vmpool.json that belongs to somebody else is not believed, since it
names the file whose content is sent as the password.
"""

import getpass
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pool_master.cli.failures import Failed, Misused

CONFIG_FILE: Final = "vmpool.json"
SERVER_DEFAULT: Final = "http://127.0.0.1:8080"
USER_DEFAULT: Final = "root"
SCHEMES: Final = ("http://", "https://", "unix:")


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalOptions:
    """What stands before the command's name; empty where it was not given."""

    server: str = ""
    user: str = ""
    password_file: str = ""
    data: str = ""
    ca_file: str = ""
    is_insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A pool to log in to. Any of `servers` will do: a standby names the master."""

    servers: tuple[str, ...]
    user: str
    password: str
    ca_file: str
    is_insecure: bool


def data_folder(given: str) -> Path:
    """Give the data folder."""
    if given := given or os.environ.get("VMPOOL_DATA", ""):
        return Path(given)
    here = Path(".vmpool")
    return here if (here / CONFIG_FILE).is_file() else Path.home() / ".vmpool"


def stored_config(data: Path) -> dict[str, Any]:
    """Give what `vmpool up` wrote there; empty if nothing.

    Raises:
        Failed: it cannot be read, or belongs to somebody else.
    """
    path = data / CONFIG_FILE
    try:
        owner = path.stat().st_uid
        if owner not in {0, os.geteuid()}:
            raise Failed(
                f"{path} belongs to another user (uid {owner}): name the server with --server"
            )
        held = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Failed(f"{path} cannot be read: {error}") from error
    if not isinstance(held, dict):
        raise Failed(f"{path} is not a JSON object")
    return held


def target_of(options: GlobalOptions) -> Target:
    """Give the pool that a command is for."""
    data = data_folder(options.data)
    held = stored_config(data)
    server = (
        options.server or os.environ.get("VMPOOL_SERVER") or held.get("server") or SERVER_DEFAULT
    )
    servers = tuple(part.strip() for part in str(server).split(",") if part.strip())
    for part in servers:
        if not part.startswith(SCHEMES):
            raise Misused(
                f"--server {part}: write it as http://HOST:PORT, https://HOST or unix:/PATH"
            )
    return Target(
        servers=servers,
        user=options.user or held.get("user") or USER_DEFAULT,
        password=_password(options, held, data, servers),
        ca_file=options.ca_file,
        is_insecure=options.is_insecure,
    )


def _password(
    options: GlobalOptions, held: dict[str, Any], data: Path, servers: tuple[str, ...]
) -> str:
    named = options.password_file or os.environ.get("VMPOOL_PASSWORD_FILE", "")
    user = str(options.user or held.get("user") or USER_DEFAULT)
    # What vmpool.json names is meant from where it lies.
    path = Path(named) if named else data / str(held.get("password_file") or "")
    if not named and not held.get("password_file"):
        if all(server.startswith("unix:") for server in servers):
            return ""  # local root needs none
        return _asked(user)
    try:
        return password_in(path.read_text(), user)
    except OSError as error:
        raise Failed(f"the password file {path} cannot be read: {error.strerror}") from error


def password_in(text: str, user: str) -> str:
    """Give a user's password: the file is that alone, or the master's own file of lines user:role:password."""
    lines = [line for line in text.splitlines() if line]
    for line in lines:
        if line.startswith(f"{user}:") and line.count(":") >= 2:  # as the master reads it
            return line.split(":", 2)[2]
    return lines[0] if lines else ""


def _asked(user: str) -> str:
    if not sys.stdin.isatty():
        raise Misused(
            "no password: name its file with --password-file or VMPOOL_PASSWORD_FILE"
            " (`vmpool up` writes one into its data folder: --data DIR)"
        )
    return getpass.getpass(f"Password of {user}: ", stream=sys.stderr)
