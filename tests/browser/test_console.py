"""The operator's console in a real browser."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.console.application import HOSTILE, TOKEN, Served, served
from wsbus.console.remote import PageServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

TABS: Final = ("Overview", "Connections", "Channels", "Try it")

# The least contrast of visible text with what is behind it (WCAG 2.2, section 1.4.3).
FAINT: Final = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map(); // A page has few colours, and reading one back takes milliseconds.
  const rgba = (color) => {
    if (!known.has(color)) {
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = color;
      context.fillRect(0, 0, 1, 1);
      known.set(color, [...context.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(color);
  };
  const over = ([r, g, b, a], [R, G, B]) =>
    [[r, R], [g, G], [b, B]].map(([x, X]) => (x * a + X * (255 - a)) / 255);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      layers.push(rgba(getComputedStyle(e).backgroundColor));
    }
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb
      .map((value) => value / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!hasText || !element.checkVisibility()) continue;
    if (element.closest(":disabled, .unseen, option")) continue;
    const ground = behind(element);
    const ink = light(over(rgba(getComputedStyle(element).color), ground));
    const paper = light(ground);
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) found.push([element.className, element.textContent, ratio].join(" "));
  }
  return found;
}"""


@pytest.fixture(scope="module")
def app(browser: Browser) -> Iterator[Served]:
    """An application whose operators may disconnect, with three users, one of whom is slow."""
    with ExitStack() as stack:
        running = stack.enter_context(served("--changes"))
        for name, pattern in (("ada", "clock.*"), (HOSTILE, HOSTILE.replace(".", "_"))):
            user = stack.enter_context(running.user(name))
            user.send(json.dumps({"type": "subscribe", "channels": [pattern, "news.today"]}))
        deaf(stack, running)
        yield running


def deaf(stack: ExitStack, running: Served) -> None:
    """Connect a user who subscribes to the flood, and never reads."""
    raw = stack.enter_context(socket.socket())
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", running.port))
    user = stack.enter_context(running.user("deaf", sock=raw, max_queue=1))
    user.send('{"type": "subscribe", "channels": ["flood"]}')


@pytest.fixture
def page(browser: Browser, app: Served, complaints: list[str]) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        tab = new_tab(context, app, complaints)
        sign_in(tab, app)
        yield tab
        assert tab.title() != "pwned"
        assert complaints == []


def new_tab(context: object, app: Served, complaints: list[str]) -> Page:
    """Open a tab that notes what goes wrong, and what is fetched from elsewhere."""
    context.set_default_timeout(15_000)  # type: ignore[attr-defined]
    tab: Page = context.new_page()  # type: ignore[attr-defined]
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on(
        "request",
        lambda request: (
            None if request.url.startswith(app.page) else complaints.append(request.url)
        ),
    )
    return tab


JUDGED: Final = "#verdict:not([data-tone=quiet])"
"""A verdict of now; on a busy machine it is that the event loop was late."""


def sign_in(tab: Page, app: Served, hash_: str = "") -> None:
    tab.goto(app.page + hash_)
    tab.get_by_label("Token of this console").fill(TOKEN)
    tab.get_by_label("Token of this console").press("Enter")
    tab.get_by_text("Live", exact=True).wait_for()


def go(page: Page, name: str) -> Locator:
    """Choose a tab; return its panel."""
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel", name=name)


def read_to_the_end(user: ClientConnection) -> None:
    """Read until it is closed."""
    while True:
        user.recv(timeout=10)


def cell(page: Page, who: str, label: str) -> Locator:
    """Return a figure of somebody's row."""
    row = page.locator("#connection-rows tr").filter(has=page.get_by_role("button", name=who))
    return row.locator(f'td[data-label="{label}"]')


def number(text: str) -> float:
    """Read a figure."""
    return float(text.replace(",", ""))


# --- getting in --------------------------------------------------------------------------------


def test_a_refused_token_is_said_and_forgotten(browser: Browser, app: Served) -> None:
    """A wrong token is refused in words; the right one is stored nowhere."""
    with browser.new_context() as context:
        tab = new_tab(context, app, [])
        tab.goto(app.page)
        tab.get_by_label("Token of this console").fill("let me have a loop")
        tab.get_by_role("button", name="Connect", exact=True).first.click()
        tab.get_by_text("The console refused this token.").wait_for()
        assert tab.evaluate("sessionStorage.length") == 0
        assert not tab.get_by_role("tablist").is_visible()

        sign_in(tab, app)
        assert tab.evaluate("sessionStorage.length + localStorage.length") == 0
        assert tab.get_by_label("Token of this console").input_value() == ""
        assert tab.evaluate("document.activeElement.id") == "tab-overview"
        assert TOKEN not in tab.url

        tab.get_by_role("button", name="Sign out").click()
        tab.get_by_label("Token of this console").wait_for()
        assert tab.evaluate("sessionStorage.length") == 0
        tab.reload()
        tab.get_by_label("Token of this console").wait_for()


def test_a_read_only_console_says_so(browser: Browser) -> None:
    """Where nothing may be changed there is no way to disconnect, and the page tells why."""
    with served() as app, app.user("ada"), browser.new_context() as context:
        tab = new_tab(context, app, [])
        sign_in(tab, app, "#connections")
        tab.get_by_text("read-only", exact=True).wait_for()
        tab.get_by_role("button", name="ada").click()
        tab.get_by_role("dialog", name="ada").get_by_text("may look, and change nothing").wait_for()

        assert not tab.get_by_role("button", name="Disconnect", exact=False).is_visible()


# --- the tabs ----------------------------------------------------------------------------------


def test_the_overview_tells_what_is_wrong(page: Page) -> None:
    """Rates run, and a slow connection is named first, in the words of the verdict too."""
    panel = page.get_by_role("tabpanel", name="Overview")
    panel.locator("#verdict[data-tone='bad']", has_text="dropped").wait_for()
    panel.locator("#slowest li:first-child", has_text="deaf").wait_for()
    assert panel.locator("#slowest li").count() == 1  # The others wait for nothing.
    process = panel.locator("#process").inner_text()
    assert re.search(
        r"wsbus .* · Python 3\.\d+\.\d+ · process \d+ on .* · node [0-9a-f]+ · up \d+ .*memory",
        process,
    )
    loss = panel.locator("#losses li", has_text="deaf")
    loss.get_by_text(re.compile(r"[\d,]+ publications.* on flood, now")).wait_for()
    published = panel.locator(".card", has=page.get_by_role("heading", name="Published"))

    assert number(published.locator(".value").inner_text().split("/")[0]) > 400
    assert published.locator("polyline").get_attribute("points")
    assert panel.locator("#totals dd").first.inner_text() != "–"
    panel.locator("#slowest li").first.get_by_role("button").click()
    page.get_by_role("dialog", name="deaf").get_by_text("flood").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")


def test_a_chart_is_read_by_pointer_and_by_keyboard(page: Page) -> None:
    """A chart has a scale and times; what is pointed at, or chosen by arrows, is said as text."""
    card = page.locator(".card", has=page.get_by_role("heading", name="Published"))
    reading = card.get_by_role("status")
    moment = r"\d\d:\d\d:\d\d"
    page.wait_for_function(
        "e => e.getAttribute('points')?.includes(' ')",
        arg=card.locator("polyline").element_handle(),
    )
    assert re.fullmatch(r"[1-9][\d,]*/s", card.locator(".scale").inner_text())
    start, end = re.findall(moment, card.locator(".axis").inner_text())
    assert start != end
    card.locator("svg").hover()
    reading.get_by_text(re.compile(rf"^[\d,]+/s at {moment}$")).wait_for()
    page.mouse.move(0, 0)
    assert reading.inner_text() == ""
    card.get_by_role("figure").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    second = reading.inner_text()
    page.keyboard.press("ArrowLeft")
    assert second != reading.inner_text() != ""
    page.keyboard.press("Escape")
    assert reading.inner_text() == ""


def test_the_overview_tells_who_has_ended(page: Page, app: Served) -> None:
    """Who leaves while the page is open is listed with code and reason."""
    panel = page.get_by_role("tabpanel", name="Overview")
    page.locator("#slowest li").first.wait_for()
    with app.user("hopper") as hopper:
        hopper.close(4001, "off to lunch")
    panel.locator("#ended li", has_text="hopper").get_by_text("4001").wait_for()


def test_a_click_on_a_head_sorts(page: Page) -> None:
    """Heads of columns sort by them, and say so to assistive technology; the select agrees."""
    go(page, "Connections")
    first = page.locator("#connection-rows tr:first-child .open")
    for head, name, order in (
        ("Age", "deaf", "ascending"),
        ("Age", "ada", "descending"),
        ("Waiting", "deaf", "descending"),
        ("Identity", HOSTILE, "ascending"),
    ):
        page.get_by_role("button", name=head, exact=True).click()
        first.get_by_text(name, exact=True).wait_for()
        column = page.locator(f'#connection-head th[aria-sort="{order}"]')
        assert column.inner_text() == head
    assert page.get_by_label("Sort by").first.input_value() == "name"
    go(page, "Channels").get_by_role("button", name="Channel", exact=True).click()
    page.locator("#channel-rows tr:first-child", has_text="chat.").wait_for()


def test_a_list_by_rate_keeps_still(page: Page) -> None:
    """Channels change places if their rates clearly differ, and never under the pointer."""
    show = """async ([samples, hover]) => {
      const { Channels } = await import("./channels.js");
      const list = new Channels(() => {});
      document.querySelector("#channel-rows").matches = () => hover;
      return samples.map((rates) => {
        const rows = Object.entries(rates)
          .map(([channel, rate]) => ({ channel, rate, subscribers: 0, count: 1, size: 1, at: 0 }))
          .toSorted((a, b) => b.rate - a.rate);
        const all = { found: rows.length, total: rows.length };
        list.show({ view: "published", sort: "rate", at: 0, rows, ...all });
        return [...document.querySelectorAll("#channel-rows .open")].map((e) => e.textContent);
      });
    }"""
    samples = [
        {"a": 10, "b": 9.9, "c": 1},
        {"b": 11, "a": 10, "c": 1},
        {"b": 15, "a": 10, "c": 1, "d": 0.1},
        {"c": 100, "b": 15, "a": 10, "d": 0.1},
    ]
    free, held = page.evaluate(show, [samples, False]), page.evaluate(show, [samples, True])

    assert free == [["a", "b", "c"], ["a", "b", "c"], ["b", "a", "c", "d"], ["c", "b", "a", "d"]]
    assert held == [["a", "b", "c"]] * 2 + [["a", "b", "c", "d"]] * 2
    assert "no row moves" in page.locator("#channel-shown").inner_text()


def test_a_chart_has_a_gap_where_nothing_was_known(page: Page) -> None:
    """Samples missing, or of another process, break the line; what was before stays, by time."""
    drawn = page.evaluate("""async () => {
      const { Chart } = await import("./chart.js");
      const { Traffic } = await import("./traffic.js");
      const traffic = new Traffic(), chart = new Chart("Published", String);
      const totals = { messages_received: 0, publications: 0, sent: 0, dropped: 0, refused: 0,
        failures: 0, connections: 1, connections_ever: 1, queued: 0, queued_bytes: 0 };
      const sample = (node, at, publications) => traffic.add(
        { node, at, clock: 100 + at, cpu: 0, lag: 0, totals: { ...totals, publications } });
      for (let i = 0; i < 10; i += 1) sample("a", i, 10 * i);
      for (let i = 30; i < 40; i += 1) sample("a", i, 10 * i); // 20 s without a sample.
      // Another process, which has published more already.
      for (let i = 42; i < 52; i += 1) sample("b", i, 10_000 + 10 * i);
      chart.draw(traffic.points, (point) => point.published, 5);
      const known = traffic.points.filter(Boolean);
      return { rates: [...new Set(known.map((point) => point.published))], known: known.length,
        newest: chart.element.querySelector("polyline").getAttribute("points"),
        earlier: chart.element.querySelector(".line").getAttribute("d") };
    }""")
    before, between = drawn["earlier"].split("M")[1:]
    edges = [
        float(pair.split(",")[0])
        for line in (before, between, drawn["newest"])
        for pair in (line.split()[0], line.split()[-1])
    ]

    assert (drawn["rates"], drawn["known"]) == ([10], 27)  # Two samples make a rate.
    # Of the last 60 s: seconds 1 to 9, 31 to 39, and 43 to 51 at the right edge.
    assert edges == pytest.approx([x * 100 / 60 for x in (10, 18, 40, 48, 52, 60)], abs=0.02)


def test_connections_stand_slowest_first(page: Page) -> None:
    """The slow one is on top with what waits for it; filter, order and hold do what they say."""
    panel = go(page, "Connections")
    page.locator("#connection-rows tr:first-child", has_text="deaf").wait_for()
    assert cell(page, "deaf", "Waiting").inner_text().startswith("50")
    assert number(cell(page, "deaf", "Lost").inner_text().split()[0]) > 0
    assert cell(page, "ada", "Waiting").inner_text().strip() == "0"

    page.wait_for_function(
        "() => [...document.querySelectorAll('td[data-label=Sent] small')]"
        ".some((rate) => /^[1-9]\\d?\\.\\d\\/s$/.test(rate.textContent))"
    )
    panel.get_by_label("Filter connections").fill("CLOCK")
    panel.get_by_text("1 match among 3 connections").wait_for()
    assert panel.locator("tbody .open").all_inner_texts() == ["ada"]
    panel.get_by_label("Filter connections").fill("nobody here")
    panel.get_by_text("No connection matches the filter.").wait_for()
    panel.get_by_label("Filter connections").fill("")
    panel.get_by_label("Sort by").select_option("oldest")
    page.locator("#connection-rows tr:first-child", has_text="ada").wait_for()

    panel.get_by_role("button", name="Freeze").click()
    before = cell(page, "ada", "Sent").text_content()
    pulse = page.locator("#connection-count")
    page.wait_for_timeout(1500)
    assert pulse.inner_text() == "3"
    assert cell(page, "ada", "Sent").text_content() == before
    panel.get_by_role("button", name="Resume").click()
    page.wait_for_function(
        "before => document.querySelector('td[data-label=Sent]').textContent !== before", arg=before
    )


def test_a_connection_is_disconnected_after_a_question(page: Page, app: Served) -> None:
    """The first button asks, the second does it; the client is told to stay away, or to come."""
    go(page, "Connections")
    for again, code in ((False, 4510), (True, 1012)):
        with app.user("linus") as linus:
            page.get_by_role("button", name="linus").click()
            dialog = page.get_by_role("dialog", name="linus")
            dialog.get_by_role("button", name="Disconnect…").click()
            dialog.get_by_text("Disconnect linus?").wait_for()
            dialog.get_by_role("button", name="Keep it").click()
            dialog.get_by_role("button", name="Disconnect…").click()
            if again:
                dialog.get_by_label("Come again").check()
            dialog.get_by_role("button", name="Disconnect", exact=True).click()
            with pytest.raises(ConnectionClosed) as closed:
                read_to_the_end(linus)
            dialog.wait_for(state="hidden")
            page.get_by_role("button", name="linus").wait_for(state="detached")

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code
        assert closed.value.rcvd.reason == "disconnected by an operator"


def test_a_connection_that_ends_is_said_to_have_ended(page: Page, app: Served) -> None:
    """What is shown of a connection is not taken for alive when it has gone."""
    go(page, "Connections")
    with app.user("grace"):
        page.get_by_role("button", name="grace").click()
        page.get_by_role("dialog", name="grace").get_by_text("Publications sent").wait_for()
    page.get_by_role("dialog").get_by_text("This connection has ended.").wait_for()

    assert not page.get_by_role("button", name="Disconnect…").is_visible()


def test_channels_show_what_is_published(page: Page) -> None:
    """The busiest channel is on top with its rate; patterns show with their subscribers."""
    panel = go(page, "Channels")
    page.locator("#channel-rows tr:first-child", has_text="flood").wait_for()
    rate = page.locator("#channel-rows tr:first-child td").nth(1)
    page.wait_for_function(
        "() => document.querySelector('#channel-shown').textContent.includes('3 s')"
    )
    assert 400 < number(rate.inner_text()) < 1600

    panel.get_by_label("Filter channels").fill("tick")
    panel.get_by_text("1 match among 3 channels").wait_for()
    panel.get_by_label("Filter channels").fill("")
    panel.get_by_text("Subscribed", exact=True).click()
    page.locator("#channel-rows tr", has_text="clock.*").wait_for()
    assert page.locator("#channel-head th").all_inner_texts() == ["Pattern", "Subscribers"]


def test_a_tail_follows_is_held_and_filtered(page: Page) -> None:
    """A click on a channel tails it; pause holds the rows, a text picks events out."""
    panel = go(page, "Channels")
    panel.get_by_role("button", name="Tail clock.tick").click()
    rows = panel.locator("#tail li")
    rows.filter(has_text='"parity":"even"').first.wait_for()
    rows.filter(has_text='"parity":"odd"').first.wait_for()

    panel.get_by_role("button", name="Pause").click()
    held = rows.count()
    panel.get_by_text(re.compile(r"Paused: \d+ rows? waiting")).wait_for()
    assert rows.count() == held
    panel.get_by_role("button", name="Resume").click()
    assert rows.count() > held

    panel.get_by_label("Only events that contain").fill("ODD")
    page.wait_for_timeout(1000)
    panel.get_by_role("button", name="Clear").click()
    rows.nth(5).wait_for()
    assert all('"odd"' in text for text in rows.all_inner_texts())

    panel.get_by_role("button", name="Stop").click()
    panel.get_by_text("Stopped.").wait_for()
    panel.get_by_label("Channel or pattern").fill("a..b")
    panel.get_by_label("Channel or pattern").press("Enter")
    panel.get_by_text("Not tailed: ").wait_for()


def test_a_channel_says_what_it_keeps_and_who_is_there(page: Page) -> None:
    """One channel shows its history a page at a time, and its connections; tokens are masked."""
    panel = go(page, "Channels")
    panel.get_by_label("Channel or pattern").fill("news.today")
    panel.get_by_label("Channel or pattern").press("Enter")
    past = panel.get_by_role("region", name="news.today")
    past.get_by_text("2 connections.").wait_for()
    assert past.locator("#past-here li").all_inner_texts() == ["ada", HOSTILE]
    past.get_by_text("The last 25 events; earlier ones are kept, too.").wait_for()
    past.get_by_role("button", name="Earlier").click()
    past.get_by_text("The last 40 events.").wait_for()
    rows = past.locator("#past-kept li").all_inner_texts()
    assert [f'"n":{n},"token":"•••"' in row for n, row in enumerate(rows)] == [True] * 40
    assert "kept secret" not in page.locator("body").inner_text()
    assert not past.get_by_role("button", name="Earlier").is_visible()
    past.get_by_role("button", name="Read again").click()
    past.get_by_text("The last 25 events").wait_for()

    panel.get_by_label("Channel or pattern").fill("clock.tick")
    panel.get_by_label("Channel or pattern").press("Enter")
    plain = panel.get_by_role("region", name="clock.tick")
    plain.get_by_text("This channel keeps no history.").wait_for()
    plain.get_by_text("This channel shows no presence.").wait_for()
    panel.get_by_label("Channel or pattern").fill("clock.*")
    panel.get_by_label("Channel or pattern").press("Enter")
    plain.wait_for(state="hidden")


def test_a_flood_is_shown_in_part_and_said_to_be(page: Page) -> None:
    """Of a fast channel a few events a second are shown, and how many were not."""
    panel = go(page, "Channels")
    panel.get_by_label("Channel or pattern").fill("flood")
    panel.get_by_label("Channel or pattern").press("Enter")
    state = panel.locator("#tail-state")
    page.wait_for_function(
        "() => /[1-9][\\d,]* more/.test(document.querySelector('#tail-state').textContent)"
    )
    panel.locator("#tail .missing").first.wait_for()
    shown, more = [
        int(n.replace(",", "")) for n in re.findall(r"([\d,]+) (?:event|more)", state.inner_text())
    ]

    assert more > shown
    panel.get_by_role("button", name="Pause").click()
    long = panel.locator("#tail details").last
    long.locator("summary").click()
    long.locator("pre").wait_for()
    assert '  "padding": ' in long.locator("pre").inner_text()


def test_hostile_names_are_text(page: Page, app: Served) -> None:
    """Identities, patterns, channels, events and data that are markup show as what they are."""
    go(page, "Connections")
    page.get_by_role("button", name=HOSTILE).click()
    page.get_by_role("dialog", name=HOSTILE).get_by_role("listitem").first.wait_for()
    page.keyboard.press("Escape")
    panel = go(page, "Channels")
    panel.get_by_role("button", name=f"Tail chat.{HOSTILE}").click()
    panel.locator("#tail li", has_text=f"<script>{HOSTILE}</script>").first.wait_for()

    assert page.locator("img, main script").count() == 0


def test_no_text_becomes_markup(browser: Browser, app: Served) -> None:
    """Trusted Types: whoever tries to set markup from text is refused by the browser."""
    with browser.new_context() as context:
        tab = new_tab(context, app, [])
        tab.goto(app.page)
        refused = tab.evaluate(
            "() => { try { document.body.innerHTML = '<b>'; } catch (e) { return e.name; } }"
        )

    assert refused == "TypeError"


def test_a_user_is_tried(page: Page) -> None:
    """Try it subscribes, publishes, commands and sends raw frames with what the user may do.

    The messages of a frame stand one a line.
    """
    panel = go(page, "Try it")
    panel.get_by_label("Token").fill("nobody")
    panel.get_by_role("button", name="Connect", exact=True).click()
    panel.get_by_role("alert").get_by_text("••• is •••").wait_for()
    panel.get_by_label("Token").fill("barbara")
    panel.get_by_role("button", name="Connect", exact=True).click()
    panel.locator("#try-state[data-state=open]").wait_for()
    frames = panel.locator("#frames li")

    panel.get_by_label("Pattern", exact=True).fill("clock.*")
    panel.get_by_role("button", name="Subscribe", exact=True).click()
    frames.filter(has_text='"channel":"clock.tick"').first.wait_for()
    panel.get_by_role("button", name="Unsubscribe from clock.*").click()
    frames.filter(has_text='"type":"unsubscribed"').first.wait_for()

    panel.get_by_text("Command", exact=True).click()
    panel.get_by_label("Action").fill("add")
    panel.get_by_label("Parameters, as JSON").fill('{"a": 2, "b": 3}')
    panel.get_by_label("Parameters, as JSON").press("Control+Enter")
    panel.locator("#answer", has_text="5").wait_for()
    panel.get_by_label("Parameters, as JSON").fill("{a: 2}")
    panel.get_by_role("button", name="Send").click()
    panel.get_by_text("Not sent: this is not JSON").wait_for()

    panel.get_by_text("Publish", exact=True).click()
    panel.get_by_label("Channel", exact=True).fill("clock.tick")
    panel.get_by_role("button", name="Send").click()
    panel.get_by_text("FORBIDDEN").first.wait_for()
    panel.get_by_label("Channel", exact=True).fill("chat.lobby")
    panel.get_by_role("button", name="Send").click()
    panel.locator("#answer", has_text='"matched": 0').wait_for()

    panel.get_by_text("Raw frame", exact=True).click()
    panel.get_by_label("Frame, as it is sent").fill('{"type": "nonsense"}')
    panel.get_by_role("button", name="Send").click()
    frames.filter(has_text="UNKNOWN_TYPE").first.wait_for()
    panel.get_by_label("Frame, as it is sent").fill('{"type": "first"}\n{"type": "second"}')
    panel.get_by_role("button", name="Send").click()
    joined = frames.filter(has_text='"second"').locator("pre").first.inner_text()
    assert joined.splitlines() == ['{"type": "first"}', '{"type": "second"}']
    assert frames.locator(".sent").count() > 5
    panel.get_by_role("button", name="Disconnect").click()
    frames.filter(has_text="closed with 1000").wait_for()


def test_a_flood_of_frames_is_shown_in_part(page: Page) -> None:
    """Of the frames of a second thirty are shown, and how many were not."""
    shown = page.evaluate("""async () => {
      let server;
      class Fake extends EventTarget {
        constructor() { super(); server = this; }
        send() {}
        close() {}
      }
      window.WebSocket = Fake;
      document.querySelector("#try-form").requestSubmit();
      for (let i = 0; i < 100; i += 1) {
        server.dispatchEvent(new MessageEvent("message", { data: `{"type":"event","n":${i}}` }));
      }
      const list = document.querySelector("#frames");
      while (!list.textContent.includes("not shown")) await new Promise(requestAnimationFrame);
      return [list.querySelectorAll("pre").length, list.lastElementChild.textContent];
    }""")

    assert shown[0] == 30
    assert "70 frames not shown: more than 30 in a second" in shown[1]


@pytest.mark.parametrize("token", ["bob", "my-secret-token", 'quo"ted \\ token'])
def test_no_token_is_shown(page: Page, token: str) -> None:
    """A token is masked in every frame: of the field, and of a raw frame at any depth."""
    panel = go(page, "Try it")
    panel.get_by_label("Token").fill(token)
    panel.get_by_role("button", name="Connect", exact=True).click()
    panel.locator("#try-state[data-state=open]").wait_for()
    panel.get_by_text("Raw frame", exact=True).click()
    frame = {"type": "nonsense", "deep": [{"access_token": f"{token}2"}], "said": f"{token}2"}
    panel.get_by_label("Frame, as it is sent").fill(json.dumps(frame))
    panel.get_by_role("button", name="Send").click()
    frames = panel.locator("#frames li")
    frames.filter(has_text="UNKNOWN_TYPE").first.wait_for()
    shown = " ".join([*frames.all_inner_texts(), panel.locator("#try-state").inner_text()])

    assert "•••" in shown
    assert token not in shown
    assert json.dumps(token)[1:-1] not in shown


def test_a_token_of_the_address_is_not_shown(page: Page) -> None:
    """What the query calls a token is masked where the server repeats it."""
    panel = go(page, "Try it")
    panel.get_by_label("Path").fill("/ws?token=hush-hush")
    panel.get_by_role("button", name="Connect", exact=True).click()
    panel.locator("#try-state[data-state=open]").wait_for()

    assert "hush" not in " ".join(panel.locator("#frames li").all_inner_texts())
    assert panel.locator("#try-state").inner_text() == "•••"


JWT: Final = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"


def test_no_view_shows_a_token(page: Page, app: Served) -> None:
    """Identities, patterns, channels and publications that hold a token are shown without it."""
    data = {"token": "hush-hush", "said": json.dumps({"password": 'ps"st'}), "url": "/ws?key=hush"}
    with app.user(JWT) as user:
        user.send(json.dumps({"type": "subscribe", "channels": [f"inbox.{JWT}"]}))
        views = go(page, "Connections")
        views.get_by_role("button", name="•••").click()
        page.get_by_role("dialog").get_by_text("inbox.•••").wait_for()
        shown = [page.content()]
        page.keyboard.press("Escape")
        panel = go(page, "Channels")
        panel.get_by_text("Subscribed", exact=True).click()
        panel.get_by_role("button", name="Tail inbox.•••").click()
        panel.get_by_label("Channel or pattern").fill("chat.>".replace(">", "*"))
        panel.get_by_role("button", name="Tail", exact=True).click()
        panel.get_by_text("Tailing chat.*").wait_for()
        publish = {"type": "publish", "channel": f"chat.{JWT}", "event": JWT, "data": data}
        row = panel.locator("#tail li", has_text='"token":"•••"').first
        while not row.is_visible():
            user.send(json.dumps(publish))
            page.wait_for_timeout(100)
        panel.get_by_text("Published", exact=True).click()
        panel.get_by_role("button", name="Tail chat.•••").wait_for()
        shown.append(page.content())

    for secret in ("eyJ", "hush", "ps&quot;st", 'ps"st', "st\\"):
        assert [html for html in shown if secret in html] == [], secret


def test_what_is_a_token_is_masked(page: Page) -> None:
    """One function masks tokens: by the name before them, by their form, or because known."""
    masked = page.evaluate(
        """async ([texts, known]) => {
          const { keep, masked } = await import("./secrets.js");
          known.forEach(keep);
          return texts.map((text) => masked(text));
        }""",
        [[text for text, _ in MASKED], ["known-token", "abc"]],
    )

    assert masked == [wanted for _, wanted in MASKED]


def test_no_text_takes_long_to_mask(page: Page) -> None:
    """Texts made to be slow take about as long to mask as plain ones."""
    slowness = page.evaluate("""async () => {
      const { masked } = await import("./secrets.js");
      const time = (text) => {
        const began = performance.now();
        for (let i = 0; i < 5; i += 1) masked(text);
        return performance.now() - began;
      };
      const parts = ["?token", "?", "token", "-eyJ", "eyJ", '"', "\\\\", '\\"token', '"token":"',
        "bearer ", "://a:", "wsbus.token.", " ", '"token" '];
      const texts = parts.map((part) => part.repeat(4096 / part.length));
      const plain = '{"number":12345}'.repeat(256);
      time(plain);
      return Math.max(...texts.map(time)) / Math.max(time(plain), 1);
    }""")

    assert slowness < 100  # A quadratic one takes a thousand times as long.


MASKED: Final = [
    ("nothing to hide", "nothing to hide"),
    ('{"token":"a b","n":1}', '{"token":"•••","n":1}'),
    ('{"deep":[{"access_token": "x"}]}', '{"deep":[{"access_token": "•••"}]}'),
    ('{"PassWord":"a\\"b","n":1}', '{"PassWord":"•••","n":1}'),
    ('{"api_key":"cut off in the mid', '{"api_key":"•••"'),
    ('{"secret": 1234, "n":1}', '{"secret": "•••", "n":1}'),
    ('{"tokens": 3, "token_count": 4}', '{"tokens": 3, "token_count": 4}'),
    (r'{"s":"{\"jwt\":\"x\",\"n\":1}"}', r'{"s":"{\"jwt\":"•••",\"n\":1}"}'),
    ("/ws?a=1&token=abc%20d#x", "/ws?a=1&token=•••#x"),
    (f"user.{JWT}.x", "user.•••.x"),
    ("Authorization: Bearer abcdefgh.ij", "Authorization: Bearer •••"),
    ("wsbus.token.YWJj", "wsbus.token.•••"),
    ("https://ada:pw@example.org/", "https://ada:•••@example.org/"),
    ("it is known-token.", "it is •••."),
    ("abc 1 abcd", "abc 1 abcd"),  # Too short to be told from a word.
]


def test_what_turns_a_text_round_is_escaped(page: Page) -> None:
    """Characters that reorder text are shown as escapes."""
    panel = go(page, "Try it")
    panel.get_by_label("Token").fill("barbara")
    panel.get_by_role("button", name="Connect", exact=True).click()
    panel.locator("#try-state[data-state=open]").wait_for()
    panel.get_by_text("Raw frame", exact=True).click()
    panel.get_by_label("Frame, as it is sent").fill('{"type": "admin\u202egnp.exe"}')
    panel.get_by_role("button", name="Send").click()
    panel.locator("#frames li", has_text="admin\\u202egnp.exe").first.wait_for()

    assert "\u202e" not in panel.locator("#frames").inner_text()


# --- the keyboard, and the looks ---------------------------------------------------------------


def test_the_arrows_go_from_tab_to_tab(page: Page) -> None:
    """Tabs are one stop of the keyboard, arrows choose, and the address remembers."""
    page.get_by_role("tab", name="Overview").focus()
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Home", "End"):
        page.keyboard.press(key)
        page.wait_for_function("() => document.activeElement.ariaSelected === 'true'")
        seen.append(page.evaluate("location.hash"))
    page.reload()
    page.get_by_label("Token of this console").fill(TOKEN)
    page.get_by_role("button", name="Connect", exact=True).first.click()
    page.get_by_text("Live", exact=True).wait_for()

    assert seen == ["#connections", "#channels", "#try", "#overview", "#try", "#overview", "#try"]
    assert page.get_by_role("tabpanel").count() == 1
    assert page.get_by_role("tabpanel", name="Try it").is_visible()
    assert page.locator('[role="tab"][tabindex="0"]').count() == 1


@pytest.mark.parametrize("tab", TABS)
def test_the_keyboard_reaches_everything(page: Page, tab: str) -> None:
    """Tab visits every control of a view, and each shows that it has the focus."""
    go(page, tab)
    page.wait_for_timeout(1200)
    for button in page.get_by_role("button", name="Freeze").all():
        button.click()  # So that no row comes or goes meanwhile.
    page.evaluate("document.activeElement.blur()")
    wanted = page.locator(
        "a:visible, button:enabled:visible:not([role=tab]), input:not([type=radio]):visible,"
        " select:visible, textarea:visible, [tabindex='0']:visible"
    ).count()
    visited = set()
    for _ in range(wanted + 3):
        page.keyboard.press("Tab")
        visited.add(
            page.evaluate(
                """() => {
                  const e = document.activeElement;
                  const ring = e.type === "radio" ? e.closest("label") : e;
                  return [...document.querySelectorAll("*")].indexOf(e) + " " +
                    (e === document.body ? "" : getComputedStyle(ring).outlineStyle);
                }"""
            )
        )
    visited = {entry for entry in visited if not entry.endswith(" ")}

    assert len(visited) >= wanted
    assert {entry.split()[1] for entry in visited} == {"solid"}


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_no_width_scrolls_sideways(page: Page, width: int) -> None:
    """Every tab, and the dialog, fits from the narrowest phone on."""
    page.set_viewport_size({"width": width, "height": 740})
    widths = {}
    for tab in TABS:
        go(page, tab)
        page.wait_for_timeout(400)
        widths[tab] = page.evaluate("document.documentElement.scrollWidth")
        if tab == "Connections":
            page.get_by_role("button", name=HOSTILE).click()
            page.get_by_role("dialog").get_by_role("listitem").first.wait_for()
            box = page.get_by_role("dialog").bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            page.keyboard.press("Escape")

    assert widths == dict.fromkeys(TABS, width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_can_be_read_by_day_and_by_night(
    browser: Browser, app: Served, scheme: str, width: int
) -> None:
    """Both schemes have enough contrast for all text, at both widths."""
    with browser.new_context(
        viewport={"width": width, "height": 860},
        color_scheme=scheme,  # type: ignore[arg-type]  # of two texts
    ) as context:
        tab = new_tab(context, app, [])
        tab.goto(app.page)
        tab.get_by_label("Token of this console").wait_for()
        faint = {"Sign in": tab.evaluate(FAINT)}
        sign_in(tab, app)
        for name in TABS:
            go(tab, name)
            tab.wait_for_timeout(1300)
            faint[name] = tab.evaluate(FAINT)
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")

    assert [text for texts in faint.values() for text in texts] == []
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")


# --- when the server goes ------------------------------------------------------------------------


def test_it_comes_back_after_the_server(browser: Browser) -> None:
    """A console whose server is gone says so, and goes on by itself, where it was.

    Meanwhile no verdict stands there as if it were of now, and the charts keep what was before.
    """
    with browser.new_context() as context:
        with served() as first:
            tab = new_tab(context, first, [])
            sign_in(tab, first)
            tab.locator(JUDGED).wait_for()
            line = tab.locator(".card polyline").first
            drawn = "e => e.getAttribute('points').includes(' ')"
            tab.wait_for_function(drawn, arg=line.element_handle())
            go(tab, "Channels")
            tab.get_by_label("Channel or pattern").fill("clock.*")
            tab.get_by_label("Channel or pattern").press("Enter")
            tab.locator("#tail li").first.wait_for()
            first.process.terminate()
            tab.get_by_text("Connection lost", exact=True).wait_for()
            tab.get_by_role("alert").get_by_text("The server is gone; trying again in").wait_for()
            go(tab, "Overview")
            verdict = tab.locator("#verdict[data-tone=quiet]")
            assert re.fullmatch(r"As of \d\d:\d\d:\d\d", verdict.inner_text())
            go(tab, "Channels")
            first.process.wait(timeout=20)
        with served(port=first.port):
            tab.get_by_text("Live", exact=True).wait_for()
            tab.get_by_role("button", name="Clear").click()
            tab.locator("#tail li").first.wait_for()
            assert tab.get_by_role("alert").all_inner_texts() == []
            go(tab, "Overview")
            tab.locator(JUDGED).wait_for()
            earlier = tab.locator(".card .line").first.get_attribute("d")

            assert earlier is not None
            assert earlier.startswith("M")
            assert line.get_attribute("points")


def test_a_page_of_this_machine_shows_a_console_elsewhere(browser: Browser) -> None:
    """The page that `wsbus console ws://…` serves connects to where it was told, and only there."""
    pages = PageServer("ws://127.0.0.1:1/", 0)
    with served(pages.origin) as app:
        pages.endpoint = f"ws://{app.host}/console/ws"
        thread = threading.Thread(target=pages.serve_forever)
        thread.start()
        try:
            with browser.new_context() as context:
                context.set_default_timeout(15_000)
                tab = context.new_page()
                tab.goto(f"{pages.origin}/")
                tab.get_by_label("Token of this console").fill(TOKEN)
                tab.get_by_label("Token of this console").press("Enter")
                tab.get_by_text("Live", exact=True).wait_for()
                assert tab.locator("#where").inner_text() == f"{app.host}/console/"
                tab.locator(".card .value", has_text="/s").first.wait_for()
        finally:
            pages.shutdown()
            thread.join()
            pages.server_close()
