"""Messages about sessions and events: what the API keeps in memory, and what blocks.

Rules: event.from answers from the state and the stamps in it, so its tokens outlive sessions and masters; a blocked call
ends when its session does; a batch waits a moment for what comes along, so that a burst is one answer.
"""

import asyncio
from typing import Any, Final

from pool_master.core import events as ev
from pool_master.core.classes import RECORD_BUILDERS
from pool_master.core.context import Context
from pool_master.core.feed import (
    Change,
    Subscription,
    changes_since,
    parse_subscription,
    sequence_of,
    token_of,
    valid_ref_counts,
)
from pool_master.core.host_death import DeclareDead
from pool_master.core.marshal import field_value, record_builder
from pool_master.core.pool import TABLE_OF_CLASS, Pool
from pool_master.core.session_model import (
    SESSION_MODEL,
    EventClasses,
    EventFrom,
    EventInject,
    LoginWithPassword,
    OfSession,
    OfUuid,
    Session,
)
from pool_master.shell.api import Caller, Reign
from pool_master.shell.audit import Audit
from pool_master.shell.calls import WireInt
from pool_master.shell.changes import ANY
from pool_master.shell.http_app import LocalRoot, Peer
from pool_master.shell.requests import request_of
from pool_master.shell.sessions import Sessions, Watch
from pool_master.shell.writer import Wish
from shared.codec import moment_from_us
from shared.enums import EventOperation
from shared.errors import (
    HandleInvalid,
    HostStillBooting,
    SessionInvalid,
    SessionNotRegistered,
    UuidInvalid,
)

TIMEOUT_S_MAX: Final = 3_600.0
NEXT_S_MAX: Final = 60.0
GATHER_S: Final = 0.05
LOGIN: Final = next(m for m in SESSION_MODEL.messages if m.name == "login_with_password")

_session_record = record_builder(SESSION_MODEL)


class SessionApi:
    """Answers the messages of the session and event classes."""

    def __init__(self, sessions: Sessions, audit: Audit) -> None:
        self._sessions = sessions
        self._audit = audit

    async def login(self, values: list[Any], peer: Peer, reign: Reign) -> str:
        """Give a new session's reference."""
        request: LoginWithPassword = request_of("session.login_with_password", LOGIN, values)
        return await self._sessions.login(
            request.uname,
            request.pwd,
            request.originator,
            is_trusted=isinstance(peer, LocalRoot),
            host=reign.writer.pool.record.master,
        )

    async def answer(self, caller: Caller, reign: Reign) -> Any:  # noqa: PLR0911 - one return a message
        """Give the value of one message."""
        request = request_of(caller.method, caller.message, caller.values)
        if caller.model.name == "pool":
            return await reign.mastership.answer(caller.method, request, reign.writer.pool)
        if isinstance(request, DeclareDead):
            return await self._declare_dead(caller, request, reign)
        match caller.method:
            case "session.logout":
                self._sessions.logout(caller.session.ref)
                return None
            case "event.from":
                return await self._from(caller.session, request, reign)
            case "event.inject":
                return await self._inject(caller, request, reign)
            case "event.register" | "event.unregister":
                self._register(caller, request, reign)
                return None
            case "event.next":
                return await self._next(caller.session, reign)
            case "event.get_log":
                return await self._audit.find(request.filter, reign.changes, reign.writer)
            case "event.get_current_id":
                return reign.writer.pool.sequence
            case _:
                return self._field(caller, request)

    @staticmethod
    async def _declare_dead(caller: Caller, request: DeclareDead, reign: Reign) -> None:
        context = Context(
            command_id=caller.command_id,
            now=moment_from_us(reign.writer.pool.time_us),
            actor=caller.actor,
            label=caller.label,
        )
        await reign.host_fate.declare_dead(request.host, request.reason, context)

    def _field(self, caller: Caller, request: OfSession | OfUuid) -> Any:
        if isinstance(request, OfUuid):
            found = self._sessions.by_uuid(request.uuid)
            if found is None:
                raise UuidInvalid("session", request.uuid)
            return found.ref
        session = self._sessions.get(request.self)
        if session is None:
            raise HandleInvalid("session", request.self)
        if caller.message.name == "get_record":
            return _session_record(None, session)
        field = SESSION_MODEL.field(caller.message.name.removeprefix("get_"))
        assert field is not None
        return field_value(None, session, field)

    # --- event.from

    async def _from(self, session: Session, request: EventFrom, reign: Reign) -> dict[str, Any]:
        subscription = parse_subscription(request.classes)
        since = sequence_of(request.token)
        timeout_s = min(max(request.timeout, 0.0), TIMEOUT_S_MAX)
        await self._wait(session, subscription, since, reign, timeout_s)
        pool = reign.writer.pool
        return {
            "events": [_event(pool, change) for change in changes_since(pool, subscription, since)],
            "valid_ref_counts": {
                name: WireInt(count) for name, count in valid_ref_counts(pool).items()
            },
            "token": token_of(pool.sequence),
        }

    async def _wait(
        self,
        session: Session,
        subscription: Subscription,
        since: int,
        reign: Reign,
        timeout_s: float,
    ) -> None:
        """Wait until there is something to tell, or the time is up.

        Raises:
            SessionInvalid: the session ended meanwhile.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        pool = reign.writer.pool
        ended = self._sessions.ended(session.ref)
        if changes_since(pool, subscription, since):
            return
        end = asyncio.create_task(ended.wait())
        try:
            while (left_s := deadline - loop.time()) > 0:
                change = asyncio.create_task(reign.changes.wait(ANY, left_s))
                await asyncio.wait({end, change}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                if ended.is_set():
                    raise SessionInvalid(session.ref)
                if not reign.writer.is_open:
                    raise HostStillBooting()
                if changes_since(pool, subscription, since):
                    await asyncio.sleep(GATHER_S)
                    return
        finally:
            end.cancel()

    async def _inject(self, caller: Caller, request: EventInject, reign: Reign) -> str:
        """Give a token that is smaller than the event which this causes (XenAPI reference 4.6)."""
        names = {name.lower(): name for name in TABLE_OF_CLASS}
        object_class = names.get(request.cls.lower(), "")

        def decide(pool: Pool) -> list[ev.Event]:
            if not object_class or request.ref not in pool.tables[object_class]:
                raise HandleInvalid(request.cls, request.ref)
            return [ev.ObjectTouched(object_class=object_class, ref=request.ref)]

        recorded = await reign.writer.submit(
            Wish(decide, caller.actor, caller.command_id, caller.label)
        )
        return token_of(recorded[0].sequence - 1)

    # --- event.register and next, from before tokens

    def _register(self, caller: Caller, request: EventClasses, reign: Reign) -> None:
        parse_subscription(request.classes)
        held = self._sessions.watch(caller.session.ref)
        classes = held.classes if held else ()
        token = held.token if held else token_of(reign.writer.pool.sequence)
        if caller.message.name == "register":
            classes = tuple(dict.fromkeys((*classes, *request.classes)))
        else:
            classes = tuple(name for name in classes if name not in request.classes)
        watch = Watch(classes, token) if classes else None
        self._sessions.set_watch(caller.session.ref, watch)

    async def _next(self, session: Session, reign: Reign) -> list[dict[str, Any]]:
        watch = self._sessions.watch(session.ref)
        if watch is None:
            raise SessionNotRegistered(session.ref)
        subscription = parse_subscription(watch.classes)
        since = sequence_of(watch.token)
        await self._wait(session, subscription, since, reign, NEXT_S_MAX)
        pool = reign.writer.pool
        told = [_event(pool, change) for change in changes_since(pool, subscription, since)]
        self._sessions.set_watch(session.ref, Watch(watch.classes, token_of(pool.sequence)))
        return told


def _event(pool: Pool, change: Change) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": change.sequence,
        "timestamp": "0.0",
        "class": change.object_class.lower(),
        "operation": change.operation.value,
        "ref": change.ref,
        "obj_uuid": "",
    }
    if change.operation is not EventOperation.DEL:
        record = pool.tables[change.object_class][change.ref]
        told["snapshot"] = RECORD_BUILDERS[change.object_class](pool, record)
        told["obj_uuid"] = record.uuid
    return told
