"""Clients that behave as real ones do: they log in, look, ask, are cut off, ask again, and remember what they were told.

Rules: a client asks one thing at a time; after HOST_IS_SLAVE it turns to the master that was named, after
HOST_STILL_BOOTING and a dropped connection it waits a moment and asks again, not knowing what became of its first call.
"""

import asyncio
import random
from typing import Any, Final

from pool_master.shell.calls import Call, Failure
from shared.refs import NULL
from simulator.checks import Acknowledged, Checks
from simulator.cluster import MIB, Cluster, ConnectionDropped

TRIES_MAX: Final = 300
PAUSE_S: Final = 1.0
TASK_POLLS_MAX: Final = 200

NEW_VM: Final[dict[str, Any]] = {
    "user_version": "1",
    "is_a_template": False,
    "affinity": NULL,
    "memory_static_max": str(600 * MIB),
    "memory_dynamic_max": str(600 * MIB),
    "memory_dynamic_min": str(600 * MIB),
    "memory_static_min": str(128 * MIB),
    "VCPUs_params": {},
    "VCPUs_max": "1",
    "VCPUs_at_startup": "1",
    "actions_after_shutdown": "destroy",
    "actions_after_reboot": "restart",
    "actions_after_crash": "restart",
    "PV_bootloader": "",
    "PV_kernel": "",
    "PV_ramdisk": "",
    "PV_args": "",
    "PV_bootloader_args": "",
    "PV_legacy_args": "",
    "HVM_boot_policy": "",
    "HVM_boot_params": {},
    "platform": {},
    "PCI_bus": "",
    "other_config": {},
    "recommendations": "",
}
SENSIBLE: Final = {
    "Halted": ("start", "start", "start_on", "destroy"),
    "Running": (
        "pause",
        "pool_migrate",
        "pool_migrate",
        "clean_shutdown",
        "clean_reboot",
        "hard_shutdown",
        "hard_reboot",
        "power_state_reset",
        "power_state_reset",
    ),
    "Paused": ("unpause", "unpause", "hard_shutdown", "hard_reboot", "power_state_reset"),
}
EVERYTHING: Final = tuple(dict.fromkeys(name for names in SENSIBLE.values() for name in names))


class Refused(Exception):
    """A call was answered with a failure."""

    def __init__(self, description: list[str]) -> None:
        super().__init__(" ".join(description))
        self.code = description[0]


class Gone(Exception):
    """Nobody has answered for a long time."""


class Session:
    """A client's way to the pool: finds the leader, logs in again where it must."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.uuid = ""
        self._cluster = cluster
        self._chance = chance
        self._address = ""
        self._ref = ""

    async def call(self, method: str, *values: Any) -> Any:
        """Call, and again for as long as nobody says what became of it.

        Raises:
            Refused: with a failure that is not about who leads.
            ConnectionDropped: the connection broke under the call: it may have been made.
            Gone: all tries were for nothing.
        """
        for _ in range(TRIES_MAX):
            if not self._ref and not await self._log_in():
                continue
            try:
                return await self._once(method, [self._ref, *values])
            except ConnectionDropped:
                self._turn_away()
                raise
            except Refused as refused:
                if not await self._is_about_leadership(refused):
                    raise
        raise Gone(method)

    async def _log_in(self) -> bool:
        self._address = self._address or self._chance.choice(self._cluster.masters).name
        try:
            self._ref = await self._once(
                "session.login_with_password", ["root", "", "2.21", "simulation"]
            )
            self.uuid = await self._once("session.get_uuid", [self._ref, self._ref])
        except ConnectionDropped:
            self._turn_away()
        except Refused as refused:
            if not await self._is_about_leadership(refused):
                raise
        return bool(self._ref)

    async def _is_about_leadership(self, refused: Refused) -> bool:
        match refused.code:
            case "HOST_IS_SLAVE":
                self._turn_away()
                self._address = str(refused).split()[1]
                await asyncio.sleep(self._chance.uniform(0.05, 0.3))
            case "HOST_STILL_BOOTING":
                self._turn_away()
                await asyncio.sleep(PAUSE_S)
            case "SESSION_INVALID":
                self._ref = ""
            case _:
                return False
        return True

    def _turn_away(self) -> None:
        self._address, self._ref = "", ""

    async def _once(self, method: str, parameters: list[Any]) -> Any:
        call = Call(method=method, parameters=parameters)
        try:
            answer = await self._cluster.ask(self._address, call)
        except ConnectionDropped:
            await asyncio.sleep(self._chance.uniform(0.1, PAUSE_S))
            raise
        if isinstance(answer, Failure):
            raise Refused(answer.description)
        return answer.value


class Client:
    """One client that does things to VMs for as long as it is let."""

    def __init__(self, cluster: Cluster, checks: Checks, name: str, *, vms_max: int) -> None:
        self.name = name
        self._vms_max = vms_max
        self.refusals: list[str] = []
        self.is_done = False
        self.priority = ""  # ha_restart_priority of the VMs that it makes
        self._cluster = cluster
        self._checks = checks
        self._chance = random.Random(f"{name}/{cluster.random.random()}")
        self.session = Session(cluster, self._chance)

    async def work(self, *, until: float) -> None:
        """Do things until then."""
        while self._cluster.loop.time() < until:
            await asyncio.sleep(self._chance.expovariate(2.5))
            try:
                await self._do_something()
            except Refused as refused:
                self._note(refused.code)
                if refused.code == "INTERNAL_ERROR":
                    self._checks.fail("no defect", f"{self.name} was told {refused}")
            except ConnectionDropped:
                self._note("connection dropped")
            except Gone as gone:
                self._checks.fail("liveness", f"{self.name} gives up {gone}")
        self.is_done = True

    def _note(self, why: str) -> None:
        self.refusals.append(why)
        self._checks.tell(f"{self.name}: {why}")

    async def _do_something(self) -> None:
        vms = await self.session.call("VM.get_all")
        if not vms or (len(vms) < self._vms_max and self._chance.random() < 0.4):
            await self.create()
            return
        vm = self._chance.choice(vms)
        state = await self.session.call("VM.get_power_state", vm)
        names = SENSIBLE[state] if self._chance.random() < 0.85 else EVERYTHING
        name = self._chance.choice(names)
        if name == "destroy" and self._chance.random() < 0.7:
            return
        if name == "destroy":
            await self._command("VM.destroy", vm)
            return
        if name == "power_state_reset":
            await self._rescue(vm)
            return
        values = await self._values(name)
        try:
            if self._chance.random() < 0.3:
                await self._in_background(f"VM.{name}", vm, values)
            else:
                await self.operate(f"VM.{name}", vm, *values)
        except Refused as refused:
            if refused.code != "HOST_OFFLINE":
                raise
            await self._rescue(vm)

    async def _rescue(self, vm: str) -> None:
        """Its host may be lost: what an operator does then, or high availability; refused as long as it is not."""
        self._checks.tell(f"{self.name}: rescues {vm}")
        await self.session.call("VM.power_state_reset", vm)
        await self.operate("VM.start", vm, False, False)

    async def _values(self, name: str) -> list[Any]:
        match name:
            case "start":
                return [self._chance.random() < 0.15, False]
            case "start_on" | "pool_migrate":
                hosts = await self.session.call("host.get_all")
                host = self._chance.choice(hosts)
                return [host, False, False] if name == "start_on" else [host, {"live": "true"}]
            case _:
                return []

    async def create(self, **changes: Any) -> str:
        """Make a VM."""
        record = {**NEW_VM, "name_label": f"vm of {self.name}", **changes}
        if self.priority:
            record["ha_restart_priority"] = self.priority
        record["actions_after_crash"] = self._chance.choice(("restart", "destroy", "preserve"))
        record["actions_after_shutdown"] = self._chance.choice(("destroy", "destroy", "restart"))
        since = len(self._checks.recorded)
        vm: str = await self.session.call("VM.create", record)
        self._told("VM.create", vm, since)
        return vm

    async def _command(self, method: str, vm: str) -> None:
        since = len(self._checks.recorded)
        await self.session.call(method, vm)
        self._told(method, vm, since)

    async def operate(self, method: str, vm: str, *values: Any) -> None:
        """Do it and wait for its end."""
        since = len(self._checks.recorded)
        self._checks.tell(f"{self.name}: {method} {vm}")
        await self.session.call(method, vm, *values)
        self._told(method, vm, since)

    def _told(self, method: str, vm: str, since: int) -> None:
        self._checks.acknowledge(
            Acknowledged(method=method, vm=vm, session=self.session.uuid, since=since)
        )

    async def _in_background(self, method: str, vm: str, values: list[Any]) -> None:
        """Ask for it and look at the task now and then; sometimes lose patience."""
        since = len(self._checks.recorded)
        self._checks.tell(f"{self.name}: Async.{method} {vm}")
        task: str = await self.session.call(f"Async.{method}", vm, *values)
        patience = self._chance.choice((1_000, 1_000, 3))
        for poll in range(TASK_POLLS_MAX):
            await asyncio.sleep(self._chance.uniform(0.2, 1.0))
            status = await self._status(task)
            if status == "success":
                self._checks.acknowledge(
                    Acknowledged(
                        method=method, vm=vm, session=self.session.uuid, since=since, task=task
                    )
                )
            if status not in {"pending", "cancelling", "unknown"}:
                return
            if poll == patience and "cancel" in await self.session.call(
                "task.get_allowed_operations", task
            ):
                await self.session.call("task.cancel", task)
        self._checks.fail("5 every operation ends", f"{self.name} waits for {method}, {task}")

    async def _status(self, task: str) -> str:
        try:
            status: str = await self.session.call("task.get_status", task)
        except ConnectionDropped:
            return "unknown"
        return status


class Watcher:
    """A client that follows event.from, token by token, across leaders."""

    def __init__(self, cluster: Cluster, checks: Checks) -> None:
        self.picture: dict[str, Any] = {}
        self.token = ""
        self._cluster = cluster
        self._checks = checks
        self._session = Session(cluster, random.Random(f"watcher/{cluster.random.random()}"))

    async def watch(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self.step(timeout_s=5.0)
            except ConnectionDropped:
                continue
            except Refused as refused:
                self._checks.fail("10 event.from", f"a stream is refused: {refused}")
                return
            except Gone:
                self._checks.fail("liveness", "event.from has found nobody")
                return

    async def step(self, *, timeout_s: float) -> None:
        """Take one batch."""
        batch = await self._session.call("event.from", ["*"], self.token, timeout_s)
        for event in batch["events"]:
            self._apply(event)
        self.token = batch["token"]

    def _apply(self, event: dict[str, Any]) -> None:
        ref, operation = event["ref"], event["operation"]
        if operation == "del":
            if self.picture.pop(ref, None) is None:
                self._checks.fail("10 event.from", f"{event['class']} {ref} goes, and never came")
            return
        if (operation == "add") == (ref in self.picture):
            self._checks.fail("10 event.from", f"{operation} of {event['class']} {ref}")
        self.picture[ref] = event["snapshot"]

    async def check(self) -> None:
        """Hold the picture that the stream has made against the whole of it (10)."""
        whole = Watcher(self._cluster, self._checks)
        while whole.token != self.token or not self.token:
            whole = Watcher(self._cluster, self._checks)
            await whole.step(timeout_s=0.0)
            await self.step(timeout_s=0.0)
        for ref in sorted(self.picture.keys() | whole.picture.keys()):
            one, other = self.picture.get(ref), whole.picture.get(ref)
            if one != other:
                fields = [
                    key
                    for key in {**(one or {}), **(other or {})}
                    if (one or {}).get(key) != (other or {}).get(key)
                ]
                self._checks.fail(
                    "10 event.from streams compose",
                    f"{ref} differs in {fields}: {[(one or {}).get(f) for f in fields]}"
                    f" and {[(other or {}).get(f) for f in fields]}",
                )
