"""``wsbus demo --check``: proves an installation in a few seconds, through real sockets."""

from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from wsbus.adapters.uvicorn import address, listen, serving

from .app import app, endpoint

__all__ = ["CheckFailed", "run", "talk"]

_DEADLINE: Final = 10.0
_EVENTS: Final = 3


class CheckFailed(Exception):
    """Something that the check expects did not happen; the text says what."""


def run(host: str) -> str:
    """Serve on a free port, be a client, stop; return what happened, in a sentence.

    Raises:
        CheckFailed: Something else happened, or nothing for ten seconds.
        OSError: There is no port to listen on.
    """
    return asyncio.run(_run(host))


async def _run(host: str) -> str:
    began = monotonic()
    with listen(host, 0) as listener:
        place = address(listener)
        async with serving(app, endpoint, listener):
            try:
                async with asyncio.timeout(_DEADLINE):
                    seen = await talk(f"ws://{place}/ws")
            except TimeoutError:
                raise CheckFailed(f"no answer from {place} within {_DEADLINE:g} s") from None
            except (OSError, WebSocketException) as exc:
                raise CheckFailed(f"the connection to {place} failed: {exc}") from exc
    return f"http://{place} served {seen}, and stopped; {monotonic() - began:.1f} s"


async def talk(url: str) -> str:
    """Be a client of the demo at ``url``; return what was seen.

    Raises:
        CheckFailed: The server answered otherwise than the demo does.
    """
    # No proxy: a variable meant for the outside must not send this there.
    async with connect(url, subprotocols=[Subprotocol("wsbus.v1")], proxy=None) as client:
        messages = _Messages(client)
        await client.send(json.dumps({"type": "subscribe", "channels": ["prices.*"]}))
        subscribed = await messages.next("subscribed")
        if subscribed["data"]["channels"] != ["prices.*"]:
            raise CheckFailed("the subscription to prices.* was rejected")
        events = [await messages.next("event") for _ in range(_EVENTS)]
        call = {"type": "command", "id": "1", "action": "add", "params": {"a": 2, "b": 3}}
        await client.send(json.dumps(call))
        response = await messages.next("response")
        if response.get("data") != 5:
            raise CheckFailed("the command add(2, 3) was not answered with 5")
    channels = ", ".join(sorted({event["channel"] for event in events}))
    return f"{len(events)} events of prices.* ({channels}) and answered add(2, 3) with 5"


class _Messages:
    """What the server sends, message by message: a frame may hold several, one a line."""

    def __init__(self, client: ClientConnection) -> None:
        self._client: Final = client
        self._lines: list[str] = []

    async def next(self, kind: str) -> dict[str, Any]:
        """Return the next message of this type; others are passed over."""
        while True:
            while not self._lines:
                frame = await self._client.recv(decode=True)
                self._lines = [line for line in reversed(frame.split("\n")) if line]
            message: dict[str, Any] = json.loads(self._lines.pop())
            if message["type"] == kind:
                return message
            if message["type"] == "error":
                raise CheckFailed(message["error"]["message"])
