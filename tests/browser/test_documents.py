"""The scripts of the documents run in a real browser, against the servers beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.request import Request, urlopen

import pytest
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI

from tests.docs.documents import HOW_TO, ROOT, running, served
from wsbus import Bus, Endpoint
from wsbus.adapters.fastapi import mount

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE: Final = 15_000


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        yield context.new_page()


@contextmanager
def serving(app: Any, endpoint: Bus | Endpoint) -> Iterator[str]:
    """Serve in a thread: the browser's driver keeps that of the test."""
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(served(app, endpoint)) as host,
    ):
        yield f"http://{host}"


def scripts(path: Path) -> list[str]:
    return re.findall(r"^```js\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)  # noqa: FURB167


def test_the_script_of_the_readme_runs(page: Page) -> None:
    """It connects to the host that the page came from, prints a sum, and then what is published."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    with running(ROOT / "README.md") as example, serving(example.app, example.bus) as url:
        page.goto(f"{url}/wsbus/wsbus.js")
        page.add_script_tag(type="module", content=scripts(ROOT / "README.md")[0])
        while not any("prices.BTC" in text for text in said):
            request = Request(f"{url}/prices/BTC?last=1.5", method="POST")
            urlopen(request, timeout=10).close()
            page.wait_for_timeout(50)  # It dispatches events meanwhile.
        page.goto("about:blank")

    assert "5" in said


def test_the_page_of_the_tutorial_runs(page: Page) -> None:
    """It shows prices, and its client gives the command of the tutorial."""
    path = ROOT / "docs" / "tutorial" / "index.md"
    with running(path) as tutorial, serving(tutorial.app, tutorial.visitors) as url:
        page.goto(url)
        page.wait_for_selector("li")
        command = scripts(path)[0].removesuffix(";\n")

        assert page.evaluate(f"async () => {command}") == tutorial.prices["BTC"]
        page.goto("about:blank")


def test_the_page_of_the_chat_room_runs(page: Page) -> None:
    """It shows what was said before it came, and what is said then."""
    app = FastAPI()
    with running(HOW_TO / "chat.md") as guide:
        mount(app, "/ws", guide.endpoint, client="/wsbus")
        guide.rooms["lobby"].last.append({"from": "bob", "text": "before"})
        with serving(app, guide.endpoint) as url:
            page.goto(f"{url}/wsbus/wsbus.js")
            page.evaluate(
                """() => {
                  window.lines = [];
                  window.show = ({ here, last }) => lines.push(here, ...last);
                  window.addLine = (line) => lines.push(line);
                  window.changeList = () => {};
                }"""
            )
            script = scripts(HOW_TO / "chat.md")[0]
            page.add_script_tag(type="module", content=f"{script}\nwindow.client = client;")
            page.wait_for_function("() => lines.length === 2")
            page.evaluate("client.command('room.say', { room: 'lobby', text: 'now' })")
            page.wait_for_function("() => lines.length === 3")

            assert page.evaluate("lines") == [
                ["ada"],
                {"from": "bob", "text": "before"},
                {"from": "ada", "text": "now"},
            ]
            page.goto("about:blank")
