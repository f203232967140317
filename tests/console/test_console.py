from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from anyio import create_task_group, get_running_tasks
from msgspec.structs import replace

from tests.console.operators import TOKEN, operators
from tests.server.clients import Client, connecting, judge, quiet
from wsbus import (
    Bus,
    CloseCode,
    Connection,
    Grants,
    Handshake,
    History,
    Identity,
    Presence,
    Unauthenticated,
    UsageError,
)
from wsbus.bus import host_of
from wsbus.console import Console, observation, past, strangers
from wsbus.console.strangers import MAX_MESSAGES
from wsbus.console.tap import MAX_TEXT
from wsbus.endpoint import Admission, Refusal
from wsbus.testing import DirectMemoryTransport


def watched(*, allow_changes: bool = False) -> tuple[Bus, Console]:
    """Return a bus and its console."""
    bus = Bus()
    return bus, Console(bus, token=TOKEN, allow_changes=allow_changes)


# --- who is let in ----------------------------------------------------------------------------


async def test_a_wrong_token_is_refused_for_good(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong token ends the connection with 4500; the log tells from where, and no token."""
    bus, console = watched()
    with caplog.at_level(logging.INFO):
        async with bus, operators(console) as sign_in:
            stranger = await sign_in(None, client=("203.0.113.9", 4711))
            stranger.say("auth", token="let me have a loop")
            assert not (await stranger.hear("auth_result"))["success"]
            ending = await stranger.peer.wait_closed()

    assert ending.code == CloseCode.TOKEN_REFUSED
    assert "203.0.113.9" in caplog.text
    assert "loop" not in caplog.text
    assert TOKEN not in caplog.text


async def test_who_has_shown_no_token_is_told_nothing() -> None:
    """Before the token no command is acted on, and nothing is sampled for anybody."""
    bus, console = watched()
    async with bus, operators(console) as sign_in:
        stranger = await sign_in(None)
        stranger.say("command", id="1", action="console.watch", params={})
        answer = await stranger.hear("response", "error")
        stranger.say("subscribe", channels=["*", "wsbus.console"])
        refused = await stranger.hear("subscribed", "error")
        operator = await sign_in()
        await operator.see()
        await operator.hear_of("sample")

        assert answer["error"]["code"] == refused["error"]["code"] == "UNAUTHENTICATED"
        assert not stranger.peer.received


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many strangers there may be."""
    monkeypatch.setattr(strangers, "MAX_STRANGERS", 8)
    return 8


async def test_strangers_take_no_place_of_an_operator(few: int) -> None:
    """Whoever shows no token keeps nobody out: of too many the oldest is cut off."""
    bus, console = watched()
    async with bus, operators(console) as sign_in:
        crowd = [await sign_in(None, client=("203.0.113.9", port)) for port in range(3 * few)]
        operator = await sign_in(client=("198.51.100.1", 1))
        ended = [stranger.peer.closed is not None for stranger in crowd]

        assert (await operator.see())["consoles"] == 1
        assert ended.count(False) <= few
        assert not ended[-1]


@pytest.mark.parametrize(
    "host", ["203.0.113.9", "2001:db8::{:x}"], ids=["one-address", "one-subscriber-line"]
)
async def test_a_flood_from_one_address_cuts_off_its_own(few: int, host: str) -> None:
    """Of too many strangers, the one that goes is of the address that has the most."""
    bus, console = watched()
    async with bus, operators(console) as sign_in:
        slow = await sign_in(None, client=("198.51.100.1", 1))
        for port in range(3 * few):
            await sign_in(None, client=(host.format(port), port))
        slow.say("auth", token=TOKEN)

        assert (await slow.hear("auth_result"))["success"]
        assert (await slow.see())["consoles"] == 1


async def test_operators_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One operator too many is asked to come again, and gets in once another has left."""
    monkeypatch.setattr(observation, "MAX_OPERATORS", 2)
    bus, console = watched()
    async with bus, operators(console) as sign_in:
        first, second, third = await sign_in(), await sign_in(), await sign_in(None)
        third.say("auth", token=TOKEN)
        ending = await third.peer.wait_closed()
        assert ending.code == CloseCode.SERVICE_RESTART
        assert (await second.see())["consoles"] == 1
        first.peer.close()
        await quiet()
        again = await sign_in()

        assert (await again.see())["consoles"] == 2


async def test_nothing_runs_for_strangers() -> None:
    """No task starts for a client without a token, whatever it says; the first token starts all."""
    bus, console = watched()
    async with bus, operators(console) as sign_in:
        others = await sign_in(None), await sign_in(None)
        before = len(get_running_tasks())
        for stranger in others:
            stranger.say("command", id="1", action="console.watch", params={})
            await stranger.hear("error", "response")
        during, was_open = len(get_running_tasks()), console.is_open
        operator = await sign_in()
        await operator.see()

        assert (during, was_open) == (before, False)
        assert console.is_open
        assert len(get_running_tasks()) > before + 1  # Besides the one that serves it.


async def test_a_stranger_becomes_the_connection_that_it_was_told_of() -> None:
    """The id of `connected` is the connection's, and it is greeted once."""
    bus, console = watched()
    async with bus, operators(console) as sign_in:
        stranger = await sign_in(None)
        stranger.say("auth", token=TOKEN, id="a")
        result = await stranger.hear("auth_result")
        await stranger.watch()
        stranger.say("get_status", id="s")
        status = (await stranger.hear("status"))["data"]

        assert (result["id"], result["success"]) == ("a", True)
        assert status["connection_id"] == stranger.id


async def test_what_stands_behind_a_token_in_one_frame_is_refused() -> None:
    """A message that came with the token is answered: it may be sent again."""
    bus, console = watched()
    async with bus, operators(console) as sign_in:
        stranger = await sign_in(None)
        watch = {"type": "command", "id": "1", "action": "console.watch", "params": {}}
        stranger.peer.send("\n".join(map(json.dumps, [{"type": "auth", "token": TOKEN}, watch])))
        answers = [await stranger.hear(), await stranger.hear()]

        assert [answer["success"] for answer in answers] == [False, True]
        assert answers[0]["error"]["code"] == "RATE_LIMITED"
        assert (await stranger.watch())["success"]


async def test_a_stranger_may_say_little() -> None:
    """A stranger that sends many messages is closed for it, in one frame or in several."""
    bus, console = watched()
    async with bus, operators(console) as sign_in:
        patient, hasty = await sign_in(None), await sign_in(None)
        for _ in range(MAX_MESSAGES):
            patient.say("ping")
            await patient.hear("error")
        patient.say("ping")
        hasty.peer.send("\n".join(['{"type": "ping"}'] * 5000))
        endings = [await each.peer.wait_closed() for each in (patient, hasty)]

        assert [ending.code for ending in endings] == [CloseCode.RATE_ABUSE] * 2


async def test_a_stranger_without_a_token_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who shows no token in time is closed with 4500, and gives its place back."""
    bus, console = watched()
    limits = replace(console.endpoint.limits, auth_timeout=0.05)
    object.__setattr__(console.endpoint, "limits", limits)
    async with bus, operators(console) as sign_in:
        ending = await (await sign_in(None)).peer.wait_closed()
        await quiet()

        assert (ending.code, ending.reason) == (CloseCode.TOKEN_REFUSED, "no token in time")
        assert console.endpoint.places.taken == 0


async def test_bytes_are_no_message_of_a_stranger() -> None:
    """A binary frame ends the conversation with 1003, as it does everywhere."""
    bus, console = watched()
    async with bus, operators(console) as sign_in:
        stranger = await sign_in(None)
        stranger.peer.send(b"\x00")

        assert (await stranger.peer.wait_closed()).code == CloseCode.UNSUPPORTED_DATA


async def test_an_authenticator_that_fails_is_no_refusal(caplog: pytest.LogCaptureFixture) -> None:
    """If the token cannot be judged, the client is asked to come again."""

    def fail(token: str | None, handshake: Handshake) -> Identity | None:
        if token is not None:
            raise ZeroDivisionError
        return None

    bus = Bus()
    async with bus, operators(Console(bus, authenticator=fail)) as sign_in:
        stranger = await sign_in(None)
        stranger.say("auth", token=TOKEN)
        ending = await stranger.peer.wait_closed()

    assert ending.code == CloseCode.SERVICE_RESTART
    assert TOKEN not in caplog.text


async def test_a_path_that_is_not_utf_8_is_shown() -> None:
    """Lone surrogates and control characters of a client make no view fail."""
    bus, console = watched()
    path, host = "/\udcff\x00\u202e", "fe80::1%\udcff"
    handshake = Handshake(path, client=(host, 1))
    async with bus, operators(console) as sign_in, create_task_group() as tasks:
        admission = await bus.default_endpoint.admit(handshake)
        assert isinstance(admission, Admission)
        user = Client(bus.default_endpoint, DirectMemoryTransport())
        tasks.start_soon(bus.default_endpoint.run, user.transport, admission)
        await user.hear("connected")
        operator = await sign_in()
        (row,) = (await operator.see(view="connections"))["rows"]
        which = {"connection_id": row["id"], "connected_at": row["connected_at"]}
        shown = await operator.command("console.show", **which)
        user.peer.close()

        assert row["path"] == shown["data"]["path"] == "/\ufffd\x00\u202e"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"token": ""},
        {"token": "short"},
        {"token": TOKEN, "authenticator": judge},
        {"token": TOKEN, "origins": "https://example.org"},
        {"authenticator": judge, "origins": "*"},
        {"authenticator": judge, "origins": ["https://example.org", "null"]},
    ],
)
def test_a_console_has_a_lock(options: dict[str, object]) -> None:
    """Without a token of some length, or with two locks, there is no console."""
    with pytest.raises(UsageError):
        Console(Bus(), **options)  # type: ignore[arg-type]


async def test_an_authenticator_lets_administrators_in_only() -> None:
    """Of those whom the application knows, only administrators may use the console."""

    def known(token: str | None, handshake: Handshake) -> Identity | None:
        if token is None:
            return None
        return Identity(token, Grants.of(subscribe=["*"], command=["*"], admin=token == "root"))

    bus = Bus()
    async with bus, operators(Console(bus, authenticator=known)) as sign_in:
        ada = await sign_in(None)
        ada.say("auth", token="ada")
        answer = await ada.hear("auth_result")
        root = await sign_in("root")

        assert answer["error"]["message"] == "the console is for administrators"
        assert (await ada.peer.wait_closed()).code == CloseCode.TOKEN_REFUSED
        assert (await root.see())["consoles"] == 1


async def test_an_identity_of_the_handshake_needs_no_token() -> None:
    """Where the application knows its operators by a cookie, the page need not ask."""

    async def by_cookie(token: str | None, handshake: Handshake) -> Identity | None:
        if handshake.headers.get("cookie") != "session=1":
            raise Unauthenticated
        return Identity("root", Grants.of(admin=True))

    bus = Bus()
    console = Console(bus, authenticator=by_cookie)
    async with bus, operators(console) as sign_in:
        root = await sign_in(None, headers={"cookie": "session=1"})
        refused = await console.endpoint.admit(Handshake("/console/ws"))

        assert (await root.see())["consoles"] == 1
        assert isinstance(refused, Refusal)
        assert refused.status == 401


async def test_the_end_of_a_token_is_the_end_of_the_console() -> None:
    """An operator's token holds for as long as it says."""

    def briefly(token: str | None, handshake: Handshake) -> Identity | None:
        ends_at = host_of(bus).services.clock().wall + 0.2
        return None if token is None else Identity(token, Grants.of(admin=True), ends_at)

    bus = Bus()
    async with bus, operators(Console(bus, authenticator=briefly)) as sign_in:
        ending = await (await sign_in("root")).peer.wait_closed()

    assert ending.code == CloseCode.TOKEN_EXPIRED


async def test_pages_of_strangers_may_not_connect() -> None:
    """By default only the console's own host may."""
    bus, console = watched()
    async with bus:
        headers = {"origin": "https://evil.example", "host": "app.example"}
        refused = await console.endpoint.admit(Handshake("/console/ws", headers=headers))

    assert isinstance(refused, Refusal)
    assert refused.status == 403


# --- what it must not touch -------------------------------------------------------------------


async def test_no_subscriber_of_the_bus_hears_of_it() -> None:
    """A client with every grant, subscribed to everything, gets nothing of the console's."""
    bus, console = watched()
    async with (
        bus,
        connecting(bus.endpoint(authenticator=judge, query_token="token")) as connect,
        operators(console) as sign_in,
    ):
        spy = await connect("root")
        await spy.subscribe("*", "wsbus.console", "wsbus.*")
        operator = await sign_in()
        await operator.see(view="published", tail="*")
        await operator.hear_of("sample")
        spy.say("publish", channel="wsbus.console", event="sample", data={"forged": True})
        tailed = await operator.hear_of("tail")

        assert await spy.events() == [{"forged": True}]
        assert [e["channel"] for e in tailed["events"]] == ["wsbus.console"]
        assert await spy.is_refused("console.watch") == "UNKNOWN_ACTION"
        assert await spy.is_refused("console.disconnect", connection_id=spy.id, connected_at=0)


async def test_consoles_do_not_count() -> None:
    """Counters, connections, subscribers and hooks of the bus know nothing of consoles."""
    came: list[Connection] = []
    asked: list[object] = []

    async def authorize(*question: object) -> bool:
        asked.append(question)
        return False

    bus = Bus(authorize=authorize)
    bus.on_connect(came.append)
    console = Console(bus, token=TOKEN)
    async with bus, operators(console) as sign_in:
        before = bus.statistics()
        operator = await sign_in()
        sample = await operator.see(view="published", tail="*")
        receipt = await bus.publish("grid.a", 1)
        await operator.hear_of("tail")

        assert bus.statistics().connections_ever == before.connections_ever == 0
        assert (sample["totals"]["connections"], sample["consoles"]) == (0, 1)
        assert receipt.local_matched == 0
        assert (bus.connections(), bus.local_subscribers("grid.a"), came, asked) == ([], [], [], [])
        assert bus.disconnect("operator") == 0


async def test_a_console_gives_no_commands_of_the_application() -> None:
    """An operator's token is none for the application's commands."""
    bus, console = watched(allow_changes=True)
    done: list[int] = []

    @bus.command("reactor.stop")
    def stop() -> None:
        done.append(1)

    async with bus, operators(console) as sign_in:
        operator = await sign_in()

        assert await operator.is_refused("reactor.stop") == "FORBIDDEN"
        assert done == []


async def test_nothing_is_left_when_the_last_one_leaves() -> None:
    """Sampling, counting and the consoles' bus end with the last console: no task is left."""
    bus, console = watched()
    async with bus:
        before = {task.id for task in get_running_tasks()}
        async with operators(console) as sign_in:
            first, second = await sign_in(), await sign_in()
            await first.see(view="published", tail="*")
            await second.see(view="published")
            first.peer.close()
            await second.hear_of("sample")
            was_open = console.is_open
        await quiet()

        assert (was_open, console.is_open) == (True, False)
        assert {task.id for task in get_running_tasks()} == before
        assert not {"publish", "publish_to"} & vars(host_of(bus).services.hub).keys()


async def test_who_looks_at_nothing_costs_nothing() -> None:
    """A console that has not said what it looks at gets no sample."""
    bus, console = watched()
    async with bus, operators(console) as sign_in:
        idle = await sign_in()
        busy = await sign_in()
        await busy.see()
        await busy.hear_of("sample")

        assert not idle.peer.received


async def test_it_opens_again() -> None:
    """Consoles come and go, also those that come while the last one leaves."""
    bus, console = watched()
    async with bus:
        for _ in range(3):
            async with operators(console) as sign_in:
                operator = await sign_in()
                operator.peer.close()
                again = await sign_in()
                assert (await again.see())["totals"]["is_running"]


async def test_it_ends_with_the_bus() -> None:
    """When the bus stops, consoles are told 1001, and come again when it is back."""
    bus, console = watched()
    async with operators(console) as sign_in:
        async with bus:
            operator = await sign_in()
            await operator.see()
        ending = await operator.peer.wait_closed()
        refused = await console.endpoint.admit(Handshake("/console/ws"))
        async with bus:
            again = await sign_in()
            assert (await again.see())["consoles"] == 1

    assert ending.code == CloseCode.GOING_AWAY
    assert isinstance(refused, Refusal)
    assert refused.status == 503


async def test_it_can_be_drained() -> None:
    """Draining its endpoint ends all consoles with 1001; afterwards others may come."""
    bus, console = watched()
    async with bus, operators(console) as sign_in:
        operator, stranger = await sign_in(), await sign_in(None)
        await operator.see()
        await console.endpoint.drain(deadline=2)
        endings = [await each.peer.wait_closed() for each in (operator, stranger)]
        again = await sign_in()

        assert [ending.code for ending in endings] == [CloseCode.GOING_AWAY] * 2
        assert (await again.see())["consoles"] == 1
        assert console.endpoint.places.taken == 1


# --- changes ----------------------------------------------------------------------------------


async def test_by_default_it_may_only_look() -> None:
    """A console that may change nothing refuses to disconnect, and says so beforehand."""
    bus, console = watched()
    async with (
        bus,
        connecting(bus.default_endpoint) as connect,
        operators(console) as sign_in,
    ):
        user, operator = await connect(), await sign_in()
        (row,) = (await operator.see(view="connections"))["rows"]
        which = {"connection_id": row["id"], "connected_at": row["connected_at"]}

        assert (await operator.watch())["data"]["allow_changes"] is False
        assert await operator.is_refused("console.disconnect", **which) == "READ_ONLY"
        assert await user.is_refused("none") == "UNKNOWN_ACTION"


@pytest.mark.parametrize(
    ("come_again", "code"), [(False, CloseCode.DISCONNECTED), (True, CloseCode.SERVICE_RESTART)]
)
async def test_a_connection_is_ended(
    caplog: pytest.LogCaptureFixture, *, come_again: bool, code: int
) -> None:
    """Allowed to, an operator ends one connection, and the log says who did."""
    bus, console = watched(allow_changes=True)
    async with (
        bus,
        connecting(bus.endpoint(authenticator=judge, query_token="token")) as connect,
        operators(console) as sign_in,
    ):
        ada, grace, operator = await connect("ada"), await connect("grace"), await sign_in()
        rows = (await operator.see(view="connections", find="ADA"))["rows"]
        which = {"connection_id": rows[0]["id"], "connected_at": rows[0]["connected_at"]}
        shown = await operator.command("console.show", **which)
        done = await operator.command("console.disconnect", **which, come_again=come_again)
        ending = await ada.peer.wait_closed()
        await quiet()

        assert (len(rows), shown["data"]["subject"], done["success"]) == (1, "ada", True)
        assert (ending.code, ending.reason) == (code, "disconnected by an operator")
        assert f"operator disconnects the connection {ada.id}" in caplog.text
        assert await operator.is_refused("console.disconnect", **which) == "GONE"
        assert await operator.is_refused("console.show", **which) == "GONE"
        assert await grace.is_refused("none") == "UNKNOWN_ACTION"


async def test_a_later_connection_of_the_same_name_is_not_meant() -> None:
    """What took the place of a connection is another one, though its id is the same."""
    bus, console = watched(allow_changes=True)
    entry = bus.endpoint(name_connection=lambda handshake: "pump-7")
    async with bus, connecting(entry) as connect, operators(console) as sign_in:
        await connect()
        operator = await sign_in()
        (row,) = (await operator.see(view="connections"))["rows"]
        second = await connect()
        which = {"connection_id": row["id"], "connected_at": row["connected_at"]}

        assert await operator.is_refused("console.disconnect", **which) == "GONE"
        await quiet()
        assert second.peer.closed is None


# --- one channel ------------------------------------------------------------------------------


async def test_a_channel_tells_its_history_a_page_at_a_time() -> None:
    """The newest events come first, each page where the next one ends, with texts cut short."""
    bus, console = watched()
    bus.family("kept.*", history=History(size=100))
    async with bus, operators(console) as sign_in:
        for n in range(60):
            await bus.publish("kept.a", {"n": n, "long": "x" * 9000})
        operator = await sign_in()
        pages: list[dict[str, Any]] = []
        wanted: dict[str, Any] = {"channel": "kept.a"}
        while not pages or "before" in pages[-1]:
            pages.append((await operator.command("console.channel", **wanted))["data"])
            wanted["before"] = pages[-1].get("before")

        assert [len(page["events"]) for page in pages] == [25, 25, 10]
        events = [event for page in reversed(pages) for event in page["events"]]
        assert [event["text"].partition(",")[0] for event in events] == [
            f'{{"n":{n}' for n in range(60)
        ]
        assert all(len(event["text"]) == MAX_TEXT and event["size"] > 9000 for event in events)


async def test_a_channel_tells_who_is_there_and_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first connections are listed, all are counted, and a console is none of them."""
    monkeypatch.setattr(past, "OCCUPANTS", 2)
    bus, console = watched()
    bus.family("lobby", presence=Presence())
    async with bus, operators(console) as sign_in, connecting(bus.endpoint()) as connect:
        for name in ("ada", "bob", "cem"):
            await (await connect(name)).subscribe("lobby")
        operator = await sign_in()
        answer = (await operator.command("console.channel", channel="lobby"))["data"]

        assert (answer["shows"], answer["count"], len(answer["occupants"])) == (True, 3, 2)
        assert not answer["keeps"]


async def test_a_denied_channel_tells_an_operator_nothing() -> None:
    """What an operator's grants deny is neither read nor said to be there."""
    bus = Bus()
    bus.family("*", history=History(), presence=Presence())
    grants = Grants.of(admin=True, deny_subscribe=["secret.*"])
    console = Console(bus, authenticator=lambda token, _: token and Identity("ops", grants))
    async with bus, operators(console) as sign_in:
        await bus.publish("secret.a", 1)
        operator = await sign_in()
        denied = await operator.command("console.channel", channel="secret.a")
        wrong = await operator.command("console.channel", channel="a..b")

        assert denied["error"]["code"] == "FORBIDDEN"
        assert "events" not in json.dumps(denied)
        assert wrong["error"]["code"] == "INVALID_CHANNEL"
