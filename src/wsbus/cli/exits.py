"""The ends of commands: exit codes, and a sentence on stderr for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final

import click

from ..core.errors import (
    BrokerUnavailable,
    CommandError,
    ConnectionLost,
    ErrorCode,
    PositionLost,
    WsbusError,
)
from .escaping import printable

__all__ = ["Exit", "Failed", "MissingExtra", "explained", "say"]

_PACKAGES: Final = {
    "websockets": "client",
    "httpx": "http",
    "jwt": "jwt",
    "redis": "redis",
    "nats": "nats",
}
"""The extra that brings a package."""


class Exit(IntEnum):
    """Exit codes of the commands."""

    DONE = 0
    REFUSED = 1
    """The server refused it, or it failed there; or the server would refuse a token."""
    UNREACHABLE = 2
    """Nothing was done: the server cannot be reached, or the command line is wrong."""
    LOST = 3
    """The connection was lost: a request without an answer may have been carried out or not."""
    TOO_FEW = 4
    """The time was up before the wanted number of events had come."""
    INTERRUPTED = 130
    """Ctrl-C, where the command has an end of its own."""


class Failed(click.ClickException):
    """The command ends with a sentence.

    Args:
        message: What is wrong, for people.
        code: The exit code.
    """

    def __init__(self, message: str, code: Exit = Exit.UNREACHABLE) -> None:
        super().__init__(printable(message))
        self.exit_code: int = int(code)  # type: ignore[misc]  # click means one for each class


class MissingExtra(Failed):
    """A command needs an extra that is not installed.

    Args:
        what: The command.
        extra: The extra's name.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs more: pip install 'wsbus[{extra}]'")


def say(text: str) -> None:
    """Report progress in a line on stderr."""
    click.echo(printable(text), err=True)


@contextmanager
def explained(what: str, *, interrupted: Exit = Exit.INTERRUPTED) -> Iterator[None]:
    """Turn expected errors into a sentence and an exit code.

    Args:
        what: The command's name.
        interrupted: The exit code for Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise click.exceptions.Exit(interrupted) from None
    except ModuleNotFoundError as exc:
        extra = _PACKAGES.get((exc.name or "").split(".")[0])
        if extra is None:
            raise
        raise MissingExtra(what, extra) from exc
    except CommandError as exc:
        say(str(exc))  # The code first, for programs.
        raise click.exceptions.Exit(Exit.REFUSED) from exc
    except PositionLost as exc:
        say(f"{ErrorCode.POSITION_LOST}: {exc}")
        raise click.exceptions.Exit(Exit.REFUSED) from exc
    except ConnectionLost as exc:
        raise Failed(str(exc), Exit.LOST) from exc
    except BrokerUnavailable as exc:
        raise Failed(str(exc), Exit.LOST if exc.may_have_arrived else Exit.UNREACHABLE) from exc
    except WsbusError as exc:
        raise Failed(str(exc)) from exc
