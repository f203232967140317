"""``python -m tests.benchmarks.peers.serve NAME``: serve on a free port and print it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

from . import bare, echoes, frameworks

SERVERS: Final[dict[str, Callable[[], Coroutine[Any, Any, None]]]] = {
    "websockets": bare.websockets,
    "aiohttp": bare.aiohttp,
    "starlette": bare.starlette,
    "picows": bare.picows,
    "litestar": frameworks.litestar,
    "broadcaster": frameworks.broadcaster,
    "socketio": frameworks.socketio,
    "channels": frameworks.channels,
    "websockets-echo": echoes.websockets,
    "aiohttp-echo": echoes.aiohttp,
    "starlette-echo": echoes.starlette,
}

if __name__ == "__main__":
    logging.disable()  # The load resets its connections, and some servers say so.
    asyncio.run(SERVERS[sys.argv[1]]())
