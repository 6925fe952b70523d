"""The core's invariants, under random wishes and random hosts.

A master is played here without its shell: decide on a fork, write through the codec, apply, plan. Hosts are models that
obey the agent's contract and fail in every way that it allows. What must hold is checked after every step, against the
records and against what the hypervisors really run.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pool_master.core import events as ev
from pool_master.core import evolve
from pool_master.core.allowed import ADVERTISED, IMPLEMENTED, allowed_operations, operation_error
from pool_master.core.classes import CLASS_BY_NAME, RECORD_BUILDERS
from pool_master.core.context import Context
from pool_master.core.event_codec import event_from_plain, event_to_plain
from pool_master.core.evolve_vm import REBOOTING, RESERVING
from pool_master.core.host_reports import decide_report
from pool_master.core.placement import memory_needed
from pool_master.core.plan import plan, plan_all
from pool_master.core.pool import TABLE_OF_CLASS, TABLES, Pool
from pool_master.core.reconcile import decide_host_lost
from pool_master.core.task import Task
from pool_master.core.vm import Vm
from pool_master.core.vm_config import CONSTRUCTOR_MEMBERS
from shared.codec import moment_from_us, pack, unpack
from shared.enums import OnCrashBehaviour, OnNormalExit, PowerState, VmOperation
from shared.errors import XenApiError
from shared.protocol import DomainChange, DomainState, HostCommand, HostReport
from shared.refs import NULL_HOST, HostRef, TaskRef, VmRef
from tests.property.hypervisors import Hypervisor, carry_out, exits, is_starting
from tests.support.spec import ALICE, BEGINNING_US, GIB, a_pool, bind, config, host_ref

HOSTS: Final = 3
VMS_MAX: Final = 3
MEMORY: Final = 4 * GIB
# Refusals that rest on hosts or on the VM's configuration, not on what is going on.
ELSEWHERE: Final = ("NO_HOSTS_AVAILABLE", "OPERATION_NOT_ALLOWED", "VALUE_NOT_SUPPORTED")
numbers = st.integers(0, 10_000)
host_numbers = st.integers(1, HOSTS)


class PoolMachine(RuleBasedStateMachine):
    """A pool of three hosts, and whatever happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()
        self.replayed = Pool()
        self.log: list[list[Any]] = []
        self.commands = 0
        self.now_us = BEGINNING_US
        self.ends: Counter[TaskRef] = Counter()
        self.finished: dict[TaskRef, Task] = {}
        self.told: dict[str, tuple[HostRef, type, str, int]] = {}
        self.hosts = {number: Hypervisor(number, MEMORY) for number in range(1, HOSTS + 1)}
        self.by_uuid = {host.uuid: host for host in self.hosts.values()}

    # --- the master without its shell

    def submit(
        self, decide: Callable[[Pool, Context], list[ev.Event]], label: str
    ) -> XenApiError | None:
        self.commands += 1
        context = Context(
            command_id=f"c{self.commands}",
            now=moment_from_us(self.now_us),
            actor=ALICE,
            label=label,
        )
        draft = self.pool.fork()
        try:
            events = decide(draft, context)
        except XenApiError as refusal:
            return refusal
        self.write(events, draft)
        return None

    def write(self, events: list[ev.Event], draft: Pool) -> None:
        # First all on the fork, which is over once its base goes on.
        batch = [
            ev.Recorded(self.pool.sequence + number, 1, self.now_us, ALICE, "id", "cause", event)
            for number, event in enumerate(events, 1)
        ]
        for recorded in batch:
            evolve.apply(draft, recorded)
        drafted = tables_of(draft)
        before = wire_records(self.pool)
        touched: dict[str, None] = {}
        for recorded in batch:
            plain = unpack(pack(event_to_plain(recorded)))
            self.log.append(plain)
            decoded = event_from_plain(plain, sequence=recorded.sequence, term=1)
            found = evolve.apply(self.pool, recorded)
            self.pool.stamp(found)
            touched |= dict.fromkeys(ref for _, ref in found)
            self.replayed.stamp(evolve.apply(self.replayed, decoded))
            self.note(recorded.event)
        assert drafted == tables_of(self.pool), "a fork went another way"
        after = wire_records(self.pool)
        changed = [ref for ref in {**before, **after} if before.get(ref) != after.get(ref)]
        assert [ref for ref in changed if ref not in touched] == [], "a change that no feed tells"
        self.send(events)

    def note(self, event: ev.Event) -> None:
        match event:
            case ev.TaskSucceeded() | ev.TaskFailed():
                self.ends[event.task] += 1
            case ev.OperationAccepted():
                assert event.task not in self.finished
                assert self.ends[event.task] == 0
            case _:
                pass

    def send(self, events: list[ev.Event]) -> None:
        tasks = [
            event.task
            for event in events
            if isinstance(event, ev.OperationAccepted | ev.OperationAdvanced | ev.CancelRequested)
        ]
        for host, command in plan(self.pool, tasks):
            self.tell(host, command)

    def tell(self, host: HostRef, command: HostCommand) -> None:
        # The config in it is the VM's as it is now; host, deed and incarnation are for ever.
        deed = (host, type(command.action), command.vm_uuid, command.incarnation)
        assert self.told.setdefault(command.command_id, deed) == deed, "one id for two commands"
        self.hypervisor(host).receive(command)

    def hypervisor(self, host: HostRef) -> Hypervisor:
        return next(h for h in self.hosts.values() if host_ref(h.number) == host)

    def pick_vm(self, number: int) -> VmRef:
        return list(self.pool.vms)[number % len(self.pool.vms)]

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

    def make(self, *, gib: int, **more: Any) -> None:
        size = gib * GIB
        wanted = config(
            memory_static_max=size, memory_dynamic_max=size, memory_dynamic_min=size, **more
        )
        members = {name: getattr(wanted, name) for name in CONSTRUCTOR_MEMBERS}
        members["tags"] = list(members["tags"])
        self.call("VM.create", members)

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
            VmOperation.POOL_MIGRATE: (host_ref(host), {"host": "x", "live": "true"}),
        }
        refusal = self.call(f"VM.{operation}", vm.ref, *arguments.get(operation, ()))
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
                "power_state_reset",
                "destroy",
            ]
        ),
    )
    def ask(self, number: int, method: str) -> None:
        self.call(f"VM.{method}", self.pick_vm(number))

    @precondition(lambda self: self.pool.vms)
    @rule(number=numbers, host=host_numbers)
    def go_elsewhere(self, number: int, host: int) -> None:
        vm = self.pick_vm(number)
        self.call("VM.start_on", vm, host_ref(host), number % 2 == 0, False)
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

    def call(self, method: str, *arguments: Any) -> XenApiError | None:
        try:
            message, request = bind(method, *arguments)
        except XenApiError as refusal:
            return refusal
        decide = message.decide
        assert decide is not None
        return self.submit(lambda pool, context: decide(pool, request, context), method)

    # --- what hosts do

    @precondition(lambda self: self.pool.operations)
    @rule(number=numbers, which=numbers, host=host_numbers)
    def do_more_to_a_busy_vm(self, number: int, which: int, host: int) -> None:
        operations = list(self.pool.operations.values())
        vms = list(self.pool.vms)
        number = vms.index(operations[number % len(operations)].vm)
        self.do_what_is_advertised(number, which, host)

    @precondition(lambda self: any(h.waiting for h in self.hosts.values()))
    @rule(number=numbers, goes_well=st.integers(0, 3).map(bool))
    def work(self, number: int, goes_well: bool) -> None:
        busy = [host for host in self.hosts.values() if host.waiting]
        self.work_on(busy[number % len(busy)], goes_well=goes_well)

    def work_on(self, host: Hypervisor, *, goes_well: bool) -> bool:
        """Let a host carry out one command, if it may: what its lease allows is what the log says of it."""
        command = host.next_command()
        assert command is not None
        record = self.pool.hosts[host_ref(host.number)]
        if command.host_epoch < record.lost_count:
            del host.waiting[command.command_id]
            return True
        if is_starting(command) and not self.pool.is_live(record.ref):
            return False
        carry_out(host, command, self.by_uuid, goes_well=goes_well)
        return True

    @rule(host=host_numbers, count=st.integers(1, 9))
    def redeliver_commands(self, host: int, count: int) -> None:
        if self.hosts[host].is_up:
            self.hosts[host].hear_again(count)

    @precondition(lambda self: any(h.outbox for h in self.hosts.values()))
    @rule(number=numbers)
    def deliver(self, number: int) -> None:
        speaking = [host for host in self.hosts.values() if host.outbox]
        host = speaking[number % len(speaking)]
        report = host.outbox.pop(0)
        host.delivered.append(report)
        self.take(report)

    def take(self, report: HostReport) -> None:
        self.submit(lambda pool, context: decide_report(pool, report, context), "report")

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
            self.submit(lambda pool, _c: decide_host_lost(pool, host_ref(host), "lease"), "lost")
        else:
            hypervisor.come_back(with_disk=what == "returned")

    @rule(seconds=st.sampled_from([1, 100, 1000]))
    def plan_again(self, seconds: int) -> None:
        """Time passes, and a new leader or the clock says everything that is owed again."""
        self.now_us += seconds * 1_000_000
        for host, command in plan_all(self.pool):
            self.tell(host, command)

    @precondition(lambda self: self.pool.vms)
    @rule(number=numbers)
    def all_is_well_for_a_while(self, number: int) -> None:
        """A VM starts, and everybody does and says what is owed: most of a pool's life, so that the rest has a start."""
        self.call("VM.start", self.pick_vm(number), False, False)
        self.settle()

    # --- what must hold

    @invariant()
    def replay_is_live(self) -> None:
        assert tables_of(self.replayed) == tables_of(self.pool)
        assert list(self.replayed.stamps.items()) == list(self.pool.stamps.items())
        assert self.replayed.tombstones == self.pool.tombstones

    @invariant()
    def residents_are_those_that_reside(self) -> None:
        for host in self.pool.hosts:
            there = [
                vm.ref
                for vm in self.pool.vms.values()
                if host in {vm.resident_on, vm.scheduled_to_be_resident_on}
            ]
            assert sorted(self.pool.residents_of(host)) == sorted(there)

    @invariant()
    def promises_never_exceed_memory(self) -> None:
        for host in self.pool.hosts:
            promised = sum(
                memory_needed(self.pool.vms[ref]) for ref in self.pool.residents_of(host)
            )
            assert promised <= MEMORY

    @invariant()
    def reservations_belong_to_operations(self) -> None:
        for vm in self.pool.vms.values():
            if vm.scheduled_to_be_resident_on == NULL_HOST:
                continue
            kinds = [operation.kind for operation in self.pool.operations_of(vm)]
            assert any(kind in (*RESERVING, *REBOOTING) for kind in kinds)

    @invariant()
    def operations_are_what_is_in_flight(self) -> None:
        marked = {
            task: kind
            for vm in self.pool.vms.values()
            for task, kind in vm.current_operations.items()
        }
        in_flight = {operation.task: operation.kind for operation in self.pool.operations.values()}
        assert marked == in_flight
        assert all(not self.pool.tasks[task].is_finished for task in in_flight)

    @invariant()
    def every_operation_ends_once(self) -> None:
        assert [task for task, count in self.ends.items() if count > 1] == []

    @invariant()
    def a_finished_task_stays_finished(self) -> None:
        for ref, task in self.finished.items():
            now = self.pool.tasks.get(ref)
            assert now is None or now == task
        self.finished |= {ref: task for ref, task in self.pool.tasks.items() if task.is_finished}

    @invariant()
    def what_is_advertised_is_allowed(self) -> None:
        for vm in self.pool.vms.values():
            is_stranded = self.pool.is_stranded(vm)
            allowed = allowed_operations(vm, is_stranded=is_stranded)
            for operation in IMPLEMENTED:
                error = operation_error(vm, operation, is_stranded=is_stranded)
                assert (operation in allowed) == (error is None)
            assert list(allowed) == [x for x in ADVERTISED if x in allowed]

    @invariant()
    def stamps_agree_with_existence(self) -> None:
        there = {
            (name, ref)
            for name, table in TABLE_OF_CLASS.items()
            for ref in getattr(self.pool, table)
        }
        stamped = {(stamp.object_class, ref) for ref, stamp in self.pool.stamps.items()}
        assert stamped == there

    @invariant()
    def uuids_agree_with_existence(self) -> None:
        there = {
            (name, record.uuid): ref
            for name, table in TABLE_OF_CLASS.items()
            for ref, record in getattr(self.pool, table).items()
        }
        assert dict(self.pool.uuids) == there

    @invariant()
    def a_vm_without_a_domain_has_nothing_of_one(self) -> None:
        for vm in self.pool.vms.values():
            is_halted = vm.power_state is PowerState.HALTED
            assert is_halted == (vm.resident_on == NULL_HOST) == (vm.incarnation == 0)
            assert is_halted == (vm.domid == -1)

    @invariant()
    def no_guest_runs_twice(self) -> None:
        """Invariant 1, against the hypervisors."""
        running = Counter(
            vm for host in self.hosts.values() for vm in host.domains if host.is_alive(vm)
        )
        assert [vm for vm, count in running.items() if count > 1] == []

    def teardown(self) -> None:
        """Faults stop: the pool becomes what the hosts are, and every operation ends (invariants 5 and 9)."""
        if not self.pool.hosts:
            return
        for host in self.hosts.values():
            if not host.is_up:
                host.come_back(with_disk=True)
        for _ in range(6):
            for host in self.hosts.values():
                host.say_inventory()
            self.settle()
        assert list(self.pool.operations) == []
        assert list(self.pool.stale_domains) == []
        self.agree_with_hosts()
        replayed = Pool()
        for number, plain in enumerate(self.log, 1):
            replayed.stamp(evolve.apply(replayed, event_from_plain(plain, sequence=number, term=1)))
        assert tables_of(replayed) == tables_of(self.pool)

    def settle(self) -> None:
        for host, command in plan_all(self.pool):
            self.tell(host, command)
        for _ in range(200):
            waiting = [each for each in self.hosts.values() if each.waiting]
            working = [each for each in waiting if self.work_on(each, goes_well=True)]
            speaking = [each for each in self.hosts.values() if each.outbox]
            for speaker in speaking:
                self.take(speaker.outbox.pop(0))
            if not working and not speaking:
                return
        raise AssertionError("it does not settle")

    def agree_with_hosts(self) -> None:
        really = {
            (vm, domain.incarnation, domain.state.value.capitalize(), host_ref(host.number))
            for host in self.hosts.values()
            for vm, domain in host.domains.items()
            if host.is_alive(vm) and self.pool.vm_of_uuid(vm) is not None
        }
        logged = {
            (vm.uuid, vm.incarnation, vm.power_state.value, vm.resident_on)
            for vm in self.pool.vms.values()
            if vm.power_state is not PowerState.HALTED and not self.is_preserved(vm)
        }
        assert logged == really

    def is_preserved(self, vm: Vm) -> bool:
        """Whether its guest has crashed and is kept for a look, as actions_after_crash asks: Paused, for clients."""
        domain = self.hypervisor(vm.resident_on).domains.get(vm.uuid)
        is_kept = vm.config.actions_after_crash is OnCrashBehaviour.PRESERVE
        is_crashed = domain is not None and domain.state is DomainState.CRASHED
        return is_kept and is_crashed and vm.power_state is PowerState.PAUSED


def wire_records(pool: Pool) -> dict[str, Any]:
    """Give every object as clients see it."""
    return {
        ref: RECORD_BUILDERS[name](pool, record)
        for name in TABLE_OF_CLASS
        if name in CLASS_BY_NAME
        for ref, record in getattr(pool, TABLE_OF_CLASS[name]).items()
    }


def tables_of(pool: Pool) -> dict[str, list[tuple[Any, Any]]]:
    """Give all of a pool's records, with their order: deciders iterate."""
    return {name: list(getattr(pool, name).items()) for name in TABLES}


def is_unseen(pool: Pool, report: HostReport) -> bool:
    """Whether the log has no trace of the report: it said nothing new the first time, and nothing came after it."""
    host = pool.host_of_uuid(report.host)
    assert host is not None
    return report.journal == host.journal and report.sequence > host.report_sequence


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(stateful_step_count=50)
