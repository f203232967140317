"""The demo as a user starts it: a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

PATIENCE = 60


@dataclass(frozen=True)
class Demo:
    """A demo that is being served."""

    process: subprocess.Popen[str]
    greeting: str
    """The line it printed."""

    @property
    def address(self) -> str:
        return self.greeting.split()[2]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def client(self) -> ClientConnection:
        """Connect a client of ``wsbus.v1``."""
        url = f"{self.address.replace('http', 'ws', 1)}/ws"
        return connect(url, subprotocols=[Subprotocol("wsbus.v1")], proxy=None)

    def interrupt(self) -> tuple[int, str, str]:
        """Press Ctrl-C; return the exit status, and what was printed since."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


def wsbus(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "wsbus", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@contextmanager
def running_demo(port: int = 0) -> Iterator[Demo]:
    """Start the demo, and see that it has ended afterwards."""
    command = [sys.executable, "-m", "wsbus", "demo", "--port", str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            if not greeting:
                assert process.stderr is not None
                raise AssertionError(process.stderr.read())
            yield Demo(process, greeting)
        finally:
            process.kill()


def messages(client: ClientConnection) -> Iterator[dict[str, Any]]:
    """Yield what the server sends, for as long as it takes."""
    while True:
        for line in client.recv(timeout=PATIENCE, decode=True).split("\n"):
            yield json.loads(line)
