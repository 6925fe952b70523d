"""The core's invariants, under random wishes and random hosts.

A master is played here without its shell (miniature.py); hosts are models that obey the agent's contract and fail in every
way that it allows (hypervisors.py). What must hold (invariants.py) is checked after every step.
"""

from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
)

from pool_master.core.allowed import allowed_operations
from pool_master.core.plan import plan_all
from pool_master.core.pool import Pool
from pool_master.core.snapshot import decode_pool, encode_pool
from shared.enums import OnCrashBehaviour, OnNormalExit, PowerState, VmOperation
from shared.protocol import DomainChange, HostReport
from shared.refs import TaskRef
from tests.property.hypervisors import exits
from tests.property.invariants import CheckedPool
from tests.property.miniature import HOSTS, MEMORY
from tests.support.facts import GIB, a_pool, host_ref

VMS_MAX: Final = 3
# Refusals that rest on hosts or on the VM's configuration, not on what is going on.
ELSEWHERE: Final = (
    *("NO_HOSTS_AVAILABLE", "OPERATION_NOT_ALLOWED", "VALUE_NOT_SUPPORTED"),
    "VM_INCOMPATIBLE_WITH_THIS_HOST",
)
STORM: Final = (
    *("work", "work", "hear", "hear", "pool_migrate", "pool_migrate", "hard_reboot"),
    *("hard_shutdown", "clean_reboot", "clean_shutdown", "pause", "power_state_reset"),
    *("suspend", "suspend", "resume", "resume"),
    *("lose its host", "lose the other"),
)
# Messages that are not called as their operation is.
MESSAGE_OF: Final = {
    VmOperation.CHANGING_DYNAMIC_RANGE: "set_memory_dynamic_range",
    VmOperation.CHANGING_STATIC_RANGE: "set_memory_static_range",
    VmOperation.CHANGING_VCPUS_LIVE: "set_VCPUs_number_live",
}
numbers = st.integers(0, 10_000)
host_numbers = st.integers(1, HOSTS)


class PoolMachine(CheckedPool):
    """A pool of three hosts, and whatever happens to it."""

    # --- what happens

    @initialize()
    def begin(self) -> None:
        self.write(a_pool(HOSTS, memory_total=MEMORY), self.pool.fork())
        for on_crash in (OnCrashBehaviour.RESTART, OnCrashBehaviour.PRESERVE):
            self.make(
                gib=1, actions_after_shutdown=OnNormalExit.RESTART, actions_after_crash=on_crash
            )
            self.call("VM.start", self.pick_vm(-1), False, False)
        self.settle()

    @precondition(lambda self: len(self.pool.vms) < VMS_MAX)
    @rule(
        gib=st.sampled_from([1, 2, 3]),
        on_exit=st.sampled_from(OnNormalExit),
        on_crash=st.sampled_from(OnCrashBehaviour),
        is_a_template=st.integers(0, 9).map(lambda n: n == 0),
    )
    def create(
        self, gib: int, on_exit: OnNormalExit, on_crash: OnCrashBehaviour, is_a_template: bool
    ) -> None:
        self.make(
            gib=gib,
            actions_after_shutdown=on_exit,
            actions_after_crash=on_crash,
            is_a_template=is_a_template,
        )

    @precondition(lambda self: self.pool.vms)
    @rule(number=numbers, which=numbers, host=host_numbers)
    def ask_what_is_advertised(self, number: int, which: int, host: int) -> None:
        self.do_what_is_advertised(number, which, host)

    def do_what_is_advertised(self, number: int, which: int, host: int) -> None:
        """What is advertised is not refused for the VM's own state (invariant 7); hosts may refuse it."""
        vm = self.pool.vms[self.pick_vm(number)]
        advertised = allowed_operations(vm, is_stranded=self.pool.is_stranded(vm))
        allowed = [each for each in advertised if each is not VmOperation.MAKE_INTO_TEMPLATE]
        if not allowed:
            return
        operation = allowed[which % len(allowed)]
        arguments: dict[VmOperation, tuple[Any, ...]] = {
            VmOperation.START: (False, False),
            VmOperation.START_ON: (host_ref(host), False, False),
            VmOperation.RESUME: (which % 2 == 0, False),
            VmOperation.RESUME_ON: (host_ref(host), which % 2 == 0, False),
            VmOperation.POOL_MIGRATE: (host_ref(host), {"host": "x", "live": "true"}),
            VmOperation.CHANGING_DYNAMIC_RANGE: (GIB // 2, vm.config.memory_dynamic_max),
            VmOperation.CHANGING_STATIC_RANGE: (0, vm.config.memory_static_max),
            VmOperation.CHANGING_VCPUS_LIVE: (1,),
            VmOperation.CLONE: ("clone",),
            VmOperation.COPY: ("copy", "OpaqueRef:NULL"),
        }
        name = MESSAGE_OF.get(operation, operation.value)
        refusal = self.call(f"VM.{name}", vm.ref, *arguments.get(operation, ()))
        if refusal is not None:
            is_elsewhere = refusal.code.startswith("HOST_") or refusal.code in ELSEWHERE
            assert is_elsewhere, refusal

    @precondition(lambda self: self.pool.vms)
    @rule(
        number=numbers,
        method=st.sampled_from(
            [
                "pause",
                "unpause",
                "clean_shutdown",
                "clean_reboot",
                "hard_shutdown",
                "hard_reboot",
                "shutdown",
                "suspend",
                "power_state_reset",
                "destroy",
            ]
        ),
    )
    def ask(self, number: int, method: str) -> None:
        self.call(f"VM.{method}", self.pick_vm(number))

    @precondition(lambda self: self.pool.vms)
    @rule(number=numbers, gib=st.integers(0, 3), bound=st.sampled_from(["min", "max"]))
    def change_memory(self, number: int, gib: int, bound: str) -> None:
        vm = self.pick_vm(number)
        size = max(gib * GIB, GIB // 4)
        if number % 2:
            self.call(f"VM.set_memory_dynamic_{bound}_live", vm, size)
        else:
            self.call(f"VM.set_memory_dynamic_{bound}", vm, size)

    @precondition(lambda self: self.pool.vms)
    @rule(number=numbers, host=host_numbers)
    def go_elsewhere(self, number: int, host: int) -> None:
        vm = self.pick_vm(number)
        self.call("VM.start_on", vm, host_ref(host), number % 2 == 0, False)
        self.call("VM.resume_on", vm, host_ref(host), number % 2 == 0, False)
        self.call("VM.pool_migrate", vm, host_ref(host), {"host": "x"})

    @precondition(lambda self: self.pool.vms)
    @rule(
        number=numbers,
        what=st.sampled_from(["fields", "block", "unblock", "enable", "disable", "cancel", "task"]),
        key=st.sampled_from(["a", "pause", "start", "destroy"]),
    )
    def small_things(self, number: int, what: str, key: str) -> None:
        vm, host = self.pick_vm(number), host_ref(1 + number % HOSTS)
        match what:
            case "fields":
                self.call("VM.set_name_label", vm, key)
                self.call("VM.add_to_other_config", vm, key, str(number))
                self.call("VM.remove_from_other_config", vm, "a")
                self.call("VM.add_tags", vm, key)
            case "block":
                self.call("VM.add_to_blocked_operations", vm, key, "because")
            case "unblock":
                self.call("VM.remove_from_blocked_operations", vm, key)
            case "enable" | "disable":
                self.call(f"host.{what}", host)
            case _:
                tasks = list(self.pool.tasks) or [TaskRef("OpaqueRef:none")]
                method = "task.cancel" if what == "cancel" else "task.destroy"
                self.call(method, tasks[-1 - number % min(3, len(tasks))])

    # --- what hosts do

    @precondition(lambda self: self.pool.operations)
    @rule(number=numbers, which=numbers, host=host_numbers)
    def do_more_to_a_busy_vm(self, number: int, which: int, host: int) -> None:
        operations = list(self.pool.operations.values())
        vms = list(self.pool.vms)
        number = vms.index(operations[number % len(operations)].vm)
        self.do_what_is_advertised(number, which, host)

    @precondition(lambda self: self.pool.vms)
    @rule(
        number=numbers,
        host=host_numbers,
        steps=st.lists(st.sampled_from(STORM), min_size=3, max_size=9),
    )
    def storm(  # noqa: C901, PLR0912 - one branch a step
        self, number: int, host: int, steps: list[str]
    ) -> None:
        """Much happens to one VM, step by step: where several operations and hosts meet, single rules seldom get."""
        vm = self.pick_vm(number)
        if self.pool.vms[vm].power_state is PowerState.HALTED:
            self.call("VM.start", vm, False, False)
            self.settle()
        for step in steps:
            if vm not in self.pool.vms:
                return
            match step:
                case "work":
                    for each in self.hosts.values():
                        if each.waiting:
                            self.work_on(each, goes_well=number % 5 > 0)
                case "hear":
                    for each in self.hosts.values():
                        if each.outbox:
                            self.hear(each)
                case "lose its host" | "lose the other":
                    record = self.pool.vms[vm]
                    is_its = step == "lose its host"
                    self.give_up(record.resident_on if is_its else host_ref(host))
                case "pool_migrate":
                    self.call("VM.pool_migrate", vm, host_ref(host), {})
                case "resume":
                    self.call("VM.resume", vm, number % 2 == 0, False)
                case _:
                    self.call(f"VM.{step}", vm)
            self.check()

    @precondition(lambda self: any(h.waiting for h in self.hosts.values()))
    @rule(number=numbers, goes_well=st.integers(0, 3).map(bool))
    def work(self, number: int, goes_well: bool) -> None:
        busy = [host for host in self.hosts.values() if host.waiting]
        self.work_on(busy[number % len(busy)], goes_well=goes_well)

    @rule(host=host_numbers, count=st.integers(1, 9))
    def redeliver_commands(self, host: int, count: int) -> None:
        if self.hosts[host].is_up:
            self.hosts[host].hear_again(count)

    @precondition(lambda self: any(h.outbox for h in self.hosts.values()))
    @rule(number=numbers)
    def deliver(self, number: int) -> None:
        speaking = [host for host in self.hosts.values() if host.outbox]
        self.hear(speaking[number % len(speaking)])

    @precondition(lambda self: any(h.delivered for h in self.hosts.values()))
    @rule(number=numbers)
    def redeliver(self, number: int) -> None:
        """A report comes again, long after others: it says nothing new."""
        heard = [report for host in self.hosts.values() for report in host.delivered]
        report = heard[number % len(heard)]
        sequence, was_unseen = self.pool.sequence, is_unseen(self.pool, report)
        self.take(report)
        assert was_unseen or self.pool.sequence == sequence

    @precondition(lambda self: any(h.outbox for h in self.hosts.values()))
    @rule(number=numbers)
    def lose_order(self, number: int) -> None:
        """A report is overtaken by the next one, and comes too late to count."""
        speaking = [host for host in self.hosts.values() if len(host.outbox) > 1]
        if speaking:
            host = speaking[number % len(speaking)]
            host.outbox[0], host.outbox[1] = host.outbox[1], host.outbox[0]

    @precondition(lambda self: any(h.domains for h in self.hosts.values()))
    @rule(
        number=numbers,
        change=st.sampled_from(
            [
                DomainChange.POWERED_OFF,
                DomainChange.CRASHED,
                DomainChange.REBOOTED,
                DomainChange.PAUSED,
                DomainChange.RESUMED,
            ]
        ),
    )
    def guest_acts(self, number: int, change: DomainChange) -> None:
        guests = [
            (host, vm) for host in self.hosts.values() for vm in host.domains if host.is_alive(vm)
        ]
        if guests:
            host, vm = guests[number % len(guests)]
            exits(host, vm, change)

    @rule(host=host_numbers)
    def say_inventory(self, host: int) -> None:
        if self.hosts[host].is_up:
            self.hosts[host].say_inventory()

    @rule(host=host_numbers, what=st.sampled_from(["lost", "returned", "without its disk"]))
    def power(self, host: int, what: str) -> None:
        """A host dies; one that is dead is declared lost, or comes back."""
        hypervisor = self.hosts[host]
        if hypervisor.is_up:
            hypervisor.crash()
        elif what == "lost":
            self.give_up(host_ref(host))
        else:
            hypervisor.come_back(with_disk=what == "returned")

    @rule(seconds=st.sampled_from([1, 100, 1000]))
    def plan_again(self, seconds: int) -> None:
        """Time passes, and a new leader or the clock says everything that is owed again."""
        self.now_us += seconds * 1_000_000
        for host, command in plan_all(self.pool):
            self.tell(host, command)

    @rule()
    def take_over_from_a_snapshot(self) -> None:
        """A master that replays starts from a snapshot: what follows must come out the same."""
        self.replayed = decode_pool(encode_pool(self.replayed))

    @precondition(lambda self: self.pool.vms)
    @rule(number=numbers)
    def all_is_well_for_a_while(self, number: int) -> None:
        """A VM starts, and everybody does and says what is owed: most of a pool's life, so that the rest has a start."""
        self.call("VM.start", self.pick_vm(number), False, False)
        self.settle()


def is_unseen(pool: Pool, report: HostReport) -> bool:
    """Whether the log has no trace of the report: it said nothing new the first time, and nothing came after it."""
    host = pool.host_of_uuid(report.host)
    assert host is not None
    return report.journal == host.journal and report.sequence > host.report_sequence


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(stateful_step_count=50)
