"""``wsbus console``: find an application's console, or serve its page. Needs the extra ``cli``."""

from __future__ import annotations

import errno
import webbrowser

import click

from ..console.remote import ConsoleNotFound, PageServer, find
from .escaping import printable

__all__ = ["console"]


@click.command()
@click.argument("url")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Port of this machine for the page, if URL is an endpoint's.",
)
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser, too.")
def console(url: str, port: int, *, opens: bool) -> None:
    """Find the operator's console of a running application.

    With the URL of an application (http:// or https://), print the address of its console.

    With the URL of a console's endpoint (ws:// or wss://), whose server has no routes for pages,
    serve the page on this machine until Ctrl-C, and print its address. The application must allow
    that address: Console(..., origins=["http://127.0.0.1:8765"]).
    """
    try:
        if url.startswith(("ws://", "wss://")):
            _serve(url, port, opens=opens)
        else:
            _tell(find(url), opens=opens)
    except ConsoleNotFound as exc:
        raise click.ClickException(printable(f"no console found: {exc}")) from exc


def _tell(address: str, *, opens: bool) -> None:
    click.echo(address)
    if opens and not webbrowser.open(address):
        click.echo("no browser could be opened", err=True)


def _serve(endpoint: str, port: int, *, opens: bool) -> None:
    try:
        server = PageServer(endpoint, port)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        message = f"port {port} is taken; choose another with --port, or --port 0"
        raise click.ClickException(message) from exc
    with server:
        click.echo(
            f"The application must allow the origin {server.origin}; Ctrl-C stops.", err=True
        )
        _tell(f"{server.origin}/", opens=opens)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo(err=True)
