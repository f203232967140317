"""The demo's page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.cli.running import Demo, running_demo

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def demo(browser: Browser) -> Iterator[Demo]:
    with running_demo() as running:
        yield running


@pytest.fixture
def page(browser: Browser, demo: Demo, complaints: list[str]) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.set_default_timeout(15_000)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((demo.address, "data:"))
                else complaints.append(request.url)
            ),
        )
        open_page(tab, demo)
        yield tab


def open_page(tab: Page, demo: Demo) -> None:
    tab.goto(demo.address)
    tab.get_by_text("Connected", exact=True).wait_for()


def send_command(page: Page, label: str, verdict: str) -> str:
    """Send a command with the parameters that the page proposes; return what is shown of it."""
    page.get_by_label("Action").select_option(label=label)
    page.get_by_role("button", name="Send").click()
    page.locator("#response .verdict", has_text=verdict).wait_for()
    return page.locator("#response").inner_text()


def test_everything_comes_alive_without_complaint(page: Page, complaints: list[str]) -> None:
    """Prices, health, log, events and frames show, and nothing is fetched elsewhere."""
    for symbol in ("BTC-USDT", "ETH-USDT", "600519"):
        page.locator("article:not([data-stale])", has_text=f"prices.{symbol}").wait_for()
    page.locator("article:not([data-stale])", has_text="system.health").wait_for()
    page.locator(".log li").first.wait_for()
    page.locator(".events li", has_text="prices.ETH-USDT").first.wait_for()
    for shown in ('"type":"subscribe"', '"type":"subscribed"'):
        page.locator(".wire li", has_text=shown).first.wait_for(state="attached")
    page.locator("#latency", has_text=" ms").wait_for()

    assert complaints == []


def test_a_pattern_is_subscribed_and_left(page: Page) -> None:
    """A pattern typed becomes a chip when the server has taken it; its button takes it back."""
    for chip in ("prices.*", "system.*"):
        page.get_by_role("button", name=f"Unsubscribe from {chip}").click()
    page.get_by_label("Pattern to subscribe to").fill("system.+")
    page.get_by_label("Pattern to subscribe to").press("Enter")
    page.locator("#chips code", has_text="system.+").wait_for()
    page.locator(".events").get_by_role("button", name="Clear").click()
    page.locator(".events li", has_text="system.health").first.wait_for()

    assert page.locator("#chips code").all_inner_texts() == ["chat.*", "system.+"]
    assert page.locator(".events li", has_text="prices.").count() == 0


def test_what_the_server_rejects_is_said(page: Page) -> None:
    """An ill-formed pattern becomes no chip; the server's reason is shown."""
    page.get_by_label("Pattern to subscribe to").fill("a..b")
    page.get_by_role("button", name="Subscribe", exact=True).click()
    page.locator("#rejected li", has_text="a..b").wait_for()

    assert "a..b" not in page.locator("#chips code").all_inner_texts()


def test_a_command_is_answered(page: Page) -> None:
    """A response shows its data or its error, and the time it took."""
    done = send_command(page, "add", "Done")
    refused = send_command(page, "add, a is no number", "VALIDATION_ERROR")
    unknown = send_command(page, "no.such.action", "UNKNOWN_ACTION")

    assert done.endswith("5")
    assert "$.params.a" in refused
    assert "ms there and back" in unknown


def test_a_line_of_chat_comes_to_both_tabs(page: Page) -> None:
    """What one tab says shows in it and in a second one; what is refused may be said again."""
    with page.expect_popup() as opened:
        page.get_by_role("link", name="a second tab").click()
    other = opened.value
    other.get_by_text("Connected", exact=True).wait_for()
    page.get_by_label("Line to say").fill("Good evening, lobby")
    page.get_by_label("Line to say").press("Enter")
    for tab in (page, other):
        tab.locator(".chat li", has_text="Good evening, lobby").wait_for()
    other.close()
    assert page.get_by_label("Line to say").input_value() == ""


def test_the_console_opens_beside_the_demo(page: Page) -> None:
    """The console needs no token at this machine; it shows the page that stays open."""
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Console").click()
    console = opened.value
    console.get_by_text("Live", exact=True).wait_for()
    console.get_by_role("tab", name="Connections 1").wait_for()
    console.get_by_text("read-only", exact=True).wait_for()
    console.close()


def test_a_chart_shows_the_last_minute(page: Page) -> None:
    """A price's chart has its lowest and its highest price, and ends at the right edge."""
    card = page.locator(".price", has_text="prices.BTC-USDT")
    page.wait_for_function(
        "e => e.getAttribute('points')?.split(' ').length > 3",
        arg=card.locator("polyline").element_handle(),
    )
    drawn, low, high = card.evaluate("""e => [
      e.querySelector("polyline").getAttribute("points").split(" "),
      ...[".low", ".high"].map((name) => e.querySelector(name).textContent),
    ]""")
    xs = [float(pair.split(",")[0]) for pair in drawn]

    assert xs == sorted(xs)
    assert 50 < xs[0] < xs[-1] == 100
    assert float(low.split()[1].replace(",", "")) < float(high.split()[1].replace(",", ""))


def test_what_is_not_json_is_not_sent(page: Page) -> None:
    """Parameters that are not JSON are refused by the page itself."""
    page.get_by_label("Parameters, as JSON").fill("{a: 1}")
    page.get_by_label("Parameters, as JSON").press("Control+Enter")

    page.get_by_text("Not sent: the parameters are not JSON").wait_for()


def test_the_page_uses_the_client_and_the_styles_that_ship(page: Page, demo: Demo) -> None:
    """Its scripts are its own and the application's ``wsbus.js``; ``base.css`` comes first."""
    scripts = page.evaluate(
        "performance.getEntriesByType('resource').map(({ name }) => name)"
        ".filter((name) => name.endsWith('.js')).sort()"
    )
    sheets = page.evaluate("[...document.styleSheets].map(({ href }) => href)")

    assert scripts == [f"{demo.address}/demo.js", f"{demo.address}/wsbus/wsbus.js"]
    assert sheets == [f"{demo.address}/base.css", f"{demo.address}/demo.css"]


def test_data_is_text(page: Page, complaints: list[str]) -> None:
    """Markup that somebody sends is shown as text, and is none."""
    page.get_by_label("Action").select_option(label="chat.say")
    page.get_by_label("Parameters, as JSON").fill(
        '{"text": "<img src=x onerror=document.title=1>"}'
    )
    page.get_by_role("button", name="Send").click()
    page.locator(".events li", has_text="<img src=x").wait_for()

    assert page.locator("main img").count() == 0
    assert page.title() == "wsbus demo"
    assert complaints == []


def test_pausing_holds_the_events(page: Page) -> None:
    """While the stream is paused its rows stay, though events are counted; then it goes on."""
    events = page.locator(".events")
    events.locator("li").first.wait_for()
    events.get_by_role("button", name="Pause").click()
    rows = events.locator("li").count()
    total = int(events.locator("[data-total]").inner_text())
    page.wait_for_function(
        "before => Number(document.querySelector('.events [data-total]').textContent) > before + 5",
        arg=total,
    )

    assert events.locator("li").count() == rows
    events.get_by_role("button", name="Resume").click()
    assert events.locator("li").count() > rows


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_no_width_scrolls_sideways(page: Page, width: int) -> None:
    """The page fits from the narrowest phone on."""
    page.set_viewport_size({"width": width, "height": 740})
    page.locator(".wire li").first.wait_for(state="attached")

    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_keyboard_reaches_everything(page: Page) -> None:
    """Tab visits every control, and each shows that it has the focus."""
    controls = page.locator(
        "a, button:enabled:visible, input, select, textarea, [tabindex='0']:visible"
    )
    wanted = controls.count()
    page.evaluate("document.activeElement.blur()")
    visited = set()
    for _ in range(wanted):
        page.keyboard.press("Tab")
        visited.add(
            page.evaluate(
                "[...document.querySelectorAll('*')].indexOf(document.activeElement) + ' ' +"
                "getComputedStyle(document.activeElement).outlineStyle"
            )
        )

    assert len(visited) == wanted
    assert all(entry.endswith("solid") for entry in visited)


def test_the_page_comes_back_after_the_server(browser: Browser) -> None:
    """A page whose server is gone says so, and goes on by itself, subscribed as it was."""
    with browser.new_context() as context:
        context.set_default_timeout(20_000)
        tab = context.new_page()
        with running_demo() as first:
            open_page(tab, first)
            tab.get_by_role("button", name="Unsubscribe from chat.*").click()
            port = first.port
            first.interrupt()
            tab.get_by_text("Connection lost").wait_for()
            assert tab.get_by_role("button", name="Subscribe", exact=True).is_disabled()
        with running_demo(port) as second:
            tab.get_by_text("Connected", exact=True).wait_for()
            tab.locator("article:not([data-stale])", has_text="prices.BTC-USDT").wait_for()
            patterns = tab.locator("#chips code").all_inner_texts()
            assert second.port == port

    assert patterns == ["prices.*", "system.*"]
