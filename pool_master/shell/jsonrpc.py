"""JSON-RPC: bytes to a call, an outcome to bytes; 2.0 by its `jsonrpc` member, else 1.0.

Rules: the id is echoed as it came and must be there (XenAPI has no notifications); parameters are
positional. A 2.0 success has no `error` member at all, a 2.0 failure is `{"code": 1, "message":
CODE, "data": [parameters]}`; a 1.0 failure is the array of XenAPI's ErrorDescription. What is no
call is answered with the standard's own error object and HTTP 200, in 2.0's form: its version is
not known. A batch is refused: XenAPI clients send none, and one blocked call in it would hold
back all the other answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

import orjson

from pool_master.shell.calls import (
    INT64_MAX,
    INT64_MIN,
    NESTING_MAX,
    Call,
    Failure,
    JsonLike,
    Success,
    WireError,
    format_datetime,
)

RequestId: TypeAlias = "str | int | float | None"

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
INVALID_PARAMS: Final = -32602
# The code of every XenAPI failure; its name is the message.
XENAPI_FAILURE: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonRequest:
    """A call with what its answer must repeat."""

    call: Call
    request_id: RequestId
    is_version_2: bool


class JsonRpcError(WireError):
    """Bytes that are no request; `answer` is what the client gets."""

    def __init__(self, code: int, text: str, *, request_id: RequestId = None) -> None:
        super().__init__(text)
        self.answer: bytes = orjson.dumps(
            {"jsonrpc": "2.0", "error": {"code": code, "message": text}, "id": request_id}
        )


def parse(body: bytes) -> JsonRequest:
    """Read one request, or raise `JsonRpcError`."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise JsonRpcError(PARSE_ERROR, f"Parse error: {error}") from error
    if isinstance(message, list):
        raise JsonRpcError(INVALID_REQUEST, "Invalid Request: batches are not accepted")
    if not isinstance(message, dict):
        raise JsonRpcError(INVALID_REQUEST, "Invalid Request: not an object")
    return _request(message)


def _request(message: dict[str, Any]) -> JsonRequest:
    request_id = message.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, str | int | float):
        raise JsonRpcError(INVALID_REQUEST, "Invalid Request: id must be a string or a number")
    version = message.get("jsonrpc", "1.0")
    if version not in ("1.0", "2.0"):
        raise JsonRpcError(
            INVALID_REQUEST, "Invalid Request: jsonrpc must be 2.0 or absent", request_id=request_id
        )
    method = message.get("method")
    if not isinstance(method, str) or not method:
        raise JsonRpcError(
            INVALID_REQUEST, "Invalid Request: method must be a string", request_id=request_id
        )
    parameters = message.get("params", [])
    if not isinstance(parameters, list):
        raise JsonRpcError(
            INVALID_PARAMS, "Invalid params: an array is expected", request_id=request_id
        )
    try:
        checked = [_checked(parameter, 0) for parameter in parameters]
    except WireError as error:
        raise JsonRpcError(
            INVALID_PARAMS, f"Invalid params: {error}", request_id=request_id
        ) from error
    return JsonRequest(
        call=Call(method=method, parameters=checked),
        request_id=request_id,
        is_version_2=version == "2.0",
    )


def _checked(value: Any, depth: int) -> JsonLike:
    if depth > NESTING_MAX:
        raise WireError(f"values are nested deeper than {NESTING_MAX}")
    match value:
        case None:
            return ""
        case dict():
            return {key: _checked(item, depth + 1) for key, item in value.items()}
        case list():
            return [_checked(item, depth + 1) for item in value]
        case bool() | str():
            return value
        # The parser turns integers beyond 64 bits into floats; as integers again they would be
        # other numbers.
        case float() if abs(value) > INT64_MAX:
            raise WireError(f"{value} does not fit 64 bits")
        case int() if not INT64_MIN <= value <= INT64_MAX:
            raise WireError(f"{value} does not fit 64 bits")
        case int() | float():
            return value
        case _:
            raise AssertionError(f"JSON holds no {type(value).__name__}")


def answer(request: JsonRequest, outcome: Success | Failure) -> bytes:
    """Write the reply; what is no wire value, an integer beyond 64 bits too, raises TypeError."""
    match outcome:
        case Success(value=value):
            # Void is the empty string on both transports.
            result = "" if value is None else value
            if request.is_version_2:
                return _dumps({"jsonrpc": "2.0", "result": result, "id": request.request_id})
            return _dumps({"result": result, "error": None, "id": request.request_id})
        case Failure(description=[code, *parameters]) if request.is_version_2:
            error = {"code": XENAPI_FAILURE, "message": code, "data": parameters}
            return _dumps({"jsonrpc": "2.0", "error": error, "id": request.request_id})
        case Failure(description=description):
            return _dumps({"result": None, "error": description, "id": request.request_id})


_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS


def _dumps(message: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(message, default=_unusual, option=_OPTIONS)
    except TypeError:
        # One name with a lone surrogate must not hide a whole pool; what else is wrong stays wrong.
        return orjson.dumps(_without_surrogates(message), default=_unusual, option=_OPTIONS)


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            return {
                _without_surrogates(key): _without_surrogates(item) for key, item in value.items()
            }
        case list() | tuple():
            return [_without_surrogates(item) for item in value]
        case _:
            return value


def _unusual(value: object) -> object:
    if isinstance(value, datetime):
        return format_datetime(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no wire value")
