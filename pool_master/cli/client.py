"""The pool as commands see it: XenAPI's own SDK, with a terminal's patience.

Rules: every refusal is a `Refused`, every silence an `Unreachable`; a standby's HOST_IS_SLAVE is followed once; integers
go out as strings, as XenAPI wants them.
"""

import http.client
import socket
import ssl
import xmlrpc.client
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit
from xml.parsers.expat import ExpatError

from pool_master.cli.failures import CliError, Failed, Refused, Unreachable
from pool_master.cli.settings import Target

API_VERSION: Final = "2.21"
ORIGINATOR: Final = "vmpool"
CONNECT_S_MAX: Final = 5.0
# Above the longest that a server lets a call wait for its turn.
ANSWER_S_MAX: Final = 7_300.0
REFERENCE: Final = "OpaqueRef:"
NULL: Final = "OpaqueRef:NULL"


class PoolClient:
    """A session with the pool's master."""

    def __init__(self, target: Target, *, answer_s_max: float = ANSWER_S_MAX) -> None:
        self._target = target
        self._answer_s_max = answer_s_max
        self._session: Any = None
        self.server = target.servers[0]

    def login(self) -> None:
        """Log in at the first server that answers, or at the master that it names.

        Raises:
            Refused: wrong password, no master yet.
            Unreachable: nobody answers.
        """
        silences = []
        for server in self._target.servers:
            try:
                self._login_following(server)
            except Unreachable as silence:
                silences.append(str(silence))
            else:
                return
        raise Unreachable("; ".join(silences))

    def call(self, method: str, *parameters: Any) -> Any:
        """Give the value of a call.

        Raises:
            Refused: the pool says no.
            Unreachable: the server is away; whether the call was done is not known.
        """
        if self._session is None:
            self.login()
        try:
            return self._request(method, parameters)
        except Refused as refusal:
            if refusal.code != "HOST_IS_SLAVE":
                raise
            self._login_at(master_url(self.server, _first(refusal)))
            return self._request(method, parameters)

    def forget(self) -> None:
        """Drop the session: the next call logs in again."""
        self._session = None

    def logout(self) -> None:
        """End the session, if it still stands; nobody minds if that fails."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(CliError), _told(self.server):
                session.xenapi_request("session.logout", ())

    def _request(self, method: str, parameters: Iterable[Any]) -> Any:
        try:
            with _told(self.server):
                return self._session.xenapi_request(method, tuple(outgoing(x) for x in parameters))
        except Unreachable:
            self.forget()
            raise

    def _login_following(self, server: str) -> None:
        try:
            self._login_at(server)
        except Refused as refusal:
            if refusal.code != "HOST_IS_SLAVE":
                raise
            self._login_at(master_url(server, _first(refusal)))

    def _login_at(self, server: str) -> None:
        import XenAPI

        with _told(server):
            uri, transport = self._road(server)
            session = XenAPI.Session(uri, transport=transport)
            session.xenapi_request(
                "login_with_password",
                (self._target.user, self._target.password, API_VERSION, ORIGINATOR),
            )
        self._session, self.server = session, server

    def _road(self, server: str) -> tuple[str, xmlrpc.client.Transport]:
        if server.startswith("unix:"):
            path = server.removeprefix("unix:").removeprefix("//")
            return "http://localhost/", _Transport(_UnixConnection(path, self._answer_s_max))
        parts = urlsplit(server)
        if not parts.hostname:
            raise Failed(f"{server} names no host")
        if parts.scheme == "https":
            port = parts.port or 443
            secure = _SecureConnection(parts.hostname, port, self._context(), self._answer_s_max)
            return server, _Transport(secure)
        return server, _Transport(_Connection(parts.hostname, parts.port or 80, self._answer_s_max))

    def _context(self) -> ssl.SSLContext:
        if self._target.is_insecure:
            # The user's own word: --insecure.
            return ssl._create_unverified_context()  # noqa: S323
        try:
            return ssl.create_default_context(cafile=self._target.ca_file or None)
        except OSError as error:
            raise Failed(f"--ca-file {self._target.ca_file} cannot be read: {error}") from error


def master_url(server: str, address: str) -> str:
    """Give the master's URL, given that `server` said HOST_IS_SLAVE with this address: same road, another host."""
    if "://" in address:
        return address
    parts = urlsplit(server)
    is_bare_ipv6 = address.count(":") > 1 and not address.startswith("[")
    host = f"[{address}]" if is_bare_ipv6 else address
    has_port = ":" in host.rpartition("]")[2]
    port = f":{parts.port}" if parts.port and not has_port else ""
    scheme = parts.scheme if parts.scheme in {"http", "https"} else "http"
    return f"{scheme}://{host}{port}"


def outgoing(value: Any) -> Any:
    """Give a value as XenAPI takes it: an integer is a string."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return {str(key): outgoing(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [outgoing(item) for item in value]
    return value


@contextmanager
def logged_in(target: Target, *, answer_s_max: float = ANSWER_S_MAX) -> Iterator[PoolClient]:
    """Log in for the length of a command; a refusal leaves with the names of what it is about."""
    client = PoolClient(target, answer_s_max=answer_s_max)
    try:
        client.login()
        yield client
    except Refused as refusal:
        for word in refusal.description[1:]:
            if word.startswith(REFERENCE) and (name := name_of(client, word)):
                refusal.names[word] = name
        raise
    finally:
        client.logout()


def name_of(client: PoolClient, ref: str) -> str:
    """Give the name of whatever has this reference; empty if nothing here has it."""
    for class_name in ("VM", "host", "task"):
        with suppress(CliError):
            return str(client.call(f"{class_name}.get_name_label", ref))
    return ""


def _first(refusal: Refused) -> str:
    return refusal.description[1] if len(refusal.description) > 1 else ""


@contextmanager
def _told(server: str) -> Iterator[None]:
    """Turn whatever the SDK raises into what commands expect."""
    import XenAPI

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
