"""The fact that begins an operation on a device: a member of the union in events.py, under the same rules."""

from msgspec import Struct

from shared.refs import HostRef, TaskRef, VmRef


class DeviceOperationAccepted(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The pool has promised to carry this operation on a device of a running VM to its end.

    `name` is how the host knows the device: a VIF by its MAC.
    """

    task: TaskRef
    task_uuid: str
    name_label: str
    object_class: str
    device: str
    name: str
    operation: str
    vm: VmRef
    host: HostRef
    incarnation: int
