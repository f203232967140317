"""``wsbus pub``: publish. Needs the extra ``client``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from .exits import Failed, explained, say
from .options import SECONDS, Target, json_option, parse_json, target_of, targeted

if TYPE_CHECKING:
    from ..client import Client

__all__ = ["pub"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Post:
    """The options of one publication."""

    channel: str
    event: str
    timeout: float
    as_json: bool

    async def publish(self, client: Client, data: Any) -> None:
        """Publish, and print the receipt."""
        receipt = await client.publish(self.channel, data, event=self.event, timeout=self.timeout)
        if self.as_json:
            click.echo(msgspec.json.encode(receipt))
        else:
            matched, accepted = receipt.local_matched, receipt.local_accepted
            noun = "receiver" if matched == 1 else "receivers"
            click.echo(f"accepted for {accepted} of {matched} {noun}")


@click.command(short_help="Publish on a channel.")
@targeted
@click.argument("channel")
@click.argument("data", required=False)
@click.option(
    "--event",
    default="message",
    show_default=True,
    help="The event: a word that says what happened.",
)
@click.option("--lines", is_flag=True, help="Publish each line of standard input as it comes.")
@click.option(
    "--timeout",
    type=SECONDS,
    default=30.0,
    show_default=True,
    help="Seconds to wait for a receipt.",
)
@json_option
def pub(
    *,
    url: str,
    channel: str,
    data: str | None,
    event: str,
    lines: bool,
    timeout: float,
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    protocol: str,
) -> None:
    """Publish DATA on CHANNEL, and print the receipt.

    URL begins with ws:// or wss://. DATA is JSON, or - to read it from standard input:

    \b
      wsbus pub ws://127.0.0.1:8000/ws grid.abc.note '{"text": "hello"}'

    With --lines, each line of standard input is JSON. A line is published once the line before it
    has its receipt.

    \b
    Exit codes:
      0  published
      1  the server refused it; standard error has CODE: message
      2  no connection: wrong address or token; or wrong options or data
      3  the connection was lost: it may have been published, or not
    """  # noqa: D301  # click wants the character
    if lines != (data is None or (lines and data == "-")):
        problem = "with --lines, DATA is from standard input" if lines else "DATA is missing"
        raise Failed(f"{problem}: give JSON, or - for standard input, or --lines")
    with explained("wsbus pub"):
        import anyio

        target = target_of(url, token, token_file, protocol)
        post = _Post(channel=channel, event=event, timeout=timeout, as_json=as_json)
        if lines:
            anyio.run(_publish_lines, target, post)
            return
        assert data is not None
        given = sys.stdin.buffer.read() if data == "-" else data
        anyio.run(_publish, target, post, parse_json(given, "DATA"))


async def _publish(target: Target, post: _Post, data: Any) -> None:
    from .connecting import enter

    async with AsyncExitStack() as stack:
        client = await enter(stack, target)
        await post.publish(client, data)


async def _publish_lines(target: Target, post: _Post) -> None:
    from ..client import Retry
    from .connecting import enter, tell

    done = number = 0
    async with AsyncExitStack() as stack:
        client = await enter(stack, target, retry=Retry(), on_change=tell)
        try:
            async for number, line in _numbered():
                await post.publish(client, parse_json(line, f"line {number}"))
                done += 1
        except Exception:
            say(f"stopped at line {number}; published before: {done}")
            raise


async def _numbered() -> AsyncIterator[tuple[int, bytes]]:
    from .stdio import read_lines

    number = 0
    try:
        async for line in read_lines(sys.stdin.buffer):
            number += 1
            if line.strip():
                yield number, line
    except ValueError as exc:
        raise Failed(f"after line {number}: {exc}") from exc
