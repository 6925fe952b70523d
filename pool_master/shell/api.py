"""The API: a call in, a value or a failure out.

One job: session, role, parameters; then a query from the state, or a wish to the writer and a wait for its end.

Rules: whatever goes wrong is a failure with a XenAPI code, never an exception; a call that has been accepted goes on when
its client leaves; a caller behind a conflicting operation waits its turn (XenAPI reference 1.0, point 4).
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from pool_master.core import events as ev
from pool_master.core.classes import message_table, method_names
from pool_master.core.context import Context
from pool_master.core.datamodel import ClassModel, Message, MessageKind
from pool_master.core.events import Actor, ActorKind
from pool_master.core.marshal import to_wire
from pool_master.core.pool import Pool
from pool_master.core.session_model import Session
from pool_master.core.storage_events import StorageOperationAccepted
from pool_master.core.task import Task
from pool_master.shell.calls import Call, Failure, Success
from pool_master.shell.changes import Changes
from pool_master.shell.host_fate import HostFate
from pool_master.shell.http_app import Health, Peer
from pool_master.shell.mastership import Mastership
from pool_master.shell.requests import request_of
from pool_master.shell.sessions import Sessions
from pool_master.shell.sources import REAL_SOURCES, Sources
from pool_master.shell.writer import Wish, Writer
from pool_master.shell.xmlrpc import value_text
from shared.enums import Role, TaskStatus
from shared.errors import (
    HostIsSlave,
    HostStillBooting,
    InternalError,
    MessageMethodUnknown,
    MessageParameterCountMismatch,
    OtherOperationInProgress,
    PermissionDenied,
    ReportedError,
    SessionInvalid,
    TaskCancelled,
    XenApiError,
)
from shared.refs import NULL, SessionRef, TaskRef

log = structlog.get_logger(__name__)

# XenAPI reference 1.0: policy "standard".
TURN_S_MIN: Final = 1.0
TURN_S_MAX: Final = 20.0
TURNS_S_MAX: Final = 7_200.0
# How long a call waits through a change of leader before it says HOST_STILL_BOOTING.
LEADERLESS_S_MAX: Final = 15.0
LEADER_LOOK_S: Final = 0.1
TASK_WAIT_S: Final = 30.0
ASYNC: Final = "Async."
ROLES: Final = tuple(Role)


@dataclass(slots=True)
class Reign:
    """What a leading master has, and a standby has not."""

    writer: Writer
    changes: Changes
    mastership: Mastership
    host_fate: HostFate


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A resolved call: who asks for what."""

    session: Session
    method: str
    label: str
    model: ClassModel
    message: Message
    values: list[Any]
    command_id: str

    @property
    def actor(self) -> Actor:
        """The caller as the cause of events."""
        return Actor(ActorKind.USER, self.session.auth_user_name, self.session.uuid)


class SessionMessages(Protocol):
    """What answers messages about sessions and events; `api_sessions` does."""

    async def answer(self, caller: Caller, reign: Reign) -> Any:
        """Give the value."""
        ...

    async def login(self, values: list[Any], peer: Peer, reign: Reign) -> Any:
        """Give a new session."""
        ...


class Api:
    """XenAPI on one master. `reign` is None while another leads, whose address is `leader_address`."""

    def __init__(
        self,
        sessions: Sessions,
        session_messages: SessionMessages,
        *,
        sources: Sources = REAL_SOURCES,
    ) -> None:
        self.sessions = sessions
        self.reign: Reign | None = None
        self.leader_address: Callable[[], str] = str
        self._session_messages = session_messages
        self._sources = sources
        self._aliases = {name.replace(".", "_", 1): name for name in message_table()}
        self._background: set[asyncio.Task[Any]] = set()
        self._crowned = asyncio.Event()
        self._is_closed = False

    def close(self) -> None:
        """Take no calls any more, and let those that wait go."""
        self._is_closed = True
        self._crowned.set()

    def crown(self, reign: Reign) -> None:
        """Begin to lead; waiting Async calls of the predecessor go on."""
        self.reign = reign
        self._crowned.set()
        for task in list(reign.writer.pool.tasks.values()):
            if task.method and not task.is_finished and not reign.writer.pool.is_busy(task.ref):
                self._go_on(self._resume(task, reign))

    def depose(self) -> None:
        """Stop leading: who waits is told to ask again."""
        reign, self.reign = self.reign, None
        self._crowned.clear()
        for task in self._background:
            task.cancel()
        if reign is not None:
            reign.changes.wake_all()

    def health(self) -> Health:
        """Whether this master leads."""
        is_leader = self.reign is not None
        return Health(is_leader=is_leader, details={"leader": self.leader_address()})

    async def call(self, call: Call, peer: Peer) -> Success | Failure:
        """Answer one call."""
        try:
            return Success(await self._answer(call, peer))
        except XenApiError as error:
            return Failure(error.description)
        except Exception as error:
            log.exception("api.defect", method=call.method)
            return Failure(InternalError(f"{call.method}: {type(error).__name__}").description)

    async def _answer(self, call: Call, peer: Peer) -> Any:
        if call.method == "system.listMethods":
            return list(method_names())
        name = call.method.removeprefix(ASYNC)
        is_async = name != call.method
        name = self._aliases.get(name, name)
        found = message_table().get(name)
        if found is None or (is_async and not found[1].has_async):
            raise MessageMethodUnknown(call.method)
        reign = await self._leading()
        if name == "session.login_with_password":
            return await self._session_messages.login(call.parameters, peer, reign)
        caller = self._caller(call, name, found, is_async=is_async)
        match caller.message.kind:
            case MessageKind.SESSION:
                return await self._session_messages.answer(caller, reign)
            case MessageKind.QUERY:
                return await self._query(caller, reign, is_async=is_async)
            case MessageKind.COMMAND | MessageKind.OPERATION:
                return await self._command(caller, reign, is_async=is_async)

    async def _leading(self) -> Reign:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LEADERLESS_S_MAX
        while self.reign is None and not self.leader_address() and not self._is_closed:
            if loop.time() >= deadline:
                raise HostStillBooting()
            # Another master may win: then its address is the answer, and nobody rings for that.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEADER_LOOK_S):
                    await self._crowned.wait()
        if self.reign is None:
            address = self.leader_address()
            raise HostIsSlave(address) if address else HostStillBooting()
        return self.reign

    def _caller(
        self, call: Call, name: str, found: tuple[ClassModel, Message], *, is_async: bool
    ) -> Caller:
        model, message = found
        if not call.parameters:
            raise MessageParameterCountMismatch(
                call.method, expected=len(message.parameters), received=-1
            )
        reference, *values = call.parameters
        if not isinstance(reference, str):
            raise SessionInvalid(str(reference)[:100])
        session = self.sessions.use(reference)
        if ROLES.index(session.role) < ROLES.index(message.role):
            raise PermissionDenied(name, f"needs {message.role}, {session.role} is given")
        return Caller(
            session=session,
            method=name,
            label=f"{ASYNC}{name}" if is_async else name,
            model=model,
            message=message,
            values=values,
            command_id=self._sources.new_id(),
        )

    # --- queries

    async def _query(self, caller: Caller, reign: Reign, *, is_async: bool) -> Any:
        request = request_of(caller.method, caller.message, caller.values)
        assert caller.message.answer is not None
        if not is_async:
            return caller.message.answer(reign.writer.pool, request)

        def decide(pool: Pool, _request: Any, context: Context) -> list[ev.Event]:
            assert caller.message.answer is not None
            value = to_wire(caller.message.answer(pool, request), caller.message.returns)
            return [ev.TaskSucceeded(task=context.task, result=value_text(value))]

        await reign.writer.submit(self._task_wish(caller, request, decide))
        return self._context(caller).task

    # --- commands and operations

    async def _command(self, caller: Caller, reign: Reign, *, is_async: bool) -> Any:
        request = request_of(caller.method, caller.message, caller.values)
        context = self._context(caller)
        assert caller.message.decide is not None
        if is_async:
            wish = self._task_wish(caller, request, caller.message.decide)
            await reign.writer.submit(wish)
            task = reign.writer.pool.tasks.get(context.task)
            if task is not None and self._is_waiting(task, reign):
                self._go_on(self._resume(task, reign))
            return context.task
        recorded = await self._in_turn(caller, request, reign)
        if caller.message.kind is MessageKind.OPERATION:
            await self._end_of(context.task, reign, is_promised=bool(recorded))
        return _result(caller.message, request, context)

    def _context(self, caller: Caller) -> Context:
        return Context(
            command_id=caller.command_id,
            now=self._sources.now(),
            actor=caller.actor,
            label=caller.label,
        )

    def _wish(self, caller: Caller, decide: Callable[[Pool], list[ev.Event]]) -> Wish:
        return Wish(decide, caller.actor, caller.command_id, caller.label)

    async def _in_turn(self, caller: Caller, request: Any, reign: Reign) -> list[ev.Recorded]:
        """Submit, and again whenever the operation in the way has ended."""
        context, message = self._context(caller), caller.message
        assert message.decide is not None
        decide = message.decide
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TURNS_S_MAX
        while True:
            try:
                return await reign.writer.submit(
                    self._wish(caller, lambda pool: decide(pool, request, context))
                )
            except OtherOperationInProgress as error:
                if not message.waits or loop.time() >= deadline:
                    raise
                turn_s = TURN_S_MIN + (TURN_S_MAX - TURN_S_MIN) * self._sources.chance()
                await reign.changes.wait(error.parameters[1], turn_s)
                self.sessions.use(caller.session.ref)

    async def _end_of(self, ref: TaskRef, reign: Reign, *, is_promised: bool) -> None:
        """Wait for the one end of an operation's task, through a change of leader; raise what it failed with."""
        while is_promised:
            if self.reign is not reign:
                reign = await self._leading()
            task = reign.writer.pool.tasks.get(ref)
            if task is None:
                return
            match task.status:
                case TaskStatus.SUCCESS:
                    return
                case TaskStatus.FAILURE | TaskStatus.CANCELLED:
                    raise ReportedError(*task.error_info)
                case _:
                    await reign.changes.wait(ref, TASK_WAIT_S)

    # --- Async: the task first, the outcome in it

    def _task_wish(
        self, caller: Caller, request: Any, decide: Callable[[Any, Any, Any], list[ev.Event]]
    ) -> Wish:
        context, message = self._context(caller), caller.message
        created = ev.TaskCreated(
            task=context.task,
            uuid=context.task_uuid,
            name_label=caller.label,
            method=caller.method,
            parameters=tuple(caller.values),
        )

        def decide_task(pool: Pool) -> list[ev.Event]:
            if context.task not in pool.tasks:
                first: list[ev.Event] = [created]
            elif pool.tasks[context.task].is_finished:
                return []
            else:
                first = []
            try:
                events = decide(pool, request, context)
            except OtherOperationInProgress as error:
                if message.waits:
                    return first
                return [*first, _failed(context.task, error)]
            except XenApiError as error:
                return [*first, _failed(context.task, error)]
            # Not every operation needs a host: what only settings say is done with its events.
            if any(isinstance(x, _BEARING) and x.task == context.task for x in events):
                return [*first, *events]
            value = to_wire(_result(message, request, context), message.returns)
            result = ev.TaskSucceeded(task=context.task, result=value_text(value))
            return [*first, *events, result]

        return self._wish(caller, decide_task)

    @staticmethod
    def _is_waiting(task: Task, reign: Reign) -> bool:
        return not task.is_finished and not reign.writer.pool.is_busy(task.ref)

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        running = asyncio.create_task(work)
        self._background.add(running)
        running.add_done_callback(self._background.discard)

    async def _resume(self, task: Task, reign: Reign) -> None:
        """Wait for the turn of a call whose task is in the log, under whichever leader."""
        found = message_table().get(task.method)
        if found is None:
            return
        caller = _revived(task, *found)
        request = request_of(task.method, caller.message, caller.values)
        assert caller.message.decide is not None
        deadline = asyncio.get_running_loop().time() + TURNS_S_MAX
        while self.reign is reign and (held := reign.writer.pool.tasks.get(task.ref)):
            if not self._is_waiting(held, reign):
                return
            if asyncio.get_running_loop().time() > deadline:
                await self._fail(caller, _failed(task.ref, TaskCancelled(task.ref)), reign)
                return
            await reign.writer.submit(self._task_wish(caller, request, caller.message.decide))
            await reign.changes.wait(_object_of(caller), TURN_S_MAX)

    async def _fail(self, caller: Caller, end: ev.TaskFailed, reign: Reign) -> None:
        await reign.writer.submit(self._wish(caller, lambda _pool: [end]))


# Events from which on a task has its own life, or none any more.
_BEARING: Final = (
    ev.OperationAccepted,
    ev.DeviceOperationAccepted,
    StorageOperationAccepted,
    ev.TaskSucceeded,
)


def _revived(task: Task, model: ClassModel, message: Message) -> Caller:
    """The caller of an Async call, as the task remembers it; its command id is the one that made the task."""
    owner = Session(ref=SessionRef(NULL), uuid="", role=Role.POOL_ADMIN, auth_user_name=task.owner)
    return Caller(
        session=owner,
        method=task.method,
        label=task.name_label,
        model=model,
        message=message,
        values=list(task.parameters),
        command_id=task.command_id,
    )


def _object_of(caller: Caller) -> str:
    first = caller.values[0] if caller.values else ""
    return first if isinstance(first, str) else ""


def _failed(task: TaskRef, error: XenApiError) -> ev.TaskFailed:
    return ev.TaskFailed(task=task, error_info=tuple(error.description))


def _result(message: Message, request: Any, context: Context) -> Any:
    return None if message.result is None else message.result(request, context)
