"""``wsbus doctor`` against real servers and brokers."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis
from websockets.sync.server import ServerConnection, serve

from tests.brokers.servers import NATS, REDIS, Server, Servers
from tests.cli.running import running_demo
from wsbus import UsageError
from wsbus.broker import Link, Receive
from wsbus.brokers import MemoryBroker
from wsbus.brokers._redis_dial import HISTORY_RIGHTS, RIGHTS
from wsbus.brokers._redis_rights import CALLS
from wsbus.cli import doctor as doctor_module
from wsbus.cli import doctor_broker, doctor_status, wsbus
from wsbus.cli.doctor_server import look_at_server
from wsbus.cli.doctor_status import look_at_status
from wsbus.cli.exits import Failed
from wsbus.cli.findings import Findings
from wsbus.cli.options import Target


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Give one server of each kind, for the tests of this file."""
    with Servers() as found:
        yield found


@pytest.fixture(params=REDIS)
def redis_server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Give a running Redis, then a running Valkey."""
    return servers.of(request.param)


@pytest.fixture(params=[*REDIS, *NATS])
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Give a running server of each kind."""
    return servers.of(request.param)


@pytest.fixture(autouse=True)
def _do_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for other nodes: test_doctor_nodes.py does."""
    monkeypatch.setattr(doctor_broker, "LISTEN_SECONDS", 0.0)


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


def test_each_server_that_is_installed_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those without backpressure are warned of, with what to do; others need no line."""
    versions = dict.fromkeys(doctor_module._SERVERS) | {
        "uvicorn": "0.52.0",
        "daphne": "4.2.3",
        "hypercorn": "0.18.0",
    }
    real = doctor_module._version
    monkeypatch.setattr(
        doctor_module, "_version", lambda name: versions[name] if name in versions else real(name)
    )
    _, lines = doctor()
    assert [line[:50] for line in lines if line[5:].startswith("server ")] == [
        "warn server uvicorn: 0.52.0 has no backpressure: i",
        "ok   server hypercorn: 0.18.0 has backpressure: a ",
        "warn server daphne: 4.2.3 has no backpressure: it ",
    ]
    versions["uvicorn"] = "0.52.1"
    assert any("ok   server uvicorn: 0.52.1 has backpressure" in line for line in doctor()[1])


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


def lacking(server: Server, *lost: str) -> list[str]:
    """Take rights from a user; return what is not ok about it."""
    rights = [word for word in f"{RIGHTS} {HISTORY_RIGHTS}".split() if word not in lost]
    with Redis(host="127.0.0.1", port=server.port) as client:
        client.execute_command("ACL", "SETUSER", "doctor", "reset", "on", ">secret", *rights)
    _, lines = doctor("--broker", f"redis://doctor:secret@127.0.0.1:{server.port}")
    assert "secret" not in "".join(lines)
    return [x for x in lines if "redis://" in x and not x.startswith("ok")]


def test_the_server_of_a_broker_is_named(server: Server) -> None:
    """The line has its name and version."""
    code, lines = doctor("--broker", server.url)
    assert code == 0
    assert any(re.search(r": the server is (Redis|Valkey|NATS) \d+\.\d+", line) for line in lines)


def test_a_user_with_all_rights_lacks_none(redis_server: Server) -> None:
    """The rights of the guide are enough, for history, too."""
    assert lacking(redis_server) == []


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ("+publish", "to publish"),
        ("+subscribe", "to follow channels"),
        ("+unsubscribe", "to stop following channels"),
        ("+multi", "to publish a turn as one transaction"),
        ("+exec", "to publish a turn as one transaction"),
        ("+del", "to check with each turn that the server is a primary"),
        ("&wsbus:*", "to use the channels wsbus:*"),
        ("~wsbus:*", "to use the keys wsbus:*"),
    ],
)
def test_a_right_that_is_missing_fails(redis_server: Server, right: str, words: str) -> None:
    """The line names it as the server spells it, and says what it is for."""
    first = lacking(redis_server, right)[0]
    assert first.startswith("fail ")
    assert f"its user lacks {right}: {words}; " in first


def test_rights_that_only_history_needs_are_warned_of(redis_server: Server) -> None:
    """A bus without history works without them; each one has its line."""
    lines = lacking(redis_server, *HISTORY_RIGHTS.split())
    assert all(line.startswith("warn ") for line in lines)
    assert all(", for families with history; " in line for line in lines)
    told = [re.findall(r"its user lacks (\S+): to \w+", line) for line in lines]
    assert sorted(told) == sorted([[right] for right in HISTORY_RIGHTS.split()])


def test_every_right_is_tried() -> None:
    """What the guide asks for is what is looked at."""
    tried = {f"+{right}" for right in CALLS} | {"+multi", "+exec", "+subscribe", "+unsubscribe"}
    assert tried == {word for word in f"{RIGHTS} {HISTORY_RIGHTS}".split() if word[0] == "+"}


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
    monkeypatch.setattr(doctor_broker, "PATIENCE", 0.05)
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


@pytest.mark.parametrize(
    "url", ["ws://ada:secret@127.0.0.1:x/ws", "ws://127.0.0.1:x/?token=secret", "nonsense"]
)
def test_what_is_no_address_of_a_server(url: str) -> None:
    """It is a wrong option, and the text has no secret."""
    with pytest.raises(UsageError, match="is no address of a WebSocket") as refused:
        look_at_server(Findings(), Target(url=url, token=None, protocol="wsbus.v1"))
    assert "secret" not in str(refused.value)


def test_an_address_with_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    """The password is not shown, and a host that DNS cannot know is a finding."""
    url = f"ws://ada:secret@{'a' * 70}.example/ws"
    look_at_server(Findings(), Target(url=url, token=None, protocol="wsbus.v1"))
    assert capsys.readouterr().out.startswith(f"fail ws://{'a' * 70}.example/ws: cannot connect")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://ada:secret@127.0.0.1/-", "takes the prefix of the routes alone"),
        ("http://127.0.0.1/-?token=secret", "takes the prefix of the routes alone"),
        ("ftp://ada:secret@127.0.0.1/-?token=secret", "'127.0.0.1/-' is no address of HTTP"),
        ("http://[::1", "is no address of HTTP"),
        ("http://", "is no address of HTTP"),
    ],
)
def test_what_is_no_address_of_routes(url: str, words: str) -> None:
    """It is a wrong option, and the text has no secret."""
    with pytest.raises(Failed, match=re.escape(words)) as refused:
        look_at_status(Findings(), url)
    assert "secret" not in str(refused.value)


class Misbehaving(BaseHTTPRequestHandler):
    """Answers every request with one body; an empty one does not end."""

    body: bytes = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)
        with suppress(OSError):
            while not self.body:
                self.wfile.write(b" ")
                self.connection.settimeout(0.01)
                with suppress(TimeoutError):
                    self.connection.recv(1)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(b"[" * 200_000, "cannot ask it", id="nested"),
        pytest.param(b'{"ready":true,"x":' + b"[" * 9_999, "cannot ask it", id="deep"),
        pytest.param(b"1" * (1 << 21), "its answer is too large", id="large"),
        pytest.param(b"", "its answer does not end", id="endless"),
    ],
)
def test_a_status_that_makes_no_sense(
    body: bytes, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a finding, soon, and not a traceback."""
    monkeypatch.setattr(doctor_status, "PATIENCE", 0.2)
    kind = type("Answering", (Misbehaving,), {"body": body})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            look_at_status(Findings(), f"http://127.0.0.1:{server.server_port}/-")
        finally:
            server.shutdown()
            thread.join()
    assert words in capsys.readouterr().out
