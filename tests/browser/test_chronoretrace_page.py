"""The test page of the ChronoRetrace example in a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.examples.chronoretrace_peer import chronoretrace, host_of
from tests.examples.peer import PATIENCE, ROOT, Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FILE = "chronoretrace.html"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with chronoretrace(tmp_path_factory.mktemp("logs") / "log") as running:
        yield running


@contextmanager
def tab(browser: Browser, complaints: list[str], **options: Any) -> Iterator[Page]:
    """Open an empty page; what it complains of, and what it fetches over HTTP, is collected."""
    with browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options) as context:
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url))
        yield page


@pytest.fixture
def page(browser: Browser, server: Server, complaints: list[str]) -> Iterator[Page]:
    """The page of the server itself, not connected."""
    with tab(browser, complaints) as opened:
        opened.goto(server.url)
        yield opened


def connect(page: Page, client_id: str | None = None) -> None:
    """Connect, and wait until the page says so."""
    if client_id is not None:
        page.get_by_label("Client id").fill(client_id)
    page.get_by_role("button", name="Connect", exact=True).click()
    state(page, "Connected")


def state(page: Page, text: str) -> None:
    """Wait for a state of the connection."""
    page.locator("#state").get_by_text(text, exact=True).wait_for()


def subscribe(page: Page, topic: str) -> None:
    """Subscribe, and wait for data."""
    page.get_by_label("Topic", exact=True).fill(topic)
    page.get_by_role("button", name="Subscribe", exact=True).click()
    page.locator("#topics li", has_text=topic).get_by_text("#").wait_for()


def message(page: Page, kind: str, text: str) -> None:
    """Wait for a message of a kind (``sent``, ``got``, ``bad``, ``note``) that has this text."""
    page.locator(f".tail li.{kind}", has_text=text).first.wait_for()


def test_both_directions_are_live(page: Page, server: Server, complaints: list[str]) -> None:
    """Connect, subscribe, watch, unsubscribe, disconnect: the page shows it all, and is quiet."""
    state(page, "Disconnected")
    assert page.get_by_role("button", name="Subscribe", exact=True).is_disabled()
    connect(page, "a person/1")
    message(page, "got", '"type":"connection_ack","client_id":"a person/1"')
    assert page.locator("#known").inner_text() == "a person/1"
    subscribe(page, "stock.AAPL.1m")
    message(page, "sent", '{"type":"subscribe","topic":"stock.AAPL.1m"}')
    message(page, "got", '"type":"subscribe_ack","topic":"stock.AAPL.1m"')
    message(page, "got", '"type":"data","topic":"stock.AAPL.1m","data":{"seq":3,')
    page.get_by_role("button", name="Ping").click()
    message(page, "got", '"type":"pong"')
    assert page.locator("#latency").inner_text().endswith("ms")
    page.get_by_role("button", name="Unsubscribe from stock.AAPL.1m").click()
    message(page, "got", '"type":"unsubscribe_ack"')
    assert page.locator("#topics li").count() == 0
    page.get_by_role("button", name="Disconnect").click()
    state(page, "Disconnected")
    message(page, "note", "closed with 1000")
    assert page.get_by_role("button", name="Subscribe", exact=True).is_disabled()
    connect(page)

    assert complaints == [server.url]


def test_errors_are_shown_and_close_nothing(page: Page, complaints: list[str]) -> None:
    """What the server refuses shows in its own words; markup in them is text."""
    connect(page)
    for raw, answer in (
        ('{"type":"subscribe","topic":"stock_data"}', "无效的主题格式: stock_data"),
        ("no JSON", "无效的消息格式: "),
        ('{"type":"subscribe","topic":"<img src=x onerror=document.title=1>"}', "<img src=x"),
    ):
        page.get_by_label("Message to send").fill(raw)
        page.get_by_role("button", name="Send message").click()
        message(page, "sent", raw)
        message(page, "bad", answer)

    state(page, "Connected")
    assert page.locator("img").count() == 0
    assert page.title() == "ChronoRetrace · WebSocket test"
    assert len(complaints) == 1


def test_the_messages_can_be_chosen_held_and_cleared(page: Page) -> None:
    """Data can be left out, one direction be looked at, and the list stand still."""
    connect(page)
    subscribe(page, "market.US.summary")
    message(page, "data", "market.US.summary")
    rows = page.locator(".tail li")
    page.get_by_label("Which messages to show").select_option(label="All but data")
    assert page.locator(".tail .data:visible").count() == 0
    assert page.locator(".tail .got:visible").count() >= 3
    page.get_by_label("Which messages to show").select_option(label="Sent")
    assert page.locator(".tail .got:visible").count() == 0
    page.get_by_role("button", name="Pause").click()
    held, seen = rows.count(), page.locator("#counts").inner_text()
    page.wait_for_function("s => document.querySelector('#counts').textContent !== s", arg=seen)
    assert rows.count() == held
    page.get_by_role("button", name="Resume").click()
    page.wait_for_function("n => document.querySelectorAll('.tail li').length > n", arg=held)
    page.get_by_label("Which messages to show").select_option(label="All")
    page.get_by_role("button", name="Clear").click()
    assert rows.count() < held


def test_who_is_replaced_stays_away(page: Page) -> None:
    """A second page with the same id: the first says why it was closed, and does not come back."""
    connect(page, "twin")
    subscribe(page, "stock.AAPL.1m")
    with page.context.new_page() as second:
        second.goto(page.url)
        connect(second, "twin")
        state(page, "Disconnected by the server")
        assert "4509, client_id replaced" in page.locator("#why").inner_text()
        subscribe(second, "stock.AAPL.1m")
        state(second, "Connected")
    assert page.locator("#topics li").count() == 0
    assert page.get_by_role("button", name="Connect", exact=True).is_enabled()


def test_nobody_there_is_said_once(page: Page, tmp_path: Path) -> None:
    """What has never worked is not tried again; an address that is none is said to be."""
    with chronoretrace(tmp_path / "log") as gone:
        host = host_of(gone)
    page.get_by_label("Server").fill(host)
    page.get_by_role("button", name="Connect", exact=True).click()
    state(page, "Not connected")
    assert f"No connection to ws://{host}/api/v1/ws/web_" in page.locator("#why").inner_text()
    page.get_by_label("Server").fill("ws://[no address")
    page.get_by_role("button", name="Connect", exact=True).click()
    page.locator("#why", has_text="This is no address").wait_for()


def test_it_comes_back_after_a_restart(
    browser: Browser, complaints: list[str], tmp_path: Path
) -> None:
    """A page whose server is gone says so, goes on by itself, and is subscribed as it was."""
    with tab(browser, complaints) as page:
        with chronoretrace(tmp_path / "first.log") as first:
            page.goto(first.url)
            connect(page, "faithful")
            subscribe(page, "stock.AAPL.1m")
            subscribe(page, "crypto.BTC/USDT.1M")
            host = host_of(first)
            first.process.terminate()
            state(page, "Connection lost")
            assert "Trying again in" in page.locator("#why").inner_text()
            assert page.get_by_role("button", name="Subscribe", exact=True).is_disabled()
            assert first.process.wait(PATIENCE) == 0
        page.get_by_role("button", name="Clear").click()
        with chronoretrace(tmp_path / "log", "--port", host.rpartition(":")[2]) as second:
            assert host_of(second) == host
            state(page, "Connected")
            for topic in ("stock.AAPL.1m", "crypto.BTC/USDT.1M"):
                message(page, "got", f'"type":"subscribe_ack","topic":"{topic}"')
                message(page, "data", f'"topic":"{topic}","data":{{"seq":1,')
        assert page.locator("#topics code").all_inner_texts() == [
            "stock.AAPL.1m",
            "crypto.BTC/USDT.1M",
        ]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_it_works_from_elsewhere(
    browser: Browser, server: Server, complaints: list[str], scheme: str
) -> None:
    """Served by another port, or opened as a file, it connects to the address that is typed."""
    with (
        ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(_Quiet, directory=str(ROOT / "examples"))
        ) as elsewhere,
        tab(browser, complaints) as page,
    ):
        threading.Thread(target=elsewhere.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{elsewhere.server_port}/{FILE}"
        page.goto(url if scheme == "http" else (ROOT / "examples" / FILE).as_uri())
        host = host_of(server)
        for typed in (f"http://{host}/", host) if scheme == "http" else (f"ws://{host}",):
            page.get_by_label("Server").fill(typed)
            connect(page, f"{scheme} from elsewhere")
            page.get_by_role("button", name="Disconnect").click()
            state(page, "Disconnected")
        connect(page)
        subscribe(page, "stock.AAPL.1m")
        elsewhere.shutdown()

    assert len(complaints) == 1


def test_it_fits_in_light_and_dark(page: Page) -> None:
    """The page fits from the narrowest phone on, with long names, too, in light and dark."""
    connect(page, "a-very-long-name-" * 12)
    subscribe(page, f"stock.{'LONG' * 40}.1m")
    message(page, "data", "LONG")
    bright = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((n) => n > 127)"
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
        assert page.evaluate(bright) is (scheme == "light")
        for width in (360, 800, 1280):
            page.set_viewport_size({"width": width, "height": 740})
            assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_keyboard_does_it_all(page: Page) -> None:
    """Tab visits every control, each shows that it has the focus, and Enter does its work."""
    page.get_by_label("Client id").press("Enter")
    state(page, "Connected")
    page.get_by_label("Topic", exact=True).press("Enter")
    page.locator("#topics li", has_text="stock.AAPL.1m").wait_for()
    page.get_by_label("Which messages to show").select_option(label="Sent")  # the list stands still
    controls = page.locator("button:enabled:visible, input, select, textarea, [tabindex='0']")
    wanted = controls.count()
    page.locator("h1").click()  # from the top
    visited = set()
    for _ in range(wanted):
        page.keyboard.press("Tab")
        visited.add(
            page.evaluate(
                "[...document.querySelectorAll('main *')].filter((e) => !e.closest('.tail li'))"
                ".indexOf(document.activeElement) + ' ' +"
                "getComputedStyle(document.activeElement).outlineStyle"
            )
        )
    assert len(visited) == wanted
    assert all(entry.endswith("solid") for entry in visited)

    page.get_by_role("button", name="Unsubscribe from").press("Enter")
    page.locator("#topics li").wait_for(state="detached")
    page.get_by_role("button", name="Disconnect").press("Enter")
    state(page, "Disconnected")
    assert page.evaluate("document.activeElement.id") == "connect"
