"""``wsbus history``: print what a channel keeps. Needs the extra ``client``."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from .exits import explained, say
from .options import SECONDS, Target, json_option, parse_position, target_of, targeted

if TYPE_CHECKING:
    from ..client import EventPage
    from ..client.ways import ClientWay

__all__ = ["history"]


@click.command(short_help="Print what a channel keeps.")
@targeted
@click.argument("channel")
@click.option(
    "--limit", type=click.IntRange(1, 300), default=50, show_default=True, help="The most events."
)
@click.option("--before", metavar="EPOCH:OFFSET[:TAG]", help="Only events before this position.")
@click.option("--after", metavar="EPOCH:OFFSET[:TAG]", help="Only events after this position.")
@click.option(
    "--timeout",
    type=SECONDS,
    default=30.0,
    show_default=True,
    help="Seconds to wait for the answer.",
)
@json_option
def history(
    *,
    url: str,
    channel: str,
    limit: int,
    before: str | None,
    after: str | None,
    timeout: float,
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    protocol: str,
    way: ClientWay,
) -> None:
    """Print the newest events that CHANNEL keeps, the oldest of them first.

    URL begins with ws:// or wss://:

    \b
      wsbus history ws://127.0.0.1:8000/ws chat.room --limit 20

    Standard error says if the channel keeps more. --json prints the position of each event, which
    --before, --after and tail --since take.

    \b
    Exit codes:
      0  done
      1  the server refused it; standard error has CODE: message
      2  no connection: wrong address or token; or wrong options
      3  the connection was lost
    """  # noqa: D301  # click wants the character
    with explained("wsbus history"):
        import anyio

        from .tail_view import show

        target = target_of(url, token, token_file, protocol, way)
        options = {
            "limit": limit,
            "before": parse_position(before, "--before"),
            "after": parse_position(after, "--after"),
            "timeout": timeout,
        }
        page = anyio.run(_read, target, channel, options)
        stream = sys.stdout
        in_color = not as_json and stream.isatty() and not os.environ.get("NO_COLOR")
        for event in page.events:
            click.echo(show(event, None, as_json=as_json, in_color=in_color), nl=False)
        if page.more:
            is_newer = after is not None
            say(
                f"there are {'newer ones: see --after' if is_newer else 'older ones: see --before'}"
            )


async def _read(target: Target, channel: str, options: dict[str, Any]) -> EventPage[msgspec.Raw]:
    from .connecting import enter

    async with AsyncExitStack() as stack:
        client = await enter(stack, target)
        page: EventPage[msgspec.Raw] = await client.history(channel, msgspec.Raw, **options)
        return page
