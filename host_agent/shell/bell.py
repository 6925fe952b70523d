"""A bell: whoever waits is woken when it rings, and looks for itself at what has changed."""

import anyio


class Bell:
    """Rings for all who wait at that moment; nobody who was not waiting hears of it later."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        """Wake everybody who waits."""
        self._event.set()
        self._event = anyio.Event()

    async def wait(self, *, timeout_s: float | None = None) -> None:
        """Wait for the next ring, or until `timeout_s` is over."""
        event = self._event
        with anyio.move_on_after(timeout_s):
            await event.wait()
