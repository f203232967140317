"""``wsbus pub --broker``: publish from a shell, without a server."""

from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner, Result

from tests.brokers.listening import BusThread
from tests.brokers.servers import Server
from wsbus.cli import wsbus


def pub(*arguments: str, lines: str | None = None) -> Result:
    """Run the command."""
    return CliRunner().invoke(wsbus, ["pub", *arguments], input=lines)


def test_pub_publishes_through_a_broker(server: Server, bus: BusThread) -> None:
    """Data from the command line, or from standard input, reaches the service."""
    outcome = pub("--broker", server.url, "t.a", '{"n": 1}')
    assert (outcome.exit_code, outcome.stdout) == (0, "published\n")
    assert pub("t.a", "-", "--broker", server.url, lines="2").exit_code == 0
    assert bus.take(2) == [{"n": 1}, 2]


def test_pub_publishes_lines_together(server: Server, bus: BusThread) -> None:
    """Each line is a publication, in order; a line that is no JSON ends it after those before."""
    lines = "".join([f"{n}\n" for n in range(500)])
    outcome = pub("--broker", server.url, "t.a", "--lines", lines=lines)
    assert (outcome.exit_code, outcome.stdout) == (0, "published: 500\n")
    assert bus.take(500) == [*range(500)]

    outcome = pub("--broker", server.url, "t.a", "--lines", lines="1\n\nx\n3\n")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("stopped at line 3; published before: 1\n")
    assert bus.take(1) == [1]
    assert bus.is_quiet()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["t.a", "1", "--token", "x"], "--token is not for --broker"),
        (["t.a", "1", "--token-file", "x"], "--token-file is not for --broker"),
        (["t.a", "1", "--protocol", "wsbus.v1"], "--protocol is not for --broker"),
        (["t.a", "1", "--json"], "--json is not for --broker"),
        (["ws://127.0.0.1/ws", "t.a", "1"], "no other URL"),
        (["t.a"], "DATA is missing"),
        (["t.a", "1", "--lines"], "DATA is from standard input"),
        (["t.*", "1"], "wildcards"),
        (["t.a", "{"], "no JSON"),
        (["t.a", "1"], "there is no link"),
    ],
)
def test_pub_refuses_what_a_broker_has_no_use_for(arguments: list[str], text: str) -> None:
    """Each has a sentence, and the exit code of what was not done."""
    outcome = pub("--broker", "redis://127.0.0.1:1", *arguments)
    assert (outcome.exit_code, text in outcome.stderr) == (2, True), outcome.stderr


@pytest.mark.parametrize("url", ["memory:", "http://a", ""])
def test_pub_needs_a_broker_that_reaches_something(url: str) -> None:
    """Another URL is refused before anything is read."""
    assert pub("--broker", url, "t.a", "1").exit_code == 2


def test_pub_tells_what_may_have_arrived() -> None:
    """A broker that says nothing in time has the exit code of a lost connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        outcome = pub("--broker", url, "t.a", "1", "--timeout", "0.2")
    assert outcome.exit_code == 3
    assert "published, or not" in outcome.stderr


def test_pub_without_a_broker_needs_a_url_and_a_channel() -> None:
    """The usage is as before: URL, CHANNEL, DATA."""
    outcome = pub("ws://127.0.0.1:1/ws")
    assert outcome.exit_code == 2
    assert "Missing argument 'CHANNEL'" in outcome.stderr
