"""Which commands may go before others of the same VM.

Rules: commands of one VM run in the order in which they came. Only one that stops the guest goes
before those that wait for the guest to stop or to leave, and before nothing else: a start that came
first must have happened first.
"""

from collections.abc import Iterable
from typing import Final

from shared.protocol import (
    DestroyDomain,
    DetachNic,
    ForgetDomain,
    HostAction,
    MigrateDomain,
    RestartDomain,
    ShutdownDomain,
)

STOPPING: Final = (DestroyDomain, ForgetDomain)


def is_patient(action: HostAction) -> bool:
    """Say whether `action` is one that waits, possibly long, for the guest."""
    match action:
        case ShutdownDomain() | MigrateDomain() | DetachNic():
            return True
        case RestartDomain(clean=clean):
            return clean
        case _:
            return False


def overtakes(action: HostAction, ahead: Iterable[HostAction]) -> bool:
    """Say whether `action` goes before all those `ahead` of it that have not begun."""
    return isinstance(action, STOPPING) and all(is_patient(other) for other in ahead)
