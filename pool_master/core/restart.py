"""A start that high availability owes to a VM: its record, while it is owed."""

from datetime import datetime

from msgspec import Struct

from shared.codec import EPOCH
from shared.refs import NULL_HOST, NULL_TASK, HostRef, TaskRef, VmRef


class Restart(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A start that is owed: all that a new leader needs to go on with it.

    `host` is where the failover plan has put the VM; `tried` are the hosts on which it has failed since `tried_at`,
    `tries` how often. One that `is_given_up` stays, so that it does not become due again by itself.
    """

    vm: VmRef
    reason: str
    due_at: datetime = EPOCH
    not_before: datetime = EPOCH
    host: HostRef = NULL_HOST
    tries: int = 0
    tried: tuple[HostRef, ...] = ()
    tried_at: datetime = EPOCH
    task: TaskRef = NULL_TASK
    is_given_up: bool = False
