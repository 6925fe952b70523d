"""What libvirt needs once per process: its event loop, and the connections that may not be opened twice."""

import contextlib
import threading
from typing import Any

import libvirt

from host_agent.shell.libvirt_settings import embedded_root

_process_lock = threading.Lock()
_event_threads: list[threading.Thread] = []
# An embedded driver is this process: libvirt takes only a handful of openings of it in a life.
_embedded: dict[str, Any] = {}


def open_libvirt(uri: str) -> Any:
    """Open a connection, or give the one there is to an embedded driver."""
    with _process_lock:
        if not _event_threads:
            _start_event_thread()
        if uri in _embedded:
            return _embedded[uri]
        connection = libvirt.open(uri)
        if embedded_root(uri):
            _embedded[uri] = connection
        return connection


def _start_event_thread() -> None:
    """Run libvirt's own event loop; it must be there before the first connection."""
    libvirt.virEventRegisterDefaultImpl()
    # Every error is raised too; libvirt would print it besides.
    libvirt.registerErrorHandler(lambda *_: None, None)
    thread = threading.Thread(target=_run_events, name="libvirt-events", daemon=True)
    thread.start()
    _event_threads.append(thread)


def _run_events() -> None:
    while True:
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()


def is_kept_open(uri: str) -> bool:
    """Say whether the connection outlives whoever uses it."""
    return uri in _embedded
