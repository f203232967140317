"""``wsbus doctor``: look at the installation, at a broker, and at a server."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from statistics import median
from typing import Any, Final

import anyio
import click
import msgspec

from ..broker import Broker, BrokerReport, InspectedBroker, Link
from ..core.envelope import Beacon, Turn, encode_item, open_envelope, read_items
from ..core.errors import WsbusError
from ..core.feeds import ALL_NODES, Feed
from ..server.services import new_id
from .escaping import printable
from .exits import Exit, explained
from .options import Target, broker_option, target_of

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
}
"""Packages that wsbus uses, and the extra that brings each; None: always there."""

_FILES: Final = 4096
"""Open files that a server of some thousand connections needs."""
_SLOW_SECONDS: Final = 0.02
"""A round trip to a broker that is slower costs more than it should within one data centre."""
_CLOCK_SECONDS: Final = 1.0
"""A clock that differs by more spoils the expiry of tokens, and timestamps."""
_BEACONS: Final = 20
_RIGHTS: Final = {
    "+publish": "to publish",
    "+subscribe": "to follow channels",
    "+unsubscribe": "to stop following channels",
    "+multi": "to publish a turn as one transaction",
    "+exec": "to publish a turn as one transaction",
    "+del": "to check with each turn that the server is a primary",
    "+client|setname": "to give its connections a name",
    "+evalsha": "to run the scripts of the store",
    "+script|load": "to load the scripts of the store",
    "+time": "to read the server's clock",
    "+pubsub|numsub": "to ask which channels other nodes follow",
}
"""Rights of Redis that do not explain themselves."""
_PATIENCE: Final = 5.0

_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


class _Report:
    """Prints each finding as a line, and remembers whether one was bad."""

    def __init__(self) -> None:
        self.has_failed = False

    def tell(self, verdict: str, what: str, text: str, cure: str = "") -> None:
        self.has_failed = self.has_failed or verdict == "fail"
        line = f"{what.removesuffix(':')}: {text}" + (f"; {cure}" if cure else "")
        click.echo(click.style(f"{verdict:<5}", fg=_COLOURS[verdict]) + printable(line))


@click.command(short_help="Look at the installation, a broker and a server.")
@broker_option
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
    url: str | None,
    token: str | None,
    token_file: Path | None,
) -> None:
    """Look at the installation, and say what should be different.

    With --broker it dials the broker, says which server it is and which rights are missing, and
    follows and publishes as a bus does. With URL, which begins
    with ws:// or wss://, it connects to a server and compares the clocks:

    \b
      wsbus doctor --broker redis://127.0.0.1:6379 ws://127.0.0.1:8000/ws

    \b
    Each line begins with ok, warn or fail. Exit codes:
      0  nothing has failed
      1  something has failed: the line says what to do
      2  wrong options
    """  # noqa: D301  # click wants the character
    with explained("wsbus doctor"):
        report = _Report()
        _look_at_installation(report)
        _look_at_limits(report)
        if broker is not None:
            anyio.run(_look_at_broker, report, broker)
        if url is not None:
            target = target_of(url, token, token_file, "wsbus.v1")
            _look_at_server(report, target)
        if report.has_failed:
            raise click.exceptions.Exit(Exit.REFUSED)


# --- here -------------------------------------------------------------------------------------


def _look_at_installation(report: _Report) -> None:
    report.tell("ok", "python", f"{platform.python_version()} on {platform.system()}")
    report.tell("ok", "wsbus", _version("wsbus") or "of unknown version")
    least = dict(_least_versions())
    for name, extra in _PACKAGES.items():
        found = _version(name)
        if found is None:
            text = f"is not installed: pip install 'wsbus[{extra}]' brings it, if you need it"
            report.tell("ok", name, text)
        elif _numbers(found) < _numbers(least.get(name, "0")):
            cure = f"take {least[name]} or newer"
            report.tell("fail", name, f"{found} is too old", cure)
        else:
            report.tell("ok", name, found)


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


def _look_at_limits(report: _Report) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = "no limit" if soft == resource.RLIM_INFINITY else f"{soft}"
    if 0 <= soft < _FILES:
        cure = "each connection is one: `ulimit -n 65536`, or LimitNOFILE=65536 in systemd"
        report.tell("warn", "open files", text, cure)
    else:
        report.tell("ok", "open files", text)


# --- the broker -------------------------------------------------------------------------------


class _Visit:
    """One link to a broker, and what comes back by it."""

    def __init__(self) -> None:
        self.node: Final = f"doctor-{new_id()}"
        self.number = 0
        self._echo = anyio.Event()

    def receive(self, message: bytes) -> None:
        envelope = open_envelope(message)
        if envelope is None or envelope.node != self.node:
            return
        items, _ = read_items(envelope)
        if any(isinstance(item, Beacon) and item.number == self.number for item in items):
            self._echo.set()

    async def beacon(self, link: Link) -> float:
        """Send a beacon of no node; return the seconds until it is back."""
        self.number += 1
        self._echo = anyio.Event()
        turn = Turn(self.node, self.number, time.time())
        told = Beacon(self.number, platform.node(), os.getpid(), 0, time.time(), is_leaving=True)
        turn.add(ALL_NODES, encode_item(told))
        began = time.perf_counter()
        await link.publish(turn)
        with anyio.fail_after(_PATIENCE):
            await self._echo.wait()
        return time.perf_counter() - began


async def _look_at_broker(report: _Report, broker: Broker) -> None:
    visit, what = _Visit(), broker.address
    step = "dial it"
    try:
        if isinstance(broker, InspectedBroker):
            _tell_of_server(report, what, await broker.inspect())
        async with broker.connect(visit.receive) as link:
            report.tell("ok", what, "it can be dialled")
            step = "follow"
            await _timed(report, what, "follow all nodes", partial(link.follow, [ALL_NODES]))
            feed = Feed(f"=wsbus.doctor.{visit.node}")
            await _timed(report, what, "follow a channel", partial(link.follow, [feed]))
            prefix = Feed(f"~wsbus.doctor.{visit.node}.")
            await _timed(report, what, "follow a wildcard", partial(link.follow, [prefix]))
            step = "publish, and get it back"
            taken = [await visit.beacon(link) for _ in range(_BEACONS)]
            middle, longest = median(taken), max(taken)
            report.tell(
                "ok" if middle <= _SLOW_SECONDS else "warn",
                what,
                f"round trip {middle * 1000:.2f} ms (median of {_BEACONS}), "
                f"at most {longest * 1000:.2f} ms",
                "" if middle <= _SLOW_SECONDS else "put the broker nearer to its nodes",
            )
            step = "unfollow"
            await _timed(report, what, "unfollow", partial(link.unfollow, [feed, prefix]))
    except TimeoutError:
        cure = "its user must be permitted to publish and to subscribe; see docs/how-to/brokers.md"
        report.tell("fail", what, f"what was sent did not come back within {_PATIENCE:g} s", cure)
    except (WsbusError, OSError) as exc:
        cure = "compare address, user, password and permissions with docs/how-to/brokers.md"
        report.tell("fail", what, f"cannot {step}: {exc}", cure)


def _tell_of_server(report: _Report, what: str, found: BrokerReport) -> None:
    report.tell("ok", what, f"the server is {found.server}")
    cure = "grant it with ACL SETUSER; docs/how-to/brokers.md has the whole line"
    for right in found.missing:
        report.tell("fail", what, f"its user lacks {right}: {_right(right)}", cure)
    for right in found.missing_for_history:
        text = f"its user lacks {right}: {_right(right)}, for families with history"
        report.tell("warn", what, text, cure)


def _right(right: str) -> str:
    """Say in words what a right of Redis permits."""
    if right.startswith("&"):
        return f"to use the channels {right[1:]}"
    if right.startswith("~"):
        return f"to use the keys {right[1:]}"
    return _RIGHTS.get(right, f"to call {right[1:].upper().replace('|', ' ')}")


async def _timed(report: _Report, what: str, name: str, call: Callable[[], Any]) -> None:
    began = time.perf_counter()
    with anyio.fail_after(_PATIENCE):
        await call()
    report.tell("ok", what, f"{name}: {(time.perf_counter() - began) * 1000:.2f} ms")


# --- a server ---------------------------------------------------------------------------------


class _Stamped(msgspec.Struct):
    type: str
    timestamp: int


def _look_at_server(report: _Report, target: Target) -> None:
    """Connect, and compare the time of the first message with the own one."""
    from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    what = target.url.partition("?")[0]
    began = time.time()
    try:
        with connect(
            target.url,
            subprotocols=[Subprotocol("wsbus.v1")],
            open_timeout=_PATIENCE,
            close_timeout=1,
        ) as peer:
            report.tell("ok", what, f"it answers, with {peer.subprotocol or 'no subprotocol'}")
            token = target.token() if callable(target.token) else target.token
            if token is not None:
                peer.send(msgspec.json.encode({"type": "auth", "token": token}).decode())
            else:  # An answer comes, also where a token is wanted.
                peer.send('{"type":"ping"}')
            stamped = msgspec.json.decode(peer.recv(timeout=_PATIENCE), type=_Stamped)
            ended = time.time()
    except TimeoutError:
        cure = "is it a wsbus server? If it wants a token, give --token-file"
        report.tell("warn", what, f"nothing comes within {_PATIENCE:g} s", cure)
    except (InvalidURI, InvalidHandshake, OSError) as exc:
        cure = "see docs/how-to/troubleshooting.md"
        report.tell("fail", what, f"cannot connect: {exc}", cure)
    except (WebSocketException, msgspec.MsgspecError) as exc:
        report.tell("fail", what, f"it does not speak wsbus.v1: {exc}")
    else:
        offset = stamped.timestamp / 1000 - (began + ended) / 2
        about = (ended - began) / 2
        is_close = abs(offset) <= _CLOCK_SECONDS + about
        report.tell(
            "ok" if is_close else "warn",
            what,
            f"its clock is {offset:+.3f} s from this one (± {about:.3f} s)",
            "" if is_close else "let both follow NTP: tokens expire by the clock",
        )
