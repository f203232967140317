from __future__ import annotations

import dataclasses
from typing import Any, Final, Literal

import pytest
from anyio import Event, create_task_group, move_on_after, sleep_forever

from tests.server.clients import EVERYTHING, connecting, judge, quiet, steady
from wsbus import (
    JWT,
    Bus,
    CloseCode,
    Connection,
    Endpoint,
    Grants,
    Handshake,
    HeartbeatPolicy,
    Identity,
    Limits,
    Overflow,
    UsageError,
)
from wsbus._log import escaped
from wsbus.endpoint import Admission, Refusal
from wsbus.testing import DirectMemoryTransport
from wsbus.transport import HeaderView


def by_path(handshake: Handshake) -> str:
    """Name a connection after the last segment of its path."""
    return handshake.path.rpartition("/")[2]


async def status(endpoint: Endpoint, **fields: object) -> int:
    """Return 101, or the status that a handshake is refused with."""
    verdict = await endpoint.admit(Handshake("/ws", **fields))  # type: ignore[arg-type]
    return verdict.status if isinstance(verdict, Refusal) else 101


# --- what the log says of refusals -------------------------------------------------------------


async def test_a_bus_that_nobody_started_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each endpoint warns once, with its path and what to do; a bus that has stopped does not."""
    bus = Bus()
    one, other = bus.endpoint(), bus.endpoint()
    for endpoint in (one, one, other):
        assert await status(endpoint) == 503
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert all("/ws" in line and "async with bus:" in line for line in told)

    caplog.clear()
    async with bus:
        pass
    assert await status(bus.endpoint()) == 503
    assert not caplog.records


async def test_a_refused_origin_is_shown_beside_what_is_expected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both values are in the line, be it the host of the request or a list; neither can forge."""
    async with Bus() as bus:
        evil = {"origin": "http://a.example:3001", "host": "a.example\nERROR forged"}
        assert await status(bus.default_endpoint, headers=evil) == 403
        listed = bus.endpoint(origins=["https://app.example"])
        assert await status(listed, headers={"origin": "http://other.example"}) == 403

    first, second = caplog.records
    assert (first.levelname, second.levelname) == ("WARNING", "WARNING")
    assert "http://a.example:3001" in first.message
    assert "a.example\\nERROR forged" in first.message
    assert "origins=[" in first.message
    assert "http://other.example" in second.message
    assert "https://app.example" in second.message


async def test_many_refused_origins_fill_no_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten a minute are logged; the tenth says so, and the next one tells the rest's number."""
    caplog.set_level("DEBUG", "wsbus")
    now = 0.0
    monkeypatch.setattr("wsbus._log.monotonic", lambda: now)
    async with Bus() as bus:
        for n in range(31):
            now = 61.0 if n == 30 else 0.0
            await status(bus.default_endpoint, headers={"origin": f"http://{n}", "host": "x"})

    assert [record.levelname for record in caplog.records] == ["WARNING"] * 11
    assert "more like this are only counted for 60 s" in caplog.records[9].message
    assert "http://30" in caplog.records[10].message
    assert "20 more like this were left out before" in caplog.records[10].message


async def test_an_identity_that_is_known_is_taken() -> None:
    """A framework may have found out who it is: the authenticator is not asked."""
    async with Bus() as bus:
        endpoint = bus.endpoint(authenticator=judge)
        known = Identity("ada", Grants.open())
        verdict = await endpoint.admit(Handshake("/ws"), known)

        assert isinstance(verdict, Admission)
        assert verdict.identity is known


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


async def test_listed_origins_are_compared_as_browsers_write_them() -> None:
    """Capitals and the default port make no difference; `*` welcomes all."""
    async with Bus() as bus:
        listed = bus.endpoint(origins=["https://App.example.com:443/", "null"])
        anybody = bus.endpoint(origins="*")
        got = {
            origin: await status(listed, headers={"origin": origin})
            for origin in (
                "https://app.example.com",
                "https://APP.example.com",
                "https://app.example.com:443",
                "null",
                "https://app.example.com:444",
                "http://app.example.com",
                "https://app.example.com.evil.org",
                "https://app.example.com/",
                "*",
            )
        }

        assert [*got.values()] == [101, 101, 101, 101, 403, 403, 403, 403, 403]
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
            assert endpoint.connection_count == 1
        assert endpoint.connection_count == 0


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


@pytest.mark.parametrize("policy", ["replace", "reject"])
@pytest.mark.parametrize("shown_in", ["query", "message"])
async def test_a_name_belongs_to_the_subject_that_holds_it(
    policy: Literal["replace", "reject"], shown_in: str
) -> None:
    """Without a token, or with the token of another subject, nobody gets or ends a name."""
    async with Bus() as bus:
        endpoint = bus.endpoint(
            authenticator=judge, query_token="token", name_connection=by_path, on_duplicate=policy
        )
        async with connecting(endpoint, path="/ws/pump") as connect:
            stranger = await connect()  # It squats on the name, and has no token.
            owner = await connect("ann")
            assert bus.connection("pump") is owner.connection
            if shown_in == "query":
                refused = await endpoint.admit(Handshake("/ws/pump", "token=mallory"))
                assert isinstance(refused, Refusal)
                assert refused.status == 409
            stranger.say("auth", token="mallory")
            closed = await stranger.peer.wait_closed()
            assert closed.code == CloseCode.REPLACED

            await owner.subscribe("a")  # It lives on.
            assert bus.connection("pump") is owner.connection
            assert [c.subject for c in bus.connections()] == ["ann"]


async def test_the_same_subject_takes_its_name_over_by_a_message() -> None:
    """A device that comes again, and shows its token in a message, replaces itself."""
    async with Bus() as bus:
        endpoint = bus.endpoint(authenticator=judge, name_connection=by_path)
        async with connecting(endpoint, path="/ws/pump") as connect:
            first, second = await connect(), await connect()
            for client in (first, second):
                client.say("auth", token="ann")
                assert (await client.hear("auth_result"))["success"]
            assert (await first.peer.wait_closed()).code == CloseCode.REPLACED
            assert bus.connection("pump") is second.connection


@pytest.mark.parametrize("shown_in", ["query", "message"])
async def test_the_end_of_a_replaced_connection_is_told_before_the_beginning_of_the_next(
    shown_in: str,
) -> None:
    """Whoever keeps who is online in two hooks has it right, however slow the hooks are."""
    bus, told, online = Bus(), list[str](), set[str]()

    @bus.on_connect
    async def here(connection: Connection) -> None:
        await quiet()
        assert connection.identity is not None
        online.add(connection.id)
        told.append("connect")

    @bus.on_disconnect
    async def gone(connection: Connection) -> None:
        await quiet()
        online.discard(connection.id)
        told.append("disconnect")

    async with bus:
        endpoint = bus.endpoint(authenticator=judge, query_token="token", name_connection=by_path)
        async with connecting(endpoint, path="/ws/pump") as connect:
            for _ in range(3):
                client = await connect("ann" if shown_in == "query" else None)
                if shown_in == "message":
                    client.say("auth", token="ann")
                    await client.hear("auth_result")
                client.say("ping")
                await client.hear("pong")
            assert told == ["connect", "disconnect"] * 2 + ["connect"]
            assert online == {"pump"}


async def test_hooks_come_in_pairs() -> None:
    """A connection that never got its name is told by neither hook."""
    bus, told = Bus(), list[str]()
    bus.on_connect(lambda connection: told.append("connect"))
    bus.on_disconnect(lambda connection: told.append("disconnect"))
    async with bus:
        named = bus.endpoint(authenticator=judge, name_connection=by_path)
        async with connecting(named) as connect:
            client = await connect()
            client.say("auth", token="bad")
            await client.peer.wait_closed()
        await quiet()
        assert told == []


async def test_a_replaced_connection_that_does_not_close_is_cut_off() -> None:
    """It is seen by everything until it is gone, and does not keep the bus from ending."""
    async with Bus() as bus:
        endpoint = bus.endpoint(name_connection=by_path)
        async with connecting(endpoint, path="/ws/ann") as connect:
            first = await connect()
            first.peer.answers_close = False
            held = first.connection
            second = await connect()
            second.say("ping")
            await second.hear("pong")  # Its turn comes when the first is gone.
            assert first.peer.closed is not None
            assert first.peer.closed.code == CloseCode.ABNORMAL
            assert endpoint.connection_count == 1
            assert bus.connection("ann") is second.connection is not held


async def test_a_full_endpoint_refuses_with_503() -> None:
    """So many connections at once, and a place is free when one has gone."""
    async with Bus() as bus:
        endpoint = bus.endpoint(limits=Limits(max_connections=1))
        async with connecting(endpoint) as connect:
            await connect()
            assert await status(endpoint) == 503
        assert await status(endpoint) == 101


async def test_places_are_counted_while_handshakes_are_judged() -> None:
    """However many come at once and however slow the authenticator: never more than the limit."""
    may_answer = Event()

    async def slow(token: str | None, handshake: Handshake) -> None:
        await may_answer.wait()

    async with Bus() as bus:
        endpoint = bus.endpoint(authenticator=slow, limits=Limits(max_connections=3))
        verdicts: list[Admission | Refusal] = []

        async def shake() -> None:
            verdicts.append(await endpoint.admit(Handshake("/ws")))

        async with create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(shake)
            await quiet()
            may_answer.set()
        assert sum(isinstance(verdict, Admission) for verdict in verdicts) == 3
        assert endpoint.places.taken == 3
        verdicts.clear()  # Accepted, and never run: the places come back.
        assert endpoint.places.taken == 0


async def test_a_refused_or_cancelled_handshake_gives_its_place_back() -> None:
    """Whatever ends it."""
    async with Bus() as bus:
        limits = Limits(max_connections=1, max_connections_per_address=1)
        endpoint = bus.endpoint(authenticator=judge, query_token="t", limits=limits)
        stuck = bus.endpoint(authenticator=lambda t, h: sleep_forever(), limits=limits)
        peer: dict[str, Any] = {"client": ("192.0.2.1", 1)}
        assert await status(endpoint, query_string="t=bad", **peer) == 401
        assert await status(endpoint, subprotocols=("x",), **peer) == 400
        with move_on_after(0):
            await stuck.admit(Handshake("/ws", **peer))
        for each in (endpoint, stuck):
            assert each.places.taken == 0
        assert await status(endpoint, **peer) == 101


async def test_connections_of_one_address_are_bounded() -> None:
    """Of IPv6, those of one network of 64 bits; without an address nothing is counted."""
    async with Bus() as bus:
        endpoint = bus.endpoint(limits=Limits(max_connections_per_address=2))
        held = [
            await endpoint.admit(Handshake("/ws", client=client))
            for client in [
                ("192.0.2.1", 1),
                ("192.0.2.1", 2),
                ("::ffff:192.0.2.1", 3),
                ("192.0.2.2", 4),
                ("2001:db8::1", 5),
                ("2001:db8::2", 6),
                ("2001:db8::3", 7),
                ("2001:db8:0:1::1", 8),
                None,
                None,
                None,
            ]
        ]
        got = [verdict.status if isinstance(verdict, Refusal) else 101 for verdict in held]
        assert got == [101, 101, 429, 101, 101, 101, 429, 101, 101, 101, 101]


async def test_the_application_may_find_the_address() -> None:
    """What it returns is counted by; what fails, or is no text, lets nobody in, and is logged."""
    found: list[object] = ["a", "a", None, None, 5, RuntimeError()]

    def address(handshake: Handshake) -> str | None:
        answer = found.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    async with Bus() as bus:
        limits = Limits(max_connections_per_address=1)
        endpoint = bus.endpoint(limits=limits, client_address=address)
        held = [await endpoint.admit(Handshake("/ws")) for _ in range(6)]
        got = [verdict.status if isinstance(verdict, Refusal) else 101 for verdict in held]
        assert got == [101, 429, 101, 101, 503, 503]
        assert endpoint.places.taken == 3


async def test_only_trusted_proxies_say_where_a_client_is() -> None:
    """A client that writes the header itself is counted where it is."""
    async with Bus() as bus:
        limits = Limits(max_connections_per_address=1)
        endpoint = bus.endpoint(limits=limits, trusted_proxies=["10.0.0.0/8", "unix"])
        held = []
        for client, forwarded in [
            (("10.0.0.1", 1), "192.0.2.1"),
            (("10.0.0.1", 1), "192.0.2.2"),
            (("10.0.0.1", 1), "192.0.2.9, 192.0.2.2, 10.1.1.1"),
            (None, "192.0.2.1"),
            (("192.0.2.7", 1), "192.0.2.8"),
            (("192.0.2.7", 1), "192.0.2.9"),
        ]:
            handshake = Handshake("/ws", headers={"x-forwarded-for": forwarded}, client=client)
            held.append(await endpoint.admit(handshake))
        got = [verdict.status if isinstance(verdict, Refusal) else 101 for verdict in held]
        assert got == [101, 101, 429, 429, 101, 429]


@pytest.mark.parametrize("shown_in", ["query", "message"])
async def test_connections_of_one_identity_are_bounded(shown_in: str) -> None:
    """More are refused once they have authenticated: 429, or 4429."""
    async with Bus() as bus:
        limits = Limits(max_connections_per_identity=2)
        endpoint = bus.endpoint(authenticator=judge, query_token="token", limits=limits)
        async with connecting(endpoint) as connect:
            for name in ("ann", "ann", "ben"):
                await connect(name)
            if shown_in == "query":
                assert await status(endpoint, query_string="token=ann") == 429
            else:
                late = await connect()
                late.say("auth", token="ann")
                assert (await late.peer.wait_closed()).code == CloseCode.RATE_ABUSE
            assert await status(endpoint, query_string="token=ben") == 101


async def test_a_subject_belongs_to_its_authenticator() -> None:
    """A guest who takes the name of a member of the staff gets, ends and counts as nothing of hers.

    Endpoints that share an authenticator share its subjects.
    """

    def guest(token: str | None, handshake: Handshake) -> Identity | None:
        return judge(token, handshake)

    async with Bus() as bus:
        staff, more = (bus.endpoint(authenticator=judge, query_token="token") for _ in range(2))
        guests = bus.endpoint(authenticator=guest, query_token="token")
        async with (
            connecting(staff) as one,
            connecting(more) as two,
            connecting(guests) as three,
        ):
            ann, again, other = await one("ann"), await two("ann"), await three("ann")
            assert (await bus.send("inbox", 1, to="ann")).local_matched == 2
            assert (await bus.send("inbox", 2, to="ann", endpoint=staff)).local_matched == 1
            assert (await bus.send("inbox", 3, to="ann", endpoint=guests)).local_matched == 1
            assert await ann.events() == [1, 2]
            assert await again.events() == [1]
            assert await other.events() == [3]
            assert bus.disconnect("ann") == 2
            await quiet()
            assert other.connection.close_code is None


@pytest.mark.parametrize(
    ("named", "code"),
    [("", 400), ("x" * 1025, 400), ("\ud800", 400), (5, 503), (None, 503), (RuntimeError(), 503)],
    ids=["empty", "long", "not UTF-8", "number", "None", "fails"],
)
async def test_a_name_that_is_none_is_refused(named: object, code: int) -> None:
    """The client's fault by 400, the application's by 503, and never silence."""

    def name(handshake: Handshake) -> str:
        if isinstance(named, Exception):
            raise named
        return named  # type: ignore[return-value]

    async with Bus() as bus:
        endpoint = bus.endpoint(name_connection=name)
        assert await status(endpoint) == code
        assert endpoint.places.taken == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"protocols": "wsbus.v1"},
        {"protocols": []},
        {"on_duplicate": "replaced"},
        {"query_token": "token"},
        {"anonymous": EVERYTHING, "authenticator": judge},
        {"limits": Limits(max_connections_per_identity=1)},
        {"trusted_proxies": "10.0.0.0/8"},
        {"trusted_proxies": ["proxy"]},
        {"trusted_proxies": ["10.0.0.1"], "client_address": by_path},
    ],
)
def test_settings_that_take_no_effect_are_refused(settings: dict[str, Any]) -> None:
    """When the endpoint is made, with what to write instead."""
    with pytest.raises(UsageError):
        Bus().endpoint(**settings)


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

        assert set(bus.local_subscribers("a.1", "b")) == {ann.connection, ben.connection}
        assert bus.local_subscribers("b") == [ann.connection]
        assert bus.local_subscribers("c") == []
        receipt = await bus.send("a.1", 1, to=bus.local_subscribers("a.1", "a.2"))
        rest = await bus.publish("a.1", 2, exclude=bus.local_subscribers("b"))
        assert receipt.local_matched == 2
        assert (await ann.events(), await ben.events()) == ([1], [1, 2])
        assert rest.local_matched == 2  # ben, and the local subscription


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


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", Overflow)
def test_a_policy_may_be_given_as_its_word(word: Overflow) -> None:
    """As a text from a file it means the same; another text is refused, with those there are."""
    assert Bus().endpoint(overflow=word.value).overflow is word
    for wrong in ("DROP_OLDEST", "drop", "", None, 1):
        with pytest.raises(UsageError, match="drop_oldest"):
            Bus().endpoint(overflow=wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="drop_oldest"):
            Bus().subscribe("a", overflow=wrong)  # type: ignore[arg-type]


async def by_path_late(handshake: Handshake) -> str:
    """Name a connection, too late."""
    return by_path(handshake)


@pytest.mark.parametrize(
    "setting",
    [
        {"authenticator": "ada"},
        {"authenticator": JWT},
        {"authenticator": True},
        {"name_connection": "path"},
        {"name_connection": by_path_late},
        {"client_address": by_path_late},
        {"anonymous": True},
        {"anonymous": ["a.*"]},
        {"limits": {"max_connections": 1}},
        {"heartbeat": 30},
        {"on_duplicate": "refuse"},
    ],
)
def test_settings_of_the_wrong_kind_are_refused(setting: dict[str, Any]) -> None:
    """When the endpoint is made, by their names."""
    with pytest.raises(UsageError, match=next(iter(setting))):
        Bus().endpoint(**setting)


def test_functions_of_a_bus_can_be_called() -> None:
    """Nothing else is taken for ``authorize`` or a hook."""
    for wrong in ("x", 5, Bus):
        with pytest.raises(UsageError, match="authorize"):
            Bus(authorize=wrong)  # type: ignore[arg-type]
        for register in (Bus().on_connect, Bus().on_disconnect):
            with pytest.raises(UsageError, match="on_"):
                register(wrong)  # type: ignore[type-var]


# --- what is settled -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (("wsbus.v1", "wsbus.v1.single"), "wsbus.v1"),
        (("wsbus.v1.single", "wsbus.v1"), "wsbus.v1.single"),
        (("else", "wsbus.v1.single"), "wsbus.v1.single"),
        ((), None),
    ],
    ids=str,
)
@pytest.mark.parametrize("joins", [True, False])
async def test_the_clients_order_decides_whether_messages_share_frames(
    offered: tuple[str, ...], chosen: str | None, *, joins: bool
) -> None:
    """As with any two dialects; at an endpoint that does not join, both are single."""
    async with Bus() as bus:
        admission = await bus.endpoint(joins=joins).admit(Handshake("/ws", subprotocols=offered))

        assert isinstance(admission, Admission)
        assert admission.subprotocol == chosen
        assert admission.protocol.name == (chosen or "wsbus.v1")
        assert admission.protocol.joins == (joins and chosen != "wsbus.v1.single")


MAY_BE_ASSIGNED: Final = {
    "authenticator",
    "client_address",
    "heartbeat",
    "name_connection",
    "overflow",
    "_nobody",
}


def test_an_endpoint_may_speak_one_message_a_frame_only() -> None:
    """It is a dialect like any other, and can be the default."""
    endpoint = Bus().endpoint(protocols=["wsbus.v1.single"])

    assert [protocol.name for protocol in endpoint.protocols] == ["wsbus.v1.single"]


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(Endpoint) if f.name not in MAY_BE_ASSIGNED]
)
def test_what_is_settled_cannot_be_assigned(name: str) -> None:
    """The error says where it is given instead; nothing is changed."""
    endpoint = Bus().endpoint()
    before = getattr(endpoint, name)

    with pytest.raises(UsageError, match=rf"bus\.endpoint\({name}="):
        setattr(endpoint, name, before)
    assert getattr(endpoint, name) is before


@pytest.mark.parametrize("wrong", [5, "20s", HeartbeatPolicy], ids=steady)
@pytest.mark.parametrize("name", sorted(MAY_BE_ASSIGNED - {"_nobody"}))
def test_what_may_be_assigned_is_checked_then(name: str, wrong: Any) -> None:
    """Not once a second in the sweep, nor when a client comes; nothing is changed."""
    endpoint = Bus().endpoint()
    before = getattr(endpoint, name)

    with pytest.raises(UsageError, match=name):
        setattr(endpoint, name, wrong)
    assert getattr(endpoint, name) is before


async def test_what_is_assigned_holds_for_the_next_handshake() -> None:
    """An authenticator, say; a word for an overflow policy is understood as ever."""
    async with Bus() as bus:
        endpoint = bus.endpoint(query_token=None)
        endpoint.authenticator = judge
        endpoint.overflow = "close"  # type: ignore[assignment]
        endpoint.heartbeat = HeartbeatPolicy(interval=5, timeout=20)
        admission = await endpoint.admit(Handshake("/ws"))

        assert isinstance(admission, Admission)
        assert admission.identity is None
        assert endpoint.overflow is Overflow.CLOSE
        assert endpoint.heartbeat.interval == 5
