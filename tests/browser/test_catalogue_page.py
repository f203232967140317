"""The catalogue of channels and commands in a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI

from tests.catalogue.application import EVIL, make
from tests.docs.documents import served
from wsbus import Grants, Handshake, Identity, Unauthenticated
from wsbus.adapters.fastapi import mount, mount_catalogue
from wsbus.auth import Authenticator
from wsbus.catalogue import Catalogue

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

PATIENCE: Final = 15_000
ESCAPED: Final = EVIL.replace("\u202e", "\\u202e")


@contextmanager
def serving(authenticator: Authenticator | None = None) -> Iterator[str]:
    """Serve in a thread; give the address of the page."""
    bus, endpoint = make(authenticator)
    app = FastAPI()
    mount(app, "/ws", endpoint)
    mount_catalogue(app, Catalogue(bus, title="Grids", version="2.1"))
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(served(app, endpoint)) as host,
    ):
        yield f"http://{host}/catalogue/"


@pytest.fixture(scope="module")
def url(browser: Browser) -> Iterator[str]:
    """Address of a page that everybody may use."""
    with serving() as address:
        yield address


def new_tab(context: BrowserContext, complaints: list[str]) -> Page:
    """Open a tab that notes what goes wrong."""
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    return tab


@pytest.fixture
def page(browser: Browser, url: str, complaints: list[str]) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        tab = new_tab(context, complaints)
        tab.goto(url)
        tab.get_by_role("heading", name="grid.{id}.status").wait_for()
        yield tab
        assert tab.title() == "Grids · channels and commands"
        assert complaints == []


def item(page: Page, name: str) -> Locator:
    """Open a channel or command."""
    found = page.locator("details", has=page.get_by_role("heading", name=name, exact=True))
    if found.get_attribute("open") is None:
        found.locator("summary").click()
    return found


def form(page: Page, name: str, verb: str) -> Locator:
    """Return a form of a channel or command."""
    return item(page, name).get_by_role("form", name=f"{verb}: ")


def call(page: Page, name: str) -> Locator:
    """Call a command as its form stands."""
    found = form(page, name, "Call")
    found.get_by_role("button", name="Call").click()
    return found


# --- reading ---------------------------------------------------------------------------------


def test_channels_and_commands_can_be_read(page: Page) -> None:
    """Types, defaults, policies and docstrings are there, for people."""
    channel, command = item(page, "grid.{id}.status"), item(page, "move")
    events = channel.get_by_role("group", name="Events of grid.{id}.status")
    status = channel.get_by_role("group", name="Fields of Status")
    rows = command.get_by_role("group", name="Parameters of move").locator("tr")

    assert events.locator("tbody tr").all_inner_texts() == ["update\tStatus", "removed\tstring"]
    assert status.locator("tbody tr").all_inner_texts() == [
        "progress\tnumber (≥ 0, ≤ 1)\trequired\tFrom 0 to 1.",
        "step\tStep | null\tnull\t",
    ]
    assert "a newer event replaces an older one" in channel.locator("dl").inner_text()
    assert command.locator("summary").inner_text().split("\n")[-1] == "Move it."
    assert rows.all_inner_texts() == [
        "Name\tType\tDefault",
        'to\t"left" | "right"\trequired',
        "name\tstring\trequired",
        "on\tstring (date) | null\tnull",
        "fast\tboolean\tfalse",
        "path\tStep[] | null\tnull",
    ]


def test_one_finds_by_words(page: Page) -> None:
    """The keyboard goes to the search; all words must be there, in names, events or texts."""
    page.keyboard.press("/")
    page.keyboard.type("ADD num")
    page.get_by_text("1 of 9", exact=True).wait_for()
    assert page.locator("summary h3:visible").all_inner_texts() == ["add"]
    page.get_by_label("Find a channel or command").fill("removed")
    page.get_by_text("1 of 9", exact=True).wait_for()

    assert page.locator("summary h3:visible").all_inner_texts() == ["grid.{id}.status"]


def test_an_address_leads_to_one(browser: Browser, url: str, complaints: list[str]) -> None:
    """The address of an opened item opens it again, in another tab and in this one."""
    with browser.new_context() as context:
        tab = new_tab(context, complaints)
        tab.goto(f"{url}#channel/grid.{{id}}.status")
        tab.get_by_role("form", name="Publish: grid").wait_for()
        assert tab.evaluate("document.activeElement.tagName") == "SUMMARY"
        item(tab, "add")
        tab.wait_for_url(re.compile("#command/add$"))
        tab.evaluate("location.hash = '#command/move'")
        tab.get_by_role("form", name="Call: move").wait_for()
        tab.evaluate("location.hash = '#command/%'")  # No address: nothing happens.
        tab.evaluate("location.hash = '#command/none'")

        assert tab.locator("details[open]").count() == 3
    assert complaints == []


# --- trying -----------------------------------------------------------------------------------


def test_what_is_published_comes_to_subscribers(page: Page) -> None:
    """Events show while they are subscribed, of the chosen event; then no more."""
    subscribe = form(page, "grid.{id}.status", "Subscribe")
    publish = form(page, "grid.{id}.status", "Publish")
    subscribe.get_by_label("id").fill("a.b")
    subscribe.get_by_label("id").press("Enter")
    subscribe.get_by_text("Subscribed to grid.a%2Eb.status").wait_for()
    publish.get_by_label("id").fill("a.b")
    publish.get_by_label("Event").select_option("removed")
    assert publish.get_by_label("Data").input_value() == '""'
    publish.get_by_label("Data").fill('"gone"')
    publish.get_by_role("button").click()
    publish.get_by_text("Published on grid.a%2Eb.status, for 1 subscriber", exact=True).wait_for()
    row = item(page, "grid.{id}.status").locator(".tail li")
    row.first.wait_for()
    assert row.first.locator(":not(.when)").all_inner_texts() == [
        "grid.a%2Eb.status",
        "removed",
        '"gone"',
    ]
    subscribe.get_by_role("button", name="Unsubscribe").click()
    subscribe.get_by_text("Unsubscribed").wait_for()
    publish.get_by_role("button").click()
    publish.get_by_text("for 0 subscribers").wait_for()

    assert row.count() == 1


def test_a_command_is_called_with_what_is_filled_in(page: Page) -> None:
    """Fields have the types of the parameters; what is left empty is left out."""
    move = form(page, "move", "Call")
    move.get_by_label("to", exact=True).select_option('"right"')
    move.get_by_label("name").fill("5")
    move.get_by_label("fast").select_option("true")
    move.get_by_label("path").fill('[{"name": "a"}]')
    move.get_by_label("path").press("Control+Enter")
    move.get_by_text(re.compile(r"Answered in \d+ ms")).wait_for()

    answer = page.evaluate("text => JSON.parse(text)", move.locator("pre").inner_text())
    assert answer == {
        "to": "right",
        "name": "5",
        "on": None,
        "fast": True,
        "path": [{"name": "a", "seconds": 0.0}],
    }
    whole = form(page, "whole", "Call")
    whole.get_by_label("progress").fill("0.5")
    call(page, "whole").get_by_text("Answered in").wait_for()
    assert '"progress": 0.5' in whole.locator("pre").inner_text()
    call(page, "any").get_by_text("Answered in").wait_for()


def test_errors_stand_at_their_place(page: Page) -> None:
    """An error about one parameter, or about data, is at its field, which gets the focus."""
    add = form(page, "add", "Call")
    field = add.get_by_label("a", exact=True)
    field.fill("abc")
    call(page, "add")
    add.locator(".field .refusal", has_text="VALIDATION_ERROR: Expected `int`").wait_for()
    assert page.evaluate("document.activeElement.id") == field.get_attribute("id")
    assert field.get_attribute("aria-invalid") == "true"
    described = (field.get_attribute("aria-describedby") or "").split()
    assert "VALIDATION_ERROR" in page.locator(f"#{described[-1]}").inner_text()
    field.fill("")
    assert add.locator(".refusal:visible").count() == 0
    call(page, "add")
    add.locator(".field .refusal", has_text="missing required field `a`").wait_for()
    field.fill("2")
    call(page, "add").get_by_text("Answered in").wait_for()
    assert add.locator("pre").inner_text() == "4"
    assert field.get_attribute("aria-invalid") is None

    publish = form(page, "grid.{id}.status", "Publish")
    publish.get_by_label("Data").fill('{"progress": 2}')
    publish.get_by_role("button").click()
    publish.locator(".field .refusal", has_text="`$.data.progress`").wait_for()
    publish.get_by_label("Data").fill("{")
    publish.get_by_role("button").click()
    publish.locator(".field .refusal", has_text="This is not JSON").wait_for()


def test_what_is_refused_is_said(page: Page) -> None:
    """A refusal that is about no field stands in the form."""
    call(page, "refuse").get_by_role("alert").get_by_text(
        f"FORBIDDEN: not now: {ESCAPED}"
    ).wait_for()
    secret = form(page, "secret.{who}", "Publish")
    secret.get_by_role("button").click()

    secret.get_by_role("alert").get_by_text("FORBIDDEN").wait_for()


def test_nothing_hostile_becomes_markup(page: Page) -> None:
    """Docstrings, defaults, answers and events are texts; what reverses a text is escaped."""
    assert item(page, "evil").locator("summary .quiet").inner_text() == f"Hostile: {ESCAPED}"
    call(page, "evil").get_by_text("Answered in").wait_for()
    assert EVIL[:-1] in form(page, "evil", "Call").locator("pre").inner_text()
    form(page, "notes", "Subscribe").get_by_role("button").click()
    form(page, "notes", "Subscribe").get_by_text("Subscribed").wait_for()
    form(page, "notes", "Publish").get_by_label("Data").fill(f'{{"text": "{EVIL}"}}')
    form(page, "notes", "Publish").get_by_role("button").click()
    item(page, "notes").locator(".tail li", has_text=ESCAPED).wait_for()

    assert page.locator("main img, main script").count() == 0
    assert "\u202e" not in page.locator("body").inner_text()


# --- the connection --------------------------------------------------------------------------


def judge(token: str | None, handshake: Handshake) -> Identity | None:
    """Accept one token."""
    if token is None:
        return None
    if token != "open sesame":
        raise Unauthenticated
    return Identity("ada", Grants.of(command=["add"]))


def test_a_token_is_sent_where_one_is_taken(browser: Browser, complaints: list[str]) -> None:
    """A wrong token is refused in words; with the right one the user's grants apply."""
    with serving(judge) as url, browser.new_context() as context:
        tab = new_tab(context, complaints)
        tab.goto(url)
        tab.get_by_label("Token").fill("wrong")
        tab.get_by_label("Token").press("Enter")
        tab.locator("#why", has_text="the token was refused").wait_for()
        tab.get_by_label("Token").fill("open sesame")
        tab.get_by_label("Token").press("Enter")
        tab.get_by_role("status").get_by_text("Connected as ada").wait_for()
        form(tab, "add", "Call").get_by_label("a", exact=True).fill("1")
        call(tab, "add").get_by_text("Answered in").wait_for()
        call(tab, "refuse").get_by_role("alert").get_by_text("FORBIDDEN").wait_for()
        tab.get_by_role("button", name="Disconnect").click()
        tab.get_by_text("Not connected", exact=True).wait_for()

        assert "sesame" not in tab.url
    assert complaints == []


def test_without_a_connection_nothing_runs(page: Page) -> None:
    """The page connects when a form needs it; a subscription ends with the connection."""
    assert page.get_by_role("status").get_by_text("Not connected").is_visible()
    assert not page.get_by_label("Token").is_visible()
    subscribe = form(page, "notes", "Subscribe")
    subscribe.get_by_role("button").click()
    subscribe.get_by_text("Subscribed to notes").wait_for()
    page.get_by_role("button", name="Disconnect").click()
    subscribe.get_by_text("The connection ended").wait_for()

    assert subscribe.get_by_role("button", name="Subscribe", exact=True).is_visible()


# --- looks ------------------------------------------------------------------------------------


def axe() -> str:
    """Return the source of axe-core."""
    spec = find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        reason = "needs axe-playwright-python: pip install -e '.[browser]'"
        if os.environ.get("WSBUS_REQUIRE_SERVICES"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return Path(spec.origin).with_name("axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_everybody_can_use_it(
    browser: Browser, url: str, complaints: list[str], width: int, scheme: Any
) -> None:
    """With all open and with errors: axe finds nothing, and nothing is wider than the page."""
    with browser.new_context(
        viewport={"width": width, "height": 860}, color_scheme=scheme
    ) as context:
        tab = new_tab(context, complaints)
        tab.goto(url)
        for name in ("grid.{id}.status", "add", "move", "evil"):
            item(tab, name)
        form(tab, "grid.{id}.status", "Subscribe").get_by_role("button").click()
        form(tab, "grid.{id}.status", "Publish").get_by_role("button").click()
        tab.locator(".tail li").first.wait_for()
        call(tab, "add").locator(".refusal:visible").wait_for()
        call(tab, "refuse").locator(".refusal:visible").wait_for()
        call(tab, "evil").locator("pre:visible").wait_for()
        tab.evaluate(axe())
        outcome = tab.evaluate("axe.run()")
        assert len(outcome["passes"]) > 20

        assert [(each["id"], each["nodes"][0]["html"]) for each in outcome["violations"]] == []
        assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert complaints == []


def test_the_keyboard_is_enough(page: Page) -> None:
    """From the search to an answer, with Tab, Enter and typing only."""
    page.keyboard.press("/")
    page.keyboard.type("two numbers")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    add = page.get_by_role("form", name="Call: add")
    add.wait_for()
    for _ in range(10):
        if page.evaluate("document.activeElement.tagName") == "INPUT":
            break
        page.keyboard.press("Tab")
    page.keyboard.type("40")
    page.keyboard.press("Enter")
    add.get_by_text("Answered in").wait_for()

    assert add.locator("pre").inner_text() == "42"
