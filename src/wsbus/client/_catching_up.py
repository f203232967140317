"""Polls for what names at different positions have missed, before they share a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ._http_calls import Calls
from ._readings import NameStream, PollAnswer

__all__ = ["catch_up"]

_MOST: Final = 300
"""Messages in one answer to a poll."""


async def catch_up(calls: Calls, reading: NameStream) -> None:
    """Poll for what names at different positions have missed; then the stream begins for all.

    From the oldest of their positions the server would replay what the others have had: more than
    it does for one name, perhaps, and then they would lose what is new.

    Raises:
        HttpRefusal: The server accepts none of the names.
        httpx.HTTPError: There is no answer.
    """
    if not reading.is_spread:
        return
    reading.begin_at(await _poll(calls, reading, reading.asked, None))
    for name in list(reading.names):
        messages: list[str] = []
        since, is_over = reading.start_of(name), False
        while not is_over:
            found = await _poll(calls, reading, [name], since)
            messages += [bytes(each).decode() for each in found.messages]
            since, is_over = found.position, len(found.messages) < _MOST
        reading.add_missed(name, messages)


async def _poll(
    calls: Calls, reading: NameStream, names: Sequence[str], since: str | None
) -> PollAnswer:
    query = [*reading.terms(names), ("wait", "0")]
    if since is not None:
        query.append(("since", since))
    return msgspec.json.decode(await calls.poll(query), type=PollAnswer)
