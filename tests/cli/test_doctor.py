"""``wsbus doctor`` against real servers and brokers."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from click.testing import CliRunner
from websockets.sync.server import ServerConnection, serve

from tests.cli.running import running_demo
from wsbus.broker import Link, Receive
from wsbus.brokers import MemoryBroker
from wsbus.cli import doctor as doctor_module
from wsbus.cli import wsbus


def doctor(*arguments: str) -> tuple[int, list[str]]:
    """Run it; return the exit code, and the lines."""
    ran = CliRunner().invoke(wsbus, ["doctor", *arguments], prog_name="wsbus")
    return ran.exit_code, ran.output.splitlines()


@contextmanager
def answering(*messages: str) -> Iterator[str]:
    """Serve these messages to whoever connects; give the URL."""

    def greet(peer: ServerConnection) -> None:
        for message in messages:
            peer.send(message)
        for _ in peer:
            pass

    with serve(greet, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_an_installation_that_is_well() -> None:
    """Each package has a line, and nothing fails."""
    code, lines = doctor()
    assert code == 0
    assert all(line.startswith(("ok ", "warn ")) for line in lines)
    told = [line[5:].partition(":")[0] for line in lines]
    assert told[:2] == ["python", "wsbus"]
    assert {"anyio", "msgspec", "websockets", "uvicorn", "aiohttp", "redis"} < set(told)


def test_a_package_that_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the extra, or the version to take."""
    versions = {"aiohttp": None, "anyio": "4.9.1"}
    real = doctor_module._version
    monkeypatch.setattr(
        doctor_module, "_version", lambda name: versions[name] if name in versions else real(name)
    )
    code, lines = doctor()
    assert code == 1
    assert any(re.match(r"fail anyio: 4\.9\.1 is too old; take 4\.\d+ or newer", x) for x in lines)
    assert any("aiohttp: is not installed: pip install 'wsbus[aiohttp]'" in line for line in lines)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_few_open_files_are_warned_of() -> None:
    """It is a warning: the exit code stays 0."""
    command = f"ulimit -n 256; exec {sys.executable} -m wsbus doctor"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert "warn open files: 256; each connection is one" in ran.stdout


def test_a_broker_that_is_well() -> None:
    """What a bus does with it is tried, and the round trip measured."""
    code, lines = doctor("--broker", "memory:")
    assert code == 0
    told = " ".join(line for line in lines if "memory:" in line)
    for word in ("dialled", "follow a channel", "follow a wildcard", "round trip", "unfollow"):
        assert word in told


def test_a_broker_that_is_not_there() -> None:
    """It fails, with the address and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, lines = doctor("--broker", f"redis://:secret@127.0.0.1:{port}")
    assert code == 1
    (line,) = [line for line in lines if line.startswith("fail")]
    assert line.startswith(f"fail redis://127.0.0.1:{port}: cannot dial it: ")
    assert "secret" not in "".join(lines)


class Deaf(MemoryBroker):
    """Takes everything, and brings nothing."""

    @asynccontextmanager
    async def connect(self, receive: Receive) -> AsyncIterator[Link]:
        """Join without a receiver."""
        async with super().connect(lambda _message: None) as link:
            yield link


def test_a_broker_that_brings_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose user may publish and not subscribe."""
    made: Any = Deaf
    monkeypatch.setattr("wsbus.brokers.broker_of", lambda _url: made())
    monkeypatch.setattr(doctor_module, "_PATIENCE", 0.05)
    code, lines = doctor("--broker", "memory:")
    assert code == 1
    assert lines[-1].startswith("fail memory: what was sent did not come back within")


def test_wrong_options() -> None:
    """They are no finding: exit code 2."""
    assert doctor("--broker", "kafka://x")[0] == 2
    assert doctor("--nonsense")[0] == 2


def test_a_server_that_is_well() -> None:
    """The clock of a server on this machine is this one."""
    with running_demo() as demo:
        code, lines = doctor(f"ws://127.0.0.1:{demo.port}/ws")
        demo.interrupt()
    assert code == 0
    assert "it answers, with wsbus.v1" in lines[-2]
    assert re.match(r"ok   .*: its clock is [+-]0\.\d+ s from this one", lines[-1])


@pytest.mark.parametrize("offset", [-60, 60])
def test_a_server_whose_clock_is_wrong(offset: int) -> None:
    """It is warned of, with the difference and what depends on it."""
    stamp = int((time.time() + offset) * 1000)
    with answering(f'{{"type":"connected","timestamp":{stamp},"data":{{}}}}') as url:
        code, lines = doctor(url)
    assert code == 0
    assert lines[-1].startswith("warn ")
    assert f"its clock is {'+' if offset > 0 else '-'}" in lines[-1]
    assert "tokens expire by the clock" in lines[-1]


def test_a_server_that_is_none() -> None:
    """One that is not there, and one that speaks something else, fail."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, lines = doctor(f"ws://127.0.0.1:{port}/ws?token=secret")
    assert code == 1
    assert lines[-1].startswith(f"fail ws://127.0.0.1:{port}/ws: cannot connect")
    assert "secret" not in "".join(lines)
    with answering("hello") as url:
        code, lines = doctor(url)
    assert code == 1
    assert "does not speak wsbus.v1" in lines[-1]
