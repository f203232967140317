from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.cli.running import Demo, messages, running_demo, wsbus
from wsbus import Bus, Grants, __version__
from wsbus.adapters.websockets import serve
from wsbus.demo import check


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with running_demo() as running:
        yield running


@pytest.fixture
def anyio_backend() -> str:
    """What serves and checks here is made for asyncio."""
    return "asyncio"


def get(demo: Demo, path: str) -> tuple[int, str, str]:
    """Return status, content type and text."""
    with closing(http.client.HTTPConnection("127.0.0.1", demo.port, timeout=10)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers["content-type"], response.read().decode()


def ask(demo: Demo, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """Send the requests, each with an ``id``; return their answers, in that order."""
    answers: dict[str, dict[str, Any]] = {}
    with demo.client() as client:
        for number, request in enumerate(requests):
            client.send(json.dumps(request | {"id": str(number)}))
        for message in messages(client):
            if "id" in message:
                answers[message["id"]] = message
            if len(answers) == len(requests):
                break
    return [answers[str(number)] for number in range(len(requests))]


def command(action: str, **params: object) -> dict[str, Any]:
    return {"type": "command", "action": action, "params": params}


# --- the command line ---------------------------------------------------------------------------


def test_check_proves_the_installation() -> None:
    """``wsbus demo --check`` tells what it saw in a line, and succeeds."""
    outcome = wsbus("demo", "--check")

    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
    assert outcome.stdout.count("\n") == 1
    assert "3 events of prices.*" in outcome.stdout
    assert "answered add(2, 3) with 5" in outcome.stdout


async def test_a_check_that_sees_something_else_says_what() -> None:
    """A server that does not let the check subscribe fails it, with a sentence."""
    closed = Bus()
    endpoint = closed.endpoint(anonymous=Grants.of())
    async with closed, serve(endpoint, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(
            check.CheckFailed, match=r"FORBIDDEN: prices\.\*: no grant covers this$"
        ):
            await check.talk(f"ws://127.0.0.1:{port}")


@pytest.mark.parametrize("more", [[], ["--check"]])
def test_a_host_that_is_not_ours_is_one_sentence(more: list[str]) -> None:
    """A host that cannot be listened on ends the demo with status 1 and no traceback."""
    outcome = wsbus("demo", "--host", "192.0.2.1", "--port", "0", *more)

    assert outcome.returncode == 1
    assert outcome.stderr.startswith("Error: cannot listen on 192.0.2.1, port 0: ")
    assert outcome.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_one_sentence() -> None:
    """A port that is taken ends the demo with status 1, and the way out is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = wsbus("demo", "--port", str(port))

    assert outcome.returncode == 1
    assert outcome.stdout == ""
    assert outcome.stderr == (
        f"Error: port {port} on 127.0.0.1 is taken; choose another with --port, or --port 0\n"
    )


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("click", "The command line needs more: pip install 'wsbus[cli]'\n"),
        ("rich", "The command line needs more: pip install 'wsbus[cli]'\n"),
        ("uvicorn", "Error: the demo needs more: pip install 'wsbus[demo]'\n"),
        ("starlette", "Error: the demo needs more: pip install 'wsbus[demo]'\n"),
        ("websockets", "Error: the demo needs more: pip install 'wsbus[demo]'\n"),
    ],
)
def test_without_its_extra_a_command_says_what_to_install(missing: str, says: str) -> None:
    """Where an extra is missing, the exit status is 2 and stderr has the install line."""
    program = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['wsbus', 'demo', '--check'];"
        "from wsbus.__main__ import main; main()"
    )

    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (2, "", says)


def test_it_tells_its_version() -> None:
    """``--version`` names the version of the package."""
    assert __version__ in wsbus("--version").stdout


def test_ctrl_c_stops_quietly() -> None:
    """Ctrl-C ends the demo with status 0; its clients are told, and nothing is printed."""
    with running_demo() as demo, demo.client() as client:
        next(messages(client))

        assert demo.interrupt() == (0, "", "")
        assert list(client) == []
        assert client.close_code == 1001


def test_it_prints_where_it_is(demo: Demo) -> None:
    """One line says what runs where, and how to stop it."""
    assert demo.greeting == f"wsbus demo: http://127.0.0.1:{demo.port} (Ctrl-C stops)\n"


# --- what it serves -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "holds"),
    [
        ("/", "text/html", "<title>wsbus demo</title>"),
        ("/base.css", "text/css", "prefers-color-scheme"),
        ("/demo.css", "text/css", ".events"),
        ("/demo.js", "javascript", "./wsbus/wsbus.js"),
        ("/wsbus/wsbus.js", "javascript", " as Client"),
        ("/app.py", "text/plain", "async def keep_log()"),
        ("/console/", "text/html", "<title>wsbus console</title>"),
        ("/catalogue/asyncapi.json", "json", "ticker.pause"),
    ],
)
def test_the_page_is_served(demo: Demo, path: str, kind: str, holds: str) -> None:
    """Each file of the page has its content type, and asks nobody else for anything."""
    status, content_type, text = get(demo, path)

    assert status == 200
    assert kind in content_type
    assert holds in text
    assert "https://" not in text
    assert "innerHTML" not in text


def test_the_feeds_reach_a_client(demo: Demo) -> None:
    """Every channel of the demo has events, in the shape that the page shows."""
    keys = {
        "prices.BTC-USDT": {"price", "change", "size"},
        "prices.ETH-USDT": {"price", "change", "size"},
        "prices.600519": {"price", "change", "size"},
        "system.health": {"connections", "patterns", "rate", "dropped", "uptime", "ticker"},
        "system.log": {"level", "source", "message"},
    }
    seen: dict[str, set[str]] = {}
    with demo.client() as client:
        client.send('{"type":"subscribe","channels":["*"]}')
        for message in messages(client):
            if message["type"] == "event":
                seen[message["channel"]] = set(message["data"])
            if seen.keys() >= keys.keys():
                break

    assert seen == keys


def test_commands_are_answered(demo: Demo) -> None:
    """The commands answer, and what does not fit their types is refused."""
    echo, five, clock, wrong, empty = ask(
        demo,
        command("echo", 你好=[1, {"a": None}]),
        command("add", a=2, b=3),
        command("time"),
        command("add", a="two", b=3),
        command("chat.say", text=""),
    )

    assert echo["data"] == {"你好": [1, {"a": None}]}
    assert five["data"] == 5
    assert clock["data"].endswith("+00:00")
    assert wrong["error"]["code"] == empty["error"]["code"] == "VALIDATION_ERROR"


def test_what_is_said_is_heard(demo: Demo) -> None:
    """``chat.say`` publishes to everybody in the lobby and tells how many that is."""
    with demo.client() as listener:
        listener.send('{"type":"subscribe","channels":["chat.*"]}')
        heard = messages(listener)
        assert [next(heard)["type"] for _ in range(2)] == ["connected", "subscribed"]

        (said,) = ask(demo, command("chat.say", text="good morning"))
        line = next(heard)

    assert said["data"] == 1
    assert (line["channel"], line["event"]) == ("chat.lobby", "said")
    assert line["data"]["text"] == "good morning"


def test_the_ticker_pauses_and_resumes(demo: Demo) -> None:
    """``ticker.pause`` and ``ticker.resume`` show in the health of the system, and in the log."""
    with demo.client() as client:
        client.send('{"type":"subscribe","channels":["system.*"]}')
        for action, event, state in (
            ("ticker.pause", "warn", "paused"),
            ("ticker.resume", "info", "running"),
        ):
            client.send(json.dumps(command(action)))
            expected = {event, state}
            for message in messages(client):
                match message:
                    case {"channel": "system.log", "data": {"source": "ticker"}}:
                        expected.discard(message["event"])
                    case {"channel": "system.health", "data": {"ticker": shown}}:
                        expected.discard(shown)
                if not expected:
                    break
