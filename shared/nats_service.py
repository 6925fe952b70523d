"""Answering requests on the bus: a bounded number at a time, ended together.

Rules: a handler's None is silence; a handler that fails is a defect: it is told loudly, and the
asker gets no answer.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from shared.bus import BusUnavailable, Handler
from shared.nats_link import Message, Unsubscribable

ANSWERS_AT_ONCE_MAX: Final = 256

log = structlog.get_logger(__name__)


class Service:
    """A running `serve`: it owns the tasks of its answers."""

    def __init__(self, handler: Handler, send: Callable[[str, bytes], Awaitable[None]]) -> None:
        self._handler = handler
        self._send = send
        self._answers: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(ANSWERS_AT_ONCE_MAX)
        self.subscription: Unsubscribable | None = None

    async def on_request(self, request: Message) -> None:
        """Start answering; waits while too many answers are in the making."""
        await self._slots.acquire()
        answer = asyncio.create_task(self._answer(request), name=f"answer {request.subject}")
        self._answers.add(answer)
        answer.add_done_callback(self._ended)

    async def close(self) -> None:
        """Stop answering; answers in the making are dropped."""
        if self.subscription is not None:
            with contextlib.suppress(Exception):  # a closed connection has no subscriptions left
                await self.subscription.unsubscribe()
        answers = tuple(self._answers)
        for answer in answers:
            answer.cancel()
        if answers:
            await asyncio.wait(answers)

    async def _answer(self, request: Message) -> None:
        try:
            answer = await self._handler(request.subject, request.data)
            if answer is not None and request.reply:
                await self._send(request.reply, answer)
        except BusUnavailable:
            log.info("bus.answer_not_sent", subject=request.subject)
        except Exception:
            # One defective answer must not end the service of all others.
            log.exception("bus.handler_failed", subject=request.subject)

    def _ended(self, answer: asyncio.Task[None]) -> None:
        self._answers.discard(answer)
        self._slots.release()
