"""``wsbus pub``: publish. Needs the extra ``client``, or that of a broker."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click
import msgspec

from .exits import Failed, explained, say
from .options import SECONDS, Target, json_option, parse_json, target_of, targeted

if TYPE_CHECKING:
    from io import BufferedReader

    from ..client import Client
    from ..client.ways import ClientWay

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
@click.argument("channel", required=False, metavar="CHANNEL")
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
@click.option(
    "--broker",
    metavar="URL",
    help="Publish through the broker of a service, without a server: redis:// or nats://.",
)
@json_option
@click.pass_context
def pub(
    context: click.Context,
    *,
    url: str,
    channel: str | None,
    data: str | None,
    event: str,
    lines: bool,
    timeout: float,
    broker: str | None,
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    protocol: str,
    way: ClientWay,
) -> None:
    """Publish DATA on CHANNEL, and print the receipt.

    URL begins with ws:// or wss://. DATA is JSON, or - to read it from standard input:

    \b
      wsbus pub ws://127.0.0.1:8000/ws grid.abc.note '{"text": "hello"}'

    With --lines, each line of standard input is JSON. A line is published once the line before it
    has its receipt.

    With --broker there is no URL of a server, and no receipt:

    \b
      wsbus pub --broker redis://127.0.0.1:6379 grid.abc.note '{"text": "hello"}'

    With --lines, lines that come together are published together.

    \b
    Exit codes:
      0  published
      1  the server refused it; standard error has CODE: message
      2  no connection: wrong address or token, or no broker; or wrong options or data
      3  the connection was lost: it may have been published, or not
    """  # noqa: D301  # click wants the character
    if broker is not None:
        _refuse_options(context, extra=data)
        channel, data = url, channel
    if channel is None:
        raise click.MissingParameter(ctx=context, param_hint="'CHANNEL'", param_type="argument")
    if lines != (data is None or (lines and data == "-")):
        problem = "with --lines, DATA is from standard input" if lines else "DATA is missing"
        raise Failed(f"{problem}: give JSON, or - for standard input, or --lines")
    with explained("wsbus pub"):
        if broker is not None:
            _publish_through(broker, channel, data, event=event, timeout=timeout)
            return
        import anyio

        target = target_of(url, token, token_file, protocol, way)
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


# --- through a broker ------------------------------------------------------------------------

_MAX_LINE_BYTES: Final = 4 << 20


def _refuse_options(context: click.Context, *, extra: str | None) -> None:
    """Refuse options that are for a server."""
    for name, why in (
        ("token", "a broker takes a user and a password in its URL"),
        ("token_file", "a broker takes a user and a password in its URL"),
        ("protocol", "a broker has a form of its own"),
        ("way", "a broker is reached in its own way"),
        ("as_json", "a broker gives no receipt to print"),
    ):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = "json" if name == "as_json" else name.replace("_", "-")
            raise Failed(f"--{option} is not for --broker: {why}")
    if extra is not None:
        raise Failed("with --broker there is no other URL: wsbus pub --broker URL CHANNEL DATA")


def _publish_through(
    broker: str, channel: str, data: str | None, *, event: str, timeout: float
) -> None:
    """Publish without a server: one publication, or, without data, the lines of stdin."""
    from ..emitter import SyncEmitter

    with SyncEmitter(broker) as emitter:
        if data is not None:
            given = sys.stdin.buffer.read() if data == "-" else data
            emitter.publish(channel, parse_json(given, "DATA"), event=event, timeout=timeout)
            click.echo("published")
            return
        done = number = 0
        try:
            for lines in _line_groups():
                faulty = None
                with emitter.batch(timeout=timeout) as batch:
                    for line in lines:
                        number += 1
                        if not line.strip():
                            continue
                        try:
                            decoded = parse_json(line, f"line {number}")
                        except Failed as exc:  # Those before it are published.
                            faulty = exc
                            break
                        batch.publish(channel, decoded, event=event)
                done += len(batch)
                if faulty is not None:
                    raise faulty
        except Exception:
            say(f"stopped at line {number}; published before: {done}")
            raise
    click.echo(f"published: {done}")


def _line_groups() -> Iterator[list[bytes]]:
    """Yield the lines of standard input, those together that come together."""
    stdin, rest = cast("BufferedReader", sys.stdin.buffer), b""
    while chunk := stdin.read1(65_536):
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield lines
        if len(rest) > _MAX_LINE_BYTES:
            raise Failed("a line is longer than 4 MiB")
    if rest:
        yield [rest]
