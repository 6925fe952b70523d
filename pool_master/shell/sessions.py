"""Sessions and users: who is calling.

Rules: sessions live in one master's memory and need not survive it (clients log in again); they expire and are capped, since
some clients never log out; a wrong password costs its caller time, and says nothing about whether the user exists.
"""

import asyncio
import hashlib
import hmac
import os
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from pool_master.core.session_model import Session
from pool_master.shell.sources import REAL_SOURCES, Sources
from shared.enums import Role
from shared.errors import EventsLost, SessionAuthenticationFailed, SessionInvalid
from shared.refs import REF_PREFIX, HostRef, SessionRef

SESSIONS_MAX: Final = 5_000
SESSIONS_PER_USER_MAX: Final = 500
IDLE_MAX: Final = timedelta(hours=24)
REFUSAL_S: Final = 1.0
REFUSALS_AT_ONCE_MAX: Final = 100
SCRYPT: Final = {"n": 2**12, "r": 8, "p": 1}


@dataclass(frozen=True, slots=True)
class User:
    """A user who may log in: salt and scrypt hash of the password, and the role."""

    name: str
    role: Role
    salt: bytes
    password_hash: bytes

    @classmethod
    def with_password(cls, name: str, password: str, role: Role = Role.POOL_ADMIN) -> "User":
        """Make a user of a password."""
        salt = os.urandom(16)
        return cls(name, role, salt, _hash(password, salt))

    def knows(self, password: str) -> bool:
        """Whether this is the user's password."""
        return hmac.compare_digest(self.password_hash, _hash(password, self.salt))


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "replace"), salt=salt, **SCRYPT)


def read_users(name: str, password_file: Path) -> dict[str, User]:
    """Give the users that a password file names: one line is the password of `name`, `user:role:password` lines more.

    Raises:
        ValueError: a line with an unknown role.
    """
    users: dict[str, User] = {}
    for line in password_file.read_text().splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and parts[1] in set(Role):
            users[parts[0]] = User.with_password(parts[0], parts[2], Role(parts[1]))
        elif line:
            users[name] = User.with_password(name, line)
    return users


@dataclass(slots=True)
class Watch:
    """What a session has registered for with event.register: classes, and the token up to which it has heard."""

    classes: tuple[str, ...] = ()
    token: str = ""


@dataclass(slots=True)
class _Held:
    session: Session
    watch: Watch | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Sessions:
    """All sessions of this master."""

    def __init__(self, users: dict[str, User], *, sources: Sources = REAL_SOURCES) -> None:
        self._users = users
        self._now = sources.now
        self._new_id = sources.new_id
        self._held: OrderedDict[SessionRef, _Held] = OrderedDict()
        self._refusing = 0

    def __len__(self) -> int:
        return len(self._held)

    async def login(
        self, name: str, password: str, originator: str, *, is_trusted: bool, host: HostRef
    ) -> SessionRef:
        """Make a session; `is_trusted` is a caller that needs no password (local root).

        Raises:
            SessionAuthenticationFailed: wrong user or password.
        """
        user = self._users.get(name)
        if not is_trusted and (user is None or not user.knows(password)):
            # The wait is bounded in number, so that guessing cannot fill the memory with waiters.
            if self._refusing < REFUSALS_AT_ONCE_MAX:
                self._refusing += 1
                try:
                    await asyncio.sleep(REFUSAL_S)
                finally:
                    self._refusing -= 1
            raise SessionAuthenticationFailed(name, "wrong user or password")
        role = Role.POOL_ADMIN if is_trusted or user is None else user.role
        session = Session(
            ref=SessionRef(REF_PREFIX + self._new_id()),
            uuid=self._new_id(),
            role=role,
            this_host=host,
            last_active=self._now(),
            validation_time=self._now(),
            is_local_superuser=role is Role.POOL_ADMIN,
            auth_user_name=name or "root",
            originator=originator,
        )
        self._make_room(session)
        self._held[session.ref] = _Held(session)
        return session.ref

    def _make_room(self, newcomer: Session) -> None:
        """Least recently used first; a user's flood costs that user's sessions, not others'."""
        name = newcomer.auth_user_name
        own = [ref for ref, held in self._held.items() if held.session.auth_user_name == name]
        for ref in own[: max(0, len(own) + 1 - SESSIONS_PER_USER_MAX)]:
            self.logout(ref)
        while len(self._held) >= SESSIONS_MAX:
            self.logout(next(iter(self._held)))
        oldest = self._now() - IDLE_MAX
        while self._held:
            ref, held = next(iter(self._held.items()))
            if held.session.last_active >= oldest:
                break
            self.logout(ref)

    def use(self, ref: str) -> Session:
        """Give the session that a call names, and note that it is alive.

        Raises:
            SessionInvalid: there is none, or it has expired.
        """
        held = self._held.get(SessionRef(ref))
        now = self._now()
        if held is None or held.session.last_active < now - IDLE_MAX:
            raise SessionInvalid(ref)
        held.session = replace(held.session, last_active=now)
        self._held.move_to_end(held.session.ref)
        return held.session

    def logout(self, ref: SessionRef) -> None:
        """End a session; what waits under it is told."""
        held = self._held.pop(ref, None)
        if held is not None:
            held.ended.set()

    def ended(self, ref: SessionRef) -> asyncio.Event:
        """Give what is set when the session ends.

        Raises:
            SessionInvalid: it has ended.
        """
        if ref not in self._held:
            raise SessionInvalid(ref)
        return self._held[ref].ended

    def watch(self, ref: SessionRef) -> Watch | None:
        """Give what the session has registered for."""
        return self._held[ref].watch if ref in self._held else None

    def set_watch(self, ref: SessionRef, watch: Watch | None) -> None:
        """Remember what the session has registered for."""
        if ref not in self._held:
            raise EventsLost()
        self._held[ref].watch = watch

    def by_uuid(self, session_uuid: str) -> Session | None:
        """Give the session with that uuid."""
        for held in self._held.values():
            if held.session.uuid == session_uuid:
                return held.session
        return None

    def get(self, ref: str) -> Session | None:
        """Give a session without noting that it is alive."""
        held = self._held.get(SessionRef(ref))
        return held.session if held else None
