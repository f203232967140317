"""The scripts of the documents run in a real browser, against the servers beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.request import Request, urlopen

import pytest
from anyio.from_thread import start_blocking_portal

from tests.docs.documents import ROOT, running, served
from wsbus import Bus, Endpoint

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

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


def answer(text: str, dialog: Dialog) -> None:
    dialog.accept(text)


def test_the_page_of_the_chat_runs(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all steps in it: who is here, the last 20, and what was said during a cut, once."""
    path = ROOT / "docs" / "tutorial" / "chat.md"
    start = re.search(r"^```html\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert start is not None
    look, begin = scripts(path)
    extra = re.search(r"`(import \{ watchPresence \}[^`]*)`", path.read_text("utf-8"))
    assert extra is not None
    whole = start[1].replace("await client.subscribe(messages);\n", f"{begin}{look}", 1)
    whole = whole.replace("\nimport", f"\n{extra[1]}\nimport", 1)
    (tmp_path / "chat.html").write_text(
        whole.replace("const client =", "const client = window.c =")
    )
    monkeypatch.chdir(tmp_path)
    with running(path) as guide, serving(guide.app, Bus()) as url, browser.new_context() as context:
        pages = [context.new_page() for _ in range(2)]
        for page, name in zip(pages, ["Ada", "Bob"], strict=True):
            page.set_default_timeout(PATIENCE)
            page.on("dialog", partial(answer, name))
            page.goto(url)
            page.get_by_text(f"Here: Ada{', Bob' if name == 'Bob' else ''}").wait_for()
            for number in range(12):
                page.get_by_label("Message").fill(f"{number}.")
                page.get_by_role("button", name="Send").click()
                page.get_by_text(f"{name}: {number}.", exact=True).wait_for()
        ada, bob = pages
        ada.get_by_text("Here: Ada, Bob").wait_for()
        bob.reload()
        bob.wait_for_function("document.querySelectorAll('li').length === 20")
        context.set_offline(offline=True)
        context.set_offline(offline=False)
        ada.evaluate("c.command('say', { room: 'lobby', text: 'after' })")
        for page in pages:
            page.get_by_text("Ada: after").wait_for()
        expected = [f"Ada: {n}." for n in range(4, 12)] + [f"Bob: {n}." for n in range(12)]
        said = "[...document.querySelectorAll('li')].map((line) => line.textContent)"
        assert bob.evaluate(said) == [*expected, "Ada: after"]
        for page in pages:
            page.goto("about:blank")
