"""HTTP: requests to calls of the API, outcomes to responses.

Rules: everything is async, so that a call that waits a minute for events occupies no worker. A
client that leaves ends a call that only waits (`event.from`), and never one that may change
something: that one runs to its end, unheard. A stopping server answers what it has in hand.

Malformed input: what is no XML is HTTP 400 with plain text; XML that is no call is an XML-RPC
fault; what is no JSON-RPC request is the standard's error object.
"""

import asyncio
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Final, Protocol, TypeAlias

import orjson
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pool_master.shell import jsonrpc, xmlrpc
from pool_master.shell.calls import Call, Failure, JsonLike, Success
from pool_master.shell.http_protocol import HttpLimits
from shared.errors import HostStillBooting, InternalError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LocalRoot:
    """The caller came through the Unix socket, which only this machine's root can open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """The caller came over TCP and must log in."""

    address: str


Peer: TypeAlias = LocalRoot | Remote


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether this master leads, and what else an operator's probe should show."""

    is_leader: bool
    details: dict[str, JsonLike] = field(default_factory=dict)


class ApiPort(Protocol):
    """What the HTTP server needs of the API."""

    async def call(self, call: Call, peer: Peer) -> Success | Failure:
        """Do one call; a failure that a client may see is returned, never raised."""
        ...

    def health(self) -> Health:
        """Say how this master is."""
        ...


# Waiting is all these do, so nobody misses one whose client is gone.
ONLY_WAITING: Final = ("event.from", "event_from", "event.next", "event_next")
# As xapi has them: any page may call, since a session is an argument and never a cookie.
CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "X-Requested-With",
}
# Above this many objects in an answer another thread writes it, so that nobody else has to wait.
LARGE_ANSWER_ITEMS: Final = 500
_PEER: Final = "vmpool.peer"
_PAGE: Final = """vmpool: a pool of virtual machines behind the XenAPI.

XML-RPC: POST /    JSON-RPC: POST /jsonrpc    GET /health    GET /metrics
"""


def make_app(
    api: ApiPort, limits: HttpLimits, *, registry: CollectorRegistry = REGISTRY
) -> Starlette:
    """Make the application: both transports, health, metrics and a page that says what this is."""
    front = _Front(api, limits, registry)
    anything = "/{path:path}"
    return Starlette(
        routes=[
            Route("/", front.page, methods=["GET"]),
            Route("/health", front.health, methods=["GET"]),
            Route("/metrics", front.metrics, methods=["GET"]),
            Route("/jsonrpc", front.json_rpc, methods=["POST"]),
            Route("/json", front.json_rpc, methods=["POST"]),
            Route(anything, front.options, methods=["OPTIONS"]),
            # A client that appends to the path it was given still means the API.
            Route(anything, front.xml_rpc, methods=["POST"]),
        ]
    )


@dataclass(frozen=True, slots=True)
class LocalRootApp:
    """The application as the Unix socket offers it: every caller is this machine's root."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Mark the request and pass it on."""
        scope[_PEER] = LocalRoot()
        await self.app(scope, receive, send)


class _RefusedError(Exception):
    """A request that is answered with plain text and an HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Front:
    """The endpoints."""

    api: ApiPort
    limits: HttpLimits
    registry: CollectorRegistry

    async def xml_rpc(self, request: Request) -> Response:
        try:
            call = xmlrpc.parse(await _read_body(request, self.limits))
        except _RefusedError as refusal:
            return _plain(str(refusal), status=refusal.status, closes=True)
        except xmlrpc.XmlSyntaxError as error:
            return _plain(f"This is no XML-RPC request: {error}\n", status=400)
        except xmlrpc.XmlRpcError as error:
            return _respond(xmlrpc.fault(str(error)), "text/xml")
        outcome = await self._outcome(call, request)
        try:
            content = await _encode_xml(call.method, outcome)
        except TypeError:
            content = xmlrpc.answer(call.method, _unspeakable(call))
        return _respond(content, "text/xml")

    async def json_rpc(self, request: Request) -> Response:
        try:
            asked = jsonrpc.parse(await _read_body(request, self.limits))
        except _RefusedError as refusal:
            return _plain(str(refusal), status=refusal.status, closes=True)
        except jsonrpc.JsonRpcError as error:
            return _respond(error.answer, "application/json")
        outcome = await self._outcome(asked.call, request)
        try:
            content = jsonrpc.answer(asked, outcome)
        except TypeError:
            content = jsonrpc.answer(asked, _unspeakable(asked.call))
        return _respond(content, "application/json")

    async def _outcome(self, call: Call, request: Request) -> Success | Failure:
        peer: Peer = request.scope.get(_PEER) or Remote(
            address=request.client.host if request.client is not None else ""
        )
        try:
            if call.method in ONLY_WAITING:
                return await self._wait(call, peer, request)
            return await self.api.call(call, peer)
        except Exception:
            # A defect of ours; the client learns that it is one, and nothing else about it.
            log.exception("call_failed_unexpectedly", method=call.method)
            return Failure(InternalError(f"{call.method} failed unexpectedly").description)

    async def _wait(self, call: Call, peer: Peer, request: Request) -> Success | Failure:
        """Do a call that only waits, until its client leaves or the server stops."""
        draining: asyncio.Event = request.scope["state"]["draining"]
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(self.api.call(call, peer))
            left = group.create_task(_disconnected(request.receive))
            stopping = group.create_task(_is_set(draining))
            tasks = (waiting, left, stopping)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        # Where it is told so, a client asks again, here or at the new leader, with its old token.
        return Failure(HostStillBooting().description) if waiting.cancelled() else waiting.result()

    async def options(self, request: Request) -> Response:
        asked = request.headers.get("access-control-request-headers")
        allowed = CORS["Access-Control-Allow-Headers"]
        return Response(
            headers={
                **CORS,
                "Access-Control-Allow-Headers": f"{asked}, {allowed}" if asked else allowed,
                "Access-Control-Allow-Methods": "POST, GET, OPTIONS",
            }
        )

    async def page(self, _request: Request) -> Response:
        return _plain(_PAGE)

    async def health(self, _request: Request) -> Response:
        health = self.api.health()
        body = orjson.dumps({"is_leader": health.is_leader, **health.details})
        return _respond(body, "application/json", status=200 if health.is_leader else 503)

    async def metrics(self, _request: Request) -> Response:
        return _respond(generate_latest(self.registry), CONTENT_TYPE_LATEST)


async def _read_body(request: Request, limits: HttpLimits) -> bytes:
    try:
        async with asyncio.timeout(limits.request_read_s_max):
            declared = int(request.headers.get("content-length", "0"))
            if declared > limits.discard_bytes_max or (
                declared > limits.body_bytes_max and "expect" in request.headers
            ):
                # Nobody has to send a large body in vain.
                raise _too_large(limits)
            return await _read_bounded(request.receive, limits)
    except TimeoutError as error:
        raise _RefusedError(408, "The request took too long to arrive.\n") from error


async def _read_bounded(receive: Receive, limits: HttpLimits) -> bytes:
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise _RefusedError(400, "The client left.\n")
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if size <= limits.body_bytes_max:
            chunks.append(chunk)
        elif size > limits.discard_bytes_max:
            break
        else:
            chunks.clear()
    if size > limits.body_bytes_max:
        raise _too_large(limits)
    return b"".join(chunks)


def _too_large(limits: HttpLimits) -> _RefusedError:
    return _RefusedError(413, f"A request holds {limits.body_bytes_max} bytes at most.\n")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _is_set(event: asyncio.Event) -> None:
    await event.wait()


async def _encode_xml(method: str, outcome: Success | Failure) -> bytes:
    if isinstance(outcome, Success) and _items(outcome.value) > LARGE_ANSWER_ITEMS:
        return await asyncio.to_thread(xmlrpc.answer, method, outcome)
    return xmlrpc.answer(method, outcome)


def _items(value: object) -> int:
    """Count the objects on the two upper levels: records in a map, events in a batch."""
    match value:
        case dict():
            return len(value) + sum(len(item) for item in value.values() if isinstance(item, list))
        case list():
            return len(value)
        case _:
            return 0


def _unspeakable(call: Call) -> Failure:
    log.exception("answer_not_serialisable", method=call.method)
    return Failure(InternalError(f"the answer to {call.method} cannot be written").description)


def _respond(content: bytes, content_type: str, *, status: int = 200) -> Response:
    # As a header, not as media type: Starlette would add a charset, and clients reject that.
    return Response(
        content,
        status_code=status,
        headers={"Content-Type": content_type, "Date": formatdate(usegmt=True), **CORS},
    )


def _plain(text: str, *, status: int = 200, closes: bool = False) -> Response:
    response = _respond(text.encode(), "text/plain", status=status)
    if closes:
        response.headers["Connection"] = "close"
    return response
