"""Hosts that reach each other without a network, for the simulator.

Who can talk to whom is data.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from host_agent.core.lease_guard import PeerAnswer, PeerQuestion
from host_agent.shell.peers import Answerer


def everybody(_: str, __: str) -> bool:
    return True


class PeerNetwork:
    """Who serves where.

    `reaches(asker, answerer)` says whether a message goes that way; it is asked each way.

    `delay_s` is how long one way takes.
    """

    def __init__(
        self, *, reaches: Callable[[str, str], bool] = everybody, delay_s: float = 0.001
    ) -> None:
        self.reaches = reaches
        self.delay_s = delay_s
        self.answerers: dict[str, Answerer] = {}


class MemoryPeers:
    """`host_agent.shell.peers.Peers` of the host called `name`; its address is that name."""

    def __init__(self, network: PeerNetwork, name: str) -> None:
        self._network = network
        self._name = name
        self.address = ""

    @asynccontextmanager
    async def serving(self, answer: Answerer) -> AsyncIterator[None]:
        self._network.answerers[self._name] = answer
        self.address = self._name
        try:
            yield
        finally:
            self.address = ""
            if self._network.answerers.get(self._name) == answer:
                del self._network.answerers[self._name]

    async def ask(
        self, address: str, question: PeerQuestion, *, timeout_s: float
    ) -> PeerAnswer | None:
        with anyio.move_on_after(timeout_s):
            if not await self._passes(self._name, address):
                await anyio.sleep_forever()
            answerer = self._network.answerers.get(address)
            if answerer is None:
                return None
            answer = await answerer(question)
            if not await self._passes(address, self._name):
                await anyio.sleep_forever()
            return answer
        return None

    async def _passes(self, source: str, destination: str) -> bool:
        await anyio.sleep(self._network.delay_s)
        return self._network.reaches(source, destination)
