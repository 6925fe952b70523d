"""The record of an operation on a device of a running VM."""

from msgspec import Struct

from shared.refs import HostRef, TaskRef, VmRef


class DeviceOperation(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An accepted operation on a device, from acceptance to its one end; `host` carries it out.

    `name` is how the host knows the device: a VIF by its MAC.
    """

    task: TaskRef
    object_class: str
    device: str
    name: str
    operation: str
    vm: VmRef
    host: HostRef
    incarnation: int
