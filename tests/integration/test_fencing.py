"""Fence agents as ClusterLabs writes them: key=value on standard input, exit code 0 means off. Here a fake one."""

import time
from pathlib import Path

import pytest

from pool_master.shell.fencing import Fencing, read_devices
from shared.settings import ConfigError

HOST = "3f8e6b1c-7d52-4a09-9c1e-5b2a8d4f6e70"


def fake_agent(folder: Path, then: str) -> Path:
    agent = folder / "fence_fake"
    agent.write_text(
        f"#!/bin/sh\ncat > {folder}/told\nprintf '%s' \"$*\" > {folder}/words\n{then}\n"
    )
    agent.chmod(0o755)
    return agent


def fencing(folder: Path, then: str, *, wait_s_max: float = 5.0) -> Fencing:
    file = folder / "fence.toml"
    agent = fake_agent(folder, then)
    file.write_text(
        f'[{HOST}]\nagent = "{agent}"\nip = "192.0.2.31"\nusername = "admin"\nplug = 3\n'
    )
    file.chmod(0o600)
    return Fencing(read_devices(file), wait_s_max=wait_s_max)


async def test_an_agent_is_told_on_its_input_and_its_success_is_the_evidence(
    tmp_path: Path,
) -> None:
    devices = fencing(tmp_path, "exit 0")
    assert devices.is_possible(HOST)
    assert not devices.is_possible("another")
    assert (await devices.power_off(HOST)).startswith("fence_fake has switched its power off")
    told = (tmp_path / "told").read_text().splitlines()
    assert told == ["ip=192.0.2.31", "username=admin", "plug=3", "action=off"]
    assert (tmp_path / "words").read_text() == ""


async def test_an_agent_that_fails_proves_nothing(tmp_path: Path) -> None:
    assert await fencing(tmp_path, "echo no such plug; exit 1").power_off(HOST) == ""


async def test_an_agent_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    devices = fencing(tmp_path, f"(sleep 2; touch {tmp_path}/late) & wait", wait_s_max=0.5)
    assert await devices.power_off(HOST) == ""
    assert time.monotonic() - began < 2.0
    time.sleep(2.0)  # noqa: ASYNC251 - its child would have written by now
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize(
    ("text", "mode", "wrong"),
    [
        ("[host]\nagent = 'fence_that_is_nowhere'", 0o600, "there is no program"),
        ("[host]\nip = '192.0.2.1'", 0o600, "agent = NAME"),
        ("[host", 0o600, "not TOML"),
        ("[host]\nagent = 'sh'", 0o644, "chmod 600"),
        ('[host]\nagent = "sh"\nx = "a\\nb"', 0o600, "a parameter is one line"),
    ],
)
def test_what_could_not_work_is_said_at_the_start(
    tmp_path: Path, text: str, mode: int, wrong: str
) -> None:
    file = tmp_path / "fence.toml"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=wrong):
        read_devices(file)
