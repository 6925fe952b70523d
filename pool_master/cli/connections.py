"""The wire under the SDK: connections that know how long to wait, and what goes wrong on them in words.

Rules: heavy to import, and so only imported when a command really talks to a server.
"""

import http.client
import socket
import ssl
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit
from xml.parsers.expat import ExpatError

import XenAPI

from pool_master.cli.failures import Failed, Refused, Unreachable
from pool_master.cli.settings import Target

CONNECT_S_MAX: Final = 5.0


def open_session(target: Target, server: str, answer_s_max: float) -> Any:
    """Give the SDK's session with a server, not logged in yet."""
    uri, transport = _road(target, server, answer_s_max)
    return XenAPI.Session(uri, transport=transport)


def _road(target: Target, server: str, answer_s_max: float) -> tuple[str, xmlrpc.client.Transport]:
    if server.startswith("unix:"):
        path = server.removeprefix("unix:").removeprefix("//")
        return "http://localhost/", _Transport(_UnixConnection(path, answer_s_max))
    parts = urlsplit(server)
    if not parts.hostname:
        raise Failed(f"{server} names no host")
    if parts.scheme == "https":
        port = parts.port or 443
        secure = _SecureConnection(parts.hostname, port, _context(target), answer_s_max)
        return server, _Transport(secure)
    return server, _Transport(_Connection(parts.hostname, parts.port or 80, answer_s_max))


def _context(target: Target) -> ssl.SSLContext:
    if target.is_insecure:
        # The user's own word: --insecure.
        return ssl._create_unverified_context()  # noqa: S323
    try:
        return ssl.create_default_context(cafile=target.ca_file or None)
    except OSError as error:
        raise Failed(f"--ca-file {target.ca_file} cannot be read: {error}") from error


@contextmanager
def told(server: str) -> Iterator[None]:
    """Turn whatever the SDK raises into what commands expect."""
    try:
        yield
    except XenAPI.Failure as failure:
        raise Refused([str(word) for word in failure.details]) from failure
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(
            f"{server} has a certificate that nobody vouches for ({error.verify_message}):"
            " give its issuer with --ca-file, or --insecure if you must"
        ) from error
    except TimeoutError as error:
        raise Unreachable(f"{server} does not answer in time: is the address right?") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise Unreachable(
            f"{server} does not answer ({reason}): is the pool up? `vmpool up`"
        ) from error
    except xmlrpc.client.ProtocolError as error:
        raise Unreachable(f"{server} answers HTTP {error.errcode}: {error.errmsg}") from error
    except (xmlrpc.client.Error, http.client.HTTPException, ExpatError, TypeError) as error:
        text = getattr(error, "faultString", "") or str(error) or type(error).__name__
        raise Unreachable(f"{server} does not answer as a XenAPI server does: {text}") from error


class _Transport(xmlrpc.client.Transport):
    """XML-RPC over a connection that knows how long to wait."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        super().__init__()
        self._held = connection

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        self._connection = host, self._held
        return self._held


class _Connection(http.client.HTTPConnection):
    """Quick to give up on connecting, patient with an answer."""

    def __init__(self, host: str, port: int, answer_s_max: float) -> None:
        super().__init__(host, port, timeout=CONNECT_S_MAX)
        self._answer_s_max = answer_s_max

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._answer_s_max)


class _SecureConnection(http.client.HTTPSConnection):
    """The same over TLS."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, answer_s_max: float) -> None:
        super().__init__(host, port, timeout=CONNECT_S_MAX, context=context)
        self._answer_s_max = answer_s_max

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._answer_s_max)


class _UnixConnection(http.client.HTTPConnection):
    """The same over a socket of this machine."""

    def __init__(self, path: str, answer_s_max: float) -> None:
        super().__init__("localhost", timeout=CONNECT_S_MAX)
        self._path = path
        self._answer_s_max = answer_s_max

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_S_MAX)
        self.sock.connect(self._path)
        self.sock.settimeout(self._answer_s_max)
