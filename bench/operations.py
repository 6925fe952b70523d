"""VM.start_on through the API, on simulated hosts and on libvirt's test driver: real processes, every command durable."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.figures import Figure, median, percentile
from tests.support.pool import RunningPool, running_pool
from tests.support.vms import halted_vm

ONE_BY_ONE = 200
BURST = 100
BURSTS = 5
CLIENTS = 20
WARM_UP = 20


def simulated(data: Path, append_ms: float) -> list[Figure]:
    """One at a time and as a burst; the floor of one is two appends: its wish and its end."""
    with running_pool(data, hosts=3, hypervisor="simulated") as pool:
        took = _one_by_one(pool)
        rate = _burst(pool)
    floor = 2 * append_ms
    return [
        _latency("VM.start_on, simulated hosts, p50", median(took), floor, goal=10.0),
        _latency("VM.start_on, simulated hosts, p99", percentile(took, 0.99), floor),
        Figure(
            name=f"VM.start_on, burst of {BURST} from {CLIENTS} clients",
            value=rate,
            unit="ops/s",
            floor_name="one by one",
            floor=1_000 / median(took),
            goal=300.0,
            is_time=False,
        ),
    ]


def _latency(name: str, value: float, floor: float, goal: float | None = None) -> Figure:
    return Figure(
        name=name, value=value, unit="ms", floor_name="two appends", floor=floor, goal=goal
    )


def test_driver(data: Path) -> list[Figure]:
    """The same on `test:///default`, beside calling libvirt directly."""
    direct = _direct()
    with running_pool(data, hosts=1, hypervisor="test") as pool:
        took = _one_by_one(pool)
    return [
        Figure(
            name="VM.start_on, libvirt's test driver, p50",
            value=median(took),
            unit="ms",
            floor_name="libvirt directly",
            floor=direct,
        )
    ]


def _direct() -> float:
    import libvirt

    connection = libvirt.open("test:///default")
    took = []
    for number in range(ONE_BY_ONE):
        xml = (
            f"<domain type='test'><name>bench{number}</name><memory unit='MiB'>64</memory>"
            "<os><type>hvm</type></os></domain>"
        )
        began = time.perf_counter()
        connection.defineXML(xml).create()
        took.append((time.perf_counter() - began) * 1_000)
    connection.close()
    return median(took)


def _one_by_one(pool: RunningPool) -> list[float]:
    took = []
    with pool.session() as xenapi:
        host = xenapi.host.get_all()[0]
        vm = halted_vm(xenapi, "bench")
        for turn in range(ONE_BY_ONE + WARM_UP):
            began = time.perf_counter()
            xenapi.VM.start_on(vm, host, False, False)
            if turn >= WARM_UP:
                took.append((time.perf_counter() - began) * 1_000)
            xenapi.VM.hard_shutdown(vm)
    return took


def _burst(pool: RunningPool) -> float:
    """Give the best of a few bursts (operations a second): sessions are open, each client has its share of the VMs."""
    rates = []
    with pool.session() as xenapi:
        hosts = xenapi.host.get_all()
        vms = [halted_vm(xenapi, f"burst {number}") for number in range(BURST)]
    barrier = threading.Barrier(CLIENTS + 1)

    def client(number: int) -> None:
        with pool.session() as xenapi:
            for _ in range(BURSTS):
                barrier.wait()
                _each(xenapi, vms[number::CLIENTS], hosts)
                barrier.wait()
                for vm in vms[number::CLIENTS]:
                    xenapi.VM.hard_shutdown(vm)

    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(client, number) for number in range(CLIENTS)]
        for _ in range(BURSTS):
            barrier.wait()
            began = time.perf_counter()
            barrier.wait()
            rates.append(BURST / (time.perf_counter() - began))
        for each in running:
            each.result()
    return median(rates)


def _each(xenapi: Any, vms: list[str], hosts: list[str]) -> None:
    for number, vm in enumerate(vms):
        xenapi.VM.start_on(vm, hosts[number % len(hosts)], False, False)
