"""Cutting a host's power with ClusterLabs' fence agents: any of them, by name, with its own parameters.

Rules: an agent reads `key=value` lines from its standard input, `action=off` among them, and exits with 0 when the power
is off: that, and nothing else, is the proof. Every run is bounded in time, and ended with all that it started. Parameters
may be secret: they go to the agent's input, never to its command line or to a log.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from shared.settings import ConfigError

log = structlog.get_logger(__name__)

AGENT: Final = "agent"
OUTPUT_BYTES_SHOWN: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceDevice:
    """What can switch one host off: the agent's path, and its parameters."""

    agent: str
    parameters: Mapping[str, str]

    @property
    def name(self) -> str:
        """The agent's name."""
        return Path(self.agent).name


class Fencing:
    """The hosts' devices, by host uuid."""

    def __init__(self, devices: Mapping[str, FenceDevice], *, wait_s_max: float) -> None:
        self._devices = devices
        self._wait_s_max = wait_s_max

    def is_possible(self, host_uuid: str) -> bool:
        """Whether there is a device that can switch this host off."""
        return host_uuid in self._devices

    async def power_off(self, host_uuid: str) -> str:
        """Switch a host off; give the evidence that it is, "" where that has failed."""
        device = self._devices[host_uuid]
        began = asyncio.get_running_loop().time()
        log.warning("fencing.begins", host=host_uuid, agent=device.name)
        try:
            code, output = await self._run(device)
        except TimeoutError:
            log.warning("fencing.too_slow", host=host_uuid, after_s=self._wait_s_max)
            return ""
        except OSError as error:
            log.warning("fencing.cannot_run", host=host_uuid, why=str(error))
            return ""
        took_s = asyncio.get_running_loop().time() - began
        if code != 0:
            log.warning("fencing.failed", host=host_uuid, code=code, output=output)
            return ""
        log.warning("fencing.done", host=host_uuid, took_s=round(took_s, 3))
        return f"{device.name} has switched its power off, in {took_s:.1f} s"

    async def _run(self, device: FenceDevice) -> tuple[int, str]:
        lines = {**device.parameters, "action": "off"}
        told = "".join(f"{key}={value}\n" for key, value in lines.items())
        process = await asyncio.create_subprocess_exec(
            device.agent,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._wait_s_max):
                output, _ = await process.communicate(told.encode())
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        assert process.returncode is not None
        return process.returncode, output[-OUTPUT_BYTES_SHOWN:].decode(errors="replace")


NO_FENCING: Final = Fencing({}, wait_s_max=0.0)


def read_devices(path: Path) -> dict[str, FenceDevice]:
    """Read the devices: a TOML table per host uuid, with `agent` and the agent's own parameters.

    Raises:
        ConfigError: it cannot be read, others could read it, or an agent is not there.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: holds secrets, and others may read it: chmod 600")
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return {host: _device(path, host, table) for host, table in tables.items()}


def _device(path: Path, host: str, table: object) -> FenceDevice:
    if not isinstance(table, dict) or not isinstance(table.get(AGENT), str):
        raise ConfigError(f"{path}: {host}: a table with agent = NAME and its parameters")
    found = shutil.which(table[AGENT])
    if found is None:
        raise ConfigError(f"{path}: {host}: there is no program {table[AGENT]}")
    parameters = {key: str(value) for key, value in table.items() if key != AGENT}
    if any("\n" in text for pair in parameters.items() for text in pair):
        raise ConfigError(f"{path}: {host}: a parameter is one line")
    return FenceDevice(agent=found, parameters=parameters)
