"""Every sentence of the symbol stream's page, over real sockets, against the running example."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.examples.peer import PATIENCE, ROOT, Message, Peer, Server, launched
from tests.examples.symbols import MOMENT, settled, status, until
from tests.protocols.golden import vectors

SCRIPT = "symbol_stream.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example, with what it says of itself at DEBUG in its log."""
    with launched(SCRIPT, tmp_path_factory.mktemp("symbols") / "log", "--log-level", "DEBUG") as it:
        yield it


@asynccontextmanager
async def client(server: Server, *symbols: str, **options: Any) -> AsyncIterator[Peer]:
    """Connect, and subscribe."""
    async with server.connect(**options) as peer:
        if symbols:
            await peer.say({"type": "subscribe", "symbols": list(symbols)})
        yield peer


async def answers(peer: Peer) -> bool:
    """Tell whether it is still served."""
    await settled(peer)
    return True


# --- on the wire ----------------------------------------------------------------------------------


async def test_the_conversation_of_the_page(server: Server) -> None:
    """Subscribing is not answered; ``status`` and ``pong`` have these keys in this order."""
    began = int(time.time())
    async with client(server) as peer:
        await peer.say('{"type":"subscribe","symbols":["BTC/USDT","ETH/USDT"]}')
        await peer.say('{"type":"subscribe","symbol":"AAPL"}')
        await peer.say('{"type":"unsubscribe","symbol":"AAPL"}')
        await peer.say('{"type":"unsubscribe","symbols":["nobody knows"]}')
        answer = await status(peer)
        assert list(answer) == [
            "type",
            "connected_at",
            "subscriptions",
            "message_count",
            "timestamp",
        ]
        assert answer["subscriptions"] == ["BTC/USDT", "ETH/USDT"]
        assert isinstance(answer["connected_at"], float)
        assert began - 1 < answer["connected_at"] < time.time() + 1
        pong = await peer.ask('{"type":"ping"}', "pong")
        assert list(pong) == ["type", "timestamp"]
        assert MOMENT.fullmatch(pong["timestamp"])
        shown = datetime.fromisoformat(pong["timestamp"]).timestamp()  # local, without a zone
        assert began <= shown <= time.time()
        assert {message["type"] for message in peer.heard} <= {"quote", "status", "pong"}


async def test_every_subscribed_symbol_is_quoted_at_least_once_a_second(server: Server) -> None:
    """Whatever a symbol is called, its quotes come each second, numbered without a hole."""
    symbols = ["BTC/USDT", "BRK.B", "^GSPC", "A B", "*", "+", "贵州茅台", ""]
    async with client(server, *symbols) as peer, client(server, "BRK.B") as other:
        quotes: dict[str, list[Message]] = {symbol: [] for symbol in symbols}
        began = time.monotonic()
        while min(map(len, quotes.values())) < 4:
            text = await peer.text()
            quote = peer.heard[-1]
            assert list(quote) == ["type", "symbol", "price", "seq", "timestamp"]
            assert "\\u" not in text
            quotes[quote["symbol"]].append(quote)
        assert time.monotonic() - began < 4
        for some in quotes.values():
            first = some[0]["seq"]
            assert [quote["seq"] for quote in some] == list(range(first, first + len(some)))
            assert all(quote["price"] > 0 for quote in some)
        answer = await status(peer)
        assert answer["message_count"] == sum(m["type"] == "quote" for m in peer.heard)
        await settled(other)  # a star is no wildcard, and a dot separates nothing
        assert {m["symbol"] for m in other.heard if m["type"] == "quote"} == {"BRK.B"}
        await peer.say({"type": "unsubscribe", "symbols": symbols})
        await settled(peer)
        await other.hear("quote")
        await other.hear("quote")
        await peer.say('{"type":"ping"}')
        assert (await peer.next())["type"] == "pong"


async def test_any_path_any_origin_no_subprotocol(server: Server) -> None:
    """Browsers' pages from anywhere come in, at any path, offering nothing."""
    for path in ("", "ws", "a/b?c=d", "%2F%00"):
        async with client(server, path=path) as peer:
            assert await answers(peer)
            assert peer.socket.subprotocol is None
    for origin in ("http://localhost:3000", "null", "https://elsewhere.example"):
        async with client(server, origin=origin) as peer:
            assert await answers(peer)
    async with client(server, subprotocols=("symbol-stream",)) as peer:
        assert peer.socket.subprotocol == Subprotocol("symbol-stream")


async def test_the_sample_snippets(server: Server) -> None:
    """What the users' snippets read is there: ``pong.timestamp``, and the fields of a status."""
    async with client(server, "AAPL", origin="http://localhost:3000") as peer:
        await peer.say(json.dumps({"type": "ping"}))
        assert (await peer.hear("pong"))["timestamp"]
        data = await status(peer)
        assert 0 <= time.time() * 1000 - data["connected_at"] * 1000 < 60_000
        assert data["subscriptions"] == ["AAPL"]
        assert data["message_count"] >= 0


async def test_a_thousand_symbols_and_as_many_messages(server: Server) -> None:
    """There is no limit on rates, and room for 1,000 subscriptions, in one message or in many."""
    names = [f"SYM{n}" for n in range(1500)]
    async with client(server, *names[:1000]) as peer:
        for name in names[1000:]:
            await peer.say({"type": "subscribe", "symbol": name})
        for _ in range(1000):
            await peer.say('{"type":"ping"}')
        for _ in range(1000):
            await peer.hear("pong")
        assert (await status(peer))["subscriptions"] == names
        seen: set[str] = set()
        while len(seen) < len(names):
            seen.add((await peer.hear("quote"))["symbol"])
    async with client(server) as peer:
        assert (await status(peer))["message_count"] == 0


# --- bad input ----------------------------------------------------------------------------------


async def test_bad_input_is_dropped(server: Server) -> None:
    """Silence, an open connection, and others that notice nothing."""
    async with client(server) as peer, client(server, "AAPL") as witness:
        bad = [
            text
            for means, text in (param.values for param in vectors("symbols", "means"))  # type: ignore[attr-defined]
            if means[0]["is"] == "Malformed"
        ]
        assert len(bad) > 15
        for text in [
            *bad,
            "ping",
            "\x00",
            " " * 60_000,
            '{"type":"ping"' + ' ,"a":{}' * 7000 + "}]",
        ]:
            await peer.say(text)
            await settled(peer)
        assert {message["type"] for message in peer.heard} == {"pong"}
        assert (await status(peer))["subscriptions"] == []
        assert (await witness.hear("quote"))["symbol"] == "AAPL"


@pytest.mark.parametrize(
    ("payload", "is_text", "code"),
    [(b'{"type":"ping"}', False, 1003), (b'"\xff"', True, 1007), (b"x" * 70_000, True, 1009)],
)
async def test_what_is_no_message_at_all(
    server: Server, payload: bytes, is_text: bool, code: int
) -> None:
    """Binary, broken UTF-8 and what is too large end the connection, and no other."""
    async with client(server) as peer, client(server) as witness:
        await peer.socket.send(payload, text=is_text)
        assert await peer.close_code() == code
        assert await answers(witness)


# --- the operator ---------------------------------------------------------------------------------


async def come_back(url: str, seen: list[int], subscribed: asyncio.Event) -> None:
    """Do what a client does that wants its quotes: connect, subscribe, and again when closed."""
    while True:
        with contextlib.suppress(OSError, ConnectionClosed, InvalidStatus, EOFError):
            async with websockets.connect(url, proxy=None, ping_interval=None) as connection:
                await connection.send('{"type":"subscribe","symbol":"AAPL"}')
                try:
                    async for text in connection:
                        assert json.loads(text)["symbol"] == "AAPL"
                        subscribed.set()
                finally:
                    seen.append(connection.close_code or 1006)
        await asyncio.sleep(0.05)  # nobody tells when a port opens


async def test_a_restart_under_three_clients(tmp_path: Path) -> None:
    """They see 1001 or 1012, come back, and are quoted again; each stop is quick and exits 0."""
    with ExitStack() as stack:
        first = stack.enter_context(launched(SCRIPT, tmp_path / "first"))
        port = urlsplit(await asyncio.to_thread(getattr, first, "url")).port
        seen: list[list[int]] = [[], [], []]
        subscribed = [asyncio.Event() for _ in seen]
        clients = [
            asyncio.create_task(come_back(first.url, codes, event))
            for codes, event in zip(seen, subscribed, strict=True)
        ]
        for number in (signal.SIGTERM, signal.SIGINT):
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(event.wait() for event in subscribed))
            for codes in seen:
                codes.clear()
            began = time.monotonic()
            first.process.send_signal(number)
            assert await asyncio.to_thread(first.process.wait, PATIENCE) == 0
            assert time.monotonic() - began < 5
            await until(lambda: all(codes[:1] in ([1001], [1012]) for codes in seen))
            for event in subscribed:
                event.clear()
            first = stack.enter_context(launched(SCRIPT, tmp_path / "log", "--port", str(port)))
            await asyncio.to_thread(getattr, first, "url")
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    assert (tmp_path / "first").read_text() == ""


async def test_the_log(tmp_path: Path) -> None:
    """At INFO nothing that clients do is worth a line; at DEBUG there is one for each broadcast."""
    with ExitStack() as stack:
        quiet = stack.enter_context(launched(SCRIPT, tmp_path / "quiet"))
        loud = stack.enter_context(
            launched(SCRIPT, tmp_path / "loud", "--log-level", "DEBUG", "--queue", "2")
        )
        for each in (quiet, loud):
            address = urlsplit(each.url)
            assert re.fullmatch(r"ws://127\.0\.0\.1:\d+/", each.url)
            for request in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff\x00\r\n\r\n"):
                with socket.create_connection((address.hostname, address.port)) as scanner:
                    scanner.sendall(request)
            async with client(each, "A\nB", "2", "3", "4", "5") as peer:
                await peer.say("sec\nret")
                await peer.say('{"type":"sec\\nret"}')
                for symbol in ("A\nB", "2", "3", "4", "5"):  # more than its queue holds
                    await peer.hear("quote", symbol=symbol)
                peer.socket.transport.abort()
            each.process.terminate()
            assert await asyncio.to_thread(each.process.wait, PATIENCE) == 0
    assert (tmp_path / "quiet").read_text() == ""
    log = (tmp_path / "loud").read_text()
    assert "DEBUG:symbol_stream:broadcast to the subscribers of '2': 1 sent, 0 failed\n" in log
    assert "DEBUG:symbol_stream:broadcast to the subscribers of 'A\\nB': 1 sent, 0 failed\n" in log
    assert len(re.findall("not understood", log)) == 2
    assert re.findall(r"sec|ret\b|WARNING|ERROR|Traceback", log) == []


@pytest.mark.parametrize(
    "option", ["--heartbeat-interval=0", "--heartbeat-timeout=-1", "--queue=0", "--port=x"]
)
def test_what_makes_no_sense_is_refused(option: str) -> None:
    """An option that cannot be is answered with one line and the usage, and exit code 2."""
    done = subprocess.run(
        [sys.executable, f"examples/{SCRIPT}", option],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("usage:")
    assert "Traceback" not in done.stderr
