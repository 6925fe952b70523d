"""Given / when / then over the pure core: events in, a wish or a host's word, events out.

One job: let a test say which facts there are, what somebody asks or reports, and which facts follow. Every event that is
given or decided goes through the codec and evolve, as it does in a master, so that no test can rest on a state that no
log could make.

Rules: a chain goes on after `then`, on the state that the events made; command ids are "c1", "c2"... in the order of
`when`, so that a test can name the tasks (`task(1)`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

from pool_master.core import events as ev
from pool_master.core import evolve
from pool_master.core.classes import message_table
from pool_master.core.context import Context
from pool_master.core.datamodel import Kind, Message
from pool_master.core.event_codec import event_from_plain, event_to_plain
from pool_master.core.host import Host
from pool_master.core.host_reports import command_id_of, decide_report
from pool_master.core.implied import Implied
from pool_master.core.marshal import constructor_values, from_wire
from pool_master.core.pool import Pool
from pool_master.core.reconcile import decide_host_lost
from pool_master.core.task import Operation
from pool_master.core.vm import Vm, VmConfig
from pool_master.core.vm_config import CONSTRUCTOR_MEMBERS
from shared import protocol as says
from shared.codec import moment_from_us, pack, unpack
from shared.enums import OnCrashBehaviour, OnNormalExit, PowerState, VmOperation
from shared.errors import XenApiError
from shared.protocol import DomainObservation, DomainState, HostInventory, HostReport, ReportBody
from shared.refs import NULL_HOST, HostRef, PoolRef, TaskRef, VmRef, derive, derive_ref

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
# 2024-04-20T12:00:00Z
BEGINNING_US: Final = 1_713_614_400 * 1_000_000
ALICE: Final = ev.Actor(ev.ActorKind.USER, "alice", "session-of-alice")
MASTER: Final = ev.Actor(ev.ActorKind.MASTER, "master-1")

POOL: Final = PoolRef(derive_ref("pool", "pool"))
VM: Final = VmRef(derive_ref("vm", "VM"))
VM_UUID: Final = derive("vm", "VM")
OTHER_VM: Final = VmRef(derive_ref("other", "VM"))
OTHER_VM_UUID: Final = derive("other", "VM")


def host_uuid(number: int) -> str:
    """The uuid of the pool's host with that number, from 1."""
    return derive(f"host-{number}", "host")


def host_ref(number: int) -> HostRef:
    """The reference of the pool's host with that number, from 1."""
    return HostRef(derive_ref(host_uuid(number), "host"))


HOST: Final = host_ref(1)
HOST_2: Final = host_ref(2)
HOST_3: Final = host_ref(3)


def task(number: int) -> TaskRef:
    """The task of the scenario's command with that number, from 1."""
    return TaskRef(derive_ref(f"c{number}", "task"))


def task_uuid(number: int) -> str:
    """That task's uuid."""
    return derive(f"c{number}", "task")


# --- facts


def config(**changes: Any) -> VmConfig:
    """What a user might ask of a small VM."""
    values: dict[str, Any] = {
        "user_version": 1,
        "is_a_template": False,
        "affinity": NULL_HOST,
        "memory_static_max": 512 * MIB,
        "memory_dynamic_max": 512 * MIB,
        "memory_dynamic_min": 512 * MIB,
        "memory_static_min": 128 * MIB,
        "VCPUs_params": {},
        "VCPUs_max": 2,
        "VCPUs_at_startup": 1,
        "actions_after_shutdown": OnNormalExit.DESTROY,
        "actions_after_reboot": OnNormalExit.RESTART,
        "actions_after_crash": OnCrashBehaviour.RESTART,
        "PV_bootloader": "",
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {},
        "platform": {},
        "PCI_bus": "",
        "other_config": {"mac_seed": "seed"},
        "recommendations": "",
        "name_label": "vm",
    }
    return VmConfig(**{**values, **changes})


def pool_created() -> ev.PoolCreated:
    """The beginning of the log."""
    return ev.PoolCreated(pool=POOL, uuid=derive("pool", "pool"), name_label="pool")


def elected(term: int = 1) -> ev.MasterElected:
    """A master."""
    return ev.MasterElected(term=term, master="master-1", address="192.0.2.1")


def host_joined(number: int) -> ev.HostJoined:
    """A host that nobody has heard of since."""
    return ev.HostJoined(
        host=host_ref(number),
        uuid=host_uuid(number),
        name_label=f"host-{number}",
        hostname=f"h{number}",
        address=f"192.0.2.{10 + number}",
    )


def host_described(
    number: int, *, memory_total: int = 8 * GIB, cpu_count: int = 8, vendor: str = "GenuineIntel"
) -> ev.HostDescribed:
    """A host's word of itself; what `inventory` says too."""
    return ev.HostDescribed(
        host=host_ref(number),
        hostname=f"h{number}",
        address=f"192.0.2.{10 + number}",
        hypervisor="test",
        migrate_uri=f"test://h{number}/",
        memory_total=memory_total,
        memory_free=memory_total,
        cpu_count=cpu_count,
        cpu_info={"vendor": vendor},
        software_version={"product_version": "1.0.0"},
        capabilities=("hvm",),
    )


def live_host(number: int, **described: Any) -> list[ev.Event]:
    """A host that lives, with 8 GiB and 8 CPUs unless said otherwise."""
    return [
        host_joined(number),
        host_described(number, **described),
        ev.HostCameAlive(host=host_ref(number)),
    ]


def a_pool(hosts: int = 2, **described: Any) -> list[ev.Event]:
    """A pool with so many live hosts."""
    events: list[ev.Event] = [pool_created(), elected()]
    for number in range(1, hosts + 1):
        events += live_host(number, **described)
    return events


def vm_created(vm: VmRef = VM, uuid: str = VM_UUID, **changes: Any) -> ev.VmCreated:
    """A halted VM."""
    return ev.VmCreated(
        vm=vm,
        uuid=uuid,
        config=config(**changes),
        metrics=derive_ref(uuid, "VM_metrics"),
        metrics_uuid=derive(uuid, "VM_metrics"),
    )


def vm_started(
    vm: VmRef = VM, host: HostRef = HOST, incarnation: int = 1, **more: Any
) -> ev.VmStarted:
    """A running domain, as `seen` shows it."""
    values = {"domid": 7, "memory_actual": 512 * MIB, "vcpus": 1, "cpu_flags": {"vendor": "x"}}
    return ev.VmStarted(vm=vm, host=host, incarnation=incarnation, **{**values, **more})


def running(vm: VmRef = VM, host: HostRef = HOST, **changes: Any) -> list[ev.Event]:
    """A running VM."""
    uuid = VM_UUID if vm == VM else OTHER_VM_UUID
    return [vm_created(vm, uuid, **changes), vm_started(vm, host)]


def paused(vm: VmRef = VM, host: HostRef = HOST, **changes: Any) -> list[ev.Event]:
    """A paused VM."""
    return [*running(vm, host, **changes), ev.VmPaused(vm=vm)]


def accepted(
    operation: VmOperation,
    number: int = 1,
    *,
    vm: VmRef = VM,
    host: HostRef = HOST,
    incarnation: int = 1,
    destination: HostRef = NULL_HOST,
    label: str = "",
    **arguments: str,
) -> ev.OperationAccepted:
    """An operation in flight, under the task of command `number`."""
    return ev.OperationAccepted(
        task=task(number),
        task_uuid=task_uuid(number),
        name_label=label or f"VM.{operation}",
        operation=operation,
        vm=vm,
        host=host,
        incarnation=incarnation,
        destination=destination,
        arguments=arguments,
    )


# --- hosts' words


def seen(
    state: DomainState = DomainState.RUNNING,
    *,
    incarnation: int = 1,
    uuid: str = VM_UUID,
    domid: int = 7,
    **more: Any,
) -> DomainObservation:
    """A domain as a host sees it."""
    is_alive = state in {DomainState.RUNNING, DomainState.PAUSED}
    values = {"memory_actual": 512 * MIB, "vcpus": 1, "cpu_flags": {"vendor": "x"}}
    return DomainObservation(
        vm_uuid=uuid,
        incarnation=incarnation,
        state=state,
        domid=domid if is_alive else -1,
        **{**values, **more},
    )


def inventory(
    number: int = 1,
    *domains: DomainObservation,
    memory_total: int = 8 * GIB,
    unknown_domains: tuple[str, ...] = (),
    **more: Any,
) -> HostInventory:
    """What a host says of itself, in agreement with `host_described`."""
    values: dict[str, Any] = {
        "hostname": f"h{number}",
        "address": f"192.0.2.{10 + number}",
        "hypervisor": "test",
        "migrate_uri": f"test://h{number}/",
        "memory_total": memory_total,
        "memory_free": memory_total,
        "cpu_count": 8,
        "cpu_info": {"vendor": "GenuineIntel"},
        "software_version": {"product_version": "1.0.0"},
        "capabilities": ("hvm",),
    }
    return HostInventory(domains=domains, unknown_domains=unknown_domains, **{**values, **more})


def changed(
    change: says.DomainChange, observation: DomainObservation | None = None
) -> says.DomainChanged:
    """A domain that changed by itself."""
    return says.DomainChanged(
        change=change, observation=seen(DomainState.SHUTOFF) if observation is None else observation
    )


@functools.cache
def _deciders() -> dict[type, Message]:
    return {
        message.request: message
        for _, message in message_table().values()
        if message.decide is not None and message.request not in {None, Implied}
    }


def bind(method: str, *arguments: Any) -> tuple[Message, Any]:
    """Give the message and the request that a call with these wire values makes."""
    model, message = message_table()[method]
    assert message.request is not None
    values: dict[str, Any] = {}
    for parameter, argument in zip(message.parameters, arguments, strict=True):
        value = from_wire(argument, parameter.type, parameter.name)
        if parameter.type.kind is Kind.RECORD:
            value = VmConfig(**constructor_values(model, CONSTRUCTOR_MEMBERS, value))
        values[parameter.name] = value
    return message, message.request(**values)


class Scenario:
    """A log so far, and the pool that it makes."""

    def __init__(self, events: Sequence[ev.Event]) -> None:
        self.pool = Pool()
        self.log: list[ev.Recorded] = []
        self._commands = 0
        self._reports: dict[str, int] = {}
        self._elapsed_s = 0.0
        self.record(events)

    # --- circumstances

    @property
    def now_us(self) -> int:
        """The time of this moment."""
        return BEGINNING_US + int(self._elapsed_s * 1_000_000)

    def after(self, seconds: float) -> "Scenario":
        """Let time pass."""
        self._elapsed_s += seconds
        return self

    def and_given(self, *events: ev.Event) -> "Scenario":
        """More facts."""
        self.record(events)
        return self

    def record(self, events: Sequence[ev.Event], actor: ev.Actor = ALICE) -> None:
        """Write events and make them true, as a master does."""
        for event in events:
            recorded = ev.Recorded(
                self.pool.sequence + 1, 1, self.now_us, actor, "given", "test", event
            )
            again = event_from_plain(
                unpack(pack(event_to_plain(recorded))), sequence=recorded.sequence, term=1
            )
            self.pool.stamp(evolve.apply(self.pool, again))
            self.log.append(again)

    # --- what is there

    def vm(self, ref: VmRef = VM) -> Vm:
        """The VM now."""
        return self.pool.vms[ref]

    def host(self, ref: HostRef = HOST) -> Host:
        """The host now."""
        return self.pool.hosts[ref]

    def operation(self, number: int = 1) -> Operation:
        """The operation under the task of command `number`."""
        return self.pool.operations[task(number)]

    # --- what happens

    def _next_context(self, label: str) -> Context:
        self._commands += 1
        return Context(
            command_id=f"c{self._commands}",
            now=moment_from_us(self.now_us),
            actor=ALICE,
            label=label,
        )

    def skip_commands(self, count: int) -> "Scenario":
        """Let the next command be number `count` + 1: given events used the tasks before, or a client asks again."""
        self._commands = count
        return self

    def when(self, request: object) -> "Outcome":
        """Somebody asks this, or a host says it (a HostReport)."""
        if isinstance(request, HostReport):
            return self._outcome(lambda c: decide_report(self.pool, request, c), "report")
        message = _deciders()[type(request)]
        decide = message.decide
        assert decide is not None
        return self._outcome(lambda c: decide(self.pool, request, c), f"VM.{message.name}")

    def when_called(self, method: str, *arguments: Any) -> "Outcome":
        """A client calls this method with these wire values (without the session)."""

        def decide(context: Context) -> list[ev.Event]:
            message, request = bind(method, *arguments)
            assert message.decide is not None
            return message.decide(self.pool, request, context)

        return self._outcome(decide, method)

    def answer(self, method: str, *arguments: Any) -> Any:
        """What a query gives for these wire values."""
        message, request = bind(method, *arguments)
        assert message.answer is not None
        return message.answer(self.pool, request)

    def when_lost(self, host: HostRef = HOST, evidence: str = "lease expired") -> "Outcome":
        """A host is surely dead."""
        return self._outcome(lambda _c: decide_host_lost(self.pool, host, evidence), "lost")

    def when_host_says(
        self,
        body: ReportBody,
        *,
        number: int = 1,
        journal: str = "j1",
        epoch: int = 1,
        sequence: int | None = None,
    ) -> "Outcome":
        """A host reports, with the next sequence of its journal unless one is given."""
        uuid = host_uuid(number)
        last = self._reports.get(f"{uuid}/{journal}", 0)
        sequence = last + 1 if sequence is None else sequence
        self._reports[f"{uuid}/{journal}"] = max(last, sequence)
        return self.when(
            HostReport(
                host=uuid, journal=journal, epoch=epoch, sequence=sequence, time_us=0, body=body
            )
        )

    def when_done(
        self,
        operation: int = 1,
        observation: DomainObservation | None = None,
        *,
        command_id: str = "",
        number: int | None = None,
    ) -> "Outcome":
        """The host that is to carry out the operation's present step says that it has."""
        running = self.operation(operation)
        vm = self.pool.vms[running.vm]
        body = says.CommandSucceeded(
            command_id=command_id or command_id_of(running),
            task=running.task,
            vm_uuid=vm.uuid,
            incarnation=running.incarnation,
            observation=observation,
        )
        return self.when_host_says(body, number=number or self._number_of(running.host))

    def when_failed(
        self,
        operation: int = 1,
        code: str = "INTERNAL_ERROR",
        *parameters: str,
        observation: DomainObservation | None = None,
    ) -> "Outcome":
        """That host says that it could not."""
        running = self.operation(operation)
        vm = self.pool.vms[running.vm]
        body = says.CommandFailed(
            command_id=command_id_of(running),
            task=running.task,
            vm_uuid=vm.uuid,
            incarnation=running.incarnation,
            code=code,
            parameters=parameters,
            observation=observation,
        )
        return self.when_host_says(body, number=self._number_of(running.host))

    def _number_of(self, host: HostRef) -> int:
        return next(number for number in range(1, 100) if host_ref(number) == host)

    def _outcome(self, decide: Callable[[Context], list[ev.Event]], label: str) -> "Outcome":
        context = self._next_context(label)
        try:
            return Outcome(self, decide(context), None)
        except XenApiError as refusal:
            return Outcome(self, [], refusal)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a decision came to."""

    scenario: Scenario
    events: list[ev.Event]
    refusal: XenApiError | None

    def then(self, *events: ev.Event) -> Scenario:
        """Exactly these events follow; of a host's report, its marks (seen, agent started) are left out."""
        assert self.refusal is None, self.refusal
        assert self.told() == list(events)
        return self.then_so()

    def then_refused(self, code: str, *parameters: str) -> Scenario:
        """It is refused with this code and these parameters."""
        assert self.refusal is not None, f"was not refused, but made {self.events}"
        assert self.refusal.description == [code, *parameters]
        return self.scenario

    def then_nothing_new(self) -> Scenario:
        """Not a single event follows, not even a mark."""
        assert self.refusal is None, self.refusal
        assert self.events == []
        return self.scenario

    def then_so(self) -> Scenario:
        """Whatever followed is true now."""
        assert self.refusal is None, self.refusal
        self.scenario.record(self.events)
        return self.scenario

    def told(self) -> list[ev.Event]:
        """The events without a report's marks."""
        return [
            event
            for event in self.events
            if not isinstance(event, ev.HostReportsSeen | ev.HostAgentStarted)
        ]


def given(*events: ev.Event) -> Scenario:
    """A log with these facts."""
    return Scenario(events)


def halted_after(scenario: Scenario, vm: VmRef = VM) -> None:
    """Assert that nothing of a domain is left in the VM's record (XenAPI reference 1.0.3)."""
    record = scenario.pool.vms[vm]
    assert record.power_state is PowerState.HALTED
    assert (record.resident_on, record.domid, record.incarnation) == (NULL_HOST, -1, 0)
    assert record.consoles == ()
