"""The command line ``wsbus``; a module for each command.

Needs the extra ``cli``; ``demo`` needs ``demo``, ``bench`` the server that it measures, ``tail``,
``history``, ``pub`` and ``call`` need ``client``, ``doctor`` too for a server, and ``token`` needs
``jwt``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

from wsbus import __version__

__all__ = ["wsbus"]

_COMMANDS: Final = (
    "bench",
    "call",
    "console",
    "demo",
    "doctor",
    "history",
    "presence",
    "pub",
    "schema",
    "tail",
    "token",
)


class _Commands(click.Group):
    """Imports the module of a command when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing its module."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f".{cmd_name}", __name__), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def wsbus() -> None:
    """A WebSocket message bus that a Python backend embeds."""
