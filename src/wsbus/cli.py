"""The command line: ``wsbus demo``, ``wsbus bench`` and ``wsbus console``.

Needs the extra ``cli``; the demo needs ``demo``, and the benchmark what it is to measure.
"""

from __future__ import annotations

import asyncio
import errno

import click
from rich.console import Console
from rich.text import Text

from wsbus import __version__

__all__ = ["wsbus"]


class _MissingExtra(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """Knows what is imported only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "bench", "console"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "bench":
            from .bench.commands import bench

            return bench
        if cmd_name == "console":
            from .console.command import console

            return console
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
        from .adapters.uvicorn import serve
        from .demo import app, check
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.split(".")[0] not in {"starlette", "uvicorn", "websockets"}:
            raise
        raise _MissingExtra("the demo needs more: pip install 'wsbus[demo]'") from exc
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
