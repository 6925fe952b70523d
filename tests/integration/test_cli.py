"""The real `vmpool` as a child process, against a real pool of two pretended hosts."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import (
    COMMAND_S_MAX,
    argv,
    environment,
    hear_ctrl_c,
    made,
    refusal,
    told,
    vmpool,
)
from tests.support.pool import RunningPool, running_pool, until

pytestmark = pytest.mark.nats


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    with running_pool(tmp_path_factory.mktemp("cli"), hosts=2) as running:
        yield running


# --- VMs, hosts, tasks


def test_a_vm_lives_from_create_to_destroy(pool: RunningPool) -> None:
    uuid = made(pool, "life", "--vcpus", "2", "--kernel", "/boot/k", "--args", "console=ttyS0")
    shown = told(pool, "vm", "show", "life")
    assert (shown["uuid"], shown["power_state"]) == (uuid, "Halted")
    assert (shown["memory_static_max"], shown["VCPUs_max"]) == (96 * 2**20, 2)
    assert (shown["PV_kernel"], shown["PV_args"]) == ("/boot/k", "console=ttyS0")

    assert told(pool, "vm", "start", "life", "--on", "host1", "--paused")["power_state"] == "Paused"
    assert told(pool, "vm", "unpause", uuid)["power_state"] == "Running"
    assert told(pool, "vm", "migrate", "life", "--to", "host2")["host"] == "host2"
    assert told(pool, "vm", "pause", uuid[:8])["power_state"] == "Paused"
    assert told(pool, "vm", "reboot", "life", "--force")["power_state"] == "Running"
    assert told(pool, "vm", "stop", "life")["power_state"] == "Halted"
    assert told(pool, "vm", "destroy", "life")["destroyed"] is True
    assert "there is no VM" in refusal(pool, "vm", "show", "life")


def test_people_are_told_what_is_true_now(pool: RunningPool) -> None:
    made(pool, "plain")
    assert vmpool(pool, "vm", "start", "plain", "--on", "host2").stdout.startswith(
        "plain is Running on host2 ("
    )
    listed = vmpool(pool, "vm", "list").stdout
    (line,) = (line for line in listed.splitlines() if line.startswith("plain "))
    assert line.split()[:6] == ["plain", "Running", "host2", "1", "96", "MiB"]
    assert vmpool(pool, "vm", "stop", "plain", "--force").stdout.startswith("plain is Halted (")


def test_a_record_comes_from_json_and_options_win(pool: RunningPool) -> None:
    record = {"name_label": "from-json", "memory_static_max": 2**27, "tags": ["a"], "VCPUs_max": 4}
    words = ("vm", "create", "--from-json", "-", "--vcpus", "2", "--json")
    uuid = json.loads(vmpool(pool, *words, given=json.dumps(record)).stdout)["uuid"]
    shown = told(pool, "vm", "show", uuid)
    assert (shown["name_label"], shown["tags"], shown["VCPUs_max"]) == ("from-json", ["a"], 2)
    assert shown["memory_dynamic_max"] == 2**27
    assert "not JSON" in vmpool(pool, *words, given="{", code=2).stderr


def test_hosts_are_shown_rested_and_let_in(pool: RunningPool) -> None:
    rows = {row["name"]: row for row in told(pool, "host", "list")}
    assert rows["host1"]["is_live"] is rows["host2"]["is_live"] is True
    assert told(pool, "host", "disable", "host1")["is_enabled"] is False
    assert "disabled" in vmpool(pool, "host", "list").stdout
    assert "HOST_DISABLED" in refusal(pool, "vm", "start", made(pool, "homeless"), "--on", "host1")
    assert told(pool, "host", "enable", "host1")["is_enabled"] is True
    assert "HOST_IS_LIVE" in refusal(pool, "host", "forget", "host1")

    added = told(pool, "host", "add", "0f0f0f0f-aaaa-4bbb-8ccc-000000000000", "--name", "spare")
    assert (added["name"], added["is_live"]) == ("spare", False)
    assert "host lost" not in vmpool(pool, "status").stdout
    assert told(pool, "host", "show", "spare")["state"] == "lost"
    assert told(pool, "host", "forget", "spare")["forgotten"] is True


def test_status_counts_what_there_is(pool: RunningPool) -> None:
    vmpool(pool, "vm", "start", made(pool, "counted"), "--on", "host1")
    status = told(pool, "status")
    assert (status["name"], status["tasks"]) == ("vmpool", [])
    (host,) = (row for row in status["hosts"] if row["name"] == "host1")
    assert host["memory_promised"] >= 96 * 2**20
    assert status["vms_by_state"]["Running"] >= 1
    text = vmpool(pool, "status").stdout
    assert "host1" in text
    assert " of 64 GiB" in text


def test_the_demo_is_made_once(pool: RunningPool) -> None:
    first, second = told(pool, "seed-demo"), told(pool, "seed-demo")
    assert [one["made"] for one in first] == [True] * len(first)
    assert [one["made"] for one in second] == [False] * len(first)
    assert [one["uuid"] for one in first] == [one["uuid"] for one in second]
    templates = told(pool, "vm", "list", "--templates")
    assert {row["name"] for row in templates} == {"demo-small", "demo-large"}


# --- refusals and exit codes


def test_refusals_are_one_line_with_names_and_code_1(pool: RunningPool) -> None:
    made(pool, "idle")
    made(pool, "twin")
    made(pool, "twin")
    line = refusal(pool, "vm", "stop", "idle")
    assert line == "vmpool: VM_BAD_POWER_STATE: idle is halted, and this needs it running."
    assert "2 VMs are called 'twin'" in refusal(pool, "vm", "start", "twin")
    assert "did you mean idle" in refusal(pool, "vm", "start", "idles")
    made(pool, "huge", "--memory", "900GiB")
    assert "HOST_NOT_ENOUGH_FREE_MEMORY" in refusal(pool, "vm", "start", "huge", "--on", "host1")


def test_a_wrong_command_line_is_code_2(pool: RunningPool) -> None:
    vmpool(pool, "vm", "frobnicate", code=2)
    vmpool(pool, "vm", "migrate", "x", code=2)
    vmpool(pool, "vm-start", "colour=red", code=2)
    vmpool(pool, "vm", "create", "x", "--memory", "lots", code=2)
    vmpool(pool, "audit", "--since", "yesterday", code=2)


def test_a_server_that_is_not_there_is_code_3_and_a_wrong_password_code_1(
    pool: RunningPool, tmp_path: Path
) -> None:
    assert "is the pool up?" in refusal(pool, "--server", "http://127.0.0.1:1", "status", code=3)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    line = refusal(pool, "--password-file", str(wrong), "status")
    assert "SESSION_AUTHENTICATION_FAILED" in line


def test_one_of_several_servers_is_enough(pool: RunningPool) -> None:
    servers = f"http://127.0.0.1:1,{pool.server}"
    assert json.loads(vmpool(pool, "--server", servers, "status", "--json").stdout)["name"]


def test_local_root_needs_no_password(pool: RunningPool, tmp_path: Path) -> None:
    done = vmpool(pool, "--server", f"unix:{pool.data / 'xapi'}", "status", "--json", data=tmp_path)
    assert json.loads(done.stdout)["name"] == "vmpool"


# --- xe


def test_xes_spellings_do_the_same(pool: RunningPool) -> None:
    uuid = vmpool(pool, "vm-create", "name-label=xe", "memory-static-max=96MiB").stdout.strip()
    vmpool(pool, "vm-start", f"uuid={uuid}", "on=host1")
    listed = vmpool(pool, "vm-list", "params=name-label,power-state", f"uuid={uuid}").stdout
    assert listed == "name-label ( RW)     : xe\n    power-state ( RO): running\n\n\n"
    vmpool(pool, "vm-migrate", "vm=xe", "host=host2")
    host = vmpool(pool, "vm-param-get", f"uuid={uuid}", "param-name=resident-on").stdout
    assert host == vmpool(pool, "host-list", "name-label=host2", "--minimal").stdout
    vmpool(pool, "vm-param-set", f"uuid={uuid}", "name-label=xe2", "other-config:a=b", "tags=x,y")
    shown = told(pool, "vm", "show", uuid)
    assert (shown["name_label"], shown["other_config"]["a"]) == ("xe2", "b")
    assert shown["tags"] == ["x", "y"]
    vmpool(pool, "vm-param-remove", f"uuid={uuid}", "param-name=other-config", "param-key=a")
    assert "no key a" in refusal(
        pool, "vm-param-get", f"uuid={uuid}", "param-name=other-config", "param-key=a"
    )
    vmpool(pool, "vm-shutdown", f"uuid={uuid}", "force=true")
    vmpool(pool, "vm-reset-powerstate", f"uuid={uuid}", "--force")
    vmpool(pool, "vm-destroy", f"uuid={uuid}")
    assert vmpool(pool, "vm-list", f"uuid={uuid}", "--minimal").stdout == "\n"
    assert "vmpool" in vmpool(pool, "pool-list").stdout


# --- waiting


def test_ctrl_c_leaves_the_task_running_and_says_so(pool: RunningPool) -> None:
    made(pool, "patient")
    pool.kill("host1", signal.SIGSTOP)
    try:
        child = subprocess.Popen(
            argv("vm", "start", "patient", "--on", "host1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(pool.data),
            preexec_fn=hear_ctrl_c,
        )
        until(lambda: told(pool, "task", "list", "--running"), what="the start is in flight")
        child.send_signal(signal.SIGINT)
        _, remarks = child.communicate(timeout=COMMAND_S_MAX)
        (task,) = told(pool, "task", "list", "--running")
    finally:
        pool.kill("host1", signal.SIGCONT)
    assert child.returncode == 130
    assert "Starting patient on host1 goes on without you" in remarks
    assert f"vmpool task cancel {task['uuid']}" in remarks
    assert task["about"] == "patient"
    until(lambda: not told(pool, "task", "list", "--running"), what="the task has its end")


def test_no_wait_prints_the_task_and_cancel_takes_it(pool: RunningPool) -> None:
    made(pool, "hasty")
    until(lambda: all(row["is_live"] for row in told(pool, "host", "list")), what="both hosts live")
    task = told(pool, "vm", "start", "hasty", "--on", "host2", "--no-wait")
    rows = until(
        lambda: [x for x in told(pool, "task", "list") if x["status"] == "success"],
        what="the task succeeds",
    )
    assert task["uuid"] in {row["uuid"] for row in rows}
    assert told(pool, "task", "cancel", task["uuid"])["task"] == task["task"]
    assert told(pool, "vm", "show", "hasty")["power_state"] == "Running"


def test_a_terminal_sees_progress_and_colour(pool: RunningPool) -> None:
    made(pool, "colourful")
    master, slave = pty.openpty()
    child = subprocess.Popen(
        argv("vm", "start", "colourful", "--on", "host2"),
        stdout=slave,
        stderr=slave,
        env=environment(pool.data, TERM="xterm-256color", COLUMNS="120"),
    )
    os.close(slave)
    seen = b""
    with open(master, "rb", buffering=0) as terminal:
        try:
            while chunk := terminal.read(4096):
                seen += chunk
        except OSError:
            pass  # the other end is closed: how Linux says the end of a terminal
    assert child.wait(COMMAND_S_MAX) == 0
    text = seen.decode()
    assert "Starting colourful on host2" in text
    assert "\x1b[32mRunning\x1b[0m on host2" in text


# --- what needs no pool


def test_help_and_completion_need_no_pool(tmp_path: Path) -> None:
    nobody = RunningPool(tmp_path, hosts=0, hypervisor="simulated")
    helped = vmpool(nobody, "--help").stdout
    for command in (
        "status",
        "vm",
        "host",
        "task",
        "events",
        "audit",
        "log",
        "lab",
        "seed-demo",
        "up",
    ):
        assert f" {command} " in helped
    assert "--hypervisor" in vmpool(nobody, "up", "--help").stdout
    assert "_VMPOOL_COMPLETE" in vmpool(nobody, "completion", "bash").stdout
    assert "vm-start" in vmpool(nobody, "xe", "verbs").stdout.splitlines()
    vmpool(nobody, "completion", "tcsh", code=2)


def test_the_shell_completes_names_from_the_pool(pool: RunningPool) -> None:
    made(pool, "completable")
    more = {
        "_VMPOOL_COMPLETE": "complete_bash",
        "COMP_WORDS": "vmpool vm start comple",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        argv(),
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
        env=environment(pool.data, **more),
    )
    assert done.stdout.split() == ["completable"]


def _others_can_run_it() -> bool:
    """Whether this checkout is where a user without rights can read it."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    tried = [sys.executable, "-c", "import pool_master.cli.app"]
    done = subprocess.run(["setpriv", "--reuid=65534", *tried], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(
    not _others_can_run_it(), reason="needs root to give it up, and a checkout that others can read"
)
def test_the_lab_says_that_it_needs_root(pool: RunningPool, tmp_path: Path) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", *argv("lab", "status", "--data", str(tmp_path))],
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
        env=environment(tmp_path),
    )
    assert done.returncode == 1
    assert done.stderr == "vmpool: A lab of libvirt hosts needs root: run this with sudo.\n"
