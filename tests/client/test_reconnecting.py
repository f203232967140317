from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import pytest
from anyio import create_task_group, fail_after, move_on_after, sleep, to_thread

from tests.client.servers import (
    PROTOCOLS,
    Latch,
    Proxy,
    Scripted,
    Server,
    scripted,
    serving,
    through_proxy,
    wait_until,
)
from wsbus import Limits
from wsbus.client import (
    Client,
    Closed,
    CommandError,
    Connected,
    ConnectError,
    ConnectionLost,
    Gap,
    GapCause,
    MessageTooLarge,
    Missed,
    Reconnecting,
    RefreshFailed,
    RemoteError,
    Retry,
    Unauthenticated,
    connect,
)
from wsbus.core.errors import CloseCode
from wsbus.testing.frames import Opcode

SOON: Final = Retry(base=0.01, cap=0.02, attempts=None)
LONG: Final = 30


@asynccontextmanager
async def connected(server: Server, **options: Any) -> AsyncIterator[tuple[Client, Proxy, Latch]]:
    """Give a client behind a network that fails, the network, and the client's changes."""
    changes = Latch()
    defaults: dict[str, Any] = {"token": "ada", "retry": SOON, "on_change": changes}
    async with through_proxy(server) as proxy, connect(proxy.url, **defaults | options) as client:
        with fail_after(LONG):
            yield client, proxy, changes


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_it_comes_again_and_subscribes_anew(server: Server, protocol: str) -> None:
    """After a cut it is connected again, its subscriptions are the server's, and gaps are told."""
    async with (
        connected(server, protocol=protocol) as (client, proxy, changes),
        client.subscribe("a.*") as first,
        client.subscribe("b") as second,
    ):
        server.publish("a.x", 1)
        assert (await anext(first)).data == 1
        proxy.cut()
        await changes.next(Missed, 2)
        server.publish("a.x", 2, 3)
        server.publish("b", 4)

        event = await anext(first)
        assert (event.data, event.gap) == (2, Gap(None, GapCause.RECONNECT))
        assert (await anext(first)).gap is None
        assert (await anext(second)).gap == Gap(None, GapCause.RECONNECT)
        assert client.subscriptions == ["a.*", "b"]
        await wait_until(lambda: server.held() == [["a.*", "b"]])

    kinds = [type(change) for change in changes.changes]
    assert kinds == [Connected, Reconnecting, Connected, Missed, Missed, Closed]
    reconnecting = await changes.next(Reconnecting)
    assert reconnecting.attempt == 1
    assert 0 <= reconnecting.delay <= 0.01
    assert "the server is gone, or the network broke" in str(reconnecting.error)
    assert (await changes.next(Connected, 2)).is_again


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_the_server_took_away_is_not_subscribed_again(
    server: Server, protocol: str
) -> None:
    """protocol.md: "not ask for them again by itself, also not after a reconnect"."""
    async with (
        connected(server, protocol=protocol) as (client, proxy, changes),
        client.subscribe("room.1") as taken,
        client.subscribe("room.2"),
    ):
        server.publish("room.1", "before")
        assert await client.command("revoke", {"pattern": "room.1", "reason": "banned"})
        assert (await anext(taken)).data == "before"
        words = "room.1: the server took the subscription away"
        told = f"{words}: banned" if protocol != "zigquant-v2" else words
        with pytest.raises(CommandError, match=f"{re.escape(told)}$") as error:
            await anext(taken)
        assert error.value.code == "FORBIDDEN"

        proxy.cut()
        await changes.next(Missed)
        assert client.subscriptions == ["room.2"]
        await wait_until(lambda: server.held() == [["room.2"]])


async def test_what_was_in_flight_fails_at_once(server: Server) -> None:
    """A command without an answer fails at the cut, and is not carried out again."""
    async with connected(server) as (client, proxy, _), create_task_group() as tasks:

        async def cut() -> None:
            await wait_until(lambda: server.calls == ["once"])
            proxy.cut()

        tasks.start_soon(cut)
        with pytest.raises(ConnectionLost, match="may have been carried out or not") as lost:
            await client.command("wait", {"text": "once"})
        assert lost.value.code == 1006
        assert await client.command("add", {"a": 1, "b": 1}) == 2
        assert server.calls == ["once"]


async def test_what_is_idempotent_is_sent_again(server: Server) -> None:
    """An idempotent command survives the cut and returns the second answer."""
    async with connected(server) as (client, proxy, _), create_task_group() as tasks:

        async def cut() -> None:
            await wait_until(lambda: len(server.calls) == 1)
            proxy.cut()
            await wait_until(lambda: len(server.calls) == 2)
            server.release()

        tasks.start_soon(cut)
        assert await client.command("wait", {"text": "x"}, idempotent=True) == "x"
        assert server.calls == ["x", "x"]


async def test_what_is_asked_meanwhile_waits(server: Server) -> None:
    """Commands and subscriptions made while there is no connection wait for the next one.

    What waits longer than its time limit is never sent, and says so.
    """
    async with connected(server) as (client, proxy, changes):
        proxy.target = 1  # where nobody listens
        proxy.cut()
        await changes.next(Reconnecting)
        with pytest.raises(CommandError, match="no connection to send it over") as late:
            await client.command("note", {"text": "late"}, timeout=0.05)
        assert late.value.code == "TIMEOUT"
        with pytest.raises(CommandError, match="did not confirm") as late:
            async with client.subscribe("a", timeout=0.05):
                pass
        assert late.value.code == "TIMEOUT"

        async with create_task_group() as tasks:

            async def subscribe() -> None:
                async with client.subscribe("b") as events:
                    server.publish("b", 1)
                    assert (await anext(events)).gap is None

            tasks.start_soon(subscribe)
            proxy.target = server.port
            assert await client.command("note", {"text": "in time"}) == 1
        assert server.calls == ["in time"]


async def test_it_comes_back_after_a_restart(server: Server) -> None:
    """A server that drains and comes again is found again; nobody is asked to do anything."""
    changes = Latch()
    with fail_after(LONG):
        async with (
            connect(server.url, token="ada", retry=SOON, on_change=changes) as client,
            client.subscribe("a") as events,
        ):
            await to_thread.run_sync(server.stop)
            first = await changes.next(Reconnecting)
            assert isinstance(first.error, ConnectionLost)
            assert first.error.code == 1001
            server.start()
            await changes.next(Missed)
            server.publish("a", 1)

            assert (await anext(events)).data == 1


async def test_it_gives_up_in_the_end(server: Server) -> None:
    """After the last attempt iterators and commands raise what happened, and it is over."""
    retry = Retry(base=0.01, cap=0.01, attempts=3)
    async with connected(server, retry=retry) as (client, proxy, changes):
        async with client.subscribe("a") as events:
            proxy.target = 1
            proxy.cut()
            for use in (lambda: anext(events), lambda: client.command("add")):
                with pytest.raises(ConnectError, match="gave up after 3 attempts") as ended:
                    await use()
                assert "before it had answered" in str(ended.value)
        closed = await changes.next(Closed)
        assert isinstance(closed.error, ConnectError)
        assert [c.attempt for c in changes.changes if isinstance(c, Reconnecting)] == [1, 2, 3]


async def test_it_may_not_come_again_at_all(server: Server) -> None:
    """With no attempts the first loss is the end, and the error says which it was."""
    async with (
        connected(server, retry=Retry(attempts=0)) as (client, proxy, _),
        client.subscribe("a") as events,
    ):
        proxy.cut()
        with pytest.raises(ConnectionLost):
            await anext(events)


async def test_the_first_connection_can_be_tried_again() -> None:
    """With ``first`` an application may start before its server does."""
    with serving() as server:
        server.stop()
        changes = Latch()
        retry = Retry(base=0.01, cap=0.01, first=True, attempts=None)
        with fail_after(LONG):
            async with create_task_group() as tasks:

                async def start() -> None:
                    await changes.next(Reconnecting, 2)
                    server.start()

                tasks.start_soon(start)
                async with connect(server.url, token="ada", retry=retry, on_change=changes):
                    assert not (await changes.next(Connected)).is_again


@pytest.mark.parametrize(
    ("status", "stops"), [(503, False), (502, False), (429, False), (403, False), (404, True)]
)
async def test_a_refused_handshake_may_be_tried_again(status: int, *, stops: bool) -> None:
    """A server that is full, or not ready, or behind a proxy that failed, is tried again.

    403 is among them, since plain ASGI servers answer it to every refusal.
    """
    count = 0

    async def script(peer: Scripted) -> None:
        nonlocal count
        count += 1
        if count == 1:
            await peer.stream.receive()
            await peer.stream.send(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            await peer.welcome()
            await peer.stream.receive()

    retry = Retry(base=0.01, cap=0.02, first=True)
    with fail_after(LONG):
        async with scripted(script) as url:
            if stops:
                with pytest.raises(ConnectError):
                    async with connect(url, retry=retry):
                        pass
            else:
                async with connect(url, retry=retry) as client:
                    assert client.is_connected
    assert count == 2 - stops


@pytest.mark.parametrize(
    ("code", "stops"), [(1000, True), (1001, False), (4000, False), (4409, False), (4510, True)]
)
async def test_close_codes_say_whether_to_come_again(
    server: Server, code: int, *, stops: bool
) -> None:
    """Codes that ask not to come again end it with the server's words; others do not."""
    async with connected(server) as (client, _, changes), client.subscribe("a") as events:
        with pytest.raises(ConnectionLost):
            await client.command("leave", {"code": code})
        if stops:
            with pytest.raises(ConnectionLost, match="told to") as ended:
                await anext(events)
            assert ended.value.code == code
            assert (await changes.next(Closed)).error is not None
        else:
            await changes.next(Missed)
            server.publish("a", 1)
            assert (await anext(events)).data == 1


async def test_a_dead_peer_is_noticed(server: Server) -> None:
    """A network that swallows everything is noticed for want of a pong, and a new one is found."""
    options: dict[str, Any] = {"ping_interval": 0.05, "ping_timeout": 0.1, "connect_timeout": 0.2}
    async with connected(server, **options) as (_, proxy, changes):
        proxy.is_black_hole = True
        lost = await changes.next(Reconnecting)
        assert "no answer to a ping for 0.1 s" in str(lost.error)
        proxy.is_black_hole = False
        await changes.next(Connected, 2)


async def test_a_quiet_server_is_pinged(server: Server) -> None:
    """While pongs come, a connection on which nothing else happens lives."""
    async with connected(server, ping_interval=0.02, ping_timeout=1) as (client, _, changes):
        with move_on_after(0.2):
            await changes.next(Reconnecting)
        status = await client.status()
        assert status.connection_id == client.connection_id
        assert [type(change) for change in changes.changes] == [Connected]


async def test_a_server_that_sends_and_never_pongs_is_left() -> None:
    """Only a pong answers a ping: a server that merely goes on sending does not read."""

    async def deaf(peer: Scripted) -> None:
        await peer.welcome()
        while True:
            await peer.say('{"type":"event","channel":"a","event":"e","data":1}')
            await sleep(0.01)

    changes = Latch()
    async with scripted(deaf) as url:
        with fail_after(LONG):
            async with connect(url, on_change=changes, ping_interval=0.05, ping_timeout=0.1):
                lost = await changes.next(Reconnecting)
    assert "no answer to a ping" in str(lost.error)


# --- tokens --------------------------------------------------------------------------------------


async def test_a_token_is_refreshed_before_it_expires(server: Server) -> None:
    """A new token is shown over the same connection, again and again, before the old one ends."""
    fetched = 0

    async def token() -> str:
        nonlocal fetched
        fetched += 1
        return "ada for 0.4"

    async with connected(server, token=token) as (client, _, changes):
        before = client.connection_id
        await wait_until(lambda: fetched >= 5)
        assert client.connection_id == before
        assert [type(change) for change in changes.changes] == [Connected]


async def test_a_new_token_is_fetched_for_every_connection(server: Server) -> None:
    """A sync function is asked in a thread, where it may block, before every connection."""
    threads: list[threading.Thread] = []

    def token() -> str:
        threads.append(threading.current_thread())
        return "ada"

    async with connected(server, token=token) as (_, proxy, changes):
        proxy.cut()
        await changes.next(Connected, 2)
    assert len(threads) == 2
    assert threading.main_thread() not in threads


async def test_an_expired_token_brings_a_new_one(server: Server) -> None:
    """After 4401 it comes again with a new token; with a fixed one it stops and says why."""
    tokens = iter(["ada for 0.2", "bad", "bad", "bad", "ada"])

    def token() -> str:
        # The old one holds though the newer ones are refused, until it expires.
        return next(tokens)

    async with connected(server, token=token) as (_, _, changes):
        await changes.next(Connected)
    async with (
        connected(server, token="ada for 0.1") as (client, _, changes),
        client.subscribe("a") as events,
    ):
        with pytest.raises(Unauthenticated, match="give a function"):
            await anext(events)


async def test_a_refresh_that_fails_is_told(server: Server) -> None:
    """The old token holds while it lasts; then the connection ends, and the next token decides."""
    calls = 0

    async def token() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            return "ada for 1.2"
        if calls == 2:
            raise RuntimeError("secret")
        return "bad"

    async with (
        connected(server, token=token) as (client, _, changes),
        client.subscribe("a") as events,
    ):
        failed = await changes.next(RefreshFailed)
        assert failed.why == "the function for it has failed: RuntimeError"
        assert "nobody knows" in (await changes.next(RefreshFailed, 2)).why
        with pytest.raises(Unauthenticated, match="nobody knows this token"):
            await anext(events)


@pytest.mark.parametrize("result", [RuntimeError("secret"), "", None])
async def test_no_token_no_connection(server: Server, result: Any) -> None:
    """A function that fails, or returns no token, is told in words that repeat nothing of it."""

    def token() -> str:
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[no-any-return]

    with pytest.raises(RemoteError, match="no token: the function for it has failed") as refused:
        async with connect(server.url, token=token):
            pass
    assert "secret" not in str(refused.value)


async def test_a_function_that_hangs_does_not_hold_up_the_end(server: Server) -> None:
    """A token that does not come is given up, in a thread or not."""
    release = threading.Event()

    def token() -> str:
        release.wait()
        return "ada"

    try:
        with fail_after(LONG), pytest.raises(ConnectError, match=r"took longer than 0\.1 s"):
            async with connect(server.url, token=token, connect_timeout=0.1):
                pass
    finally:
        release.set()


async def test_losing_a_connection_is_logged(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Who set no ``on_change`` finds in the log that it was lost, came back, and was given up."""
    caplog.set_level("INFO", "wsbus.client")
    retry = Retry(base=0.01, cap=0.01, attempts=2)
    async with connected(server, retry=retry) as (client, proxy, changes):
        proxy.cut()
        await changes.next(Connected, 2)
        proxy.target = 1  # Nobody listens there.
        proxy.cut()
        await changes.next(Closed)
        assert not client.is_connected
    lines = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "wsbus.client"]
    assert any(level == "INFO" and "attempt 1 in" in text for level, text in lines)
    assert any(level == "INFO" and "again" in text for level, text in lines)
    assert [level for level, _ in lines].count("WARNING") == 1
    assert lines[-1][0] == "WARNING"


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_more_names_than_one_request_may_have_are_subscribed_again(protocol: str) -> None:
    """What was asked for one by one is asked for again in parts, also if nobody tells how many."""
    names = [f"n.{number}" for number in range(50)]
    with serving(limits=Limits(max_names=8)) as server:
        async with (
            connected(server, protocol=protocol) as (client, proxy, changes),
            AsyncExitStack() as stack,
        ):
            held = [await stack.enter_async_context(client.subscribe(name)) for name in names]
            proxy.cut()
            await changes.next(Missed, len(names))
            server.publish("n.0", 1)
            server.publish("n.49", 2)
            first, last = await anext(held[0]), await anext(held[-1])
            assert (first.data, last.data) == (1, 2)
            assert first.gap is not None
            await wait_until(lambda: [set(each) for each in server.held()] == [set(names)])
            assert proxy.accepted == 2


async def test_a_burst_keeps_to_a_rate_that_nobody_told() -> None:
    """More commands at once than the server takes are all carried out, in either dialect."""
    limits = Limits(commands_per_second=5)
    with serving(limits=limits) as server, fail_after(30):
        async with connect(server.url, token="ada", protocol="zigquant-v2") as client:
            got: list[float] = []

            async def add(number: int) -> None:
                params = {"a": number, "b": 1}
                got.append(await client.command("add", params, returns=float, timeout=25))

            async with create_task_group() as tasks:
                for number in range(12):
                    tasks.start_soon(add, number)
        assert sorted(got) == [number + 1 for number in range(12)]


async def test_what_is_larger_than_the_server_reads_is_not_sent() -> None:
    """The server tells what it reads: more fails at once, and the connection lives on."""
    told: list[bytes] = []

    async def small(peer: Scripted) -> None:
        await peer.shake_hands()
        terms = '"connection_id":"c","subject":"u","max_message_bytes":1000'
        await peer.say(f'{{"type":"connected","data":{{{terms}}}}}')
        told.append(await peer.stream.receive())

    changes = Latch()
    async with scripted(small) as url, connect(url, on_change=changes) as client:
        with fail_after(5), pytest.raises(MessageTooLarge) as refused:
            await client.command("save", {"text": "x" * 1000}, idempotent=True)
        assert refused.value.limit == 1000
        assert refused.value.size > 1000
        assert client.is_connected
    assert len([change for change in changes.changes if isinstance(change, Connected)]) == 1
    assert [data[0] for data in told] == [0x80 | Opcode.CLOSE]


async def test_words_of_a_server_forge_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The reason of a close frame, and the text of a refusal, are escaped, and not long."""
    codes = iter([CloseCode.INTERNAL_ERROR, CloseCode.DISCONNECTED])

    async def script(peer: Scripted) -> None:
        await peer.welcome()
        await peer.stream.receive()
        forged = "gone\nERROR root \x1b[2Jforged\u2028"
        await peer.frame(Opcode.CLOSE, next(codes).to_bytes(2) + forged.encode())
        await peer.stream.receive()

    caplog.set_level("INFO", "wsbus.client")
    async with scripted(script) as url, connect(url, retry=SOON) as client:
        with fail_after(LONG), pytest.raises(RemoteError):
            async with client.subscribe("a") as events:
                await anext(events)
    lines = [record.getMessage() for record in caplog.records]
    assert any("attempt 1" in line for line in lines)
    assert any("the client has ended" in line for line in lines)
    assert all(line.isprintable() for line in lines)
    assert "gone\\nERROR root \\x1b[2Jforged\\u2028" in caplog.text
