"""host.declare_dead: an operator's word that a host is dead, which is the proof then."""

from dataclasses import dataclass
from typing import Final

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.datamodel import Message, MessageKind, parameters_of
from pool_master.core.draft import Draft
from pool_master.core.lookup import host_of
from pool_master.core.pool import Pool
from pool_master.core.reconcile import decide_host_lost
from pool_master.core.vm_recovery import reset
from shared.enums import Role
from shared.errors import HostIsLive
from shared.refs import HostRef


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclareDead:
    """Declare that a host is dead: its VMs are reset, and may be started elsewhere. This is a dangerous operation.

    Refused with HOST_IS_LIVE while the host's lease lasts. Whoever calls vouches that the machine is off: the name of the
    caller and the reason are kept in the log as the proof.
    """

    host: HostRef
    reason: str = ""


def decide_declare_dead(pool: Pool, ref: HostRef, reason: str, context: Context) -> list[ev.Event]:
    """XenAPI reference 6.3; unlike there the host counts as lost from here on, so that it is told when it returns."""
    host = host_of(pool, ref)
    word = f"{context.actor.name} declares it dead" + (f": {reason}" if reason else "")
    draft = Draft(pool, context)
    draft.add(*decide_host_lost(draft.pool, ref, word))
    for vm_ref in list(draft.pool.residents_of(ref)):
        vm = draft.pool.vms[vm_ref]
        if vm.is_control_domain:
            continue
        try:
            draft.add(*reset(draft.pool, vm))
        except HostIsLive:
            # It may run, or arrive, at another host, which lives: that one says what became of it.
            continue
    if host.enabled:
        draft.add(ev.HostDisabled(host=ref))
    return draft.events


MESSAGES: Final[tuple[Message, ...]] = (
    Message(
        name="declare_dead",
        doc=" ".join((DeclareDead.__doc__ or "").split()),
        # Leases are the leader's own, and not in the log: the API's shell asks for them.
        kind=MessageKind.SESSION,
        parameters=parameters_of(DeclareDead),
        request=DeclareDead,
        role=Role.POOL_OPERATOR,
        errors=("HOST_IS_LIVE", "HANDLE_INVALID"),
        has_async=False,
    ),
)
