"""``wsbus call``: give a command. Needs the extra ``client``."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
import msgspec

from .options import SECONDS, Target, json_option, parse_json, target_of, targeted
from .outcomes import Failed, told
from .text import compact, indented

__all__ = ["call"]


@click.command()
@targeted
@click.argument("action")
@click.argument("params", default="{}")
@click.option(
    "--timeout", type=SECONDS, default=30.0, show_default=True, help="Seconds for the answer."
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
) -> None:
    """Give the command ACTION, and print its result as JSON.

    URL begins with ws:// or wss://. PARAMS is an object of JSON, or - for standard input.

    A refusal goes to stderr as CODE: message, with exit code 1. Exit code 2: there is no talking
    to the server; 3: the connection was lost, and the command may have been carried out or not.
    """
    with told("wsbus call"):
        import anyio

        target = target_of(url, token, token_file, protocol)
        given = sys.stdin.buffer.read() if params == "-" else params
        arguments = parse_json(given, "PARAMS")
        if not isinstance(arguments, dict):
            raise Failed("""PARAMS is no object; it should be like '{"a": 1}'""")
        result = anyio.run(_call, target, action, arguments, timeout)
        click.echo(compact(msgspec.json.encode(result)) if as_json else indented(result))


async def _call(target: Target, action: str, params: object, timeout: float) -> Any:  # noqa: ASYNC109  # the client's own
    from .reaching import enter

    async with AsyncExitStack() as stack:
        client = await enter(stack, target)
        return await client.command(action, params, timeout=timeout)
