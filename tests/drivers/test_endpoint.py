from __future__ import annotations

import pytest

from tests.drivers.clients import connecting, judge, quiet
from wsbus import Bus, Endpoint, Handshake, Limits, UsageError
from wsbus.endpoint import Admission, Refusal, escaped
from wsbus.testing import DirectMemoryTransport
from wsbus.transport import HeaderView


def by_path(handshake: Handshake) -> str:
    """Name a connection after the last segment of its path."""
    return handshake.path.rpartition("/")[2]


async def status(endpoint: Endpoint, **fields: object) -> int:
    """Return 101, or the status that a handshake is refused with."""
    verdict = await endpoint.admit(Handshake("/ws", **fields))  # type: ignore[arg-type]
    return verdict.status if isinstance(verdict, Refusal) else 101


# --- origins ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "welcome"),
    [
        ("http://example.com", "example.com", True),
        ("https://example.com", "example.com:443", True),
        ("http://example.com:80", "example.com", True),
        ("https://EXAMPLE.com", "example.COM", True),
        ("http://example.com:8000", "example.com:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://example.com:8000", "example.com", False),
        ("http://example.com:443", "example.com", False),
        ("http://example.com.evil.org", "example.com", False),
        ("http://evil-example.com", "example.com", False),
        ("http://example.com@evil.org", "example.com", False),
        ("http://example.com.", "example.com", False),
        ("http://example.com, http://evil.org", "example.com", False),
        ("null", "null", False),
        ("http://", "", False),
        ("", "", False),
    ],
)
async def test_the_default_is_the_same_host(origin: str, host: str, *, welcome: bool) -> None:
    """A page may connect if it came from the host it connects to, port and all."""
    async with Bus() as bus:
        got = await status(bus.default_endpoint, headers={"origin": origin, "host": host})

        assert got == (101 if welcome else 403)


async def test_who_sends_no_origin_is_no_browser() -> None:
    """Native clients send none, and are let in."""
    async with Bus() as bus:
        assert await status(bus.default_endpoint, headers={"host": "example.com"}) == 101


async def test_listed_origins_are_taken_to_the_letter() -> None:
    """Only the very texts of the list are welcome; `*` welcomes all."""
    async with Bus() as bus:
        listed = bus.endpoint(origins=["https://app.example.com", "null"])
        anybody = bus.endpoint(origins="*")
        got = {
            origin: await status(listed, headers={"origin": origin})
            for origin in ("https://app.example.com", "null", "https://APP.example.com", "*")
        }

        assert got == {
            "https://app.example.com": 101,
            "null": 101,
            "https://APP.example.com": 403,
            "*": 403,
        }
        assert await status(anybody, headers={"origin": "http://evil.org"}) == 101


def test_one_origin_is_no_collection() -> None:
    """A text would be taken letter by letter: it is refused when the endpoint is made."""
    with pytest.raises(UsageError):
        Bus().endpoint(origins="https://example.com")


def test_a_clients_words_are_harmless_in_a_log() -> None:
    """Control characters are escaped, and it is not long."""
    assert escaped("a\r\nINFO \x1b[31m\ud800") == "a\\r\\nINFO \\x1b[31m\\ud800"
    assert len(escaped("x" * 10_000)) < 120


# --- names and duplicates ---------------------------------------------------------------------


async def test_a_second_connection_replaces_the_first_of_its_name() -> None:
    """The first is closed with 4509 and hears nothing else; the name is the second's."""
    async with Bus() as bus:
        endpoint = bus.endpoint(name_connection=by_path)
        async with connecting(endpoint) as connect:
            first = await connect(path="/ws/ann")
            second = await connect(path="/ws/ann")
            await second.subscribe("a")
            await bus.publish("a", 1)

            assert await second.events() == [1]
            closed = await first.peer.wait_closed()
            assert (closed.code, closed.reason) == (4509, "client_id replaced")
            await quiet()
            assert [info.connection_id for info in bus.connections()] == ["ann"]
            assert bus.connection("ann") is second.connection
            assert bus.count(endpoint) == 1
        assert bus.count(endpoint) == 0


async def test_a_second_connection_may_be_refused() -> None:
    """With `reject` the second gets 409, or 4509 if both were admitted at once."""
    async with Bus() as bus:
        endpoint = bus.endpoint(name_connection=by_path, on_duplicate="reject")
        handshake = Handshake("/ws/ann")
        async with connecting(endpoint) as connect:
            admission = await endpoint.admit(handshake)
            first = await connect(path="/ws/ann")
            late = await endpoint.admit(handshake)
            transport = DirectMemoryTransport()
            assert isinstance(admission, Admission)
            await endpoint.run(transport, admission)

            assert isinstance(late, Refusal)
            assert late.status == 409
            closed = await transport.peer.wait_closed()
            assert (closed.code, closed.reason) == (4509, "client_id taken")
            assert first.connection.close_code is None


async def test_names_belong_to_their_endpoint() -> None:
    """Two endpoints may each have a connection of the same name."""
    async with Bus() as bus:
        doors = [bus.endpoint(name_connection=by_path) for _ in range(2)]
        async with connecting(doors[0]) as one, connecting(doors[1]) as two:
            await one(path="/ws/ann")
            await two(path="/ws/ann")

            found = [bus.connection("ann", door) for door in doors]
            assert len({*found}) == 2
            assert None not in found


async def test_a_full_endpoint_refuses_with_503() -> None:
    """So many connections at once, and a place is free when one has gone."""
    async with Bus() as bus:
        endpoint = bus.endpoint(limits=Limits(max_connections=1))
        async with connecting(endpoint) as connect:
            await connect()
            assert await status(endpoint) == 503
        assert await status(endpoint) == 101


async def test_an_authenticator_that_fails_blames_nobody() -> None:
    """Its trouble is not the client's: 503, and the handshake may be tried again."""

    def broken(token: str | None, handshake: Handshake) -> None:
        raise RuntimeError

    async with Bus() as bus:
        assert await status(bus.endpoint(authenticator=broken)) == 503
        assert await status(bus.endpoint(authenticator=judge)) == 101


# --- who subscribes ---------------------------------------------------------------------------


async def test_subscribers_are_whom_a_publication_would_be_for() -> None:
    """Each once, over all the channels asked for; local subscriptions are no connections."""
    async with Bus() as bus, connecting(bus.default_endpoint) as connect, bus.subscribe("*"):
        ann, ben, _ = [await connect() for _ in range(3)]
        await ann.subscribe("a.*", "b")
        await ben.subscribe("a.1")

        assert set(bus.subscribers("a.1", "b")) == {ann.connection, ben.connection}
        assert bus.subscribers("b") == [ann.connection]
        assert bus.subscribers("c") == []
        receipt = await bus.send("a.1", 1, to=bus.subscribers("a.1", "a.2"))
        rest = await bus.publish("a.1", 2, exclude=bus.subscribers("b"))
        assert receipt.matched == 2
        assert (await ann.events(), await ben.events()) == ([1], [1, 2])
        assert rest.matched == 2  # ben, and the local subscription


async def test_every_frame_sent_is_counted() -> None:
    """Replies and publications, by connection and for the bus, those that left included."""
    async with Bus() as bus:
        async with connecting(bus.default_endpoint) as connect:
            client = await connect()  # connected
            await client.subscribe("a")  # subscribed
            await bus.publish("a", 1)
            await client.events()  # the event, and a pong

            info = client.connection.info()
            assert (info.message_count, info.messages_sent, info.messages_received) == (1, 4, 2)
            assert bus.statistics().messages_sent == 4
        await quiet()
        statistics = bus.statistics()
        assert (statistics.messages_sent, statistics.connections_ever) == (4, 1)


# --- headers ------------------------------------------------------------------------------------


def test_headers_are_found_by_lower_case_name() -> None:
    """Values of one name are joined, in order; values do not show when they are printed."""
    headers = HeaderView(lambda: [("Host", "a"), ("X-Is", "1"), ("host", "b"), ("x-is", "2")])

    assert dict(headers) == {"host": "a, b", "x-is": "1, 2"}
    assert (len(headers), headers["host"], headers.get("Host")) == (2, "a, b", None)
    assert repr(headers) == "<HeaderView host, x-is>"
