"""``wsbus demo --check``: proves an installation in a few seconds, through real sockets."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from wsbus.adapters.uvicorn import address, listen, serving
from wsbus.client import WsbusError, connect

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
    return f"http://{place} served {seen}, and stopped; {monotonic() - began:.1f} s"


async def talk(url: str) -> str:
    """Be a client of the demo at ``url``; return what was seen.

    Raises:
        CheckFailed: The server cannot be reached, or answered otherwise than the demo does.
    """
    channels: list[str] = []
    try:
        async with connect(url) as client, client.subscribe("prices.*") as events:
            async for event in events:
                channels.append(event.channel)
                if len(channels) == _EVENTS:
                    break
            total = await client.command("add", {"a": 2, "b": 3})
    except WsbusError as exc:
        raise CheckFailed(f"the client of {url} failed: {exc}") from exc
    if total != 5:
        raise CheckFailed(f"the command add(2, 3) was answered with {total!r}")
    names = ", ".join(sorted(set(channels)))
    return f"{len(channels)} events of prices.* ({names}) and answered add(2, 3) with 5"
