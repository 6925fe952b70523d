"""Reads a message of commands, command by command: what this version does not know fails alone.

Rules: a command that cannot be read but says which one it is gets an answer, so that its operation
ends; one that does not is counted and dropped; the rest of the message is not touched by either.
"""

from dataclasses import dataclass

from shared.codec import DecodeError, from_plain, unpack
from shared.errors import NotImplementedInPool
from shared.protocol import CommandFailed, HostCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What every command of every version says of itself."""

    command_id: str
    task: str
    vm_uuid: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A command that this version cannot read, and the answer to it where one is possible."""

    why: str
    answer: CommandFailed | None = None


def read_commands(data: bytes) -> list[HostCommand | Unreadable]:
    """Give the commands of an encoded CommandBatch, in order."""
    try:
        plain = unpack(data)
    except DecodeError as error:
        return [Unreadable(str(error))]
    if not isinstance(plain, dict) or not isinstance(plain.get("commands", []), list):
        return [Unreadable("not a batch of commands")]
    return [_read(item) for item in plain.get("commands", [])]


def _read(item: object) -> HostCommand | Unreadable:
    try:
        return from_plain(item, HostCommand)
    except DecodeError as error:
        return Unreadable(str(error), _answer(item))


def _answer(item: object) -> CommandFailed | None:
    try:
        envelope = from_plain(item, Envelope)
    except DecodeError:
        return None
    error = NotImplementedInPool("this host's agent does not know the command")
    return CommandFailed(
        command_id=envelope.command_id,
        task=envelope.task,
        vm_uuid=envelope.vm_uuid,
        incarnation=envelope.incarnation,
        code=error.wire_code,
        parameters=error.parameters,
        was_begun=False,
    )
