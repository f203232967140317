"""The command line: ``wsbus demo``, ``bench``, ``console``, ``tail``, ``pub``, ``call``, ``token``.

Needs the extra ``cli``; the demo needs ``demo``, the benchmark what it is to measure, ``tail``,
``pub`` and ``call`` need ``client``, and ``token`` needs ``jwt``.
"""

from __future__ import annotations

import asyncio
import errno
from importlib import import_module
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from wsbus import __version__

from .exits import MissingExtra

__all__ = ["wsbus"]


_MODULES: Final = {
    "bench": ".bench",
    "call": ".call",
    "console": ".console",
    "pub": ".pub",
    "tail": ".tail",
    "token": ".token",
}
"""Where commands are that have modules of their own."""


class _Commands(click.Group):
    """Knows what is imported only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names, those that are not imported yet among them."""
        return sorted([*super().list_commands(ctx), *_MODULES])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one, importing it."""
        if cmd_name in _MODULES:
            module = import_module(_MODULES[cmd_name], __name__)
            command: click.Command = getattr(module, cmd_name)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def wsbus() -> None:
    """A WebSocket message bus that a Python backend embeds."""


@wsbus.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--check",
    "only_check",
    is_flag=True,
    help="Start on a free port, talk to it as a client would, stop, and tell.",
)
def demo(host: str, port: int, *, only_check: bool) -> None:
    """Serve live channels, and a page to play with them."""
    try:
        from ..adapters.uvicorn import serve
        from ..demo import app, check
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.split(".")[0] not in {"starlette", "uvicorn", "websockets"}:
            raise
        raise MissingExtra("the demo", "demo") from exc
    console = Console(highlight=False, soft_wrap=True)
    try:
        if only_check:
            console.print(f"wsbus demo --check: {check.run(host)}", markup=False)
            return

        def tell(address: str) -> None:
            url = Text(f"http://{address}", style="bold")
            console.print("wsbus demo:", url, "(Ctrl-C stops)")

        asyncio.run(serve(app.app, app.endpoint, host=host, port=port, ready=tell))
    except check.CheckFailed as exc:
        raise click.ClickException(f"the check failed: {exc}") from exc
    except OSError as exc:
        raise click.ClickException(_cannot_listen(exc, host, port)) from exc


def _cannot_listen(exc: OSError, host: str, port: int) -> str:
    if exc.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken; choose another with --port, or --port 0"
    return f"cannot listen on {host}, port {port}: {exc.strerror or exc}"
