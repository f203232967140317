"""How a command ends: exit codes, and the sentence on stderr that goes with each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final

import click

from ..core.errors import CommandError, ConnectionLost, WsbusError
from .escaping import printable

__all__ = ["Exit", "Failed", "MissingExtra", "say", "told"]

_PACKAGES: Final = {"websockets": "client", "jwt": "jwt"}
"""What comes with which extra."""


class Exit(IntEnum):
    """Exit codes of the commands."""

    DONE = 0
    REFUSED = 1
    """The server refused it, or it failed there; a token would be refused."""
    UNREACHABLE = 2
    """Nothing was done: there is no talking to the server, or the command line makes no sense."""
    LOST = 3
    """The connection ended: what was not answered may have been carried out or not."""
    TOO_FEW = 4
    """The time was up before there were as many events as wanted."""
    INTERRUPTED = 130
    """Ctrl-C, where that is not how it ends by its nature."""


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
    """A command needs what is not installed.

    Args:
        what: The command.
        extra: What to install.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs more: pip install 'wsbus[{extra}]'")


def say(text: str) -> None:
    """Tell progress: a line on stderr."""
    click.echo(printable(text), err=True)


@contextmanager
def told(what: str, *, interrupted: Exit = Exit.INTERRUPTED) -> Iterator[None]:
    """Turn every error that is foreseen into a sentence and an exit code.

    Args:
        what: The command's name.
        interrupted: What Ctrl-C means.
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
    except ConnectionLost as exc:
        raise Failed(str(exc), Exit.LOST) from exc
    except WsbusError as exc:
        raise Failed(str(exc)) from exc
