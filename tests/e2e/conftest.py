"""Pools that the tests of this folder share: each is started once, and every test makes VMs of its own on it."""

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any

import pytest
import XenAPI

from tests.support.pool import RunningPool, running_pool, vm_record

MakeVm = Callable[..., str]
_SHARED = ("simulated_pool", "test_driver_pool")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails on a shared pool shows the ends of that pool's logs."""
    report = yield
    if report.failed:
        for name in _SHARED:
            if isinstance(pool := item.funcargs.get(name), RunningPool):
                report.sections.append((f"logs of {name}", pool.logs()))
    return report


@pytest.fixture(scope="session")
def simulated_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    """Three simulated hosts."""
    with running_pool(tmp_path_factory.mktemp("simulated"), hosts=3) as pool:
        yield pool


@pytest.fixture(scope="session")
def test_driver_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    """One host on libvirt's own test driver."""
    pytest.importorskip("libvirt")
    folder = tmp_path_factory.mktemp("test-driver")
    with running_pool(folder, hosts=1, hypervisor="test") as pool:
        yield pool


@pytest.fixture(
    params=["simulated_pool", pytest.param("test_driver_pool", marks=pytest.mark.libvirt)]
)
def any_pool(request: pytest.FixtureRequest) -> RunningPool:
    """Each kind of pool in turn."""
    pool = request.getfixturevalue(request.param)
    assert isinstance(pool, RunningPool)
    return pool


@pytest.fixture
def pool(simulated_pool: RunningPool) -> RunningPool:
    """The pool that a test talks to; a test for every kind of pool asks for `any_pool` and its `any_` friends."""
    return simulated_pool


@pytest.fixture
def xenapi(pool: RunningPool) -> Iterator[Any]:
    """A session of XenAPI's SDK with the simulated pool."""
    with pool.session() as session:
        yield session


@pytest.fixture
def any_xenapi(any_pool: RunningPool) -> Iterator[Any]:
    """A session with each kind of pool in turn."""
    with any_pool.session() as session:
        yield session


@pytest.fixture
def hosts(xenapi: Any) -> dict[str, str]:
    """The references of the simulated pool's hosts, by name."""
    return {record["name_label"]: ref for ref, record in xenapi.host.get_all_records().items()}


@pytest.fixture
def make_vm(xenapi: Any) -> Iterator[MakeVm]:
    """Makes VMs on the simulated pool that are gone after the test."""
    yield from _vms(xenapi)


@pytest.fixture
def any_make_vm(any_xenapi: Any) -> Iterator[MakeVm]:
    """Makes VMs on each kind of pool in turn."""
    yield from _vms(any_xenapi)


def _vms(xenapi: Any) -> Iterator[MakeVm]:
    made: list[str] = []

    def make(name_label: str = "vm", /, **changes: Any) -> str:
        vm: str = xenapi.VM.create(vm_record(name_label, **changes))
        made.append(vm)
        return vm

    yield make
    for vm in made:
        for call in (xenapi.VM.hard_shutdown, xenapi.VM.destroy):
            with suppress(XenAPI.Failure):  # halted, or destroyed, by the test itself
                call(vm)
