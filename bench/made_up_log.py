"""A log of any length, as a busy pool writes it: VMs created, started, renamed and stopped, in records of 100 events."""

from collections.abc import Iterator

from pool_master.core import events as ev
from pool_master.core.event_codec import event_to_plain
from pool_master.core.events import Actor, ActorKind, Recorded
from pool_master.core.records import GENESIS_HASH, UnsealedRecord, hash_of, seal
from pool_master.core.vm import VmConfig
from shared.enums import OnCrashBehaviour, OnNormalExit, VmOperation
from shared.refs import NULL_HOST, HostRef, PoolRef, TaskRef, VmRef, derive, derive_ref

RECORD_EVENTS = 100
ME = Actor(ActorKind.USER, "root", "f9f8d0f2-0000-4000-8000-000000000000")
HOST = HostRef(derive_ref("host1", "host"))


def vm_config(name: str) -> VmConfig:
    """Give a configuration as clients send it."""
    return VmConfig(
        user_version=1,
        is_a_template=False,
        affinity=NULL_HOST,
        memory_static_max=2**30,
        memory_dynamic_max=2**30,
        memory_dynamic_min=2**29,
        memory_static_min=2**28,
        VCPUs_params={},
        VCPUs_max=2,
        VCPUs_at_startup=1,
        actions_after_shutdown=OnNormalExit.DESTROY,
        actions_after_reboot=OnNormalExit.RESTART,
        actions_after_crash=OnCrashBehaviour.RESTART,
        PV_bootloader="",
        PV_kernel="/boot/vmlinuz",
        PV_ramdisk="/boot/initrd.img",
        PV_args="console=ttyS0",
        PV_bootloader_args="",
        PV_legacy_args="",
        HVM_boot_policy="",
        HVM_boot_params={},
        platform={"nx": "true"},
        PCI_bus="",
        other_config={"mac_seed": derive(name, "mac_seed")},
        recommendations="",
        name_label=name,
        name_description="made up for a benchmark",
    )


def opening() -> list[ev.Event]:
    """The pool and its one host."""
    return [
        ev.PoolCreated(
            pool=PoolRef(derive_ref("pool", "pool")),
            uuid=derive("pool", "pool"),
            name_label="bench",
        ),
        ev.HostJoined(host=HOST, uuid="host1", name_label="host1"),
        ev.HostCameAlive(host=HOST),
    ]


def created(number: int) -> ev.VmCreated:
    """VM number so and so."""
    identity = f"vm{number}"
    return ev.VmCreated(
        vm=VmRef(derive_ref(identity, "VM")),
        uuid=derive(identity, "VM"),
        config=vm_config(identity),
        metrics=derive_ref(identity, "VM_metrics"),
        metrics_uuid=derive(identity, "VM_metrics"),
    )


def life(number: int, turn: int) -> list[ev.Event]:
    """A VM's turn: start, then stop; each accepted, done, ended."""
    vm = VmRef(derive_ref(f"vm{number}", "VM"))
    start, stop = (TaskRef(derive_ref(f"{number}/{turn}", kind)) for kind in ("start", "stop"))
    return [
        _accepted(start, vm, VmOperation.START_ON, turn),
        ev.VmStarted(vm=vm, host=HOST, incarnation=turn, domid=turn, memory_actual=2**30, vcpus=1),
        ev.TaskSucceeded(task=start),
        ev.HostReportsSeen(host=HOST, journal="j", sequence=2 * turn),
        _accepted(stop, vm, VmOperation.HARD_SHUTDOWN, turn),
        ev.VmHalted(vm=vm, reason="hard_shutdown"),
        ev.TaskSucceeded(task=stop),
        ev.TaskDestroyed(task=start),
        ev.TaskDestroyed(task=stop),
    ]


def _accepted(
    task: TaskRef, vm: VmRef, kind: VmOperation, incarnation: int
) -> ev.OperationAccepted:
    return ev.OperationAccepted(
        task=task,
        task_uuid=derive(task, "uuid"),
        name_label=f"VM.{kind}",
        operation=kind,
        vm=vm,
        host=HOST,
        incarnation=incarnation,
    )


def events(count: int, vms: int) -> Iterator[ev.Event]:
    """Give `count` events about `vms` VMs."""
    given = 0
    for event in opening():
        yield event
        given += 1
    for number in range(vms):
        yield created(number)
        given += 1
    turn = 0
    while given < count:
        turn += 1
        for number in range(vms):
            for event in life(number, turn):
                if given >= count:
                    return
                yield event
                given += 1


def records(count: int, vms: int) -> list[bytes]:
    """Give the commit records that hold `count` events."""
    sealed: list[bytes] = []
    batch: list[Recorded] = []
    previous = GENESIS_HASH
    for sequence, event in enumerate(events(count, vms), start=1):
        batch.append(
            Recorded(
                sequence,
                1,
                # As the writer has it: one time for all events of a commit.
                1_700_000_000_000_000 + 1_000 * (sequence // RECORD_EVENTS),
                ME,
                f"c{sequence}",
                "VM.start_on",
                event,
            )
        )
        if len(batch) == RECORD_EVENTS or sequence == count:
            plain = [event_to_plain(recorded) for recorded in batch]
            data = seal(
                UnsealedRecord(
                    term=1, first_sequence=batch[0].sequence, previous_hash=previous, events=plain
                )
            )
            sealed.append(data)
            previous, batch = hash_of(data), []
    return sealed
