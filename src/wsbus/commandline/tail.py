"""``wsbus tail``: print events as they come. Needs the extra ``client``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from .options import SECONDS, json_option, target_of, targeted
from .outcomes import Exit, told

__all__ = ["tail"]


@click.command()
@targeted
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option("--count", type=click.IntRange(1), help="End after so many events.")
@click.option(
    "--timeout",
    type=SECONDS,
    help="End after so many seconds; with --count, exit code 4 if there were fewer events by then.",
)
@click.option("--no-reconnect", is_flag=True, help="End when the connection is lost.")
@json_option
def tail(
    *,
    url: str,
    patterns: tuple[str, ...],
    count: int | None,
    timeout: float | None,
    no_reconnect: bool,
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    protocol: str,
) -> None:
    """Print the events that match a PATTERN, as they come, until Ctrl-C.

    URL begins with ws:// or wss://. Quote patterns: 'grid.*.status'.

    Everything else goes to stderr: the connection is lost, or back, or events are missing. Exit
    code 1: the server refused a pattern (CODE: message, on stderr); 2: there is no talking to the
    server; 3: the connection was lost for good.
    """
    with told("wsbus tail", interrupted=Exit.DONE):
        import anyio

        from .following import Tail, follow

        stream = sys.stdout.buffer
        wanted = Tail(
            target=target_of(url, token, token_file, protocol),
            patterns=tuple(dict.fromkeys(patterns)),
            count=count,
            timeout=timeout,
            reconnects=not no_reconnect,
            as_json=as_json,
            in_color=not as_json and stream.isatty() and not os.environ.get("NO_COLOR"),
        )
        try:
            anyio.run(follow, wanted, stream)
        except BrokenPipeError:
            # Python flushes at the end, and would complain then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
