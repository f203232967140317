"""``wsbus schema``: print what a bus declares, for other programs."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click
import msgspec

from ..bus import Bus
from ..schema import asyncapi, json_schema, typescript
from .exits import Failed, explained

__all__ = ["schema"]


@click.command(short_help="Print the channels and commands of a bus, with their types.")
@click.argument("target", metavar="MODULE:BUS")
@click.option(
    "--format",
    "form",
    type=click.Choice(["asyncapi", "jsonschema", "typescript"]),
    default="asyncapi",
    show_default=True,
    help="AsyncAPI 3, JSON Schema (2020-12), or types for wsbus.js.",
)
@click.option("--title", help="The name of the application, for AsyncAPI; by default the module's.")
@click.option(
    "--app-version", default="1.0.0", show_default=True, help="Its version, for AsyncAPI."
)
@click.option(
    "--module",
    default="./wsbus.js",
    show_default=True,
    help="Where the TypeScript types are imported from.",
)
def schema(*, target: str, form: str, title: str | None, app_version: str, module: str) -> None:
    """Print the typed channels and the commands of a bus.

    MODULE is imported from the current directory, or from what is installed. BUS is a bus, or a
    function that returns one. Nothing is started:

    \b
      wsbus schema app.main:bus > asyncapi.json
      wsbus schema --format typescript app.main:bus > bus.ts

    \b
    Exit codes:
      0  done
      2  there is no such bus, or a type has no schema
    """  # noqa: D301  # click wants the character
    with explained("wsbus schema"):
        bus = _bus(target)
        if form == "typescript":
            click.echo(typescript(bus, module=module), nl=False)
            return
        document: Any = json_schema(bus)
        if form == "asyncapi":
            name = title or target.partition(":")[0]
            document = asyncapi(bus, title=name, version=app_version)
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def _bus(target: str) -> Bus:
    name, colon, attribute = target.partition(":")
    if not (name and colon and attribute):
        raise Failed(f"write MODULE:BUS, as in app.main:bus, not {target}")
    sys.path.insert(0, "")
    try:
        found: Any = import_module(name)
    except ModuleNotFoundError as exc:
        raise Failed(f"there is no module {exc.name}") from None
    except Exception as exc:
        raise Failed(f"{name} cannot be imported: {type(exc).__name__}: {exc}") from exc
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise Failed(f"{name} has no {attribute}")
        found = getattr(found, part)
    if not isinstance(found, Bus) and callable(found):
        try:
            found = found()
        except TypeError as exc:
            raise Failed(f"{target} cannot be called without arguments: {exc}") from None
    if not isinstance(found, Bus):
        raise Failed(f"{target} is a {type(found).__name__}, and no Bus")
    return found
