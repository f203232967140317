"""``wsbus tail``: print events as they come. Needs the extra ``client``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .exits import Exit, explained
from .options import SECONDS, json_option, parse_position, target_of, targeted

if TYPE_CHECKING:
    from ..client.ways import ClientWay

__all__ = ["tail"]


@click.command(short_help="Print events as they come.")
@targeted
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option("--count", type=click.IntRange(1), help="End after this many events.")
@click.option(
    "--timeout",
    type=SECONDS,
    help="End after this many seconds.",
)
@click.option(
    "--since",
    metavar="EPOCH:OFFSET[:TAG]",
    help="Begin after this position, on channels with history.",
)
@click.option("--no-reconnect", is_flag=True, help="End when the connection is lost.")
@json_option
def tail(
    *,
    url: str,
    patterns: tuple[str, ...],
    count: int | None,
    timeout: float | None,
    since: str | None,
    no_reconnect: bool,
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    protocol: str,
    way: ClientWay,
) -> None:
    """Print the events that match a PATTERN, as they come, until Ctrl-C.

    URL begins with ws:// or wss://. Put patterns in quotes, or the shell takes * for file names:

    \b
      wsbus tail ws://127.0.0.1:8000/ws 'grid.*.status'

    Events go to standard output. Standard error says when the connection is lost, when it is there
    again, and where events are missing. --json prints the position of an event, for --since.

    \b
    Exit codes:
      0  Ctrl-C, or the end that --count or --timeout asks for
      1  the server refused a pattern, or does not keep what --since asks for; standard error has
         CODE: message
      2  no connection: wrong address or token; or wrong options
      3  the connection was lost for good
      4  fewer events than --count came within --timeout
    """  # noqa: D301  # click wants the character
    with explained("wsbus tail", interrupted=Exit.DONE):
        import anyio

        from .tail_view import TailOptions, follow

        stream = sys.stdout.buffer
        wanted = TailOptions(
            target=target_of(url, token, token_file, protocol, way),
            patterns=tuple(dict.fromkeys(patterns)),
            count=count,
            timeout=timeout,
            since=parse_position(since, "--since"),
            reconnects=not no_reconnect,
            as_json=as_json,
            in_color=not as_json and stream.isatty() and not os.environ.get("NO_COLOR"),
        )
        try:
            anyio.run(follow, wanted, stream)
        except BrokenPipeError:
            # Python flushes stdout at exit, and would report an error then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
