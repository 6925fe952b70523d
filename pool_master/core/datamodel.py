"""The API as data: what a field, a message and a class are.

One job: turn annotated records and message rows into the datamodel from which accessors, (un)marshalling, parameter
checks, roles, CLI verbs, docs and system.listMethods are derived.

Rules: a field is declared once, as an annotation on its record; a message is one row beside its decider; nothing here
knows a particular class. Names and types are XenAPI's (XenAPI class reference).
"""

import dataclasses
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, Struct, structs

from shared import refs
from shared.enums import Role, VifOperation, VmOperation

EMPTY_MAP: Final[dict[Any, Any]] = {}  # shared by all records: never written to


class Qualifier(StrEnum):
    """Who may write a field, and when."""

    RW = "RW"
    CONSTRUCTOR = "RO/constructor"
    RUNTIME = "RO/runtime"


@dataclass(frozen=True, slots=True)
class Spec:
    """What an annotation says of its field."""

    qualifier: Qualifier
    doc: str
    is_deprecated: bool = False


def rw(doc: str) -> Spec:
    """Settable at any time."""
    return Spec(Qualifier.RW, doc)


def constructor(doc: str, *, is_deprecated: bool = False) -> Spec:
    """Given at create."""
    return Spec(Qualifier.CONSTRUCTOR, doc, is_deprecated)


def runtime(doc: str, *, is_deprecated: bool = False) -> Spec:
    """Maintained by the system."""
    return Spec(Qualifier.RUNTIME, doc, is_deprecated)


class Kind(StrEnum):
    """The shapes that values have on the wire."""

    STRING = "string"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    DATETIME = "datetime"
    REF = "ref"
    ENUM = "enum"
    SET = "set"
    MAP = "map"
    RECORD = "record"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class WireType:
    """A XenAPI type; `name` is the class of a ref or record, or the enum's name."""

    kind: Kind
    name: str = ""
    item: "WireType | None" = None
    key: "WireType | None" = None
    enum: type[StrEnum] | None = None

    def __str__(self) -> str:
        match self.kind:
            case Kind.REF:
                return f"{self.name} ref"
            case Kind.RECORD:
                return f"{self.name} record"
            case Kind.ENUM:
                return f"enum {self.name}"
            case Kind.SET:
                return f"{self.item} set"
            case Kind.MAP:
                return f"({self.key} -> {self.item}) map"
            case _:
                return self.kind.value


STRING: Final = WireType(Kind.STRING)
INT: Final = WireType(Kind.INT)
FLOAT: Final = WireType(Kind.FLOAT)
BOOL: Final = WireType(Kind.BOOL)
DATETIME: Final = WireType(Kind.DATETIME)
VOID: Final = WireType(Kind.VOID)

REF_CLASSES: Final[Mapping[object, str]] = {
    refs.VmRef: "VM",
    refs.HostRef: "host",
    refs.TaskRef: "task",
    refs.PoolRef: "pool",
    refs.SessionRef: "session",
    refs.VmMetricsRef: "VM_metrics",
    refs.VmGuestMetricsRef: "VM_guest_metrics",
    refs.HostMetricsRef: "host_metrics",
    refs.ConsoleRef: "console",
    refs.VdiRef: "VDI",
    refs.VbdRef: "VBD",
    refs.VifRef: "VIF",
    refs.SrRef: "SR",
    refs.PbdRef: "PBD",
    refs.NetworkRef: "network",
    refs.PifRef: "PIF",
    refs.VtpmRef: "VTPM",
    refs.CrashdumpRef: "crashdump",
    refs.UserRef: "user",
    refs.ForeignRef: "",
}

ENUM_NAMES: Final[Mapping[str, str]] = {
    "PowerState": "vm_power_state",
    "OnNormalExit": "on_normal_exit",
    "OnCrashBehaviour": "on_crash_behaviour",
    "OnSoftrebootBehavior": "on_softreboot_behavior",
    "DomainType": "domain_type",
    "VmOperation": "vm_operations",
    "HostOperation": "host_allowed_operations",
    "TaskStatus": "task_status_type",
    "TaskOperation": "task_allowed_operations",
    "EventOperation": "event_operation",
    "ConsoleProtocol": "console_protocol",
    "TristateType": "tristate_type",
    "NetworkOperation": "network_operations",
    "NetworkDefaultLockingMode": "network_default_locking_mode",
    "VifOperation": "vif_operations",
    "VifLockingMode": "vif_locking_mode",
    "IpConfigurationMode": "ip_configuration_mode",
    "StorageOperation": "storage_operations",
    "VdiOperation": "vdi_operations",
    "VbdOperation": "vbd_operations",
    "VdiType": "vdi_type",
    "VbdType": "vbd_type",
    "VbdMode": "vbd_mode",
    "OnBoot": "on_boot",
}

_SCALARS: Final[Mapping[object, WireType]] = {
    str: STRING,
    int: INT,
    float: FLOAT,
    bool: BOOL,
    datetime: DATETIME,
    type(None): VOID,
}


def wire_type(annotation: Any) -> WireType:  # noqa: PLR0911 - one return a case
    """Give the wire type that a Python annotation stands for."""
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if annotation in REF_CLASSES:
        return WireType(Kind.REF, REF_CLASSES[annotation])
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return WireType(Kind.ENUM, ENUM_NAMES[annotation.__name__], enum=annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return wire_type(arguments[0])
    if origin in {tuple, list}:
        return WireType(Kind.SET, item=wire_type(arguments[0]))
    if origin in {dict, Mapping}:
        return WireType(Kind.MAP, key=wire_type(arguments[0]), item=wire_type(arguments[1]))
    if origin in {Union, types.UnionType}:
        return wire_type(arguments[0])
    raise TypeError(f"no wire type for {annotation!r}")


def record_of(class_name: str) -> WireType:
    """Give the type of a class's record."""
    return WireType(Kind.RECORD, class_name)


def set_of(item: WireType) -> WireType:
    """Give the type of a set."""
    return WireType(Kind.SET, item=item)


def ref_to(class_name: str) -> WireType:
    """Give the type of a reference to an object of a class."""
    return WireType(Kind.REF, class_name)


def map_of(key: WireType, item: WireType) -> WireType:
    """Give the type of a map."""
    return WireType(Kind.MAP, key=key, item=item)


MANDATORY: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a class.

    Exactly one of these says where its value comes from: `path` (attributes from the record on), `derive` (a pure
    function of pool and record), or neither (the default is always the value: a field of today's xapi that means
    nothing on libvirt).
    """

    name: str
    type: WireType
    qualifier: Qualifier
    doc: str
    default: Any = MANDATORY
    is_deprecated: bool = False
    path: tuple[str, ...] = ()
    derive: Callable[[Any, Any], Any] | None = None


def fields_of(record: type, *, under: str = "") -> tuple[Field, ...]:
    """Give the fields that a record's annotations declare; what has no Spec is internal and stays hidden."""
    hints = get_type_hints(record, include_extras=True)
    found = []
    for attribute in _attributes(record):
        annotation = hints[attribute.name]
        spec = next(
            (x for x in getattr(annotation, "__metadata__", ()) if isinstance(x, Spec)), None
        )
        if spec is None:
            continue
        found.append(
            Field(
                name=attribute.name,
                type=wire_type(annotation),
                qualifier=spec.qualifier,
                doc=spec.doc,
                default=_default_of(attribute),
                is_deprecated=spec.is_deprecated,
                path=(under, attribute.name) if under else (attribute.name,),
            )
        )
    return tuple(found)


def _attributes(record: type) -> tuple[Any, ...]:
    """Give the attributes of a record or request: Structs where they are many and copied often, dataclasses elsewhere."""
    if issubclass(record, Struct):
        return structs.fields(record)
    return dataclasses.fields(cast("Any", record))


def _default_of(attribute: Any) -> Any:
    nothing = (dataclasses.MISSING, NODEFAULT)
    if attribute.default not in nothing:
        return attribute.default
    if attribute.default_factory not in nothing:
        return attribute.default_factory()
    return MANDATORY


def derived(name: str, annotation: Any, doc: str, derive: Callable[[Any, Any], Any]) -> Field:
    """Declare a field that is computed from the pool and never stored."""
    return Field(
        name=name, type=wire_type(annotation), qualifier=Qualifier.RUNTIME, doc=doc, derive=derive
    )


def inert(name: str, annotation: Any, default: Any, *, is_constructor: bool = False) -> Field:
    """Declare a field of today's xapi that never changes here: clients find it, with its default."""
    return Field(
        name=name,
        type=wire_type(annotation),
        qualifier=Qualifier.CONSTRUCTOR if is_constructor else Qualifier.RUNTIME,
        doc="Present for clients of today's XenAPI; has no meaning here.",
        default=default,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a message; without a default it must be given."""

    name: str
    type: WireType
    default: Any = MANDATORY


class MessageKind(StrEnum):
    """How a message is answered."""

    QUERY = "query"  # from the state, at once
    COMMAND = "command"  # by events, at once
    OPERATION = "operation"  # by events, and later by a host: there is a task
    SESSION = "session"  # by the API's own shell: sessions and event streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a class.

    `request` is the dataclass that holds its parameters. `decide(pool, request, context)` gives the events of a command;
    `answer(pool, request)` a query's value; `result(request, context)` a command's value. `waits` puts the caller behind
    a conflicting operation instead of failing (XenAPI reference, policy "standard").
    """

    name: str
    doc: str
    kind: MessageKind
    parameters: tuple[Parameter, ...]
    returns: WireType = VOID
    role: Role = Role.READ_ONLY
    errors: tuple[str, ...] = ()
    operation: VmOperation | VifOperation | None = None
    request: type | None = None
    decide: Callable[[Any, Any, Any], list[Any]] | None = None
    answer: Callable[[Any, Any], Any] | None = None
    result: Callable[[Any, Any], Any] | None = None
    waits: bool = False
    has_async: bool = True
    is_hidden: bool = False


def parameters_of(request: type) -> tuple[Parameter, ...]:
    """Give the parameters that a request's annotations declare, in order."""
    hints = get_type_hints(request, include_extras=True)
    return tuple(
        Parameter(
            name=attribute.name,
            type=_parameter_type(hints[attribute.name]),
            default=_default_of(attribute),
        )
        for attribute in dataclasses.fields(request)
    )


def _parameter_type(annotation: Any) -> WireType:
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, WireType):
            return extra
    return wire_type(annotation)


def command(request: type, decide: Callable[[Any, Any, Any], list[Any]], **row: Any) -> Message:
    """Declare a message that is answered by events at once."""
    return _message(MessageKind.COMMAND, request, decide=decide, **row)


def operation(request: type, decide: Callable[[Any, Any, Any], list[Any]], **row: Any) -> Message:
    """Declare a message that a host carries out: it has a task, and waits behind conflicting operations."""
    return _message(MessageKind.OPERATION, request, decide=decide, waits=True, **row)


def query(request: type, answer: Callable[[Any, Any], Any], **row: Any) -> Message:
    """Declare a message that is answered from the state."""
    row.setdefault("has_async", False)
    return _message(MessageKind.QUERY, request, answer=answer, **row)


def _message(kind: MessageKind, request: type, **row: Any) -> Message:
    doc = " ".join((request.__doc__ or "").split())
    return Message(kind=kind, doc=doc, request=request, parameters=parameters_of(request), **row)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassModel:
    """One XenAPI class: its fields, its messages, and the Pool's table that holds its records."""

    name: str
    doc: str
    table: str
    fields: tuple[Field, ...]
    messages: tuple[Message, ...] = ()
    has_get_all: bool = True

    def field(self, name: str) -> Field | None:
        """Give the field of that name, if there is one."""
        return next((field for field in self.fields if field.name == name), None)
