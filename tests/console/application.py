"""A busy application with a console, in a process of its own, for browsers to look at.

::

    python -m tests.console.application PORT [--changes] [ORIGIN]
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from anyio import create_task_group, sleep
from starlette.applications import Starlette
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from wsbus import (
    Bus,
    Grants,
    Handshake,
    HeartbeatPolicy,
    History,
    Identity,
    Limits,
    Presence,
    Unauthenticated,
)
from wsbus.adapters.starlette import console_routes, lifespan, websocket_route
from wsbus.adapters.uvicorn import serve
from wsbus.console import Console

ROOT: Final = Path(__file__).parents[2]
TOKEN: Final = "let me have a look"
HOSTILE: Final = "<img/src=x/onerror=document.title='pwned'>"

bus: Final = Bus()
bus.family("news.*", history=History(size=60), presence=Presence())


def by_name(token: str | None, handshake: Handshake) -> Identity | None:
    """Take a token for a name; `nobody` is refused."""
    if token is None:
        return None
    if token == "nobody":
        raise Unauthenticated("nobody is nobody")
    return Identity(token, Grants.of(subscribe=["*"], publish=["chat.*"], command=["*"]))


endpoint: Final = bus.endpoint(
    authenticator=by_name,
    query_token="token",
    limits=Limits(queue_messages=50, write_deadline=600),
    heartbeat=HeartbeatPolicy.client_drives(),
)


@bus.command("add")
def add(a: float, b: float) -> float:
    """Answer with the sum."""
    return a + b


async def feed() -> None:
    """Publish something that is kept, something steady, something hostile, and a flood."""
    n = 0
    for i in range(40):
        bus.publish_soon("news.today", {"n": i, "token": f"kept secret {i}"}, event=HOSTILE)
    while True:
        await sleep(0.05)
        n += 1
        bus.publish_soon("clock.tick", {"n": n, "parity": "odd" if n % 2 else "even"}, event="tick")
        for i in range(40):
            bus.publish_soon("flood", {"i": i, "padding": "x" * 400})
        if n % 4 == 0:
            bus.publish_soon(f"chat.{HOSTILE}", f"<script>{HOSTILE}</script>", event=HOSTILE)


@asynccontextmanager
async def feeds(_app: Starlette) -> AsyncIterator[None]:
    """Feed while the application runs."""
    async with create_task_group() as tasks:
        tasks.start_soon(feed)
        yield
        tasks.cancel_scope.cancel()


@dataclass(frozen=True)
class Served:
    """An application that is being served."""

    process: subprocess.Popen[str]
    host: str

    @property
    def page(self) -> str:
        return f"http://{self.host}/console/"

    @property
    def port(self) -> int:
        return int(self.host.rpartition(":")[2])

    def user(self, name: str, **options: Any) -> ClientConnection:
        """Connect somebody who may read nothing: no ping of theirs is waited for."""
        url = f"ws://{self.host}/ws?token={quote(name)}"
        found: ClientConnection = connect(
            url,
            subprotocols=[Subprotocol("wsbus.v1")],
            proxy=None,
            ping_interval=None,
            **options,
        )
        return found


@contextmanager
def served(*options: str, port: int = 0) -> Iterator[Served]:
    """Serve it, and see that it has ended afterwards."""
    command = [sys.executable, "-m", "tests.console.application", str(port), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            host = process.stdout.readline().strip()
            assert host, "it did not start"
            yield Served(process, host)
        finally:
            process.kill()


def main() -> None:
    """Serve until a signal comes."""
    origins = [option for option in sys.argv[2:] if option.startswith("http")]
    console = Console(
        bus,
        token=TOKEN,
        allow_changes="--changes" in sys.argv,
        origins=origins or "same-host",
    )
    app = Starlette(
        routes=[websocket_route("/ws", endpoint), *console_routes(console)],
        lifespan=lifespan(bus, feeds),
    )

    def ready(address: str) -> None:
        print(address, flush=True)

    # Those that do not read answer no pings of uvicorn's, and are to stay.
    asyncio.run(serve(app, endpoint, port=int(sys.argv[1]), ready=ready, ws_ping_interval=None))


if __name__ == "__main__":
    main()
