"""The JavaScript client in a real browser, loaded from where an adapter serves it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.web.running import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

PATIENCE = 15_000

PREPARE = """async () => {
  const wsbus = await import("/wsbus/wsbus.js");
  window.make = (path, options) => new wsbus.Client(path, options);
  window.told = [];
  window.client = make("/ws", { retry: { base: 50, cap: 200, attempts: Infinity } });
  for (const type of ["connected", "reconnecting", "disconnected", "gap", "error"]) {
    client.addEventListener(type, ({ detail }) =>
      told.push([type, detail.error?.message ?? detail.message ?? ""]));
  }
  await client.connect();
}"""


@pytest.fixture
def address() -> Iterator[str]:
    """An application on Starlette: a page, the client beside it, and a bus."""
    command = [sys.executable, "-m", "tests.browser.application"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as opened:
        opened.set_default_timeout(PATIENCE)
        yield opened


@pytest.fixture
def page(context: BrowserContext, address: str, complaints: list[str]) -> Page:
    tab = context.new_page()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(address)
    tab.evaluate(PREPARE)
    return tab


def told(page: Page, kind: str) -> list[Any]:
    """Return what the client told of one kind."""
    return [text for what, text in page.evaluate("told") if what == kind]


def test_a_page_listens_and_asks(page: Page, complaints: list[str]) -> None:
    """Handlers, loops, commands and publications work in a page, by a path for a URL."""
    found = page.evaluate("""async () => {
      const seen = [];
      client.on("chat.*", ({ data }) => seen.push(data));
      const events = client.events("chat.+");
      const { matched } = await client.publish("chat.lobby", { text: "hello" });
      for await (const { data } of events) {
        seen.push(data);
        break;
      }
      const answer = await client.command("double", { number: 21 });
      const refused = await client.subscribe("a..b").catch(({ code }) => code);
      const { subscriptions } = await client.status();
      return { seen, matched, answer, refused, subscriptions };
    }""")

    assert found == {
        "seen": [{"text": "hello"}, {"text": "hello"}],
        "matched": 1,
        "answer": 42,
        "refused": "INVALID_CHANNEL",
        "subscriptions": [],
    }
    assert complaints == []


def test_a_page_reads_what_is_compressed(page: Page, complaints: list[str]) -> None:
    """Chromium agrees on permessage-deflate, and inflates what the server compressed for all."""
    found = page.evaluate(
        """async () => {
          const socket = new WebSocket("/ws");
          await new Promise((opened) => socket.addEventListener("open", opened));
          const texts = [];
          const heard = new Promise((done) => socket.addEventListener("message", ({ data }) => {
            texts.push(...data.split("\\n").map(JSON.parse).filter((m) => m.type === "event"));
            if (texts.length === 3) done();
          }));
          socket.send(JSON.stringify({ type: "subscribe", channels: ["long.*"] }));
          for (const n of [1, 2, 3])
            socket.send(JSON.stringify(
              { type: "publish", channel: `long.${n}`, data: { n, text: "ab".repeat(999) } }));
          await heard;
          return [socket.extensions, texts.map(({ data }) => [data.n, data.text.length])];
        }"""
    )

    assert found[0].startswith("permessage-deflate")
    assert found[1] == [[1, 1998], [2, 1998], [3, 1998]]
    assert complaints == []


def test_a_page_misses_nothing_while_its_connection_is_cut(
    page: Page, complaints: list[str]
) -> None:
    """The server cuts the connection while publications go on: all come in order, once, no gap."""
    seen = page.evaluate("""async () => {
      const seen = [];
      const off = client.on("kept.*", ({ data }) => seen.push(data));
      const events = client.events("kept.room");
      await client.subscribe("kept.*");
      const other = make("/ws");
      await other.connect();
      for (let number = 0; number < 200; number++) {
        if (number % 50 === 25) client.command("cut").catch(() => {});
        await other.publish("kept.room", number, { event: "said" });
      }
      for await (const { data, gap } of events) {
        if (gap) throw new Error("a gap");
        if (data === 199) break;
      }
      return seen;
    }""")

    assert seen == list(range(200))
    assert len(told(page, "reconnecting")) >= 2
    assert told(page, "gap") == []
    assert complaints == []


def test_a_reloaded_page_goes_on_where_it_was(page: Page, complaints: list[str]) -> None:
    """A position that was kept in ``sessionStorage`` outlives the page: nothing is missing."""
    page.evaluate("""async () => {
      await client.subscribe("kept.*");
      await client.publish("kept.room", "seen");
      await client.status();
      sessionStorage.position = JSON.stringify(client.position("kept.*"));
      await client.publish("kept.room", "missed");
      await client.publish("kept.other", "missed, too");
    }""")
    page.reload()
    page.evaluate(PREPARE)
    found = page.evaluate("""async () => {
      const since = JSON.parse(sessionStorage.position);
      const seen = [];
      client.on("kept.*", ({ data, latest }) => seen.push([data, latest]));
      await client.subscribe("kept.*", { since });
      await client.publish("kept.room", "new");
      await client.status();
      const { events } = await client.history("kept.room", { limit: 2 });
      return { seen, history: events.map(({ data }) => data) };
    }""")

    assert found == {
        "seen": [["missed", None], ["missed, too", None], ["new", None]],
        "history": ["missed", "new"],
    }
    assert told(page, "gap") == []
    assert complaints == []


def test_a_throwing_handler_reaches_the_console(page: Page, complaints: list[str]) -> None:
    """It is told as any error of the page is, unless the page has dealt with it."""
    page.evaluate("""async () => {
      window.seen = [];
      client.on("x", () => { throw new Error("of the page"); });
      client.on("x", ({ data }) => seen.push(data));
      await client.subscribe("x");
      await client.publish("x", 1);
      client.addEventListener("error", (event) => event.preventDefault());
      await client.publish("x", 2);
    }""")
    assert page.evaluate("seen") == [1, 2]
    assert told(page, "error") == ["of the page", "of the page"]
    assert complaints == ["of the page"]


def test_coming_back_into_view_is_coming_back_to_life(page: Page) -> None:
    """A cut connection comes again; one that waits long does so when the page is online again."""
    page.evaluate("""async () => {
      window.patient = make("/ws", { retry: { base: 1e9, cap: 1e9 } });
      await patient.connect();
      await patient.subscribe("y");
      patient.command("cut").catch(() => {});
      await new Promise((resolve) =>
        patient.addEventListener("reconnecting", resolve, { once: true }));
    }""")
    assert page.evaluate("patient.state") == "waiting"
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_function("patient.state === 'connected'")
    assert page.evaluate("patient.status().then((s) => s.subscriptions)") == ["y"]


def test_offline_and_online(page: Page, context: BrowserContext) -> None:
    """Attempts while the browser is offline are not counted, and online it comes again at once."""
    page.evaluate("client.subscribe('z')")
    context.set_offline(offline=True)
    page.evaluate("""async () => {
      window.patient = make("/ws", { retry: { base: 1, cap: 5, attempts: 5, first: true } });
      window.failures = 0;
      patient.addEventListener("reconnecting", () => failures++);
      window.connecting = patient.connect();
    }""")
    page.wait_for_function("failures > 20")
    context.set_offline(offline=False)
    page.evaluate("connecting")
    assert page.evaluate("patient.state") == "connected"


def test_offline_with_long_delays(page: Page, context: BrowserContext) -> None:
    """While the browser is offline attempts are rare; requests wait until it is online."""
    context.set_offline(offline=True)
    page.evaluate("""async () => {
      window.patient = make("/ws", { retry: { base: 1, cap: 1e9 } });
      window.delays = [];
      patient.addEventListener("reconnecting", ({ detail }) => delays.push(detail.delay));
      window.refusal = await patient.connect().catch(({ name }) => name);
      window.answer = patient.command("double", { number: 4 });
    }""")
    assert page.evaluate("refusal") == "ConnectionError"
    assert page.evaluate("delays.length === 1 && delays[0] >= 5e8")
    context.set_offline(offline=False)
    assert page.evaluate("answer") == 8


def test_a_page_that_gave_up_lives_again(page: Page, context: BrowserContext) -> None:
    """Coming online or into view revives a client that gave up, and none that was closed."""
    page.evaluate("""async () => {
      window.address = "/nothing";
      const url = () => new URL(address, location.href);
      window.tired = make(url, { retry: { base: 1, cap: 1, attempts: 1 } });
      await tired.connect().catch(() => {});
      await tired.closed;
    }""")
    assert page.evaluate("tired.state") == "closed"
    page.evaluate("address = '/ws'")
    context.set_offline(offline=True)
    context.set_offline(offline=False)
    page.wait_for_function("tired.state === 'connected'")
    page.evaluate("""async () => {
      address = "/nothing";
      tired.command("cut").catch(() => {});
      await tired.closed;
      address = "/ws";
    }""")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_function("tired.state === 'connected'")
    page.evaluate("tired.close()")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.evaluate("dispatchEvent(new Event('online'))")
    assert page.evaluate("tired.state") == "closed"
    assert page.evaluate("tired.connect().then(() => tired.state)") == "connected"


def test_an_offline_page_looks_at_its_connection(page: Page) -> None:
    """The browser says that it is offline: a ping is sent at once, and answered where it can be."""
    sent = page.evaluate("""async () => {
      const said = [];
      class Overheard extends WebSocket {
        send(text) { said.push(JSON.parse(text).type); super.send(text); }
      }
      const heard = make("/ws", { WebSocket: Overheard });
      await heard.connect();
      dispatchEvent(new Event("offline"));
      await heard.status();
      return [said, heard.state];
    }""")
    assert sent == [["ping", "get_status"], "connected"]


def test_a_wrong_path_is_explained(page: Page) -> None:
    """The page is told what may be wrong, which the browser itself keeps to itself."""
    message = page.evaluate(
        "make('/nothing', { retry: { attempts: 0 } }).connect().catch((e) => e.message)"
    )
    assert "cannot connect to ws://127.0.0.1" in message
    assert "wrong URL" in message


def test_the_page_of_another_origin_may_import_it(page: Page, address: str) -> None:
    """The file is shared with every origin; the endpoint still judges who connects."""
    page.goto(address.replace("127.0.0.1", "localhost"))
    found = page.evaluate(
        """async (address) => {
          const { Client } = await import(`${address}/wsbus/wsbus.js`);
          const client = new Client(`${address}/ws`, { retry: { attempts: 0 } });
          return await client.connect().catch(({ message }) => message);
        }""",
        address,
    )
    assert "refuses this origin" in found


@pytest.mark.parametrize("how", ["refused", "held"])
def test_where_no_websocket_gets_through_it_goes_on_over_http(
    context: BrowserContext, address: str, how: str
) -> None:
    """Behind a proxy that refuses upgrades, and one that holds streams back, too."""
    tab = context.new_page()
    tab.goto(address)
    read = tab.evaluate(
        """async (path) => {
          const { Client } = await import("/wsbus/wsbus.js");
          const client = new Client(path);
          await client.connect();
          const events = client.events("kept.*");
          await client.subscribe("kept.*");
          const found = [];
          for (let number = 0; number < 20; number++) client.publish("kept.a", number);
          for await (const { data } of events) if (found.push(data) === 20) break;
          found.push(await client.command("double", { number: 21 }));
          client.close();
          return found;
        }""",
        f"/{how}/ws",
    )

    assert read == [*range(20), 42]


@pytest.mark.parametrize("how", ["refused", "held"])
def test_a_name_that_is_behind_joins_over_http(
    context: BrowserContext, address: str, how: str
) -> None:
    """It gets what it has missed, and a name that is far ahead has no gap and nothing twice."""
    tab = context.new_page()
    dialled: list[str] = []
    tab.on("websocket", lambda socket: dialled.append(socket.url))
    tab.goto(address)
    read = tab.evaluate(
        """async (path) => {
          const { Client } = await import("/wsbus/wsbus.js");
          const [client, feed] = [new Client(path), new Client("/ws")];
          await Promise.all([client.connect(), feed.connect()]);
          const [seen, gaps, wanted] = [[], [], new Map()];
          const come = (data) => new Promise((resolve) => wanted.set(data, resolve));
          client.addEventListener("gap", ({ detail }) => gaps.push(detail));
          client.on("kept.*", ({ data }) => {
            seen.push(data);
            wanted.get(data)?.();
          });
          await client.subscribe("kept.busy");
          const since = client.position("kept.busy");
          const ahead = come(309);
          feed.publish("kept.late", "missed");
          for (let number = 0; number < 310; number++) await feed.publish("kept.busy", number);
          await feed.publish("kept.late", "missed, too");
          await ahead;
          const [caughtUp, last] = [come("missed, too"), come("last")];
          await client.subscribe("kept.late", { since });
          await caughtUp;
          await client.unsubscribe("kept.late");
          await feed.publish("kept.late", "away");
          await client.subscribe("kept.late");
          feed.publish("kept.busy", "next");
          feed.publish("kept.late", "last");
          await last;
          client.close();
          return [seen, gaps];
        }""",
        f"/{how}/ws",
    )

    assert read == [[*range(310), "missed", "missed, too", "next", "last"], []]
    assert len([url for url in dialled if how in url]) == 2  # Then one connection over HTTP.
