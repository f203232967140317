"""Servers to measure: one that is started for it, or one that is running already."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from .errors import BenchError
from .processes import Server, cores, listener_pid, pinned, running

__all__ = ["External", "MeasuredServer", "Own", "running_at"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """A wsbus server that is started for each measurement, on a core of its own."""

    name: str
    """One of :data:`.servers.SERVERS`."""
    options: Sequence[str] = ()
    """More options for ``wsbus bench serve``."""
    path: str = "/ws"

    @contextmanager
    def open(self, *more: str) -> Iterator[Server]:
        """Start it, with more options, and keep this process on another core until it ends."""
        server_core, load_core = cores()
        command = [sys.executable, "-m", "wsbus", "bench", "serve", "--server", self.name]
        command += ["--port", "0", *self.options, *more]
        with running(command, core=server_core) as server, pinned(load_core):
            yield server


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """A server that is running already; pinning it to a core is up to its operator."""

    name: str
    server: Server
    path: str

    @contextmanager
    def open(self, *more: str) -> Iterator[Server]:
        """Use it as it runs; more options do not apply."""
        yield self.server


MeasuredServer = Own | External


def running_at(url: str, pid: int | None = None) -> External:
    """Return the server at a URL.

    Args:
        url: ``ws://host:port/path``.
        pid: Its process id; None: the process that listens on that port of this machine, if it
            can be found.

    Raises:
        BenchError: It is not the URL of an unencrypted WebSocket.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError as exc:
        raise BenchError(f"{url}: {exc}") from exc
    if parts.scheme != "ws" or not parts.hostname:
        raise BenchError(f"{url}: a URL such as ws://127.0.0.1:8000/ws is wanted")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if pid is None and _is_here(parts.hostname):
        pid = listener_pid(port)
    return External(name=url, server=Server(parts.hostname, port, pid), path=path)


def _is_here(host: str) -> bool:
    """Tell whether a host is this machine: only then can a socket bind to its address."""
    with suppress(OSError):
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
            return True
    return False
