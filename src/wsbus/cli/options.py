"""Options that several commands share: the address, and the token."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from ..core.errors import WsbusError
from ..core.events import Position
from .exits import Failed

if TYPE_CHECKING:
    from ..client.ways import ClientWay

__all__ = [
    "SECONDS",
    "Target",
    "broker_option",
    "json_option",
    "parse_json",
    "parse_position",
    "read_secret",
    "target_of",
    "targeted",
]

F = TypeVar("F", bound=Callable[..., Any])
SECONDS: Final = click.FloatRange(0, min_open=True)
_VARIABLE: Final = "WSBUS_TOKEN"

_URLS: Final = "redis://host:6379, nats://host:4222, or memory:"


def _broker(_context: click.Context, _parameter: click.Parameter, url: str | None) -> Any:
    """Make the broker of a URL."""
    if url is None:
        return None
    from ..brokers import broker_of

    try:
        return broker_of(url)
    except (WsbusError, ModuleNotFoundError) as exc:
        raise Failed(f"--broker: {exc}") from exc


broker_option: Final = click.option(
    "--broker", metavar="URL", callback=_broker, help=f"The broker to join: {_URLS}."
)

json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print each thing as a line of JSON."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server's address, and the token for it."""

    url: str
    token: str | Callable[[], str] | None
    """A function reads the token from its file for each connection: it may be newer by then."""
    protocol: str
    way: ClientWay = "websocket"


def targeted(command: F) -> F:
    """Add the options; the command passes their values to :func:`target_of`."""
    for decorate in (
        click.option(
            "--way",
            type=click.Choice(("websocket", "http", "either")),
            default="websocket",
            show_default=True,
            help="The transport; either: HTTP where no WebSocket gets through.",
        ),
        click.option(
            "--protocol",
            default="wsbus.v1",
            show_default=True,
            help="The protocol to speak: wsbus.v1, wsbus.v1.msgpack, or the older zigquant-v2.",
        ),
        click.option(
            "--token-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="A file with the token. It is read again for each connection.",
        ),
        click.option(
            "--token",
            help="The token. Others on this machine can see it in the list of processes: "
            f"--token-file and the variable {_VARIABLE} keep it to yourself.",
        ),
        click.argument("url"),
    ):
        command = decorate(command)
    return command


def target_of(
    url: str,
    token: str | None,
    token_file: Path | None,
    protocol: str,
    way: ClientWay = "websocket",
) -> Target:
    """Return the target that the options name; the environment variable comes last.

    Raises:
        Failed: Two tokens are given, or one is empty or cannot be read.
    """
    if token is not None and token_file is not None:
        raise Failed("give --token or --token-file, not both")
    if token_file is not None:
        read_token(token_file)  # Read it now, so that a mistake shows before anything happens.
        return Target(url=url, token=lambda: read_token(token_file), protocol=protocol, way=way)
    if token is not None and not token.strip():
        raise Failed("the token is empty")
    given = token or os.environ.get(_VARIABLE, "")
    return Target(url=url, token=given.strip() or None, protocol=protocol, way=way)


def parse_json(text: str | bytes, what: str) -> Any:
    """Decode JSON that a user wrote.

    Raises:
        Failed: It is not JSON; the text says what is wrong, and where.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        hint = """; a text has double quotes of its own: '"on"'"""
        raise Failed(f"{what} is no JSON: {exc}{hint}") from None


def parse_position(text: str | None, option: str) -> Position | None:
    """Return a position that a user wrote as ``EPOCH:OFFSET`` or ``EPOCH:OFFSET:TAG``.

    Raises:
        Failed: It is something else.
    """
    if text is None:
        return None
    epoch, _, rest = text.partition(":")
    offset, _, tag = rest.partition(":")
    if not epoch or not (offset.isascii() and offset.isdigit()):
        raise Failed(f"{option} is EPOCH:OFFSET or EPOCH:OFFSET:TAG, not {text!r}")
    return Position(epoch, int(offset), tag)


def read_token(path: Path) -> str:
    """Return the text of a file, without white space around it.

    Raises:
        Failed: It cannot be read, or is empty.
    """
    return read_secret(path).decode(errors="replace").strip()


def read_secret(path: Path) -> bytes:
    """Return the content of a file, without the newline at its end.

    Raises:
        Failed: It cannot be read, or is empty.
    """
    try:
        content = path.read_bytes().rstrip(b"\r\n")
    except OSError as exc:
        raise Failed(f"{path} cannot be read: {exc.strerror}") from exc
    if not content.strip():
        raise Failed(f"{path} is empty")
    return content
