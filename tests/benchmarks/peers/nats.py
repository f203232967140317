"""nats-server, with WebSocket: the process becomes the server, so that it is what is measured."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from .serving import HOST, ready

_CONFIG = """\
host: {host}
port: -1
websocket {{ host: {host}, port: {port}, no_tls: true, compression: false }}
"""


def main() -> NoReturn:
    """Become nats-server; a child says when it takes connections."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
    config = Path(tempfile.mkdtemp(prefix="wsbus-nats-")) / "nats.conf"
    config.write_text(_CONFIG.format(host=HOST, port=port))
    if os.fork() == 0:
        _announce(port, config)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.execvp("nats-server", ["nats-server", "-c", str(config), "-l", os.devnull])


def _announce(port: int, config: Path) -> NoReturn:
    parent, deadline = os.getppid(), time.monotonic() + 10
    while os.getppid() == parent and time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection((HOST, port)).close()
            ready(port)
            break
        time.sleep(0.01)  # another process: there is no event to await
    config.unlink()
    config.parent.rmdir()
    os._exit(0)


if __name__ == "__main__":
    main()
