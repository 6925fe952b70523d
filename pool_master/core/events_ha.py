"""Facts about high availability: members of the union in events.py, under its rules."""

from msgspec import Struct, field

from shared.refs import NULL_HOST, HostRef, PoolRef, TaskRef, VmRef

StringMap = dict[str, str]


class HaEnabled(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """VMs that are protected are restarted from now on, when their host is lost or they stop unasked."""

    pool: PoolRef
    configuration: StringMap = field(default_factory=dict)


class HaDisabled(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """No VM is restarted from now on; what was owed is owed no more."""

    pool: PoolRef


class HaRestartsHeld(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """No restart is begun before that moment (UTC, microseconds)."""

    pool: PoolRef
    until_us: int


class FailoverPlanned(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """So many host failures would leave every protected VM a place; `is_overcommitted`: fewer than was asked for."""

    pool: PoolRef
    plan_exists_for: int
    is_overcommitted: bool = False


class VmRestartDue(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The VM is owed a start, on `host` if it fits there then, not before that moment (UTC, microseconds)."""

    vm: VmRef
    reason: str
    host: HostRef = NULL_HOST
    not_before_us: int = 0


class VmRestartTried(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The start that is owed was begun there, under this task."""

    vm: VmRef
    host: HostRef
    task: TaskRef


class VmRestartEnded(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The VM is owed no start any more."""

    vm: VmRef
    reason: str


class VmRestartGivenUp(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The start failed as often as it may: nobody tries again before somebody has looked."""

    vm: VmRef
    error_info: tuple[str, ...]
