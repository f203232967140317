"""What the stock price service's users paste into a browser's console, re-enacted."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.examples.peer import PATIENCE
from tests.examples.prices import Service, codes, running_service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage

SNIPPET = """
url => {
  const prices = new WebSocket(url);
  prices.addEventListener('message', ({data}) => console.log('got', data));
  prices.addEventListener('error', () => console.log('got', '"an error"'));
  prices.addEventListener('open', () => {
    console.log('got', '"open"');
    const wanted = {subscription_type: 'strategy', target: 'volume_wave'};
    prices.send(JSON.stringify({type: 'subscribe', ...wanted}));
  });
}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("prices") / "log") as running:
        yield running


def push(service: Service) -> Any:
    """Push by hand; return the data of the answer."""
    address = f"http://127.0.0.1:{service.port}/api/websocket/push/prices?strategy=volume_wave"
    request = urllib.request.Request(address, method="POST")
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return json.load(response)["data"]


def test_a_console(browser: Browser, service: Service) -> None:
    """In the console of a page of elsewhere: it connects, subscribes, and hears each push."""
    heard: list[Any] = []

    def hear(message: ConsoleMessage) -> None:
        if message.text.startswith("got "):  # It misses a favicon, too.
            heard.append(json.loads(message.text.removeprefix("got ")))

    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        page.on("console", hear)
        # To a browser this is elsewhere; from the public Internet it would not go to 127.0.0.1.
        page.goto(f"http://localhost:{service.port}/api/health")
        with page.expect_console_message(lambda message: "订阅成功" in message.text):
            page.evaluate(SNIPPET, service.url)
        for _ in range(2):
            with page.expect_console_message(lambda message: "price_update" in message.text):
                assert push(service)["sent"] == 1

    opened, connected, subscribed, *updates = heard
    assert opened == "open"
    assert (connected["type"], connected["message"]) == ("connected", "WebSocket连接成功")
    assert (subscribed["type"], subscribed["target"]) == ("subscribed", "volume_wave")
    for update in updates:
        assert len(codes(update)) == 50
        assert update["data"][0]["name"] == "贵州茅台"
    assert len(updates) == 2
