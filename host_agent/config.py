"""The agent's configuration: one frozen value, read once, checked at the start.

Rules: a TOML file first, then the environment (`VMPOOL_AGENT_` + the key in upper case), which
wins; every key has its meaning beside it; a wrong one ends the start with one line that names it.
"""

import math
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from shared.settings import ConfigError, load_settings, setting

ENVIRONMENT_PREFIX: Final = "VMPOOL_AGENT_"
POOL_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
HYPERVISOR_URI: Final = re.compile(r"(qemu|test|xen|simulated)(\+[a-z]+)?:.+")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """All keys; the metadata of each says what it means.

    Lease and fence times come from the leader with every grant; `first_lease_s` and `first_fence_s`
    hold only until the first one of a host's life.
    """

    pool: str = setting("", "name of the pool: letters, digits and -; required")
    nats_urls: tuple[str, ...] = setting((), "addresses of the NATS servers; required")
    host_uuid: str = setting("", "uuid of this host; empty: made once and kept in data_dir")
    hypervisor_uri: str = setting(
        "qemu:///system",
        "qemu:///system, qemu:///embed?root=DIR, test:///default or simulated:DIR?host=NAME",
    )
    migrate_uri: str = setting(
        "", "libvirt URI by which others migrate to here; empty: by host name"
    )
    accelerator: str = setting("", "kvm or tcg; empty: found out by trying")
    console_folder: str = setting("", "folder of the guests' serial output; empty: not kept")
    suspend_folder: str = setting(
        "/var/lib/vmpool/suspend", "folder, best shared by all hosts, of suspended guests' memory"
    )
    data_dir: str = setting("/var/lib/vmpool/agent", "folder of the journal and of the watchdog")
    address: str = setting("", "address by which others reach this host; empty: its host name")
    nats_user: str = setting("", "NATS user; empty: none")
    nats_password: str = setting("", "NATS password; better given in the environment")
    nats_token: str = setting("", "NATS token; better given in the environment")
    nats_nkey_seed_file: str = setting("", "file with the NATS nkey seed; empty: none")
    peer_listen: str = setting(
        "0.0.0.0",  # noqa: S104 - hosts reach each other on whichever network they share
        "address on which other hosts' lease questions are answered",
    )
    peer_port: int = setting(7463, "TCP port of the same; 0: any free one")
    metrics_port: int = setting(0, "port of the Prometheus endpoint on 127.0.0.1; 0: none")
    heartbeat_s: float = setting(1.0, "how often the lease is renewed (seconds)")
    first_lease_s: float = setting(6.0, "lease time until a leader has said otherwise (seconds)")
    first_fence_s: float = setting(3.0, "fence time until a leader has said otherwise (seconds)")
    lease_wait_s_max: float = setting(20.0, "how long a command may wait for a lease (seconds)")
    inventory_period_s: float = setting(60.0, "how often everything is reported unasked (seconds)")
    starts_max: int = setting(8, "how many guests are built at once")
    pending_messages_max: int = setting(4_096, "how many messages of commands may be open at once")
    batch_reports_max: int = setting(100, "how many reports go into one message")
    journal_commands_max: int = setting(4_096, "how many finished commands are kept for repeating")
    journal_changes_max: int = setting(
        50_000, "how many changes the journal holds before compaction"
    )
    watchdog_device: str = setting(
        "", "hardware watchdog to arm, such as /dev/watchdog; empty: none"
    )
    watchdog_enabled: bool = setting(
        True, "whether a watchdog process kills guests of a frozen agent"
    )

    def __post_init__(self) -> None:
        _check(self)


def load_config(path: Path | None, environment: Mapping[str, str] = os.environ) -> AgentConfig:
    """Read the file, if any, and the environment.

    Raises:
        ConfigError: a key is unknown, missing or wrong.
    """
    return load_settings(AgentConfig, path, prefix=ENVIRONMENT_PREFIX, environment=environment)


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
