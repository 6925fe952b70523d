"""The agent's configuration: one frozen value, read once, checked at the start.

Rules: a TOML file first, then the environment (`VMPOOL_AGENT_` + the key in upper case), which
wins; every key has its meaning beside it; a wrong one ends the start with one line that names it.
"""

import math
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

ENVIRONMENT_PREFIX: Final = "VMPOOL_AGENT_"
POOL_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
HYPERVISOR_URI: Final = re.compile(r"(qemu|test|xen|simulated)(\+[a-z]+)?:.+")


class ConfigError(ValueError):
    """A key that is wrong, and why, in one line."""


def _key(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """All keys; the metadata of each says what it means.

    Lease and fence times come from the leader with every grant; `first_lease_s` and `first_fence_s`
    hold only until the first one of a host's life.
    """

    pool: str = _key("", "name of the pool: letters, digits and -; required")
    nats_urls: tuple[str, ...] = _key((), "addresses of the NATS servers; required")
    host_uuid: str = _key("", "uuid of this host; empty: made once and kept in data_dir")
    hypervisor_uri: str = _key(
        "qemu:///system",
        "qemu:///system, qemu:///embed?root=DIR, test:///default or simulated:DIR?host=NAME",
    )
    migrate_uri: str = _key("", "libvirt URI by which others migrate to here; empty: by host name")
    accelerator: str = _key("", "kvm or tcg; empty: found out by trying")
    console_folder: str = _key("", "folder of the guests' serial output; empty: not kept")
    data_dir: str = _key("/var/lib/vmpool/agent", "folder of the journal and of the watchdog")
    address: str = _key("", "address by which others reach this host; empty: its host name")
    nats_user: str = _key("", "NATS user; empty: none")
    nats_password: str = _key("", "NATS password; better given in the environment")
    nats_token: str = _key("", "NATS token; better given in the environment")
    nats_nkey_seed_file: str = _key("", "file with the NATS nkey seed; empty: none")
    peer_listen: str = _key("0.0.0.0", "address on which other hosts' lease questions are answered")  # noqa: S104
    peer_port: int = _key(7463, "TCP port of the same; 0: any free one")
    metrics_port: int = _key(0, "port of the Prometheus endpoint on 127.0.0.1; 0: none")
    heartbeat_s: float = _key(1.0, "how often the lease is renewed (seconds)")
    first_lease_s: float = _key(6.0, "lease time until a leader has said otherwise (seconds)")
    first_fence_s: float = _key(3.0, "fence time until a leader has said otherwise (seconds)")
    lease_wait_s_max: float = _key(20.0, "how long a command may wait for a lease (seconds)")
    inventory_period_s: float = _key(60.0, "how often everything is reported unasked (seconds)")
    hypervisor_wait_s_max: float = _key(
        120.0, "how long a command outlasts a hypervisor that does not answer (seconds)"
    )
    starts_max: int = _key(8, "how many guests are built at once")
    pending_messages_max: int = _key(4_096, "how many messages of commands may be open at once")
    batch_reports_max: int = _key(100, "how many reports go into one message")
    journal_commands_max: int = _key(4_096, "how many finished commands are kept for repeating")
    journal_changes_max: int = _key(50_000, "how many changes the journal holds before compaction")
    watchdog_device: str = _key("", "hardware watchdog to arm, such as /dev/watchdog; empty: none")
    watchdog_enabled: bool = _key(True, "whether a watchdog process kills guests of a frozen agent")

    def __post_init__(self) -> None:
        _check(self)


def load_config(path: Path | None, environment: Mapping[str, str] = os.environ) -> AgentConfig:
    """Read the file, if any, and the environment.

    Raises:
        ConfigError: a key is unknown, missing or wrong.
    """
    values = _from_file(path) if path else {}
    known = {each.name: each for each in fields(AgentConfig)}
    for name in values:
        if name not in known:
            raise ConfigError(f"{name}: no such key")
    for name in known:
        text = environment.get(ENVIRONMENT_PREFIX + name.upper())
        if text is not None:
            values[name] = text
    typed = {name: _typed(name, known[name].type, value) for name, value in values.items()}
    return AgentConfig(**typed)


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


def _check(config: AgentConfig) -> None:
    if not POOL_NAME.fullmatch(config.pool):
        raise ConfigError("pool: needed; letters, digits and - only")
    if not config.nats_urls:
        raise ConfigError("nats_urls: at least one is needed")
    if config.host_uuid and not UUID.fullmatch(config.host_uuid):
        raise ConfigError(f"host_uuid: {config.host_uuid!r} is not a uuid in lower case")
    if config.accelerator not in {"", "kvm", "tcg"}:
        raise ConfigError(f"accelerator: {config.accelerator!r} is neither kvm nor tcg")
    if not HYPERVISOR_URI.fullmatch(config.hypervisor_uri):
        raise ConfigError(f"hypervisor_uri: {config.hypervisor_uri!r} is of no known kind")
    for each in fields(config):
        value = getattr(config, each.name)
        if each.type is float and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{each.name}: must be above 0")
        if each.name.endswith("_max") and value < 1:
            raise ConfigError(f"{each.name}: must be at least 1")
        if each.name.endswith("_port") and not 0 <= value <= 65_535:
            raise ConfigError(f"{each.name}: not a port")
    if config.first_lease_s < 3 * config.heartbeat_s:
        raise ConfigError("first_lease_s: must be at least 3 times heartbeat_s")


def host_name() -> str:
    """Give this machine's name: the default address."""
    return socket.getfqdn()
