"""What must hold of the core after every step, and in the end: against the records and against what really runs."""

from collections import Counter

from hypothesis.stateful import (
    invariant,
)

from pool_master.core import evolve
from pool_master.core.allowed import ADVERTISED, IMPLEMENTED, allowed_operations, operation_error
from pool_master.core.event_codec import event_from_plain
from pool_master.core.evolve_vm import REBOOTING, RESERVING
from pool_master.core.host_reports import DISCARDING
from pool_master.core.placement import memory_needed
from pool_master.core.pool import TABLE_OF_CLASS, Pool
from pool_master.core.vm import Vm
from shared.enums import OnCrashBehaviour, PowerState
from shared.protocol import DomainState
from shared.refs import NULL_HOST
from tests.property.miniature import MEMORY, PoolInMiniature, tables_of
from tests.support.facts import host_ref


class CheckedPool(PoolInMiniature):
    """A pool in miniature whose invariants are held."""

    def check(self) -> None:
        """Hold the invariants that a step in between could break."""
        self.promises_never_exceed_memory()
        self.operations_are_what_is_in_flight()
        self.a_vm_without_a_domain_has_nothing_of_one()
        self.no_guest_runs_twice()

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
            for operation in (each for each in IMPLEMENTED if each in ADVERTISED):
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
            is_halted = vm.power_state in {PowerState.HALTED, PowerState.SUSPENDED}
            assert is_halted == (vm.resident_on == NULL_HOST) == (vm.incarnation == 0)
            assert is_halted == (vm.domid == -1)

    @invariant()
    def no_guest_runs_twice(self) -> None:
        """Invariant 1, against the hypervisors."""
        running = Counter(
            vm for host in self.hosts.values() for vm in host.domains if host.is_alive(vm)
        )
        assert [vm for vm, count in running.items() if count > 1] == []

    @invariant()
    def what_is_suspended_has_its_image_and_nothing_else_has_one_to_run(self) -> None:
        """Neither lost nor runnable twice: a domain beside the image stands still until the log has it."""
        if not self.hosts:
            return
        images = next(iter(self.hosts.values())).images
        for vm in self.pool.vms.values():
            is_suspended = vm.power_state is PowerState.SUSPENDED
            assert is_suspended == bool(vm.suspend_image)
            if not is_suspended:
                continue
            is_going = any(x.kind in DISCARDING for x in self.pool.operations_of(vm))
            assert is_going or vm.suspend_image in images
            states = [x.domains[vm.uuid].state for x in self.hosts.values() if vm.uuid in x.domains]
            assert DomainState.RUNNING not in states

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
            if vm.power_state in {PowerState.RUNNING, PowerState.PAUSED}
            and not self.is_preserved(vm)
        }
        assert logged == really

    def is_preserved(self, vm: Vm) -> bool:
        """Whether its guest has crashed and is kept for a look, as actions_after_crash asks: Paused, for clients."""
        domain = self.hypervisor(vm.resident_on).domains.get(vm.uuid)
        is_kept = vm.config.actions_after_crash is OnCrashBehaviour.PRESERVE
        is_crashed = domain is not None and domain.state is DomainState.CRASHED
        return is_kept and is_crashed and vm.power_state is PowerState.PAUSED
