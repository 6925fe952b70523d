"""Where the command line finds the pool: options, environment, data folder, in this order."""

import json
import os
from pathlib import Path

import pytest

from pool_master.cli import settings
from pool_master.cli.failures import Failed, Misused


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("VMPOOL_SERVER", "VMPOOL_PASSWORD_FILE", "VMPOOL_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".vmpool"
    folder.mkdir()
    (folder / "secret").write_text("from the folder\n")
    held = {"server": "http://stored:1", "user": "anna", "password_file": "secret"}
    (folder / "vmpool.json").write_text(json.dumps(held))
    return folder


def test_the_data_folder_here_is_found_and_its_password_read(data: Path) -> None:
    target = settings.target_of(settings.GlobalOptions())
    assert (target.servers, target.user) == (("http://stored:1",), "anna")
    assert target.password == "from the folder"


def test_environment_wins_over_the_folder_and_options_over_both(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data.parent / "mine").write_text("mine")
    monkeypatch.setenv("VMPOOL_SERVER", "http://environment:1")
    monkeypatch.setenv("VMPOOL_PASSWORD_FILE", str(data.parent / "mine"))
    from_environment = settings.target_of(settings.GlobalOptions())
    asked = settings.target_of(settings.GlobalOptions(server="http://a:1,http://b:2", user="bob"))
    assert (from_environment.servers, from_environment.password) == (
        ("http://environment:1",),
        "mine",
    )
    assert (asked.servers, asked.user) == (("http://a:1", "http://b:2"), "bob")


def test_the_masters_own_password_file_gives_the_users_line(data: Path) -> None:
    (data / "secret").write_text("root:pool-admin:one\nanna:vm-admin:two:with:colons\n")
    assert settings.target_of(settings.GlobalOptions()).password == "two:with:colons"


def test_a_folder_that_belongs_to_somebody_else_is_not_believed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(data / "vmpool.json", 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(Failed, match="another user"):
        settings.target_of(settings.GlobalOptions())


@pytest.mark.parametrize("server", ["somewhere:80", "ftp://x"])
def test_a_server_that_is_no_url_is_a_usage_error(data: Path, server: str) -> None:
    with pytest.raises(Misused, match="http://HOST:PORT"):
        settings.target_of(settings.GlobalOptions(server=server))


def test_a_broken_vmpool_json_is_said_and_a_missing_one_is_not(data: Path) -> None:
    (data / "vmpool.json").write_text("{")
    with pytest.raises(Failed, match="cannot be read"):
        settings.stored_config(data)
    assert settings.stored_config(data / "nothing") == {}
