"""The command line's way to the master: standbys, dead sessions, and servers that are none."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import pytest

from pool_master.cli.client import PoolClient, logged_in
from pool_master.cli.failures import Refused, Unreachable
from pool_master.cli.settings import Target

Answer = Callable[[str, tuple[Any, ...]], list[str] | Any]


class _Server(SimpleXMLRPCServer):
    """XenAPI on the wire; `answer` gives a value, or raises Refused."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(
            ("127.0.0.1", 0), SimpleXMLRPCRequestHandler, logRequests=False, allow_none=True
        )
        self.asked: list[str] = []
        self._answer = answer

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def _dispatch(self, method: str, params: Any) -> Any:
        self.asked.append(method)
        try:
            return {"Status": "Success", "Value": self._answer(method, tuple(params))}
        except Refused as refusal:
            return {"Status": "Failure", "ErrorDescription": refusal.description}


@contextmanager
def serving(answer: Answer) -> Iterator[_Server]:
    with _Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def refuse(*description: str) -> Any:
    raise Refused(list(description))


def master(method: str, _parameters: tuple[Any, ...]) -> Any:
    return "OpaqueRef:session" if method == "session.login_with_password" else "web"


def target(*addresses: str) -> Target:
    servers = tuple(f"http://{address}" for address in addresses)
    return Target(servers=servers, user="root", password="pw", ca_file="", is_insecure=False)


def test_a_standby_leads_to_the_master_at_login() -> None:
    with (
        serving(master) as leader,
        serving(lambda *_: refuse("HOST_IS_SLAVE", leader.address)) as standby,
        logged_in(target(standby.address)) as client,
    ):
        assert client.call("VM.get_name_label", "x") == "web"
        assert client.server == f"http://{leader.address}"
    assert leader.asked == ["session.login_with_password", "VM.get_name_label", "session.logout"]


def test_a_master_that_steps_down_is_left_for_its_successor() -> None:
    def deposed(method: str, parameters: tuple[Any, ...]) -> Any:
        if method == "VM.start":
            refuse("HOST_IS_SLAVE", successor.address)
        return master(method, parameters)

    with (
        serving(master) as successor,
        serving(deposed) as old,
        logged_in(target(old.address)) as client,
    ):
        assert client.call("VM.start", "x", False, False) == "web"
    assert "VM.start" in successor.asked


def test_masters_that_name_each_other_are_followed_once() -> None:
    with (
        serving(lambda *_: refuse("HOST_IS_SLAVE", one.address)) as two,
        serving(lambda *_: refuse("HOST_IS_SLAVE", two.address)) as one,
        pytest.raises(Refused) as refused,
        logged_in(target(one.address)),
    ):
        pass
    assert refused.value.code == "HOST_IS_SLAVE"
    assert (len(one.asked), len(two.asked)) == (1, 1)


def test_a_session_that_has_ended_is_renewed() -> None:
    sessions: list[str] = []

    def forgetful(method: str, parameters: tuple[Any, ...]) -> Any:
        if method == "session.login_with_password":
            sessions.append(f"OpaqueRef:{len(sessions)}")
            return sessions[-1]
        return "web" if parameters[0] == "OpaqueRef:1" else refuse("SESSION_INVALID", parameters[0])

    with serving(forgetful) as server, logged_in(target(server.address)) as client:
        assert client.call("VM.get_name_label", "x") == "web"


def test_a_refusal_leaves_with_the_names_of_what_it_is_about() -> None:
    def strict(method: str, parameters: tuple[Any, ...]) -> Any:
        if method == "VM.start":
            refuse("VM_BAD_POWER_STATE", "OpaqueRef:1", "halted", "running")
        return master(method, parameters)

    with (
        serving(strict) as server,
        pytest.raises(Refused) as refused,
        logged_in(target(server.address)) as client,
    ):
        client.call("VM.start", "OpaqueRef:1", False, False)
    assert refused.value.names == {"OpaqueRef:1": "web"}


def test_the_next_server_is_tried_where_one_is_silent() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        silent = f"127.0.0.1:{unused.getsockname()[1]}"
    with serving(master) as server, logged_in(target(silent, server.address)) as client:
        assert client.server == f"http://{server.address}"
    with pytest.raises(Unreachable, match=silent):
        PoolClient(target(silent)).login()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 99\r\n\r\n<short",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 123\r\n\r\n"
        b"<?xml version='1.0'?><methodResponse><params><param><value><string>"
        b"hello</string></value></param></params></methodResponse>",
    ],
)
def test_what_is_no_xenapi_server_is_unreachable_and_no_traceback(answer: bytes) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(0.05)
        is_over = threading.Event()

        def serve() -> None:
            # The SDK's transport asks again where the answer is cut off.
            while not is_over.is_set():
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(Unreachable):
                PoolClient(target(f"127.0.0.1:{listener.getsockname()[1]}")).login()
        finally:
            is_over.set()
            thread.join(10)


def test_a_server_that_takes_the_call_and_never_answers_is_given_up() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        client = PoolClient(target(f"127.0.0.1:{listener.getsockname()[1]}"), answer_s_max=0.2)
        with pytest.raises(Unreachable, match="in time"):
            client.login()
