"""Handing the leadership over on purpose: messages of the pool about its master, answered by the leader.

Rules: nobody steps down before it has found another master that lives and may lead; the call returns once that one leads,
and says so where nobody did.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from pool_master.core.lookup import host_of
from pool_master.core.pool import Pool
from pool_master.core.pool_messages import DesignateNewMaster, StepDownMaster, machine_of
from pool_master.shell.leadership import ANYBODY_ELSE, LeaderKey
from pool_master.shell.roster import Roster
from shared.errors import HaAbortNewMaster, HaIsEnabled
from shared.refs import HostRef

TAKE_OVER_S_MAX: Final = 15.0
LOOK_S: Final = 0.05


class Mastership:
    """What the leader knows of the others, and its way out. `step_down(heir)` begins it."""

    def __init__(
        self,
        roster: Roster,
        leader: Callable[[], LeaderKey | None],
        step_down: Callable[[str], None],
    ) -> None:
        self._roster = roster
        self._leader = leader
        self._step_down = step_down

    async def answer(self, method: str, request: Any, pool: Pool) -> Any:
        """Give the value of one message."""
        match request:
            case DesignateNewMaster(host=host):
                if pool.record.ha_enabled:
                    raise HaIsEnabled()
                return await self._designate(host, pool)
            case StepDownMaster(master=name):
                return await self._hand_over(name)
            case _:
                pass
        if method == "pool.get_masters":
            return self._masters()
        if method == "pool.emergency_transition_to_master" and pool.record.ha_enabled:
            raise HaIsEnabled()
        return [] if method == "pool.recover_slaves" else None

    def _masters(self) -> dict[str, dict[str, str]]:
        living = {line.name for line in self._roster.living()}

        def state(name: str) -> str:
            if name == self._roster.me.name:
                return "leads"
            return "follows" if name in living else "silent"

        lines = {**self._roster.lines, self._roster.me.name: self._roster.me}
        return {
            name: {"address": line.address, "state": state(name), "log_format": str(line.reads)}
            for name, line in lines.items()
        }

    async def _designate(self, ref: HostRef, pool: Pool) -> None:
        machine = host_of(pool, ref).address
        if machine and machine_of(self._roster.me.address) == machine:
            return
        for line in self._roster.living():
            if machine_of(line.address) == machine:
                await self._hand_over(line.name)
                return
        raise HaAbortNewMaster(
            f"no standby runs at the host's address, {machine or 'which is not known'}"
        )

    async def _hand_over(self, name: str) -> None:
        me = self._roster.me
        if name == me.name:
            return
        # An older one could not read the log, and a newer one leads only once no older one lives.
        able = [line.name for line in self._roster.living() if line.reads == me.reads]
        if name and name not in able:
            raise HaAbortNewMaster(
                f"{name} is no living standby; living are: {', '.join(able) or 'none'}"
            )
        if not able:
            raise HaAbortNewMaster("no other master lives that is of this version")
        self._step_down(name or ANYBODY_ELSE)
        deadline = asyncio.get_running_loop().time() + TAKE_OVER_S_MAX
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(LOOK_S)
            leader = self._leader()
            if leader is not None and not leader.released and leader.master != me.name:
                return
        raise HaAbortNewMaster("nobody took over")
