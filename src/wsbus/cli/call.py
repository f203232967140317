"""``wsbus call``: call a command. Needs the extra ``client``."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from .escaping import compact, indented
from .exits import Failed, explained
from .options import SECONDS, Target, json_option, parse_json, target_of, targeted

if TYPE_CHECKING:
    from ..client.ways import ClientWay

__all__ = ["call"]


@click.command(short_help="Call a command, and print its result.")
@targeted
@click.argument("action")
@click.argument("params", default="{}")
@click.option(
    "--timeout",
    type=SECONDS,
    default=30.0,
    show_default=True,
    help="Seconds to wait for the answer.",
)
@json_option
def call(
    *,
    url: str,
    action: str,
    params: str,
    timeout: float,
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    protocol: str,
    way: ClientWay,
) -> None:
    """Call the command ACTION, and print its result as JSON.

    URL begins with ws:// or wss://. PARAMS is a JSON object, or - to read it from standard input:

    \b
      wsbus call ws://127.0.0.1:8000/ws add '{"a": 2, "b": 3}'

    \b
    Exit codes:
      0  done
      1  the server refused it, or it failed; standard error has CODE: message
      2  no connection: wrong address or token; or wrong options or PARAMS
      3  the connection was lost: it may have been carried out, or not
    """  # noqa: D301  # click wants the character
    with explained("wsbus call"):
        import anyio

        target = target_of(url, token, token_file, protocol, way)
        given = sys.stdin.buffer.read() if params == "-" else params
        arguments = parse_json(given, "PARAMS")
        if not isinstance(arguments, dict):
            raise Failed("""PARAMS is no object; it should be like '{"a": 1}'""")
        result = anyio.run(_call, target, action, arguments, timeout)
        click.echo(compact(msgspec.json.encode(result)) if as_json else indented(result))


async def _call(target: Target, action: str, params: object, timeout: float) -> Any:  # noqa: ASYNC109  # the client's own
    from .connecting import enter

    async with AsyncExitStack() as stack:
        client = await enter(stack, target)
        return await client.command(action, params, timeout=timeout)
