"""A simulation that finds nothing must be able to find something: known bugs, put in on purpose, and caught.

Each bug is one that was made, or nearly, by us or by others. `within` is in how many seeds, from the first one that is
named, some check must see it; the check is named too, since a bug that is seen by accident may not be next time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from host_agent.core.admit import Knowledge, admit
from host_agent.core.lease_guard import LeaseGuard
from host_agent.shell import lanes
from pool_master.core import evolve_task, feed, host_reports, reconcile
from pool_master.core.lease import LeaseTable
from pool_master.core.snapshot import decode_pool, encode_pool
from pool_master.shell import follower
from pool_master.shell.event_log import JetStreamLog, LogUnavailable
from pool_master.shell.writer import Writer
from shared.bus import BusUnavailable
from simulator.setting import CLASSIC, Setting
from simulator.simulation import simulate

Patch = pytest.MonkeyPatch
CLASSICAL = Setting(kinds=CLASSIC)


def answers_before_it_appends(patch: Patch) -> None:
    commit = Writer._commit

    async def eager(self: Writer, batch: list[Any]) -> None:
        # A reign begins with its election in the log, or nobody could call.
        is_begun = self.pool.term == self.term
        decided = self._decide(list(batch))[0] if is_begun else []
        for wish, own in decided:
            if not wish.done.done():
                wish.done.set_result(own)
        await commit(self, batch)

    patch.setattr(Writer, "_commit", eager)


def appends_whatever_came_before(patch: Patch) -> None:
    async def append(self: JetStreamLog, data: bytes, *, expected_position: int) -> int:
        try:
            await self._bus.publish(self._subject, data)
        except BusUnavailable as error:
            raise LogUnavailable(str(error)) from error
        return expected_position + 1

    patch.setattr(JetStreamLog, "append", append)


def fences_too_late(patch: Patch) -> None:
    late = property(lambda guard: guard.kept_until + guard.fence_s + 6.0)
    patch.setattr(LeaseGuard, "fence_at", late)
    patch.setattr(LeaseGuard, "watchdog_at", late)


def declares_hosts_lost_too_early(patch: Patch) -> None:
    def surely_dead_at(self: LeaseTable, host_uuid: str) -> float:
        return self.granted.get(host_uuid, self.since) + self.times.heartbeat_s * 3

    patch.setattr(LeaseTable, "surely_dead_at", surely_dead_at)


def runs_commands_of_a_former_life(patch: Patch) -> None:
    def trusting(entry: Any, command: Any, knowledge: Knowledge) -> Any:
        return admit(entry, replace(command, host_epoch=knowledge.host_epoch), knowledge)

    patch.setattr(lanes, "admit", trusting)


def forgets_what_it_has_done(patch: Patch) -> None:
    def forgetful(_entry: Any, command: Any, knowledge: Knowledge) -> Any:
        return admit(None, command, knowledge)

    patch.setattr(lanes, "admit", forgetful)


def leaks_reservations(patch: Patch) -> None:
    def leaking(_pool: Any, vm: Any, _operations: Any) -> Any:
        return vm.scheduled_to_be_resident_on

    patch.setattr(evolve_task, "reservation", leaking)


def accepts_the_word_of_a_former_domain(patch: Patch) -> None:
    def is_the_one(vm: Any, host: Any, seen: Any) -> bool:
        return bool(vm.resident_on == host and vm.uuid == seen.vm_uuid)

    patch.setattr(reconcile, "_is_the_one", is_the_one)
    patch.setattr(host_reports, "_is_answer", lambda *_: True)


def tells_of_no_deletion(patch: Patch) -> None:
    patch.setattr(feed, "_deletions", lambda *_: [])


def takes_snapshots_that_lack_something(patch: Patch) -> None:
    def lacking(pool: Any) -> bytes:
        poorer = decode_pool(encode_pool(pool))
        poorer.tasks.clear()
        return encode_pool(poorer)

    patch.setattr(follower, "encode_pool", lacking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    put_in: Callable[[Patch], None]
    seen_by: str
    first: int = 1
    within: int


BUGS = (
    Bug(put_in=answers_before_it_appends, seen_by="2 ", first=2, within=25),
    Bug(put_in=appends_whatever_came_before, seen_by="3 ", within=20),
    Bug(put_in=fences_too_late, seen_by="1 ", first=10, within=25),
    Bug(put_in=declares_hosts_lost_too_early, seen_by="1 ", within=25),
    Bug(put_in=runs_commands_of_a_former_life, seen_by="1 ", first=35, within=25),
    Bug(put_in=forgets_what_it_has_done, seen_by="6 ", within=25),
    Bug(put_in=leaks_reservations, seen_by="8 ", within=25),
    Bug(put_in=accepts_the_word_of_a_former_domain, seen_by="1 ", within=20),
    Bug(put_in=tells_of_no_deletion, seen_by="10 ", within=25),
    Bug(put_in=takes_snapshots_that_lack_something, seen_by="4 ", first=22, within=25),
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.put_in.__name__)
def test_a_bug_that_is_put_in_is_found(bug: Bug, monkeypatch: Patch) -> None:
    bug.put_in(monkeypatch)
    found: list[str] = []
    for seed in range(bug.first, bug.first + bug.within):
        found = [text.split(" ", 1)[1] for text in simulate(seed, CLASSICAL).violations]
        if any(text.startswith(bug.seen_by) for text in found):
            return
    pytest.fail(f"{bug.within} seeds have not seen it: {found}")
