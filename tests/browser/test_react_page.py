"""The hooks for React, in a page that Vite has built and Node has rendered."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.web.packed import Project
from tests.web.running import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, WebSocket

PATIENCE = 15_000


@pytest.fixture(scope="module")
def address(
    require_command: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The page, and a bus beside it."""
    node = require_command("node", "nodejs")
    require_command("npm", "npm")
    built = Project(tmp_path_factory.mktemp("project"), node).page()
    assert '<p id="state">idle</p>' in (built / "index.html").read_text("utf-8")
    command = [sys.executable, "-m", "tests.browser.application", str(built)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture
def said() -> list[str]:
    """What the page said to the server: ``subscribe chat.a``, ``presence True``."""
    return []


@pytest.fixture
def page(browser: Browser, address: str, complaints: list[str], said: list[str]) -> Iterator[Page]:
    def listen(socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: said.extend(briefly(str(frame))))

    def complain(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        tab = context.new_page()
        tab.on("websocket", listen)
        tab.on("console", complain)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(f"{address}/built/")
        shows(tab, "state", "connected")
        yield tab


def briefly(frame: str) -> list[str]:
    """Return what a frame says of subscriptions and presence."""
    found = []
    for line in frame.splitlines():
        message = json.loads(line)
        if message["type"].endswith("subscribe"):
            found += [f"{message['type']} {name}" for name in message["channels"]]
        elif message["type"] == "presence":
            found.append(f"presence {message['watch']}")
    return found


def shows(page: Page, name: str, text: str) -> None:
    """Wait until an element has just this text."""
    page.wait_for_function(
        "([name, text]) => document.getElementById(name)?.textContent === text", arg=[name, text]
    )


def publish(page: Page, channel: str, *values: int) -> None:
    """Publish these from the page."""
    page.evaluate(
        "([channel, values]) => Promise.all(values.map((v) => client.publish(channel, v)))",
        [channel, list(values)],
    )


def test_hooks_follow_the_bus(page: Page, complaints: list[str], said: list[str]) -> None:
    """StrictMode subscribes once; a page shows the newest events, and leaves when it is hidden."""
    shows(page, "count", "0")
    shows(page, "refused", "FORBIDDEN")
    assert page.evaluate("mounts") == 2
    first = ["presence True", "subscribe chat.*", "subscribe chat.a", "subscribe secret.plan"]
    assert sorted(said) == first
    publish(page, "chat.a", 1, 2, 3, 4)
    shows(page, "events", "2 3 4")
    shows(page, "latest", "chat.a")
    page.evaluate("client.subscribe('here.hall')")
    shows(page, "count", "1")
    page.click("#other")
    shows(page, "events", "")
    publish(page, "chat.b", 7)
    shows(page, "events", "7")
    page.click("#hide")
    left = {"unsubscribe chat.a", "unsubscribe chat.b", "unsubscribe chat.*", "presence False"}
    while not left.issubset(said):
        page.evaluate("client.status()")
    assert complaints == []


def test_hooks_go_on_after_a_cut_and_after_a_close(page: Page, complaints: list[str]) -> None:
    """What was missed comes after a cut; a client that is closed and connects again is followed."""
    shows(page, "count", "0")
    publish(page, "chat.a", 1)
    shows(page, "events", "1")
    page.evaluate("() => { client.command('cut').catch(() => {}); }")
    publish(page, "chat.a", 2)
    shows(page, "events", "1 2")
    page.evaluate("client.close()")
    shows(page, "state", "closed")
    page.evaluate("client.connect()")
    shows(page, "state", "connected")
    shows(page, "count", "0")
    page.evaluate("client.status()")
    publish(page, "chat.a", 3)
    shows(page, "events", "3")
    assert complaints == []


def test_a_command_has_its_state(page: Page, complaints: list[str]) -> None:
    """The result, then the error; a call that nobody waits for is no unhandled rejection."""
    page.click("#ask")
    shows(page, "double", "42")
    page.click("#fail")
    shows(page, "double", "VALIDATION_ERROR")
    assert complaints == []
