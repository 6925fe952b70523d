"""`vmpool ha`, `vmpool pool` and `vmpool vm protect` against a real pool of two pretended hosts."""

from pathlib import Path

import pytest

from tests.support.cli import made, refusal, told, vmpool
from tests.support.pool import running_pool

pytestmark = pytest.mark.nats


def test_a_vm_is_protected_and_what_would_happen_is_told_before_it_does(tmp_path: Path) -> None:
    with running_pool(tmp_path, hosts=2) as pool:
        made(pool, "db")
        made(pool, "batch")
        protected = told(pool, "vm", "protect", "db", "--order", "1", "--start-delay", "5")
        assert protected["ha_restart_priority"] == "restart"
        assert (int(protected["order"]), int(protected["start_delay"])) == (1, 5)
        assert "high availability is off" in vmpool(pool, "vm", "protect", "db").stdout
        for name in ("db", "batch"):
            told(pool, "vm", "start", name, "--on", "host1")

        enabled = told(pool, "pool", "enable-ha", "--tolerate", "1")
        assert enabled["ha_enabled"] is True
        assert int(enabled["ha_plan_exists_for"]) == 1
        assert "is on" in refusal(pool, "pool", "enable-ha")

        plan = told(pool, "ha", "plan", "--kill", "host1")
        assert plan["bears_host_failures"] == 1
        assert plan["moves"] == [{"vm": "db", "host": "host2", "error": ""}]
        assert told(pool, "vm", "show", "db")["power_state"] == "Running"
        assert "The pool bears 1 host failures" in vmpool(pool, "ha", "plan").stdout

        assert told(pool, "vm", "protect", "db", "--priority", "off")["ha_restart_priority"] == ""
        assert told(pool, "pool", "disable-ha")["ha_enabled"] is False
