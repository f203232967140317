"""``wsbus presence``: list the connections on a channel. Needs the extra ``client``."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from .escaping import compact, printable
from .exits import explained
from .options import SECONDS, Target, json_option, target_of, targeted

if TYPE_CHECKING:
    from ..client.ways import ClientWay
    from ..core.presence import Roster

__all__ = ["presence"]


@click.command(short_help="List the connections on a channel.")
@targeted
@click.argument("channel")
@click.option(
    "--timeout",
    type=SECONDS,
    default=30.0,
    show_default=True,
    help="Seconds to wait for the answer.",
)
@json_option
def presence(
    *,
    url: str,
    channel: str,
    timeout: float,
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    protocol: str,
    way: ClientWay,
) -> None:
    """List the connections that are subscribed to exactly CHANNEL.

    URL begins with ws:// or wss://:

    \b
      wsbus presence ws://127.0.0.1:8000/ws chat.lobby

    \b
    Exit codes:
      0  done
      1  the server refused it; standard error has CODE: message
      2  no connection: wrong address or token; or wrong options
      3  the connection was lost before the answer
    """  # noqa: D301  # click wants the character
    with explained("wsbus presence"):
        import anyio

        target = target_of(url, token, token_file, protocol, way)
        roster = anyio.run(_ask, target, channel, timeout)
        if as_json:
            members = [msgspec.structs.asdict(each) for each in roster.members]
            click.echo(compact(msgspec.json.encode({"count": roster.count, "members": members})))
            return
        for member in roster.members:
            click.echo(f"{printable(member.id)}  {printable(member.subject or '-')}")
        hidden = roster.count - len(roster.members)
        if hidden:
            click.echo(f"and {hidden} more")


async def _ask(target: Target, channel: str, timeout: float) -> Roster:  # noqa: ASYNC109  # the client's own
    from .connecting import enter

    async with AsyncExitStack() as stack:
        client = await enter(stack, target)
        return await client.presence(channel, timeout=timeout)
