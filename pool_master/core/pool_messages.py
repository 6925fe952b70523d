"""Messages of the pool class about who is its master. What they do is the API shell's: leadership is not in the log.

Masters here are processes that may run anywhere; XenAPI knows them as hosts, and means the master on that host's machine.
"""

from dataclasses import dataclass
from typing import Any, Final

from pool_master.core.datamodel import (
    STRING,
    VOID,
    Message,
    MessageKind,
    WireType,
    map_of,
    parameters_of,
    ref_to,
    set_of,
)
from shared.enums import Role
from shared.refs import HostRef


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignateNewMaster:
    """Perform an orderly handover of the role of master to the master on the referenced host's machine."""

    host: HostRef


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDownMaster:
    """vmpool's own: the leading master hands over to the named one; "": to any other. Returns once it leads."""

    master: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetMasters:
    """vmpool's own: the pool's masters by name, each with address, state (leads, follows, silent) and log format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergencyTransitionToMaster:
    """Instruct a standby to become master. The leading one is master already; a standby is made one by election alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverSlaves:
    """Recover members of this pool: none needs it here, since hosts and standbys find the leader by themselves."""


def _message(request: type, name: str, returns: WireType = VOID, **row: Any) -> Message:
    row.setdefault("role", Role.POOL_OPERATOR)
    return Message(
        name=name,
        doc=" ".join((request.__doc__ or "").split()),
        kind=MessageKind.SESSION,
        parameters=parameters_of(request),
        request=request,
        returns=returns,
        has_async=False,
        **row,
    )


MASTER_MESSAGES: Final[tuple[Message, ...]] = (
    _message(
        DesignateNewMaster,
        "designate_new_master",
        errors=("HA_IS_ENABLED", "HA_ABORT_NEW_MASTER", "HANDLE_INVALID"),
    ),
    _message(StepDownMaster, "step_down_master", errors=("HA_ABORT_NEW_MASTER",)),
    _message(
        GetMasters,
        "get_masters",
        map_of(STRING, map_of(STRING, STRING)),
        role=Role.READ_ONLY,
    ),
    _message(
        EmergencyTransitionToMaster,
        "emergency_transition_to_master",
        errors=("HA_IS_ENABLED", "HOST_IS_SLAVE"),
    ),
    _message(RecoverSlaves, "recover_slaves", set_of(ref_to("host"))),
)


def machine_of(address: str) -> str:
    """Give the machine's part of a master's address."""
    host, colon, port = address.rpartition(":")
    return (host if colon and port.isdigit() else address).strip("[]")
