"""The pool as commands see it: XenAPI's own SDK, with a terminal's patience.

Rules: every refusal is a `Refused`, every silence an `Unreachable`; a standby's HOST_IS_SLAVE is followed once; integers
go out as strings, as XenAPI wants them.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

from pool_master.cli.failures import CliError, Refused, Unreachable
from pool_master.cli.settings import Target

API_VERSION: Final = "2.21"
ORIGINATOR: Final = "vmpool"
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
        """Drop the session and its connection: the next call logs in again."""
        session, self._session = self._session, None
        if session is not None:
            _hang_up(session)

    def logout(self) -> None:
        """End the session, if it still stands; nobody minds if that fails."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(CliError), _told(self.server):
                session.xenapi_request("session.logout", ())
            _hang_up(session)

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
        from pool_master.cli.connections import open_session

        session = open_session(self._target, server, self._answer_s_max)
        try:
            with _told(server):
                session.xenapi_request(
                    "login_with_password",
                    (self._target.user, self._target.password, API_VERSION, ORIGINATOR),
                )
        except CliError:
            _hang_up(session)
            raise
        self.forget()
        self._session, self.server = session, server


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


def _hang_up(session: Any) -> None:
    session("close")()  # a ServerProxy's own spelling


def _first(refusal: Refused) -> str:
    return refusal.description[1] if len(refusal.description) > 1 else ""


def _told(server: str) -> AbstractContextManager[None]:
    from pool_master.cli.connections import told

    return told(server)
