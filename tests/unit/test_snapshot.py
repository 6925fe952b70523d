"""Snapshots: a start from one is the same as a replay of everything."""

from typing import Any

import pytest

from pool_master.core import events as ev
from pool_master.core import network_events as nev
from pool_master.core.network import NetworkConfig, VifConfig
from pool_master.core.pool import TABLES, Pool
from pool_master.core.snapshot import RECORD_TYPES, decode_pool, encode_pool
from shared.codec import DecodeError, pack, unpack
from shared.enums import VmOperation
from shared.refs import NetworkRef, PifRef, VifRef
from tests.support.facts import (
    HOST,
    HOST_2,
    OTHER_VM,
    OTHER_VM_UUID,
    VM,
    VM_UUID,
    a_pool,
    accepted,
    running,
    task,
    vm_created,
    vm_started,
)
from tests.support.spec import Scenario, given


def picture(pool: Pool) -> dict[str, Any]:
    """Everything that a Pool holds, with its order."""
    tables = {name: list(getattr(pool, name).items()) for name in TABLES}
    scalars = (pool.sequence, pool.time_us, pool.term, pool.master, pool.master_address)
    return {
        **tables,
        "scalars": scalars,
        "stamps": list(pool.stamps.items()),
        "tombstones": pool.tombstones,
    }


NETWORK, PIF, VIF = NetworkRef("OpaqueRef:n"), PifRef("OpaqueRef:p"), VifRef("OpaqueRef:v")


def full() -> Scenario:
    return given(
        *a_pool(2),
        *running(tags=("a",), blocked_operations={VmOperation.START: "why"}),
        vm_created(OTHER_VM, OTHER_VM_UUID),
        vm_started(incarnation=2, console_rfb="x", console_vt100="y"),
        accepted(VmOperation.POOL_MIGRATE, incarnation=2, destination=HOST_2, live="true"),
        ev.CancelRequested(task=task(1)),
        ev.StaleDomainFound(host=HOST_2, vm_uuid=VM_UUID, incarnation=1),
        ev.TaskCreated(
            task=task(2),
            uuid="t",
            name_label="Async.VM.start",
            method="VM.start",
            parameters=(VM, False, {"a": [1]}),
        ),
        ev.VmDestroyed(vm=OTHER_VM),
        nev.NetworkCreated(network=NETWORK, uuid="n", config=NetworkConfig(bridge="br0")),
        nev.PifIntroduced(pif=PIF, uuid="p", host=HOST, network=NETWORK, device="eth0"),
        ev.DeviceOperationAccepted(
            task=task(3),
            task_uuid="t3",
            name_label="VIF.plug",
            object_class="VIF",
            device=VIF,
            name="02:00:00:00:00:01",
            operation="plug",
            vm=VM,
            host=HOST,
            incarnation=2,
        ),
        nev.VifCreated(vif=VIF, uuid="v", config=VifConfig(device="0", network=NETWORK, VM=VM)),
        ev.HostReportsSeen(host=HOST, journal="j", sequence=9),
        ev.HostAgentStarted(host=HOST, journal="k", epoch=2),
    )


def test_a_snapshot_is_the_pool_with_nothing_left_out() -> None:
    pool = full().pool
    assert picture(decode_pool(encode_pool(pool))) == picture(pool)


def test_the_same_pool_is_always_the_same_bytes() -> None:
    data = encode_pool(full().pool)
    assert encode_pool(decode_pool(data)) == data


def test_every_table_is_in_a_snapshot() -> None:
    assert sorted([*RECORD_TYPES, "residents", "links", "uuids"]) == sorted(TABLES)


def test_what_follows_a_snapshot_comes_out_as_in_a_replay() -> None:
    scenario = full()
    restored = decode_pool(encode_pool(scenario.pool))
    twin = full()
    twin.pool = restored
    for each in (scenario, twin):
        each.and_given(
            ev.TaskFailed(task=task(1), error_info=("TASK_CANCELLED",)),
            ev.VmHalted(vm=VM, reason=""),
            ev.MapKeySet(object_class="VM", ref=VM, field="other_config", key="k", value="v"),
            ev.StaleDomainDropped(host=HOST_2, vm_uuid=VM_UUID, incarnation=1),
        )
    assert picture(twin.pool) == picture(scenario.pool)


@pytest.mark.parametrize("data", [b"", b"\x00", pack([]), pack({}), pack({"sequence": 1})])
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises((DecodeError, LookupError, TypeError)):
        decode_pool(data)


def test_a_snapshot_of_damaged_records_is_refused() -> None:
    plain = unpack(encode_pool(full().pool))
    plain["vms"][0][1] = {"ref": 5}
    with pytest.raises(DecodeError):
        decode_pool(pack(plain))
