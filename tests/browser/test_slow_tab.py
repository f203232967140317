"""A tab that works 100 ms on each event, of 1,000 a second, beside one that keeps up."""

from __future__ import annotations

import os
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.browser.test_javascript_client import PREPARE, address

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, CDPSession, Page

__all__ = ["address"]

SECONDS: Final = float(os.environ.get("WSBUS_SLOW_TAB_SECONDS", "15"))
"""The length of the flood. The full form, with 60 s, needs ``--timeout 200``, too."""
WORK: Final = 100
MAX_AGE: Final = 250
MAX_GROWTH: Final = 1_000_000

LISTEN: Final = """async ({ work, options }) => {
  window.ages = [];
  window.shown = undefined;
  window.isOver = false;
  client.on("ticks", ({ timestamp, data }) => {
    ages.push(Date.now() - timestamp);
    const until = performance.now() + work;
    while (performance.now() < until) {}
    window.firstShown ??= data.number;
    shown = data.number;
    isOver ||= !!data.is_last;
  });
  await client.subscribe("ticks", options);
}"""


def opened(context: BrowserContext, address: str, work: int, options: dict[str, Any]) -> Page:
    """Return a tab that handles ticks."""
    tab = context.new_page()
    tab.set_default_timeout((SECONDS + 30) * 1000)
    tab.goto(address)
    tab.evaluate(PREPARE)
    tab.evaluate(LISTEN, {"work": work, "options": options})
    return tab


def heap(session: CDPSession) -> int:
    """Return the bytes that a tab's heap holds after a collection."""
    session.send("HeapProfiler.collectGarbage")
    return int(session.send("Runtime.getHeapUsage")["usedSize"])


def usual_p99(ages: list[float]) -> float:
    """Return the 99th percentile of each second, the median of them: other processes work, too."""
    seconds = [ages[i : i + 1000] for i in range(0, len(ages) - 999, 1000)]
    return median([share(second, 0.99) for second in seconds])


def share(ages: list[float], part: float) -> float:
    """Return the age that this part of the events does not exceed."""
    return sorted(ages)[int(part * (len(ages) - 1))]


@pytest.mark.slow
def test_a_slow_tab_shows_what_is_new_and_does_not_grow(browser: Browser, address: str) -> None:
    """Its heap stays, what it shows is young, and the last event comes; another tab gets all."""
    with browser.new_context() as one, browser.new_context() as other:
        fast = opened(other, address, 0, {})
        fast.evaluate("(seconds) => client.command('flood', { seconds })", 3)
        fast.wait_for_function("isOver")
        alone = usual_p99(fast.evaluate("ages"))
        fast.evaluate("ages.length = 0; isOver = false; firstShown = undefined")

        slow = opened(one, address, WORK, {"maxRate": "auto"})
        session = one.new_cdp_session(slow)
        fast.evaluate("(seconds) => client.command('flood', { seconds })", SECONDS)
        slow.wait_for_timeout(2000)
        before = heap(session)
        slow.wait_for_timeout((SECONDS - 3) * 1000)
        grown = heap(session) - before
        for tab in (fast, slow):
            tab.wait_for_function("isOver")

        ages, beside = slow.evaluate("ages"), usual_p99(fast.evaluate("ages"))
        figures = f"{grown=} oldest={max(ages)} p95={share(ages, 0.95)} {alone=} {beside=}"
        print(len(ages), figures)
        assert slow.evaluate("shown") == fast.evaluate("shown")
        assert fast.evaluate("ages.length") == fast.evaluate("shown - firstShown + 1")
        assert len(ages) > 4 * SECONDS
        assert grown <= MAX_GROWTH, figures
        if "WSBUS_SLOW_TAB_SECONDS" in os.environ:  # On a quiet machine; nothing else is timed.
            assert share(ages, 0.95) <= MAX_AGE, figures
            assert beside <= 3 * alone + 50, figures
