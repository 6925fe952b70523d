"""Hosts as the core sees them: hypervisors with lanes of commands, journals of reports, and faults.

One job: do what a host agent's contract says, with every outcome in the hands of the test. Nothing here reads the log:
what runs is what runs, and the invariants are held against it.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from shared import protocol as says
from shared.protocol import (
    AttachNic,
    CancelCommand,
    CommandFailed,
    CommandSucceeded,
    DestroyDomain,
    DetachNic,
    DiscardImage,
    DomainObservation,
    DomainState,
    ForgetDomain,
    HostCommand,
    HostReport,
    MigrateDomain,
    PauseDomain,
    ReportBody,
    RestartDomain,
    ResumeDomain,
    SendSysrq,
    SendTrigger,
    SetDomainMemory,
    SetDomainScheduler,
    SetDomainVcpus,
    SettleMigration,
    SettleResume,
    ShutdownDomain,
    StartDomain,
    SuspendDomain,
    UnpauseDomain,
)
from tests.support.facts import host_uuid, inventory, seen

LEASE_BOUND: Final = (
    StartDomain,
    RestartDomain,
    ResumeDomain,
    SettleResume,
    UnpauseDomain,
    MigrateDomain,
)
ALIVE: Final = (DomainState.RUNNING, DomainState.PAUSED)


@dataclass(slots=True)
class Domain:
    """A domain on a hypervisor."""

    incarnation: int
    state: DomainState
    domid: int


@dataclass(slots=True)
class Hypervisor:
    """One host with its agent."""

    number: int
    memory_total: int
    is_up: bool = True
    journal: int = 1
    epoch: int = 1
    sequence: int = 0
    domids: int = 0
    domains: dict[str, Domain] = field(default_factory=dict)
    images: dict[str, None] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    stream: list[HostCommand] = field(default_factory=list)
    waiting: dict[str, HostCommand] = field(default_factory=dict)
    cancelled: dict[str, None] = field(default_factory=dict)
    outcomes: dict[str, CommandSucceeded | CommandFailed] = field(default_factory=dict)
    outbox: list[HostReport] = field(default_factory=list)
    delivered: list[HostReport] = field(default_factory=list)

    @property
    def uuid(self) -> str:
        """The host's uuid."""
        return host_uuid(self.number)

    def report(self, body: ReportBody) -> None:
        """Write a report into the journal, from where it goes to the stream."""
        self.sequence += 1
        self.outbox.append(
            HostReport(
                host=self.uuid,
                journal=f"journal-{self.number}-{self.journal}",
                epoch=self.epoch,
                sequence=self.sequence,
                time_us=0,
                body=body,
            )
        )

    def observe(self, vm_uuid: str) -> DomainObservation | None:
        """What the hypervisor says of a VM's domain."""
        domain = self.domains.get(vm_uuid)
        if domain is None:
            return None
        return seen(domain.state, uuid=vm_uuid, incarnation=domain.incarnation, domid=domain.domid)

    def say_inventory(self) -> None:
        """Report all that runs here."""
        domains = [self.observe(uuid) for uuid in self.domains]
        found = [domain for domain in domains if domain is not None]
        self.report(inventory(self.number, *found, memory_total=self.memory_total))

    def crash(self) -> None:
        """Lose power: guests and commands are gone, the journal stays."""
        self.is_up = False
        self.domains.clear()
        self.waiting.clear()
        self.cancelled.clear()

    def come_back(self, *, with_disk: bool) -> None:
        """Start again, on the same journal or on a new one, and say first what runs."""
        self.is_up = True
        self.epoch += 1
        if not with_disk:
            self.journal += 1
            self.epoch = 1
            self.sequence = 0
            self.outcomes.clear()
            self.newest.clear()
            # Of what was acknowledged to the stream nothing comes again; only a journal knows what was done.
            self.stream.clear()
        self.say_inventory()
        self.hear_again(5)

    def hear_again(self, count: int) -> None:
        """Get the newest commands of the stream, which were not acknowledged, once more."""
        self.stream, again = self.stream[:-count], self.stream[-count:]
        for command in again:
            self.receive(command)

    def receive(self, command: HostCommand) -> None:
        """Take a command into its VM's lane: as `admit` does."""
        self.stream.append(command)
        if not self.is_up:
            return
        if isinstance(command.action, CancelCommand):
            self.cancelled[command.action.cancelled_command_id] = None
            return
        if outcome := self.outcomes.get(command.command_id):
            self.report(outcome)
            return
        self.waiting.setdefault(command.command_id, command)

    def next_command(self) -> HostCommand | None:
        """Which command is carried out next: one that stops a guest goes before those that wait for it to stop."""
        first = next(iter(self.waiting.values()), None)
        if first is None:
            return None
        ahead: list[HostCommand] = []
        for command in self.waiting.values():
            if command.vm_uuid != first.vm_uuid:
                continue
            is_stopping = isinstance(command.action, DestroyDomain | ForgetDomain)
            if is_stopping and all(_is_patient(other) for other in ahead):
                return command
            ahead.append(command)
        return first

    def end(
        self, command: HostCommand, *, code: str = "", observation: DomainObservation | None = None
    ) -> None:
        """Journal a command's one outcome and report it."""
        self.waiting.pop(command.command_id, None)
        outcome: CommandSucceeded | CommandFailed
        if code:
            outcome = CommandFailed(
                command_id=command.command_id,
                task=command.task,
                vm_uuid=command.vm_uuid,
                incarnation=command.incarnation,
                code=code,
                observation=observation,
            )
        else:
            outcome = CommandSucceeded(
                command_id=command.command_id,
                task=command.task,
                vm_uuid=command.vm_uuid,
                incarnation=command.incarnation,
                observation=observation,
            )
        self.outcomes[command.command_id] = outcome
        self.report(outcome)

    def run(self, vm_uuid: str, incarnation: int, state: DomainState) -> None:
        """Build and run a domain."""
        self.domids += 1
        self.newest[vm_uuid] = max(incarnation, self.newest.get(vm_uuid, 0))
        self.domains[vm_uuid] = Domain(incarnation, state, self.domids)

    def is_alive(self, vm_uuid: str) -> bool:
        """Whether the VM's guest can touch its disks here."""
        domain = self.domains.get(vm_uuid)
        return domain is not None and domain.state in ALIVE


def is_starting(command: HostCommand) -> bool:
    """Whether the command brings a guest to run: only a host that holds a lease does that."""
    return isinstance(command.action, LEASE_BOUND)


def _is_patient(command: HostCommand) -> bool:
    action = command.action
    if isinstance(action, RestartDomain):
        return action.clean
    return isinstance(action, ShutdownDomain | MigrateDomain)


def carry_out(
    host: Hypervisor, command: HostCommand, hosts: dict[str, Hypervisor], *, goes_well: bool
) -> None:
    """Carry out one command; `goes_well` says which of its outcomes comes about."""
    domain = host.domains.get(command.vm_uuid)
    is_here = domain is not None and domain.incarnation == command.incarnation
    if command.command_id in host.cancelled:
        host.end(command, code="TASK_CANCELLED", observation=host.observe(command.vm_uuid))
        return
    match command.action:
        case StartDomain() | RestartDomain():
            _start(host, command, command.action, goes_well=goes_well)
        case PauseDomain() | UnpauseDomain():
            _pause(host, command, goes_well=goes_well)
        case ShutdownDomain() | DestroyDomain() | ForgetDomain():
            _stop(host, command, goes_well=goes_well)
        case MigrateDomain(destination_host=destination):
            _migrate(host, command, hosts[destination], goes_well=goes_well)
        case SettleMigration():
            host.end(command, observation=host.observe(command.vm_uuid) if is_here else None)
        case SetDomainVcpus() | SetDomainMemory() | SetDomainScheduler():
            _tune(host, command, goes_well=goes_well)
        case SendSysrq() | SendTrigger():
            _tune(host, command, goes_well=goes_well)
        case SuspendDomain() | ResumeDomain() | SettleResume() | DiscardImage():
            images = next(iter(hosts.values())).images
            _suspend_or_resume(host, command, images, goes_well=goes_well)
        case AttachNic() | DetachNic():
            raise AssertionError("these VMs have no devices")
        case CancelCommand():
            raise AssertionError("cancels are taken at once")
        case other:
            raise AssertionError(f"{other} is about storage, which these hosts do not have")


def _pause(host: Hypervisor, command: HostCommand, *, goes_well: bool) -> None:
    domain = host.domains.get(command.vm_uuid)
    is_here = domain is not None and domain.incarnation == command.incarnation
    if domain is None or not is_here or domain.state not in ALIVE or not goes_well:
        host.end(command, code="INTERNAL_ERROR", observation=host.observe(command.vm_uuid))
        return
    is_pause = isinstance(command.action, PauseDomain)
    domain.state = DomainState.PAUSED if is_pause else DomainState.RUNNING
    host.end(command, observation=host.observe(command.vm_uuid))


def _suspend_or_resume(  # noqa: PLR0912 - one branch an outcome
    host: Hypervisor, command: HostCommand, images: dict[str, None], *, goes_well: bool
) -> None:
    vm_uuid, incarnation = command.vm_uuid, command.incarnation
    domain = host.domains.get(vm_uuid)
    is_here = domain is not None and domain.incarnation == incarnation
    code = ""
    match command.action:
        case SuspendDomain(image=image):
            is_running = is_here and domain is not None and domain.state is DomainState.RUNNING
            if is_running and goes_well:
                images[image] = None
                del host.domains[vm_uuid]
            elif not (domain is None and image in images):
                code = "INTERNAL_ERROR"
        case ResumeDomain(image=image):
            if incarnation < host.newest.get(vm_uuid, 0):
                host.waiting.pop(command.command_id)  # Stale: dropped without a word.
                return
            if not (is_here and host.is_alive(vm_uuid)):
                if host.is_alive(vm_uuid) or image not in images or not goes_well:
                    code = "INTERNAL_ERROR"
                else:
                    host.run(vm_uuid, incarnation, DomainState.PAUSED)
        case SettleResume(image=image, start_paused=paused):
            images.pop(image, None)
            if not paused and not (is_here and goes_well):
                code = "INTERNAL_ERROR"
            elif domain is not None and not paused and domain.state in ALIVE:
                domain.state = DomainState.RUNNING
        case DiscardImage(image=image):
            images.pop(image, None)
        case _:
            raise AssertionError("carried out elsewhere")
    gone = isinstance(command.action, DiscardImage) or (
        isinstance(command.action, SuspendDomain) and not code
    )
    host.end(command, code=code, observation=None if gone else host.observe(vm_uuid))


def _tune(host: Hypervisor, command: HostCommand, *, goes_well: bool) -> None:
    domain = host.domains.get(command.vm_uuid)
    is_here = domain is not None and domain.incarnation == command.incarnation
    is_running = is_here and domain is not None and domain.state is DomainState.RUNNING
    code = "" if is_running and goes_well else "OPERATION_NOT_ALLOWED"
    host.end(command, code=code, observation=host.observe(command.vm_uuid))


def _stop(host: Hypervisor, command: HostCommand, *, goes_well: bool) -> None:
    domain = host.domains.get(command.vm_uuid)
    is_here = domain is not None and domain.incarnation == command.incarnation
    code = ""
    if isinstance(command.action, ShutdownDomain) and is_here and not goes_well:
        code = "VM_SHUTDOWN_TIMEOUT"
    elif isinstance(command.action, DestroyDomain) and domain is not None and not is_here:
        code = "DOMAIN_EXISTS"
    elif is_here:
        del host.domains[command.vm_uuid]
    host.end(command, code=code, observation=host.observe(command.vm_uuid) if code else None)


def _start(
    host: Hypervisor,
    command: HostCommand,
    action: StartDomain | RestartDomain,
    *,
    goes_well: bool,
) -> None:
    vm_uuid = command.vm_uuid
    domain = host.domains.get(vm_uuid)
    if command.incarnation < host.newest.get(vm_uuid, 0):
        host.waiting.pop(command.command_id)  # Stale: dropped without a word.
        return
    is_running = domain is not None and domain.state in ALIVE
    if domain is not None and domain.incarnation == command.incarnation and is_running:
        host.end(command, observation=host.observe(vm_uuid))
        return
    if isinstance(action, StartDomain) and is_running:
        host.end(command, code="DOMAIN_EXISTS", observation=host.observe(vm_uuid))
        return
    if isinstance(action, RestartDomain) and action.clean and is_running and not goes_well:
        host.end(command, code="VM_SHUTDOWN_TIMEOUT", observation=host.observe(vm_uuid))
        return
    host.domains.pop(vm_uuid, None)
    if not goes_well:
        host.end(command, code="INTERNAL_ERROR")
        return
    is_paused = isinstance(action, StartDomain) and action.start_paused
    state = DomainState.PAUSED if is_paused else DomainState.RUNNING
    host.run(vm_uuid, command.incarnation, state)
    host.end(command, observation=host.observe(vm_uuid))


def _migrate(
    source: Hypervisor, command: HostCommand, destination: Hypervisor, *, goes_well: bool
) -> None:
    vm_uuid = command.vm_uuid
    domain = source.domains.get(vm_uuid)
    is_here = domain is not None and domain.incarnation == command.incarnation
    if domain is None or not is_here or domain.state not in ALIVE:
        source.end(command, code="VM_BAD_POWER_STATE", observation=source.observe(vm_uuid))
        return
    if not destination.is_up or not goes_well:
        source.end(command, code="VM_MIGRATE_FAILED", observation=source.observe(vm_uuid))
        return
    del source.domains[vm_uuid]
    destination.run(vm_uuid, command.incarnation, domain.state)
    source.end(command)


def exits(host: Hypervisor, vm_uuid: str, change: says.DomainChange) -> None:
    """A guest ends, or reboots, by itself."""
    domain = host.domains[vm_uuid]
    if change is says.DomainChange.POWERED_OFF:
        host.domains[vm_uuid] = replace(domain, state=DomainState.SHUTOFF, domid=-1)
    elif change is says.DomainChange.CRASHED:
        host.domains[vm_uuid] = replace(domain, state=DomainState.CRASHED, domid=-1)
    elif change is says.DomainChange.PAUSED:
        domain.state = DomainState.PAUSED
    elif change is says.DomainChange.RESUMED:
        domain.state = DomainState.RUNNING
    observation = host.observe(vm_uuid)
    assert observation is not None
    host.report(says.DomainChanged(change=change, observation=observation))
