"""``--way``: the commands over HTTP, against a server that lets no WebSocket through."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import get_args

import click
import pytest

from tests.cli.test_client_commands import once_subscribed, run
from tests.client.http_server import HttpServer
from wsbus.cli import wsbus
from wsbus.client.ways import ClientWay


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    """Give a server that answers HTTP only."""
    running = HttpServer()
    running.has_websockets = False
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.mark.parametrize("way", ["http", "either"])
def test_commands_go_over_http(server: HttpServer, way: str) -> None:
    """Events come, publications and commands are carried out, and history is read."""
    with once_subscribed(server, "chat.room") as publications:
        publications += [("chat.room", way)]
        tailed = run("tail", server.url, "chat.room", "--count", "1", "--json", "--way", way)
    kept = run("history", server.url, "chat.room", "--limit", "1", "--json", "--way", way)
    published = run("pub", server.url, "news", "1", "--way", way)
    called = run("call", server.url, "add", '{"a": 1, "b": 2}', "--way", way)

    assert tailed.exit_code == 0, tailed.stderr
    assert json.loads(tailed.stdout)["data"] == way
    assert json.loads(kept.stdout)["data"] == way
    assert published.stdout == "accepted for 0 of 0 receivers\n"
    assert json.loads(called.stdout) == 3


def test_a_websocket_is_the_way_unless_another_is_named(server: HttpServer) -> None:
    """Without the option nothing goes over HTTP."""
    outcome = run("call", server.url, "add", '{"a": 1, "b": 2}')

    assert outcome.exit_code == 2
    assert "502" in outcome.stderr


def test_what_http_does_not_carry_is_said(server: HttpServer) -> None:
    """Another dialect, or a broker, is refused in words."""
    dialect = run("call", server.url, "add", "--way", "http", "--protocol", "zigquant-v2")
    broker = run("pub", "--broker", "memory:", "a", "1", "--way", "http")

    assert (dialect.exit_code, broker.exit_code) == (2, 2)
    assert "HTTP carries wsbus.v1, not zigquant-v2" in dialect.stderr
    assert "--way is not for --broker" in broker.stderr


def test_without_its_extra_it_says_what_to_install() -> None:
    """Where httpx is missing, stderr has the install line."""
    program = (
        "import sys; sys.modules['httpx'] = None;"
        "sys.argv = ['wsbus', 'call', 'ws://h', 'a', '--way', 'http'];"
        "from wsbus.__main__ import main; main()"
    )

    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    says = "Error: wsbus call needs more: pip install 'wsbus[http]'\n"
    assert (outcome.returncode, outcome.stderr) == (2, says)


@pytest.mark.parametrize("command", ["tail", "pub", "call", "history", "presence"])
def test_each_command_offers_the_ways_of_the_client(command: str) -> None:
    """The choices are those of ``connect``."""
    found = wsbus.get_command(click.Context(wsbus), command)
    assert found is not None
    option = next(each for each in found.params if each.name == "way")

    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == get_args(ClientWay)
