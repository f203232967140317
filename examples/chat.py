"""A chat: rooms, their last 20 messages, the people in them, and nothing missed over a cut.

::

    python examples/chat.py

Open http://127.0.0.1:8000 in two tabs, under two names. Stop the network of one, write in the
other, and go on; or reload one. Two processes are one chat if they have the same broker::

    python examples/chat.py --port 8001 --broker redis://127.0.0.1:6379

To learn here: ``history=`` is the line that makes the bus keep messages; the page reads the last 20
of each room, and goes on since the position that it kept; ``presence=`` says which people have a
room open; and ``idempotency_key`` makes a message that is sent again, since its answer was lost,
appear once.
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

from wsbus import Bus, Endpoint, Grants, History, Identity, Presence, channel
from wsbus.adapters.starlette import lifespan, web_routes, websocket_route
from wsbus.adapters.uvicorn import serve
from wsbus.brokers import broker_of

GUEST = Grants.of(
    subscribe=["chat.*", "here.*"], history=["chat.*"], presence=["here.*"], command=["say"]
)


def guest(token: str | None, handshake: object) -> Identity | None:
    """Take the token as a name. A real chat has people sign in."""
    return Identity(token, GUEST) if token and len(token) <= 30 else None


def open_chat(bus: Bus) -> Endpoint:
    """Put the chat on a bus; return its endpoint."""
    bus.family("chat.*", history=History(size=200, ttl=86_400))
    bus.family("here.*", presence=Presence(max_members=100))

    @bus.command("say")
    async def say(
        room: Literal["lobby", "help", "random"],
        text: Annotated[str, Meta(min_length=1, max_length=500)],
        key: Annotated[str, Meta(min_length=1, max_length=100)],
        identity: Identity,
    ) -> None:
        """Publish a message in a room; with the same key, once."""
        message = {"name": identity.subject, "text": text}
        await bus.publish(channel("chat", room), message, idempotency_key=key)

    return bus.endpoint(authenticator=guest)


async def main(port: int, broker: str) -> None:
    """Serve the page and the chat."""
    bus = Bus(broker=broker_of(broker))
    endpoint = open_chat(bus)
    page = FileResponse(Path(__file__).with_name("chat.html"))
    routes = [Route("/", lambda _: page), websocket_route("/ws", endpoint), *web_routes()]
    app = Starlette(routes=routes, lifespan=lifespan(bus))
    await serve(app, endpoint, port=port, ready=lambda at: print(f"http://{at}", flush=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat with history and presence.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--broker", default="memory:", help="its URL, for several processes")
    options = parser.parse_args()
    anyio.run(main, options.port, options.broker)
