"""The session and event classes: their rows. What they do is the API shell's: sessions and waiting are not in the log."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final

from pool_master.core.datamodel import (
    EMPTY_MAP,
    INT,
    STRING,
    VOID,
    ClassModel,
    Kind,
    Message,
    MessageKind,
    WireType,
    constructor,
    fields_of,
    inert,
    map_of,
    parameters_of,
    record_of,
    ref_to,
    runtime,
    rw,
    set_of,
)
from shared.codec import EPOCH
from shared.enums import EventOperation, Role
from shared.refs import NULL, NULL_HOST, ForeignRef, HostRef, SessionRef, TaskRef, UserRef


def _empty() -> dict[Any, Any]:
    return EMPTY_MAP


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """session: a client that has logged in; kept by one master, in memory only."""

    ref: SessionRef
    role: Role
    uuid: Annotated[str, runtime("unique identifier/object reference")]
    this_host: Annotated[HostRef, runtime("currently connected host")] = NULL_HOST
    this_user: Annotated[UserRef, runtime("currently connected user")] = UserRef(NULL)
    last_active: Annotated[datetime, runtime("timestamp for last time session was active")] = EPOCH
    pool: Annotated[bool, runtime("true if this session relates to an intra-pool login")] = False
    other_config: Annotated[dict[str, str], rw("additional configuration")] = field(
        default_factory=_empty
    )
    is_local_superuser: Annotated[
        bool, runtime("true iff made with local superuser credentials")
    ] = False
    validation_time: Annotated[datetime, runtime("time when session was last validated")] = EPOCH
    auth_user_name: Annotated[str, runtime("the name of the user that logged in")] = ""
    originator: Annotated[str, runtime("a key for the originator of the session")] = ""
    rbac_permissions: Annotated[tuple[str, ...], constructor("list with all permissions")] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """event: one change of one object."""

    id: Annotated[int, constructor("an ID, monotonically increasing")]
    timestamp: Annotated[str, constructor("the time at which the event occurred")]
    object_class: Annotated[str, constructor("the name of the class of the object that changed")]
    operation: Annotated[EventOperation, constructor("the operation that was performed")]
    reference: Annotated[str, constructor("a reference to the object that changed")]
    obj_uuid: Annotated[str, constructor("the uuid of the object that changed")]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginWithPassword:
    """Attempt to authenticate the user, returning a session reference if successful."""

    uname: str
    pwd: str
    version: str = ""
    originator: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoParameters:
    """Takes nothing but the session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfSession:
    """Get a field or the record of a session."""

    self: SessionRef


@dataclass(frozen=True, slots=True, kw_only=True)
class OfUuid:
    """Get a reference to the session instance with the specified UUID."""

    uuid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventClasses:
    """Register or unregister this session with the event system for a set of given classes."""

    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFrom:
    """Blocking call which returns a new token and a (possibly empty) batch of events since the given one.

    `timeout` is in seconds. The events carry no history: several changes of one object are one.
    """

    classes: tuple[str, ...]
    token: str
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EventInject:
    """Injects an artificial event on the given object and returns the corresponding token: a barrier."""

    cls: str
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventGetLog:
    """vmpool's own: events of the log itself, each with who, when and why; nothing is collapsed or lost.

    Keys of the filter: ref, actor, since and until (ISO 8601), type, command_id, after (sequence), limit, wait (seconds).
    """

    filter: dict[str, str]


def _session(request: type, name: str, returns: WireType = VOID, **row: Any) -> Message:
    row.setdefault("doc", " ".join((request.__doc__ or "").split()))
    return Message(
        name=name,
        kind=MessageKind.SESSION,
        parameters=parameters_of(request),
        request=request,
        returns=returns,
        has_async=False,
        **row,
    )


_BATCH: Final = WireType(Kind.RECORD, "event batch")

SESSION_FIELDS: Final = (
    *fields_of(Session),
    inert("subject", ForeignRef, NULL),
    inert("auth_user_sid", str, ""),
    inert("tasks", tuple[TaskRef, ...], ()),
    inert("parent", SessionRef, NULL),
    inert("client_certificate", bool, False),
)

SESSION_MODEL: Final = ClassModel(
    name="session",
    doc="A session",
    table="",
    fields=SESSION_FIELDS,
    has_get_all=False,
    messages=(
        _session(
            LoginWithPassword,
            "login_with_password",
            ref_to("session"),
            errors=("SESSION_AUTHENTICATION_FAILED", "HOST_IS_SLAVE"),
        ),
        _session(NoParameters, "logout", doc="Log out of a session."),
        _session(OfSession, "get_record", record_of("session")),
        _session(OfUuid, "get_by_uuid", ref_to("session")),
        *(_session(OfSession, f"get_{field.name}", field.type) for field in SESSION_FIELDS),
    ),
)

EVENT_MODEL: Final = ClassModel(
    name="event",
    doc="Asynchronous event registration and handling",
    table="",
    fields=fields_of(EventRecord),
    has_get_all=False,
    messages=(
        _session(
            EventFrom,
            "from",
            _BATCH,
            errors=("EVENT_FROM_TOKEN_PARSE_FAILURE", "EVENT_SUBSCRIPTION_PARSE_FAILURE"),
        ),
        _session(EventInject, "inject", STRING, errors=("HANDLE_INVALID",)),
        _session(EventGetLog, "get_log", set_of(map_of(STRING, STRING)), errors=("INVALID_VALUE",)),
        _session(EventClasses, "register"),
        _session(EventClasses, "unregister"),
        _session(
            NoParameters,
            "next",
            set_of(record_of("event")),
            doc="Blocking call which returns a (possibly empty) batch of events.",
            errors=("SESSION_NOT_REGISTERED", "EVENTS_LOST"),
        ),
        _session(
            NoParameters,
            "get_current_id",
            INT,
            doc="Return the ID of the next event to be generated by the system.",
        ),
    ),
)
