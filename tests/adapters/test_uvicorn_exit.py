"""Signals to the command ``uvicorn``: readers over HTTP do not keep the process from ending."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Final

import pytest

APPLICATION: Final = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from wsbus import Bus, History
from wsbus.adapters.starlette import http_routes, lifespan, websocket_route

bus = Bus()
bus.family("news.*", history=History())

async def count(request):
    return JSONResponse(len(bus.connections()))

routes = [Route("/count", count), websocket_route("/ws", bus), *http_routes("/ws", bus)]
app = Starlette(routes=routes, lifespan=lifespan(bus))
"""
PATIENCE: Final = 60


class Process:
    """uvicorn, as its command runs it, with its own protocols and no time limit for its end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.process: Final = process
        self.closing: Final = ExitStack()
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            found = re.search(r"running on http://127\.0\.0\.1:(\d+)", line)
            if found is not None:
                self.port = int(found[1])
                return
        raise AssertionError("".join(lines))

    def connection(self) -> HTTPConnection:
        """Return a connection to it."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        self.closing.callback(connection.close)
        return connection

    def events(self) -> HTTPResponse:
        """Return a stream that has begun."""
        connection = self.connection()
        connection.request("GET", "/ws/events?channels=news.a,free")
        stream = connection.getresponse()
        while b"subscribed" not in stream.readline():
            pass
        return stream

    def await_readers(self, count: int) -> None:
        """Wait until the bus has so many connections."""
        connection = self.connection()
        found = b""
        while found != b"%d" % count:
            connection.request("GET", "/count")
            found = connection.getresponse().read()


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Process]:
    """Run the command."""
    (folder / "readers_site.py").write_text(APPLICATION)
    command = [sys.executable, "-m", "uvicorn", "readers_site:app", "--port", "0", *options]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            found = Process(process)
            with found.closing:
                yield found
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_readers_do_not_keep_uvicorn_from_ending(tmp_path: Path, number: signal.Signals) -> None:
    """Streams get the reason and a whole answer, a poll is answered, and the process ends."""
    with running(tmp_path) as uvicorn:
        streams = [uvicorn.events() for _ in range(3)]
        poll = uvicorn.connection()
        poll.request("GET", "/ws/poll?channels=news.a")
        position = json.loads(poll.getresponse().read())["position"]
        poll.request("GET", f"/ws/poll?channels=news.a&since={position}")
        uvicorn.await_readers(4)

        uvicorn.process.send_signal(number)

        for stream in streams:
            with stream:  # IncompleteRead, if the answer was cut off.
                assert b'"type":"close","code":1012' in stream.read()
        assert poll.getresponse().status == 503
        assert uvicorn.process.wait(PATIENCE) in {-number, 0}
