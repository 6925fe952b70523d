"""The master's configuration."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pool_master.core.lease import LeaseTimes
from shared.settings import ConfigError, load_settings, setting

ENVIRONMENT_PREFIX: Final = "VMPOOL_MASTER_"
POOL_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterConfig:
    """All keys; the metadata of each says what it means."""

    pool: str = setting("vmpool", "name of the pool: letters, digits and -")
    name: str = setting("master", "name of this master: in the log, as the cause of what it does")
    data_dir: str = setting(
        "/var/lib/vmpool/master", "folder of the copy of the log, certificate and own nats-server"
    )
    nats_urls: tuple[str, ...] = setting(
        (), "addresses of the NATS servers; empty: a nats-server of its own"
    )
    nats_binary: str = setting(
        "", "path of the nats-server to run; empty: the wheel's, or the one on PATH"
    )
    nats_listen: str = setting("127.0.0.1", "address on which an own nats-server listens")
    nats_replicas: int = setting(1, "copies of each stream: 1, 3 or 5, at most one per nats-server")
    nats_user: str = setting("", "NATS user; empty: none")
    nats_password: str = setting("", "NATS password; better given in the environment")
    nats_token: str = setting("", "NATS token; better given in the environment")
    nats_nkey_seed_file: str = setting("", "file with the NATS nkey seed; empty: none")
    listen: str = setting("127.0.0.1:8080", "ADDRESS:PORT of the API; port 0: any free one")
    address: str = setting(
        "", "address that HOST_IS_SLAVE tells clients of; empty: the one of listen"
    )
    tls: str = setting("auto", "on, off, or auto: off on loopback, on elsewhere")
    tls_certificate: str = setting("", "PEM certificate (chain); empty: one is made at first start")
    tls_key: str = setting("", "PEM key of tls_certificate")
    unix_socket: str = setting(
        "", "path of a socket that serves this machine's root without password; empty: none"
    )
    user: str = setting("root", "name of the user whose password is the one line of password_file")
    password_file: str = setting(
        "", "file with the password, or lines user:role:password; required"
    )
    ready_file: str = setting("", "file that is written when the API answers; empty: none")
    body_bytes_max: int = setting(1024 * 1024, "largest request (bytes)")
    heartbeat_s: float = setting(1.0, "how often hosts renew their leases (seconds)")
    lease_s: float = setting(6.0, "how long a host's lease holds (seconds)")
    fence_s: float = setting(
        3.0, "how long a host without lease may take to kill its guests (seconds)"
    )
    margin_s: float = setting(1.0, "what clocks and schedulers may be off by (seconds)")
    authority_s: float = setting(
        12.0, "how long a leader that cannot renew goes on granting leases (seconds)"
    )

    fence_file: str = setting(
        "",
        "TOML file with a table per host uuid: agent, and that fence agent's parameters; empty: none",
    )
    fence_wait_s_max: float = setting(20.0, "how long a fence agent may take (seconds)")

    def __post_init__(self) -> None:
        if not POOL_NAME.fullmatch(self.pool):
            raise ConfigError("pool: letters, digits and - only")
        if self.tls not in {"on", "off", "auto"}:
            raise ConfigError(f"tls: {self.tls!r} is not on, off or auto")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ConfigError("tls_certificate and tls_key: both or none")
        if self.nats_replicas not in {1, 3, 5}:
            raise ConfigError("nats_replicas: 1, 3 or 5")
        if self.body_bytes_max < 1:
            raise ConfigError("body_bytes_max: must be at least 1")
        if not self.fence_wait_s_max > 0:
            raise ConfigError("fence_wait_s_max: must be above 0")
        for problem in self.lease_times.problems():
            raise ConfigError(problem)
        _ = self.listen_address

    @property
    def lease_times(self) -> LeaseTimes:
        """The times of leases, which only hold together."""
        return LeaseTimes(
            heartbeat_s=self.heartbeat_s,
            lease_s=self.lease_s,
            fence_s=self.fence_s,
            margin_s=self.margin_s,
            authority_s=self.authority_s,
        )

    @property
    def listen_address(self) -> tuple[str, int]:
        """Host and port of the API.

        Raises:
            ConfigError: it is not ADDRESS:PORT.
        """
        host, colon, port = self.listen.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65_535:
            raise ConfigError(f"listen: {self.listen!r} is not ADDRESS:PORT")
        return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - what an empty address means

    @property
    def uses_tls(self) -> bool:
        """Whether the API speaks TLS."""
        host, _ = self.listen_address
        is_loopback = host in {"127.0.0.1", "::1", "localhost"}
        return self.tls == "on" or (self.tls == "auto" and not is_loopback)


def load_config(path: Path | None, environment: Mapping[str, str] = os.environ) -> MasterConfig:
    """Read the file, if any, and the environment.

    Raises:
        ConfigError: a key is unknown, missing or wrong.
    """
    return load_settings(MasterConfig, path, prefix=ENVIRONMENT_PREFIX, environment=environment)
