"""A chat: rooms, their last messages, and nothing missed over a lost connection or a reload.

::

    python examples/chat.py

Open http://127.0.0.1:8000 in two tabs. Stop the network of one, write in the other, and go on; or
reload one.

To learn here: ``history=`` is the line that makes the bus keep messages; the page reads the last 20
of each room, and goes on since the position that it kept; and ``idempotency_key`` makes a message
that is sent again, since its answer was lost, appear once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Literal

import anyio
from msgspec import Meta
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route

from wsbus import Bus, Grants, History, channel
from wsbus.adapters.starlette import lifespan, web_routes, websocket_route
from wsbus.adapters.uvicorn import serve

bus = Bus()
bus.family("chat.*", history=History(size=200, ttl=86_400))
guest = Grants.of(subscribe=["chat.*"], history=["chat.*"], command=["say"])
endpoint = bus.endpoint(anonymous=guest)


@bus.command("say")
async def say(
    room: Literal["lobby", "help", "random"],
    name: Annotated[str, Meta(min_length=1, max_length=30)],
    text: Annotated[str, Meta(min_length=1, max_length=500)],
    key: Annotated[str, Meta(min_length=1, max_length=100)],
) -> None:
    """Publish a message in a room; with the same key, once."""
    await bus.publish(channel("chat", room), {"name": name, "text": text}, idempotency_key=key)


page = FileResponse(Path(__file__).with_name("chat.html"))
routes = [Route("/", lambda _: page), websocket_route("/ws", endpoint), *web_routes()]
app = Starlette(routes=routes, lifespan=lifespan(bus))

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat with history.")
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    anyio.run(lambda: serve(app, endpoint, port=port, ready=lambda at: print(f"http://{at}")))
