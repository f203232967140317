from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest
from anyio import fail_after
from anyio.abc import SocketAttribute

from tests.adapters.serving import reset
from tests.client.servers import Latch, Scripted, scripted, wait_until
from wsbus.client import (
    CommandError,
    Connected,
    ConnectError,
    ConnectionLost,
    Reconnecting,
    Retry,
    connect,
)
from wsbus.client.socket import Wire
from wsbus.testing.frames import Opcode, close_body

SOON: Final = Retry(base=0.01, cap=0.01)
LONG_PING: Final = b'{"type":"ping","id":"%s"}' % (b"x" * 1000)
LONG_PINGS: Final = (b"\x81\x7e" + len(LONG_PING).to_bytes(2) + LONG_PING) * 100
"""The answers are as long: few of them fill what the system buffers."""
EVENT: Final = '{"type":"event","channel":"a","event":"e","data":%d}'
# These servers do not answer a goodbye.
QUICK: Final[dict[str, Any]] = {"close_timeout": 0.05}
Script = Callable[[Scripted], Coroutine[Any, Any, None]]


async def events_of(script: Script, count: int) -> list[Any]:
    """Return the data of the first events that a script sends."""

    async def play(peer: Scripted) -> None:
        await peer.welcome()
        # The first frame of the client asks for the subscription, and its ref is the first.
        await peer.stream.receive()
        await peer.say('{"type":"subscribed","id":"1","data":{"channels":["a"]}}')
        await script(peer)
        await peer.drain()

    with fail_after(5):
        async with (
            scripted(play) as url,
            connect(url, **QUICK) as client,
            client.subscribe("a") as events,
        ):
            return [(await anext(events)).data for _ in range(count)]


async def ending_of(script: Script) -> ConnectionLost:
    """Return how the client takes the end of a connection."""

    async def play(peer: Scripted) -> None:
        await peer.welcome()
        await script(peer)
        await peer.drain()

    changes = Latch()
    with fail_after(5):
        async with scripted(play) as url, connect(url, **QUICK, retry=SOON, on_change=changes):
            error = (await changes.next(Reconnecting)).error
            await changes.next(Connected, 2)
    assert isinstance(error, ConnectionLost)
    return error


async def test_messages_may_come_in_pieces() -> None:
    """Fragments, empty ones too, with control frames in between, are one message."""

    async def script(peer: Scripted) -> None:
        text = (EVENT % 7).encode()
        await peer.frame(Opcode.TEXT, text[:5], is_final=False)
        await peer.frame(Opcode.PING, b"alive?")
        for byte in text[5:]:
            await peer.frame(Opcode.CONTINUATION, b"", is_final=False)
            await peer.frame(Opcode.CONTINUATION, bytes([byte]), is_final=False)
        await peer.frame(Opcode.CONTINUATION, b"")
        await peer.say(EVENT % 8)

    assert await events_of(script, 2) == [7, 8]


async def test_bytes_may_come_one_by_one() -> None:
    """The network may cut frames anywhere."""

    async def script(peer: Scripted) -> None:
        text = (EVENT % 7).encode()
        for byte in bytes([0x81, len(text)]) + text:
            await peer.stream.send(bytes([byte]))

    assert await events_of(script, 1) == [7]


async def test_many_messages_may_come_at_once() -> None:
    """A burst that is far larger than a turn is read in order, and nothing of it is lost."""

    async def script(peer: Scripted) -> None:
        lines = "\n".join(EVENT % n for n in range(900))
        await peer.say(lines)

    assert await events_of(script, 900) == list(range(900))


async def test_nonsense_between_messages_is_passed_over() -> None:
    """What is not understood costs itself only."""

    async def script(peer: Scripted) -> None:
        await peer.say("nonsense", "[]", '{"type":"news"}', EVENT % 1)

    assert await events_of(script, 1) == [1]


@pytest.mark.parametrize(
    ("opcode", "payload", "code", "words"),
    [
        (Opcode.BINARY, b"x", 1003, "dialect is text"),
        (Opcode.TEXT, b"\xff", 1007, "not UTF-8"),
        (0x3, b"", 1002, "opcode"),
        (Opcode.CONTINUATION, b"", 1002, "unexpected continuation"),
    ],
)
async def test_a_server_that_breaks_the_rules_is_left(
    opcode: int, payload: bytes, code: int, words: str
) -> None:
    """It is told so by the close code; the client says what was wrong.

    RFC 6455, section 7.4.1; binary frames and texts that are no text do not invite to come again.
    """

    async def script(peer: Scripted) -> None:
        await peer.welcome()
        await peer.frame(opcode, payload)
        while not (await peer.stream.receive()).startswith(bytes([0x80 | Opcode.CLOSE])):
            pass

    changes = Latch()
    with fail_after(5):
        async with (
            scripted(script) as url,
            connect(url, **QUICK, retry=SOON, on_change=changes) as client,
        ):
            if code == 1002:
                error = (await changes.next(Reconnecting)).error
            else:
                with pytest.raises(ConnectionLost) as lost:
                    await client.command("x")
                error = lost.value
    assert isinstance(error, ConnectionLost)
    assert error.code == code
    assert words in str(error)


async def test_a_message_that_is_too_large_is_refused() -> None:
    """It is not read to its end, and the reason names it."""

    async def script(peer: Scripted) -> None:
        await peer.welcome()
        await peer.say("x" * 2000)
        await peer.stream.receive()

    changes = Latch()
    with fail_after(5):
        options = QUICK | {"retry": SOON, "on_change": changes, "max_message_bytes": 1000}
        async with scripted(script) as url, connect(url, **options):
            error = (await changes.next(Reconnecting)).error
    assert "a message was too big (close code 1009" in str(error)


async def test_the_servers_goodbye_is_answered() -> None:
    """A close frame is echoed before the client hangs up (RFC 6455, section 5.5.1)."""
    answers: list[bytes] = []

    async def script(peer: Scripted) -> None:
        await peer.frame(Opcode.CLOSE, close_body(4000, "enough"))
        answers.append(await peer.stream.receive())
        await peer.stream.aclose()

    error = await ending_of(script)

    assert (error.code, error.reason) == (4000, "enough")
    # The masked frame: FIN and opcode, mask bit and length of code and reason.
    assert answers[0].startswith(bytes([0x88, 0x80 | 8]))


async def test_a_server_that_hangs_up_without_a_word_is_gone() -> None:
    """An end without a close frame is 1006."""

    async def script(peer: Scripted) -> None:
        await peer.stream.send_eof()

    assert (await ending_of(script)).code == 1006


async def test_answers_to_nobody_disturb_nobody() -> None:
    """Whatever a hostile server answers, twice or unasked, a command gets one answer of its own."""

    async def script(peer: Scripted) -> None:
        await peer.welcome()
        answer = '{"type":"response","id":"%d","success":true,"data":%d}'
        await peer.stream.receive()
        await peer.say(*(answer % (ref, n) for n in (1, 2) for ref in (0, 1, 50)))
        await peer.stream.receive()
        await peer.say(answer % (1, 3), answer % (2, 4))
        await peer.drain()

    with fail_after(5):
        async with scripted(script) as url, connect(url, **QUICK) as client:
            assert await client.command("first") == 1
            assert await client.command("second", timeout=1) == 4


async def test_a_server_that_does_not_read_costs_no_memory() -> None:
    """A server that pings and never reads the answers is not read either; the end is prompt."""

    async def script(peer: Scripted) -> None:
        sock = peer.stream.extra(SocketAttribute.raw_socket)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await peer.welcome()
        while True:
            await peer.stream.send(LONG_PINGS)

    with fail_after(20):
        async with scripted(script) as url, connect(url, **QUICK, ping_timeout=60) as client:
            wire = client._driver._wire
            assert isinstance(wire, Wire)
            # Else the operating system takes megabytes of pongs first.
            own = wire._stream.extra(SocketAttribute.raw_socket)
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await wait_until(lambda: wire._unsent > 256 * 1024)
            unsent = wire._unsent
            with pytest.raises(CommandError, match="TIMEOUT"):
                await client.command("x", timeout=0.2)
            # Nothing but what it asked for itself was added.
            assert wire._unsent < unsent + 1000


async def test_one_who_hangs_up_in_the_handshake_is_told() -> None:
    """A reset before there was an answer is no failure of the client's own."""

    async def script(peer: Scripted) -> None:
        await reset(peer.stream)

    with fail_after(5):
        async with scripted(script) as url:
            with pytest.raises(ConnectError, match=r"closed the connection|cannot be reached"):
                async with connect(url):
                    pass
