"""The chat of the examples, and the page of the guide that resumes, in a real browser."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.test_javascript_client import PREPARE
from tests.web.running import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

GUIDE = ROOT / "docs" / "how-to" / "resume.md"


@contextmanager
def serving(*command: str) -> Iterator[str]:
    """Run a server that prints its address."""
    whole = [sys.executable, "-u", *command]
    with subprocess.Popen(whole, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextmanager
def tab(browser: Browser, complaints: list[str], **options: Any) -> Iterator[Page]:
    """Open an empty page in a browser of its own; what it complains of is collected."""
    with browser.new_context(**options) as context:
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page


@pytest.fixture(scope="module")
def chat() -> Iterator[str]:
    """The example, on a free port."""
    with serving("examples/chat.py", "--port", "0") as address:
        yield address


def sign_in(page: Page, chat: str, name: str) -> None:
    """Open the chat under a name."""
    page.goto(chat)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Enter").click()
    page.get_by_text("online").wait_for()


def has(page: Page, *names: str) -> None:
    """Wait until the page says that exactly these people are in the room."""
    wanted = f"{len(names)} here: {', '.join(names)}"
    page.get_by_label("In this room").filter(has_text=re.compile(f"^{wanted}$")).wait_for()


def say(page: Page, text: str) -> None:
    """Write a message in the room that is shown."""
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def enter(page: Page, room: str) -> None:
    page.get_by_role("navigation").get_by_role("button", name=room).click()


def lines(page: Page) -> list[str]:
    """Return the texts of the messages that are shown."""
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('li')].map((li) => li.lastChild.textContent)"
    )
    return found


def shows(page: Page, text: str) -> None:
    page.get_by_role("listitem").filter(has_text=text).wait_for()


def go_offline(page: Page, context: BrowserContext) -> None:
    """Take the network away, so that the page's connection is lost."""
    context.set_offline(offline=True)
    page.evaluate("sockets.forEach((socket) => socket.close())")
    page.get_by_text("offline, trying again").wait_for()


HOLD_SOCKETS = """window.sockets = [];
window.WebSocket = class extends WebSocket {
  constructor(...how) { super(...how); sockets.push(this); }
};"""


def test_rooms_have_their_last_messages(browser: Browser, chat: str, complaints: list[str]) -> None:
    """A new page has the last 20 of each room; what is new elsewhere is counted."""
    with tab(browser, complaints) as one, tab(browser, complaints) as two:
        sign_in(one, chat, "Ada")
        enter(one, "help")
        for number in range(23):
            say(one, f"m{number}.")
            shows(one, f"m{number}.")
        sign_in(two, chat, "Bob")
        enter(two, "help")
        shows(two, "m22.")
        assert lines(two) == [f"m{number}." for number in range(3, 23)]

        enter(one, "random")
        say(two, "<b>&")
        one.get_by_role("button", name="help 1").click()
        shows(one, "<b>&")
        assert lines(one)[-1] == "<b>&"
        one.get_by_role("button", name="help", exact=True).wait_for()
    assert complaints == []


def test_each_room_has_its_people(browser: Browser, chat: str, complaints: list[str]) -> None:
    """They come, change rooms and leave; one with two tabs is there once."""
    with tab(browser, complaints) as one, tab(browser, complaints) as two:
        sign_in(one, chat, "Ada")
        has(one, "Ada")
        sign_in(two, chat, "Bob")
        for page in (one, two):
            has(page, "Ada", "Bob")
        with tab(browser, complaints) as again:
            sign_in(again, chat, "Ada")
            has(again, "Ada", "Bob")
        enter(two, "help")
        has(two, "Bob")
        has(one, "Ada")
        two.get_by_role("button", name="You are Bob").click()
        two.get_by_label("Your name").wait_for()
    assert complaints == []


def test_one_is_in_the_room_entered_last(
    browser: Browser, chat: str, complaints: list[str]
) -> None:
    """Rooms are changed while the page connects, and faster than the server answers."""
    with tab(browser, complaints) as one, tab(browser, complaints) as two:
        sign_in(one, chat, "Ada")
        two.goto(chat)
        two.get_by_label("Your name").fill("Bob")
        two.evaluate("""() => {
          const rooms = ["help", "lobby", "random", "help", "lobby", "random"];
          new MutationObserver(() => {
            const nav = document.querySelector("nav");
            const next = nav.childElementCount && rooms.shift();
            if (next) [...nav.children].find((each) => each.textContent === next).click();
          }).observe(document.querySelector("nav"), { childList: true });
          document.querySelector("#sign-in button").click();
        }""")
        enter(one, "random")
        for page in (one, two):
            has(page, "Ada", "Bob")
        enter(one, "lobby")
        has(one, "Ada")
        has(two, "Bob")
    assert complaints == []


def test_nothing_is_missing_after_a_lost_connection_and_a_reload(
    browser: Browser, chat: str, complaints: list[str]
) -> None:
    """What was written meanwhile comes, once and in order; what the page wrote goes out, once."""
    with tab(browser, []) as one, tab(browser, complaints) as two:
        one.add_init_script(HOLD_SOCKETS)
        sign_in(one, chat, "Ada")
        sign_in(two, chat, "Bob")
        say(two, "before")
        shows(one, "before")
        go_offline(one, one.context)
        say(two, "meanwhile")
        say(one, "from the tunnel")
        shows(two, "meanwhile")
        one.context.set_offline(offline=False)
        shows(one, "from the tunnel")
        shows(two, "from the tunnel")
        assert lines(one) == lines(two) == ["before", "meanwhile", "from the tunnel"]

        one.goto("about:blank")
        say(two, "while it was away")
        shows(two, "while it was away")
        one.goto(chat)
        shows(one, "while it was away")
        assert lines(one) == lines(two)
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone(
    browser: Browser, chat: str, complaints: list[str], scheme: str
) -> None:
    """At 360 px nothing is cut off, with long words, too; the colours are those of the scheme."""
    size = {"width": 360, "height": 640}
    with tab(browser, complaints, viewport=size, color_scheme=scheme) as page:
        sign_in(page, chat, "A" * 30)
        enter(page, "random")
        say(page, scheme + "w" * 200)
        shows(page, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
        assert page.evaluate("document.documentElement.scrollHeight") == size["height"]
        paper = page.evaluate("getComputedStyle(document.querySelector('ol')).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") is (scheme == "light")
    assert complaints == []


def test_the_page_of_the_guide_resumes(browser: Browser, complaints: list[str]) -> None:
    """Its script, as it stands: last lines, a cut, a reload, a gap; each line once, in order."""
    found = re.search(r"^```js\n(.*?)^```", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    script = found[1].replace("const client =", "const client = window.reader =")

    def run(page: Page) -> None:
        page.evaluate("document.body.append(document.createElement('ol'))")
        page.add_script_tag(content=script, type="module")

    with (
        serving("-m", "tests.browser.application") as address,
        tab(browser, complaints) as one,
        tab(browser, complaints) as page,
    ):
        one.goto(address)
        one.evaluate(PREPARE)
        page.goto(address)

        def publish(text: str) -> None:
            one.evaluate("(text) => client.publish('chat.lobby', text)", text)

        for number in range(25):
            publish(f"old {number}.")
        run(page)
        shows(page, "old 24.")
        page.evaluate("() => { reader.command('cut').catch(() => {}); }")
        publish("cut.")
        shows(page, "cut.")
        page.reload()
        publish("reloaded.")
        run(page)
        shows(page, "reloaded.")
        expected = [*[f"old {number}." for number in range(5, 25)], "cut.", "reloaded."]
        assert lines(page) == expected

        page.evaluate("reader.dispatchEvent(new CustomEvent('gap', { detail: {} }))")
        page.wait_for_function("document.querySelectorAll('li').length === 20")
        publish("new.")
        shows(page, "new.")
        assert lines(page) == [*expected[-20:], "new."]
    assert complaints == []
