"""``wsbus demo``: serve the demo, or check that it works. Needs the extra ``demo``."""

from __future__ import annotations

import asyncio
import errno

import click
from rich.console import Console
from rich.text import Text

from .exits import MissingExtra

__all__ = ["demo"]


@click.command()
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
    help="Start on a free port, talk to it as a client does, and stop.",
)
def demo(host: str, port: int, *, only_check: bool) -> None:
    """Serve live channels, and a page to try them."""
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
