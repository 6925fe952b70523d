"""The documents say what is true: generated pages are current, links lead somewhere, examples load."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import host_agent.config
import pool_master.config
from docs import generate
from pool_master.shell.nats_server import NatsServerOptions, find_binary
from shared.bus import BusUnavailable
from shared.nats_bus import Credentials, connect
from shared.subjects import Subjects
from tests.support.nats import running_nats
from tests.support.pool import running_pool

ROOT = Path(__file__).parents[1]
WRITTEN = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
HOST = "3f8e6b1c-7d52-4a09-9c1e-5b2a8d4f6e70"
OTHER_HOST = "3f8e6b1c-7d52-4a09-9c1e-5b2a8d4f6e71"
PASSWORD = "secret" * 4
PASSWORDS = dict.fromkeys(("MASTER_PASSWORD", "HOST1_PASSWORD", "LISTENER_PASSWORD"), PASSWORD)
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")
CODE = re.compile(r"`([A-Za-z_]\w*)`")


@pytest.mark.parametrize("path", sorted(generate.pages()), ids=str)
def test_a_generated_page_is_current(path: Path) -> None:
    on_disk = (generate.ROOT / path).read_text(encoding="utf-8")
    assert on_disk == generate.pages()[path], "the code says something else: run `poe docs`"


def test_no_generated_page_is_left_of_a_class_that_is_gone() -> None:
    assert generate.stale_pages() == []


def links() -> Iterator[tuple[Path, str, Path]]:
    for page in WRITTEN:
        for text, target, _ in LINK.findall(page.read_text(encoding="utf-8")):
            if "://" not in target:
                yield page, text, (page.parent / target).resolve()


def test_every_link_leads_to_a_file() -> None:
    lost = [
        f"{page.relative_to(ROOT)}: {target}" for page, _, target in links() if not target.exists()
    ]
    assert lost == []


def test_a_name_that_links_to_code_is_defined_there() -> None:
    lost = [
        f"{page.relative_to(ROOT)}: {name} is not in {target.relative_to(ROOT)}"
        for page, text, target in links()
        if target.suffix == ".py" and target.exists()
        for name in CODE.findall(text)
        if not re.search(
            rf"(def|class|as) {name}\b|^\s*{name}\b.*[=:]", target.read_text(), re.MULTILINE
        )
    ]
    assert lost == []


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for page in WRITTEN
        for name in re.findall(r"(?:^|`)make ([a-z-]+)(?:`|$)", page.read_text(), re.MULTILINE)
    }
    assert named <= targets


@pytest.mark.parametrize(
    ("file", "module"),
    [("master.toml", pool_master.config), ("agent.toml", host_agent.config)],
)
def test_the_example_configuration_loads(file: str, module: Any) -> None:
    config = module.load_config(ROOT / "deploy" / "config" / file, environment={})
    assert config.pool == "vmpool"


def test_units_start_the_programs_that_are_installed() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for path in sorted((ROOT / "deploy" / "systemd").glob("*.service")):
        unit = configparser.ConfigParser(interpolation=None, strict=False)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read(path)
        program, option, _file = shlex.split(unit["Service"]["ExecStart"])
        assert Path(program).name in scripts
        assert option == "--config"


BALANCERS = {
    "haproxy": ("haproxy", "-c", "-f", "deploy/balancer/haproxy.cfg"),
    "keepalived": ("keepalived", "-t", "-f", "deploy/balancer/keepalived.conf"),
}


@pytest.mark.parametrize("program", BALANCERS)
def test_the_load_balancers_accept_their_examples(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    argv = BALANCERS[program]
    done = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


@pytest.mark.nats
def test_the_tour_of_the_readme_works_when_pasted(tmp_path: Path) -> None:
    """All its blocks in order, in one folder; the pool is started as the first one does, on a free port."""
    tour = (ROOT / "README.md").read_text().partition("## A first tour")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", tour, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["sh", "sh", "python", "sh"]
    (tmp_path / ".vmpool").mkdir()
    (tmp_path / ".vmpool" / "tour").symlink_to(tmp_path / "pool")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "tour.py").write_text(blocks[2][1])
    # A pasted line fails for itself alone; here it must fail the test.
    script = "\n".join(["set -e", blocks[1][1], ".venv/bin/python tour.py", blocks[3][1]])
    with running_pool(tmp_path):
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "now it is Halted" in done.stdout


@pytest.mark.nats
def test_the_example_of_nats_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PASSWORDS.items():
        monkeypatch.setenv(name, value)
    checked = subprocess.run(
        [str(find_binary(None)), "-t", "-c", str(ROOT / "deploy" / "nats" / "nats.conf")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.nats
async def test_a_host_may_speak_for_itself_and_for_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permissions of deploy/nats/nats.conf, with the bus that agents use."""
    for name, value in PASSWORDS.items():
        monkeypatch.setenv(name, value)
    text = (ROOT / "deploy" / "nats" / "nats.conf").read_text()
    authorization = text.partition("authorization {\n")[2].rpartition("}")[0]
    subjects = Subjects("vmpool")

    def credentials(user: str) -> Credentials:
        return Credentials(user=user, password=PASSWORD)

    async with running_nats(tmp_path, NatsServerOptions(authorization=authorization)) as server:
        master = await connect([server.url], name="master", credentials=credentials("master"))
        host = await connect([server.url], name="host1", credentials=credentials("host1"))
        try:
            await master.ensure_streams(subjects, replicas=1)
            await master.publish(subjects.command(HOST), b"do")
            commands = host.consume(
                subjects.command_stream,
                durable=f"host-{HOST}",
                filter_subject=subjects.command(HOST),
                pending_max=10,
            )
            delivery = await anext(commands)
            assert delivery.data == b"do"
            await delivery.ack()
            await commands.aclose()
            assert await host.publish(subjects.report(HOST), b"seen") == 1
            for foreign in (subjects.report(OTHER_HOST), subjects.command(HOST), subjects.log):
                with pytest.raises(BusUnavailable):
                    await host.publish(foreign, b"lie", timeout_s=0.5)
            assert await master.last(subjects.log_stream) is None
        finally:
            await host.close()
            await master.close()
