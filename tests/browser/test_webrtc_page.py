"""Prices over a data channel, in a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.test_chat_page import serving, tab
from wsbus.core.errors import CloseCode

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("aiortc", reason="needs aiortc: pip install -e '.[servers]'")

EVENTS = "document.querySelectorAll('#board li.up, #board li.down').length"


@pytest.fixture(scope="module")
def prices() -> Iterator[str]:
    """The example, on a free port."""
    with serving("examples/webrtc.py", "--port", "0") as address:
        yield address


def state(page: Page, way: str, wanted: str) -> None:
    page.wait_for_function(f"document.querySelector('#{way}').textContent === '{wanted}'")


def test_prices_come_over_the_data_channel(
    browser: Browser, prices: str, complaints: list[str]
) -> None:
    """The page's WebSocket has asked for it, and is closed; the prices go on."""
    with tab(browser, complaints) as page:
        page.goto(prices)
        state(page, "fast", "connected")
        page.wait_for_function(f"{EVENTS} > 2")
        page.click("#cut")
        state(page, "signal", "closed")
        page.evaluate(
            "document.querySelectorAll('#board li').forEach((row) => (row.className = ''))"
        )
        page.wait_for_function(f"{EVENTS} > 2")
        assert page.text_content("#fast") == "connected"
    assert complaints == []


PREPARE = """async () => {
  const { Client } = await import("/wsbus/wsbus.js");
  const { overDataChannel } = await import("/wsbus/wsbus-webrtc.js");
  const signal = new Client("/ws");
  await signal.connect();
  window.DataChannel = overDataChannel(signal);
  const options = { WebSocket: overDataChannel(signal, { command: "nothing" }), fallback: false };
  window.refused = new Client("/ws", options);
}"""
WHY = "() => refused.connect().then(() => '', (error) => error.message)"
ENDINGS = """async ([text, leaves]) => {
  const socket = new DataChannel("", ["wsbus.v1"]);
  const over = new Promise((resolve) => socket.addEventListener("close", resolve));
  await new Promise((resolve) => socket.addEventListener("open", resolve));
  if (leaves) socket.close(4321);
  else socket.send(text);
  const { code, reason } = await over;
  return [code, reason];
}"""


def test_the_client_learns_why_there_is_no_data_channel(
    browser: Browser, prices: str, complaints: list[str]
) -> None:
    """The server's refusal of the offer is the reason."""
    with tab(browser, complaints) as page:
        page.goto(prices)
        page.evaluate(PREPARE)
        assert "no grant covers this" in page.evaluate(WHY)
    assert complaints == []


def test_a_code_and_a_reason_come_at_the_end(
    browser: Browser, prices: str, complaints: list[str]
) -> None:
    """The server's as on a WebSocket; and a page has its own."""
    with tab(browser, complaints) as page:
        page.goto(prices)
        page.evaluate(PREPARE)
        ending = page.evaluate(ENDINGS, ["x" * 70_000, False])
        assert ending == [CloseCode.MESSAGE_TOO_BIG, "the message is too large"]
        assert page.evaluate(ENDINGS, ["", True]) == [4321, ""]
    assert complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_every_screen(
    browser: Browser, prices: str, complaints: list[str], width: int, theme: str
) -> None:
    """Nothing scrolls sideways, and what can be pressed is on the screen."""
    view = {"viewport": {"width": width, "height": 800}, "color_scheme": theme}
    with tab(browser, complaints, **view) as page:
        page.goto(prices)
        page.wait_for_function(f"{EVENTS} > 3")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.is_visible("#cut")
        if folder := os.environ.get("WSBUS_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/webrtc-{width}-{theme}.png")
    assert complaints == []
