"""The agent's configuration: every key documented, every mistake named."""

from dataclasses import fields
from pathlib import Path

import pytest

from host_agent.config import AgentConfig, load_config
from shared.settings import ConfigError

NEEDED = {"VMPOOL_AGENT_POOL": "lab", "VMPOOL_AGENT_NATS_URLS": "nats://a:1, nats://b:2"}


def test_every_key_says_what_it_means() -> None:
    assert all(each.metadata.get("meaning") for each in fields(AgentConfig))


def test_the_environment_alone_is_enough() -> None:
    config = load_config(None, NEEDED)
    assert config.pool == "lab"
    assert config.nats_urls == ("nats://a:1", "nats://b:2")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        'pool = "of-the-file"\nnats_urls = ["nats://c:3"]\nstarts_max = 3\nheartbeat_s = 0.5\n'
    )
    config = load_config(
        file, {"VMPOOL_AGENT_POOL": "lab", "VMPOOL_AGENT_WATCHDOG_ENABLED": "false"}
    )
    assert (config.pool, config.nats_urls) == ("lab", ("nats://c:3",))
    assert (config.starts_max, config.heartbeat_s) == (3, 0.5)
    assert config.watchdog_enabled is False


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("POOL", "a.b"),
        ("POOL", ""),
        ("NATS_URLS", ""),
        ("HOST_UUID", "seven"),
        ("HYPERVISOR_URI", "vbox:///"),
        ("ACCELERATOR", "warp"),
        ("HEARTBEAT_S", "0"),
        ("HEARTBEAT_S", "nan"),
        ("HEARTBEAT_S", "3"),
        ("HEARTBEAT_S", "fast"),
        ("STARTS_MAX", "0"),
        ("STARTS_MAX", "1.5"),
        ("PEER_PORT", "70000"),
        ("WATCHDOG_ENABLED", "perhaps"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_the_key(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, {**NEEDED, f"VMPOOL_AGENT_{key}": value})
    text = str(error.value)
    named = "first_lease_s" if (key, value) == ("HEARTBEAT_S", "3") else key.lower()
    assert text.startswith(named)
    assert "\n" not in text


@pytest.mark.parametrize("text", ["speed = 9", "pool = 7", "pool = ", "pool = [1]"])
def test_a_wrong_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_config(file, NEEDED if "speed" in text else {})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "nowhere.toml", NEEDED)
