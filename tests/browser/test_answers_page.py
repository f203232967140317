"""Answers of the examples: read along, reloaded, stopped, in a real browser."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.brokers.servers import KINDS, Server
from tests.browser.test_chat_page import serving, tab
from tests.web.running import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TEXT = "document.querySelector('#text').textContent"
ENDING = "document.querySelector('#ending').textContent"


@pytest.fixture(scope="module")
def answers() -> Iterator[str]:
    """Serve the example, whose model types quickly."""
    before = os.environ.get("WORDS_A_SECOND")
    os.environ["WORDS_A_SECOND"] = "60"
    try:
        with serving("examples/answers.py", "--port", "0") as address:
            yield address
    finally:
        os.environ.pop("WORDS_A_SECOND")
        if before is not None:
            os.environ["WORDS_A_SECOND"] = before


def ask(page: Page, address: str, question: str) -> None:
    page.goto(address)
    page.fill("[name=question]", question)
    page.click("form button")
    page.wait_for_function(f"{TEXT}.length > 40")


def test_an_answer_survives_a_reload_and_is_the_same_in_every_tab(
    browser: Browser, answers: str, complaints: list[str]
) -> None:
    """A tab that reloads, one that comes late and one that comes after the end have one text."""
    with tab(browser, complaints) as page, tab(browser, complaints) as late:
        ask(page, answers, "Does it survive?")
        late.goto(page.url)
        page.reload()
        for each in (page, late):
            each.wait_for_function(f"{ENDING} === 'complete'")
        texts = {str(each.evaluate(TEXT)) for each in (page, late)}
        late.reload()
        late.wait_for_function(f"{ENDING} === 'complete'")
        texts.add(str(late.evaluate(TEXT)))
        assert len(texts) == 1
        assert texts.pop().startswith("You ask: Does it survive?\n\nThat is")
    assert complaints == []


def test_an_answer_is_stopped_for_all(
    browser: Browser, answers: str, complaints: list[str]
) -> None:
    """The button asks the producer, and each tab says that it was stopped."""
    with tab(browser, complaints) as page, tab(browser, complaints) as other:
        ask(page, answers, "Stop?")
        other.goto(page.url)
        other.wait_for_function(f"{TEXT}.length > 40")
        page.click("#stop")
        for each in (page, other):
            each.wait_for_function(f"{ENDING} === 'stopped'")
    assert complaints == []


@contextmanager
def worker(broker: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run one worker of the example; give the process, and its address."""
    command = [sys.executable, "-u", "examples/answers.py", "--port", str(port)]
    found = os.environ | {"BROKER": broker, "WORDS_A_SECOND": "9"}
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=found
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.timeout(180)
def test_an_answer_survives_the_death_of_the_worker_that_relays_it(
    browser: Browser, complaints: list[str]
) -> None:
    """Three tabs, each reloaded once its worker was killed and is back, have the whole text once.

    Another worker writes it, and what the tabs read meanwhile is a part of it.
    """
    with ExitStack() as stack:
        broker = stack.enter_context(Server(KINDS["redis7"])).url
        _, writes = stack.enter_context(worker(broker))
        relay, relays = stack.enter_context(worker(broker))
        writer = stack.enter_context(tab(browser, []))
        pages = [stack.enter_context(tab(browser, complaints)) for _ in range(3)]
        for page in pages:
            page.goto(relays)
        ask(writer, writes, "Who relays this?")
        for page in pages:
            page.evaluate("hash => location.hash = hash", writer.url.partition("#")[2])
            page.wait_for_function(f"{TEXT}.length > 80")
        assert not writer.evaluate(ENDING)
        complaints.clear()

        relay.kill()
        relay.wait()
        parts = [str(page.evaluate(TEXT)) for page in pages]
        stack.enter_context(worker(broker, int(relays.rpartition(":")[2])))
        for page in pages:
            page.reload()
            page.wait_for_function(f"{ENDING} === 'complete'", timeout=45_000)
        writer.wait_for_function(f"{ENDING} === 'complete'")

        whole = str(writer.evaluate(TEXT))
        assert [str(page.evaluate(TEXT)) for page in pages] == [whole] * 3
        assert all(len(part) > 80 and whole.startswith(part) for part in parts)
        assert whole.count("You ask: Who relays this?") == 3


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_every_screen(
    browser: Browser, answers: str, complaints: list[str], width: int, theme: str
) -> None:
    """Nothing scrolls sideways, and what can be pressed is on the screen."""
    view = {"viewport": {"width": width, "height": 800}, "color_scheme": theme}
    with tab(browser, complaints, **view) as page:
        ask(page, answers, "How does it look?")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.is_visible("#stop")
        if folder := os.environ.get("WSBUS_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/answers-{width}-{theme}.png")
    assert complaints == []
