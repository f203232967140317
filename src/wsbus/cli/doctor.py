"""``wsbus doctor``: look at the installation, at a broker, and at a server."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

import anyio
import click

from ..broker import Broker
from .doctor_broker import look_at_broker
from .doctor_server import look_at_server
from .doctor_status import look_at_status
from .exits import Exit, explained
from .findings import Findings
from .options import broker_option, target_of

__all__ = ["doctor"]

_PACKAGES: Final = {
    "anyio": None,
    "msgspec": None,
    "websockets": "client",
    "uvicorn": "starlette",
    "starlette": "starlette",
    "fastapi": "fastapi",
    "aiohttp": "aiohttp",
    "pyjwt": "jwt",
    "redis": "redis",
    "nats-py": "nats",
    "prometheus-client": "prometheus",
}
"""Packages that wsbus uses, and the extra that brings each; None: always there."""

_SERVERS: Final = {
    "uvicorn": "with --ws wsbus.adapters.uvicorn:WebSocketProtocol it is quickest",
    "gunicorn": "start it with -k wsbus.adapters.gunicorn.UvicornWorker",
    "hypercorn": "",
    "granian": "",
    "daphne": None,
    "aiohttp": "",
    "websockets": "",
}
"""Servers, and how to run them; None: it keeps all that a slow client does not read."""

_FILES: Final = 4096
"""Open files that a server of some thousand connections needs."""
_FIRST_UVICORN: Final = (0, 52, 1)
"""The first uvicorn with backpressure."""


@click.command(short_help="Look at the installation, a broker and a server.")
@broker_option
@click.option(
    "--status", metavar="URL", help="The routes of status of a process: http://127.0.0.1:8000/-."
)
@click.argument("url", required=False)
@click.option("--token", help="The token for the server; other users can see command lines.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file with the token for the server.",
)
def doctor(
    *,
    broker: Broker | None,
    status: str | None,
    url: str | None,
    token: str | None,
    token_file: Path | None,
) -> None:
    """Look at the installation, and say what should be different.

    With --broker it dials the broker, says which server it is and which rights are missing,
    follows and publishes as a bus does, and lists the nodes that are there. With --status it asks
    a process for its state: its link to the broker, its lag, and what it has lost. With URL, which
    begins with ws:// or wss://, it connects to a server and compares the clocks:

    \b
      wsbus doctor --broker redis://127.0.0.1:6379
      wsbus doctor --status http://127.0.0.1:8000/- ws://127.0.0.1:8000/ws

    \b
    Each line begins with ok, warn or fail. Exit codes:
      0  nothing has failed
      1  something has failed: the line says what to do
      2  wrong options
    """  # noqa: D301  # click wants the character
    with explained("wsbus doctor"):
        findings = Findings()
        _look_at_installation(findings)
        _look_at_servers(findings)
        _look_at_limits(findings)
        if broker is not None:
            anyio.run(look_at_broker, findings, broker)
        if status is not None:
            look_at_status(findings, status)
        if url is not None:
            target = target_of(url, token, token_file, "wsbus.v1")
            look_at_server(findings, target)
        if findings.has_failed:
            raise click.exceptions.Exit(Exit.REFUSED)


# --- here -------------------------------------------------------------------------------------


def _look_at_installation(findings: Findings) -> None:
    findings.tell("ok", "python", f"{platform.python_version()} on {platform.system()}")
    findings.tell("ok", "wsbus", _version("wsbus") or "of unknown version")
    least = dict(_least_versions())
    for name, extra in _PACKAGES.items():
        found = _version(name)
        if found is None:
            text = f"is not installed: pip install 'wsbus[{extra}]' brings it, if you need it"
            findings.tell("ok", name, text)
        elif _numbers(found) < _numbers(least.get(name, "0")):
            cure = f"take {least[name]} or newer"
            findings.tell("fail", name, f"{found} is too old", cure)
        else:
            findings.tell("ok", name, found)


def _look_at_servers(findings: Findings) -> None:
    """Say of each server that is installed whether it lets a bus wait for slow clients."""
    for name, advice in _SERVERS.items():
        found, what = _version(name), f"server {name}"
        if found is None:
            continue
        if advice is None or (name == "uvicorn" and _numbers(found) < _FIRST_UVICORN):
            text = f"{found} has no backpressure: it keeps in memory what slow clients do not read"
            cure = "take 0.52.1 or newer" if advice else "take another server for strangers"
            findings.tell("warn", what, text, cure)
        else:
            text = f"{found} has backpressure: a bus waits for slow clients, within its bounds"
            findings.tell("ok", what, text, advice)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _least_versions() -> Iterator[tuple[str, str]]:
    """Yield packages with the oldest version that wsbus takes."""
    try:
        lines = requires("wsbus") or []
    except PackageNotFoundError:  # Packed into an executable.
        return
    for line in lines:
        found = re.match(r"([\w-]+)[^;]*?>=\s*([\d.]+)", line)
        if found:
            yield found[1], found[2]


def _numbers(text: str) -> tuple[int, ...]:
    found = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
    return tuple(found)


def _look_at_limits(findings: Findings) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = "no limit" if soft == resource.RLIM_INFINITY else f"{soft}"
    if 0 <= soft < _FILES:
        cure = "each connection is one: `ulimit -n 65536`, or LimitNOFILE=65536 in systemd"
        findings.tell("warn", "open files", text, cure)
    else:
        findings.tell("ok", "open files", text)
