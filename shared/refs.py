"""References and ids.

One job: give every object a reference and an id that a retry of the same wish makes again.

Rules: references are opaque to clients (XenAPI wire protocol: `OpaqueRef:` + a uuid-shaped id that is not the object's
uuid); they survive restarts because they are derived from the id of the command that made the object.
"""

import uuid
from typing import Final, NewType

VmRef = NewType("VmRef", str)
HostRef = NewType("HostRef", str)
TaskRef = NewType("TaskRef", str)
PoolRef = NewType("PoolRef", str)
SessionRef = NewType("SessionRef", str)
VmMetricsRef = NewType("VmMetricsRef", str)
VmGuestMetricsRef = NewType("VmGuestMetricsRef", str)
HostMetricsRef = NewType("HostMetricsRef", str)
ConsoleRef = NewType("ConsoleRef", str)
VdiRef = NewType("VdiRef", str)
VbdRef = NewType("VbdRef", str)
VifRef = NewType("VifRef", str)
SrRef = NewType("SrRef", str)
PbdRef = NewType("PbdRef", str)
NetworkRef = NewType("NetworkRef", str)
PifRef = NewType("PifRef", str)
VtpmRef = NewType("VtpmRef", str)
CrashdumpRef = NewType("CrashdumpRef", str)
UserRef = NewType("UserRef", str)
# Classes of today's xapi that this pool names but does not have: always null or empty.
ForeignRef = NewType("ForeignRef", str)

REF_PREFIX: Final = "OpaqueRef:"
NULL: Final = "OpaqueRef:NULL"
NULL_VM: Final = VmRef(NULL)
NULL_HOST: Final = HostRef(NULL)
NULL_TASK: Final = TaskRef(NULL)
NULL_VDI: Final = VdiRef(NULL)
NULL_SR: Final = SrRef(NULL)
NULL_VBD: Final = VbdRef(NULL)

_NAMESPACE: Final = uuid.UUID("6c1f9d5e-5d0b-4a36-9a57-7d6f2f1a8f10")


def derive(command_id: str, purpose: str) -> str:
    """Give the uuid that `command_id` makes for `purpose`: the same wish always makes the same id."""
    return str(uuid.uuid5(_NAMESPACE, f"{command_id}/{purpose}"))


def derive_ref(command_id: str, purpose: str) -> str:
    """Give the opaque reference that `command_id` makes for `purpose`; never equal to the uuid made beside it."""
    return REF_PREFIX + derive(command_id, f"ref/{purpose}")


def is_null(ref: str) -> bool:
    """Say whether `ref` names nothing; the empty string counts, as it does for existing clients."""
    return ref in {NULL, ""}
