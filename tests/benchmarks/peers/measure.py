"""One measurement: start a server, connect all, warm up, measure, end it."""

from __future__ import annotations

import os
import socket
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from wsbus.bench.load import BenchError, FanoutResult, Load, Server, Window, running

from .calls import Callers
from .registry import Peer, Responder
from .results import Call, Sample

# The slowest of all needs 0.1 s for a publication.
_FIRST: Final = 20
_FEWEST: Final = 50
_MOST: Final = 50_000
_CALLS_FIRST: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured."""

    outstanding: Sequence[int]
    subscribers: int
    clients: int
    """That call commands."""
    seconds: float
    """Of a measurement for which no number is given."""
    publications: int | None
    calls: int | None


def fanout(peer: Peer, effort: Effort, core: int, tell: Callable[[int, Sample], None]) -> None:
    """Measure each window in turn on one server, and tell each result.

    Raises:
        BenchError: The server does not run, or compresses.
    """
    with running(peer.command, core=core) as server:
        _refuse_compression(server, peer.script.path, peer.script.subprotocol)
        with Load(server.port, server.pid, peer.script, host=server.host) as load:
            load.join(effort.subscribers)
            for outstanding in effort.outstanding:
                tell(outstanding, _window(load, outstanding, effort))


def _window(load: Load, outstanding: int, effort: Effort) -> Sample:
    window = Window(outstanding)
    first = load.run(window, max(_FIRST, outstanding))
    fewest = max(_FEWEST, 2 * outstanding)
    count = _within(first.rate / first.subscribers * effort.seconds, fewest)
    count = effort.publications or count
    warm = load.run(window, max(1, count // 5))
    result = load.run(window, count)
    if result.closed:
        raise BenchError(f"the server closed {result.closed} connections")
    return _sample(result, before=[first, warm])


def _sample(result: FanoutResult, *, before: Sequence[FanoutResult]) -> Sample:
    assert result.cpu_us is not None
    all_of_them = [*before, result]
    return Sample(
        cpu_us=round(result.cpu_us, 4),
        rate=round(result.rate),
        p50_ms=round(result.p50_ms, 3),
        p99_ms=round(result.p99_ms, 3),
        p999_ms=round(result.p999_ms, 3),
        publications=result.publications,
        lost=sum(each.lost for each in all_of_them),
        reordered=sum(each.reordered or 0 for each in all_of_them),
    )


def calls(responder: Responder, effort: Effort, core: int) -> Call:
    """Measure one server that answers commands.

    Raises:
        BenchError: The server does not run, compresses, or does not answer.
    """
    with running(responder.command, core=core) as server:
        _refuse_compression(server, responder.path, responder.subprotocol)
        with closing(Callers(server, responder, effort.clients)) as callers:
            warm = callers.run(_CALLS_FIRST * effort.clients)
            return callers.run(effort.calls or int(warm.rate * effort.seconds))


def _within(count: float, fewest: int) -> int:
    return max(fewest, min(_MOST, int(count)))


def _refuse_compression(server: Server, path: str, subprotocol: str | None) -> None:
    """Offer compression, which no client of the load does, and see that it is not taken."""
    protocol = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    key = b64encode(os.urandom(16)).decode()
    with socket.create_connection((server.host, server.port), timeout=10) as sock:
        sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Extensions: permessage-deflate\r\n{protocol}\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            more = sock.recv(4096)
            if not more:
                break
            head += more
    head = head.partition(b"\r\n\r\n")[0]
    if b" 101 " not in head.partition(b"\r\n")[0]:
        raise BenchError(f"the handshake was refused: {head[:100]!r}")
    if b"permessage-deflate" in head.lower():
        raise BenchError("the server compresses")
