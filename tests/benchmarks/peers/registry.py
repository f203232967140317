"""Who is measured: how each server is started, talked to, and named."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from importlib import metadata
from typing import Final, NamedTuple

from wsbus.bench.load import Script
from wsbus.bench.scripts import bus_script, call_script

from .serving import SUBSCRIBE, SUBSCRIBED

MESSAGE_BYTES: Final = 200
"""Of every message delivered, whatever the words around the data."""
CHANNEL: Final = "bench"
DIGITS: Final = 10
MARKER: Final = b'"n":"'
_EXTRA: Final = "pip install -e '.[benchmarks]'"
_NATS: Final = "apt-get install -y nats-server"


class Peer(NamedTuple):
    """A server that delivers what one client publishes to all that have subscribed."""

    name: str
    label: str
    command: tuple[str, ...]
    script: Script
    needs: tuple[str, ...]
    """Distributions that must be installed, and whose versions are told."""
    is_ours: bool = False
    note: str = ""


class Responder(NamedTuple):
    """A server that answers commands, with MARKER once in each answer and in nothing else."""

    name: str
    label: str
    command: tuple[str, ...]
    request: bytes
    needs: tuple[str, ...]
    hello: tuple[tuple[bytes | None, bytes | None], ...] = ()
    path: str = "/ws"
    subprotocol: str | None = None
    is_ours: bool = False
    note: str = ""


def _data(around: int) -> bytes:
    """Return the data of a publication that makes a message of MESSAGE_BYTES with what is around.

    They are those of :func:`wsbus.bench.scripts.bus_script`.
    """
    empty = b'{"n":"%s","pad":""}' % (b"0" * DIGITS)
    return empty.replace(b'""', b'"%s"' % (b"x" * (MESSAGE_BYTES - around - len(empty))))


_EVENT: Final = (
    b'{"type":"event","channel":"%s","event":"m","timestamp":1700000000000,"data":'
    % CHANNEL.encode()
)


def _module(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


def _peer(name: str, label: str, *needs: str, note: str = "") -> Peer:
    script = Script(
        hello=[(SUBSCRIBE.encode(), SUBSCRIBED.encode())],
        publish=_EVENT + _data(len(_EVENT) + 1) + b"}",
        marker=MARKER,
        digits=DIGITS,
    )
    command = _module("tests.benchmarks.peers.serve", name)
    return Peer(name, label, command, script, needs, note=note)


_NOTES: Final = {
    ("starlette", "wsbus.v1"): "with the protocol class of `wsbus.adapters.uvicorn`, and Starlette",
    ("asgi", "wsbus.v1"): "plain uvicorn; the runner awaits its `send`",
    ("asgi", "zigquant-v2"): "a dialect that has one message in each frame",
}


def _wsbus(server: str, label: str, *needs: str, protocol: str = "wsbus.v1") -> Peer:
    is_main = protocol == "wsbus.v1"
    return Peer(
        f"wsbus-{server}" if is_main else f"wsbus-{server}-{protocol}",
        f"wsbus · {label}" if is_main else f"wsbus · {label}, {protocol}",
        _serve(server),
        bus_script(protocol, channels=[CHANNEL], payload=MESSAGE_BYTES),
        ("wsbus", *needs),
        is_ours=True,
        note=_NOTES.get((server, protocol), ""),
    )


def _serve(server: str) -> tuple[str, ...]:
    return _module("wsbus", "bench", "serve", "--server", server, "--port", "0")


def _socketio() -> Peer:
    around = len('42["event",]')
    script = Script(
        path="/socket.io/?EIO=4&transport=websocket",
        hello=[(b'40{"subscribe":true}', b'40{"sid"')],
        publisher_hello=[(b"40", b'40{"sid"')],
        publish=b'42["publish",%s]' % _data(around),
        marker=MARKER,
        digits=DIGITS,
    )
    command = _module("tests.benchmarks.peers.serve", "socketio")
    needs = ("python-socketio", "uvicorn")
    return Peer("socketio", "python-socketio", command, script, needs)


def _nats() -> Peer:
    connect = b'CONNECT {"verbose":false,"pedantic":false}\r\n'
    data = _data(len(f"MSG {CHANNEL} 1 175\r\n\r\n"))
    script = Script(
        hello=[(connect + b"SUB bench 1\r\nPING\r\n", b"PONG\r\n")],
        publisher_hello=[(connect + b"PING\r\n", b"PONG\r\n")],
        publish=b"PUB bench %d\r\n%s\r\n" % (len(data), data),
        marker=MARKER,
        digits=DIGITS,
        is_binary=True,
        alive=b"PONG\r\n",
    )
    command = _module("tests.benchmarks.peers.nats")
    note = "its own protocol, in binary frames of one or more messages"
    return Peer("nats", "nats-server (Go)", command, script, ("nats-server",), note=note)


_ON: Final = {
    "websockets": ("websockets", "websockets"),
    "aiohttp": ("aiohttp", "aiohttp"),
    "starlette": ("uvicorn", "starlette", "uvicorn", "websockets"),
    "asgi": ("ASGI", "uvicorn", "websockets"),
}
"""The servers that carry wsbus: how they are named here, and what they need."""

PEERS: Final = (
    *(_wsbus(server, *words) for server, words in _ON.items()),
    _wsbus("asgi", *_ON["asgi"], protocol="zigquant-v2"),
    _peer("websockets", "websockets.broadcast", "websockets"),
    _peer("aiohttp", "aiohttp loop", "aiohttp"),
    _peer("starlette", "Starlette loop", "starlette", "uvicorn", "websockets"),
    _peer("picows", "picows loop (Cython)", "picows", "aiofastnet"),
    _peer("litestar", "Litestar channels", "litestar", "uvicorn", "websockets"),
    _peer("broadcaster", "broadcaster", "broadcaster", "starlette", "uvicorn", "websockets"),
    _socketio(),
    _peer(
        "channels",
        "Django Channels",
        "channels",
        "django",
        "uvicorn",
        "websockets",
        note="its layer in memory looks at all members of a group for each message received, and"
        " its manual does not mean it for production; under uvicorn, as all of ASGI here",
    ),
    _nats(),
)


_CALL: Final = call_script("wsbus.v1", "echo", payload=MESSAGE_BYTES)
_KINDS: Final = {"echo_sync": "sync", "echo": "async"}


def _echo(server: str, *needs: str) -> Responder:
    return Responder(
        name=f"{server}-echo",
        label=f"bare {server} loop",
        command=_module("tests.benchmarks.peers.serve", f"{server}-echo"),
        request=_CALL.publish,
        needs=(server, *needs, "msgspec"),
    )


def _wsbus_echo(server: str, where: str, *needs: str, action: str) -> Responder:
    return Responder(
        name=f"wsbus-{server}-{action}",
        label=f"wsbus · {where}, {_KINDS[action]}",
        command=_serve(server),
        request=call_script("wsbus.v1", action, payload=MESSAGE_BYTES).publish,
        needs=("wsbus", *needs),
        subprotocol="wsbus.v1",
        is_ours=True,
    )


RESPONDERS: Final = (
    *(
        _wsbus_echo(server, *words, action=action)
        for server, words in _ON.items()
        for action in _KINDS
    ),
    _echo("websockets"),
    _echo("aiohttp"),
    _echo("starlette", "uvicorn", "websockets"),
    Responder(
        name="socketio-ack",
        label="python-socketio, ack",
        command=_module("tests.benchmarks.peers.serve", "socketio"),
        request=b'420["echo",%s]' % _data(len("430[]")),
        needs=("python-socketio", "uvicorn"),
        hello=((b"40", b'40{"sid"'),),
        path="/socket.io/?EIO=4&transport=websocket",
    ),
)


def missing(needs: tuple[str, ...]) -> str | None:
    """Return how to install what is not there; None if all is."""
    for name in needs:
        if _version(name) is None:
            return _NATS if name == "nats-server" else _EXTRA
    return None


def versions(needs: tuple[str, ...]) -> list[str]:
    """Name what is measured, with versions."""
    return [f"{name} {_version(name)}" for name in needs]


@functools.cache
def _version(name: str) -> str | None:
    if name == "nats-server":
        path = shutil.which(name)
        return path and _nats_version(path)
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _nats_version(path: str) -> str:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    return said.strip().rpartition("v")[2]
