r"""Answers that survive a reload: a "language model" that types slowly, and pages that read along.

::

    python examples/answers.py

Open http://127.0.0.1:8000, ask something, and reload the page, open its address in other tabs, or
stop the network: the answer goes on where it was. With Redis any of several workers may relay it,
and end while it does::

    BROKER=redis://127.0.0.1 uvicorn --app-dir examples answers:app --workers 2 \
        --ws wsbus.adapters.uvicorn:WebSocketProtocol

To learn here: ``stream=Stream()`` makes the channels finite streams, ``bus.stream`` writes one, and
``client.stream`` in the page reads it, from the beginning whenever it comes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex
from typing import Annotated

from msgspec import Meta
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route

from wsbus import Bus, Grants, Stream
from wsbus.adapters.starlette import lifespan, web_routes, websocket_route
from wsbus.adapters.uvicorn import serve
from wsbus.brokers import broker_of

WORDS_A_SECOND = float(os.environ.get("WORDS_A_SECOND", "12"))
writers: set[asyncio.Task[None]] = set()

bus = Bus(broker=broker_of(os.environ.get("BROKER", "memory:")))
bus.family("answers.*", stream=Stream(ttl=3600))
reader = Grants.of(subscribe=["answers.*"], cancel=["answers.*"], command=["ask"])
endpoint = bus.endpoint(anonymous=reader)


@bus.command("ask")
async def ask(question: Annotated[str, Meta(min_length=1, max_length=500)]) -> str:
    """Begin an answer; return its channel."""
    name = f"answers.{token_hex(8)}"
    writer = asyncio.create_task(write(name, question))
    writers.add(writer)
    writer.add_done_callback(writers.discard)
    return name


async def write(name: str, question: str) -> None:
    """Write the answer, until it is complete or a reader cancels it."""
    async with bus.stream(name) as stream:
        async for token in model(question):
            await stream.append(token)


async def model(question: str) -> AsyncIterator[str]:
    """Think aloud, one word at a time."""
    text = (
        f"You ask: {question}\n\nThat is a good question, and here is what I make of it. An answer "
        "is written once, word by word, and kept while it is. A reader that comes late gets all of "
        "it in one piece; one that was cut off gets what is missing, and no word comes twice. "
    )
    for word in (text * 3).split(" "):
        await asyncio.sleep(1 / WORDS_A_SECOND)
        yield f"{word} "


page = FileResponse(Path(__file__).with_name("answers.html"))
routes = [Route("/", lambda _: page), websocket_route("/ws", endpoint), *web_routes()]
app = Starlette(routes=routes, lifespan=lifespan(bus))

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answers that survive a reload.")
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    asyncio.run(serve(app, endpoint, port=port, ready=lambda at: print(f"http://{at}")))
