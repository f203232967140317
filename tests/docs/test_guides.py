"""What the documents promise happens: their programs are served and talked to."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tomllib
from types import ModuleType
from typing import Any, Final
from urllib.request import Request, urlopen

import pytest
from anyio import create_task_group, fail_after, sleep, to_thread
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from tests.docs.documents import ROOT, running, served
from wsbus import Unauthenticated
from wsbus.adapters.asgi import app as asgi_app

HOW_TO: Final = ROOT / "docs" / "how-to"
SECONDS: Final = 10
NATIVE: Final = [Subprotocol("wsbus.v1")]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run on asyncio only, as uvicorn and the client of these tests do."""
    return "asyncio"


class Client:
    """A client that passes over messages it is not asked for."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._lines: list[str] = []

    async def say(self, *message: object, **keys: object) -> None:
        await self._socket.send(json.dumps(message or keys))

    async def read(self) -> Any:
        """Return the next message."""
        with fail_after(SECONDS):
            while not self._lines:
                frame = await self._socket.recv(decode=True)
                self._lines = frame.split("\n")
            return json.loads(self._lines.pop(0))

    async def hear(self, kind: str) -> Any:
        """Return the next message of a type."""
        while (message := await self.read())["type"] != kind:
            pass
        return message


async def post(url: str) -> Any:
    """Send an empty POST request; return the JSON of the answer."""
    request = Request(url, method="POST")
    return json.loads(await to_thread.run_sync(lambda: urlopen(request, timeout=SECONDS).read()))


async def test_the_readme_publishes_and_answers() -> None:
    """The first example of all does what it says."""
    with running(ROOT / "README.md") as example:
        async with (
            served(example.app, example.bus) as host,
            connect(f"ws://{host}/ws", subprotocols=NATIVE) as socket,
        ):
            client = Client(socket)
            await client.say(type="subscribe", channels=["prices.*"])
            await client.hear("subscribed")

            assert await post(f"http://{host}/prices/BTC?last=95000.5") == {"subscribers": 1}
            event = await client.hear("event")
            assert (event["channel"], event["event"]) == ("prices.BTC", "tick")
            assert event["data"] == {"last": 95000.5}

            await client.say(type="command", id="1", action="add", params={"a": 2, "b": 3})
            assert (await client.hear("response"))["data"] == 5


async def test_the_tutorial_works_as_told() -> None:
    """The tutorial's server and clients do what each step says."""
    with running(ROOT / "docs" / "tutorial" / "index.md") as tutorial:
        async with served(tutorial.app, tutorial.visitors) as host:
            url = f"ws://{host}"
            page = await to_thread.run_sync(lambda: urlopen(f"http://{host}/").read().decode())
            assert "prices.*" in page

            with fail_after(SECONDS):
                (seen,) = await tutorial.watch(f"{url}/ws", "prices.BTC", 1)
                assert seen.keys() == {"last"}

                async with connect(f"{url}/ws", subprotocols=NATIVE) as socket:
                    client = Client(socket)
                    await client.say(type="command", id="1", action="market.halt")
                    assert (await client.hear("response"))["error"]["code"] == "FORBIDDEN"
                    for params, error in [
                        ({"symbol": "BTC"}, None),
                        ({}, "VALIDATION_ERROR"),
                        ({"symbol": 1}, "VALIDATION_ERROR"),
                        ({"symbol": "DOGE"}, "UNKNOWN_SYMBOL"),
                    ]:
                        await client.say(
                            type="command", id="2", action="prices.last", params=params
                        )
                        response = await client.hear("response")
                        assert response.get("error", {}).get("code") == error

                    await client.say(type="subscribe", channels=["prices.halted"])
                    await client.hear("subscribed")
                    token = tutorial.token_for("ada")
                    answer = await tutorial.halt_market(f"{url}/staff", token, "test")
                    assert answer == {"receivers": 1}
                    assert (await client.hear("event"))["data"]["by"] == "ada"

                with pytest.raises(Unauthenticated):
                    await tutorial.halt_market(f"{url}/staff", "x", "test")


def test_each_file_of_the_tutorial_stands_alone() -> None:
    """The blocks of ticker.py run without those of watch.py, and the reverse."""
    text = (ROOT / "docs" / "tutorial" / "index.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    files: dict[bool, list[str]] = {True: [], False: []}
    for block in blocks:
        files["connect(url" in block].append(block)

    for is_client, names in [
        (True, {"watch", "halt_market"}),
        (False, {"app", "token_for", "halt"}),
    ]:
        # The types of commands are looked up among the names of their module.
        module = ModuleType("tutorial")
        exec("\n".join(files[is_client]), vars(module))
        assert names <= vars(module).keys()


async def subject(url: str, **options: Any) -> str:
    """Return who the server says one is."""
    async with connect(url, subprotocols=NATIVE, **options) as socket:
        return str((await Client(socket).read())["data"]["subject"])


async def test_what_the_guide_mounts_in_fastapi_is_served() -> None:
    """Routes, dependencies and identities of the guide's application do what it says."""
    key, cookie = {"x-key": "right"}, {"Cookie": "user=ada"}
    with running(HOW_TO / "mount.md") as guide:
        async with served(guide.app, guide.bus) as host:
            async with connect(f"ws://{host}/ws", subprotocols=NATIVE) as socket:
                client = Client(socket)
                await client.say(type="subscribe", channels=["prices.*"])
                await client.hear("subscribed")
                request = Request(f"http://{host}/prices/BTC?last=1.5", method="POST")
                await to_thread.run_sync(lambda: urlopen(request, timeout=SECONDS).read())
                assert (await client.hear("event"))["data"] == {"last": 1.5}

            url = f"ws://{host}/api/live/ws"
            assert await subject(url, additional_headers=key) == "anonymous"
            with pytest.raises(InvalidStatus, match="403"):
                await subject(url)
            async with connect(
                f"ws://{host}/tenants", subprotocols=NATIVE, additional_headers={"x-tenant": "acme"}
            ) as socket:
                client = Client(socket)
                await client.say(type="command", id="1", action="tenant")
                assert (await client.hear("response"))["data"] == "acme"
            for path in ("mail", "by-hand"):
                assert await subject(f"ws://{host}/{path}", additional_headers=cookie) == "ada"
                with pytest.raises(InvalidStatus, match="403"):
                    await subject(f"ws://{host}/{path}")

        async with served(guide.outer, guide.bus) as host:
            assert await subject(f"ws://{host}/inner/ws") == "anonymous"
        async with served(guide.site, guide.bus) as host:
            assert await subject(f"ws://{host}/ws/me") == "anonymous"


async def test_what_the_guide_mounts_elsewhere_is_served() -> None:
    """Each other application of the guide takes clients."""
    with running(HOW_TO / "mount.md") as guide:
        async with served(guide.application, guide.bus) as host:
            assert await subject(f"ws://{host}/any/path") == "anonymous"

        async with served(guide.both_ways, guide.public) as host:
            assert await subject(f"ws://{host}/ws") == "anonymous"
            async with connect(
                f"ws://{host}/staff", subprotocols=[Subprotocol("zigquant-v2")]
            ) as socket:
                await Client(socket).say(type="ping")
                assert (await Client(socket).read())["error"]["code"] == "UNAUTHENTICATED"

        async with guide.bus, guide.on_websockets.serve(guide.bus, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            assert await subject(f"ws://127.0.0.1:{port}") == "anonymous"

        runner = guide.web.AppRunner(guide.web_app, access_log=None)
        await runner.setup()
        try:
            site = guide.web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            assert await subject(f"ws://127.0.0.1:{runner.addresses[0][1]}/ws") == "anonymous"
        finally:
            await runner.cleanup()


async def test_the_guides_two_protocols_share_a_port() -> None:
    """Who asks for the bus gets it, and who does not gets what was there before."""
    with running(HOW_TO / "mount.md") as guide:
        async with guide.both(0) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            assert await subject(url) == "anonymous"
            async with connect(url) as old:
                await old.send("hello")
                assert await old.recv() == "hello"
            last = await connect(url, subprotocols=NATIVE)
            await Client(last).read()

        await last.wait_closed()
        assert last.close_code == 1001


async def test_the_guides_hypercorn_drains_first() -> None:
    """SIGTERM gives clients 1001, and the server ends by itself."""
    pytest.importorskip("hypercorn", reason="pip install -e '.[servers]'")
    with running(HOW_TO / "shutdown.md") as guide:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with fail_after(SECONDS):
            async with create_task_group() as tasks:
                tasks.start_soon(guide.with_hypercorn, f"127.0.0.1:{port}")
                peer = await at_last(f"ws://127.0.0.1:{port}/ws")
                os.kill(os.getpid(), signal.SIGTERM)
                await peer.wait_closed()
    assert peer.close_code == 1001


async def at_last(url: str) -> ClientConnection:
    """Connect as soon as the server listens."""
    while True:
        try:
            return await connect(url, subprotocols=NATIVE)
        except OSError:
            await sleep(0.05)


async def test_the_guides_types_are_sent() -> None:
    """What the guide publishes and returns arrives as its comments say, and mistakes are named."""
    with running(HOW_TO / "payloads.md") as guide:
        async with (
            served(asgi_app(guide.bus), guide.bus) as host,
            connect(f"ws://{host}/ws", subprotocols=NATIVE) as socket,
        ):
            client = Client(socket)
            await client.say(type="subscribe", channels=["quotes.*", "candles.*"])
            await client.hear("subscribed")
            await guide.publish_all()
            quote = {"symbol": "BTC", "last": "95000.5"}
            assert (await client.hear("event"))["data"] == quote
            assert (await client.hear("event"))["data"]["quotes"] == [quote]
            assert (await client.hear("event"))["data"] == {"close": 1.5, "quote": quote}
            await client.say(type="command", id="1", action="quote.last", params={"symbol": "ETH"})
            assert (await client.hear("response"))["data"] == {"symbol": "ETH", "last": "1"}
            told = await guide.mistakes()

        assert "data.quotes[1].price: complex has no form in JSON" in told[0]
        assert "data.last is a number that is not finite" in told[1]
        async with guide.with_money as bus, bus.subscribe("a") as events:
            await bus.publish("a", {"paid": guide.Money(150)})
            assert (await anext(events)).data == {"paid": 1.5}


async def test_the_guides_parameters_are_checked() -> None:
    """Commands of the guide take what it says, also where pydantic checks it."""
    with running(HOW_TO / "commands.md") as guide:
        async with (
            served(asgi_app(guide.bus), guide.bus) as host,
            connect(f"ws://{host}/ws", subprotocols=NATIVE) as socket,
        ):
            client = Client(socket)
            limit = {"pair": "BTC", "price": 1.5, "tags": ["a"]}
            for action, params, told in [
                ("order.place", {"pair": "BTC", "amount": 1}, "anonymous orders 1.0 BTC"),
                ("limit.place", limit, limit),
                ("limit.place", limit | {"price": 0}, "greater than 0 - at `$.params.price`"),
                ("limit.scale", {"limits": [limit], "factor": 3}, 3),
                ("limit.scale", {"limits": [], "factor": 11}, "10 - at `$.params.factor`"),
            ]:
                await client.say(type="command", id="1", action=action, params=params)
                answer = await client.hear("response")
                if answer["success"]:
                    assert answer["data"] == told
                else:
                    assert answer["error"]["code"] == "VALIDATION_ERROR"
                    assert str(told) in answer["error"]["message"]


async def test_the_guides_roles_are_grants() -> None:
    """Roles of a token decide what it grants; who is banned leaves, and does not come back."""
    with running(HOW_TO / "authenticate.md") as guide:
        async with served(asgi_app(guide.by_role), guide.by_role) as host:
            claims = {"sub": "ada", "exp": guide.time.time() + 60, "roles": ["guest", "other"]}
            token = guide.jwt.encode(claims, guide.SECRET)
            shown = {"Authorization": f"Bearer {token}"}
            async with connect(
                f"ws://{host}", subprotocols=NATIVE, additional_headers=shown
            ) as socket:
                client = Client(socket)
                await client.say(type="subscribe", channels=["prices.*", "grid.*"])
                answer = await client.hear("subscribed")
                assert answer["data"]["channels"] == ["prices.*"]
                guide.ban("ada")
                await socket.wait_closed()
                assert socket.close_reason == "this account is closed"
            with pytest.raises(InvalidStatus, match="401"):
                await subject(f"ws://{host}", additional_headers=shown)


async def test_the_guides_middleware_says_who_it_is() -> None:
    """What middleware of Starlette or aiohttp finds out is there for authenticators, commands."""
    cookie = {"Cookie": "session=s3cr3t"}
    with running(HOW_TO / "authenticate.md") as guide:
        async with served(guide.app, guide.bus) as host:
            with pytest.raises(InvalidStatus, match="401"):
                await subject(f"ws://{host}/ws")
            async with connect(
                f"ws://{host}/ws", subprotocols=NATIVE, additional_headers=cookie
            ) as socket:
                client = Client(socket)
                assert (await client.hear("connected"))["data"]["subject"] == "ada"
                await client.say(type="command", id="1", action="settings.theme")
                assert (await client.hear("response"))["data"] == "dark"

        runner = guide.web.AppRunner(guide.web_app, access_log=None)
        await runner.setup()
        try:
            await guide.web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"
            assert await subject(url, additional_headers=cookie) == "ada"
            with pytest.raises(InvalidStatus, match="401"):
                await subject(url)
        finally:
            await runner.cleanup()


async def test_the_guides_cookie_lets_its_owner_in() -> None:
    """The authenticator by cookie takes a session it knows, and refuses others with 401."""
    with running(HOW_TO / "authenticate.md") as guide:
        endpoint = guide.bus.endpoint(authenticator=guide.by_cookie)
        async with served(asgi_app(endpoint), endpoint) as host:
            cookie = {"Cookie": "session=s3cr3t"}
            async with connect(f"ws://{host}", additional_headers=cookie) as socket:
                assert (await Client(socket).read())["data"]["subject"] == "ada"
            with pytest.raises(InvalidStatus) as refused:
                async with connect(f"ws://{host}", additional_headers={"Cookie": "session=x"}):
                    pass

            assert refused.value.response.status_code == 401


async def test_the_guides_token_is_taken_from_query_and_message() -> None:
    """The token of the guide authenticates in the query, and is refused under another secret."""
    with running(HOW_TO / "authenticate.md") as guide:
        endpoint = guide.bus.endpoint(authenticator=guide.JWT(guide.SECRET), query_token="token")
        async with served(asgi_app(endpoint), endpoint) as host:
            async with connect(f"ws://{host}?token={guide.token}") as socket:
                assert (await Client(socket).read())["data"]["subject"] == "u1"
            async with connect(f"ws://{host}") as socket:
                client = Client(socket)
                await client.say(type="auth", token=guide.token)
                await client.say(type="subscribe", channels=["grid.*", "*"])

                assert (await client.hear("auth_result"))["data"]["subject"] == "u1"
                assert (await client.hear("subscribed"))["data"]["channels"] == ["grid.*"]


async def test_the_guides_authorize_decides() -> None:
    """The authorize hook of the guide lets owners watch their grids only."""
    with running(HOW_TO / "permissions.md") as guide:
        u1 = guide.Identity("u1", guide.Grants.open())

        assert await guide.authorize(u1, "subscribe", "grid.abc.*")
        assert not await guide.authorize(u1, "subscribe", "grid.*")
        assert not await guide.authorize(u1, "subscribe", "grid.def.status")
        assert await guide.authorize(u1, "command", "grid.start")


async def test_the_guides_dialect_speaks() -> None:
    """The dialect of the guide subscribes, hears events, and has its commands answered."""
    with running(HOW_TO / "dialect.md") as guide:
        async with (
            served(asgi_app(guide.endpoint), guide.endpoint) as host,
            connect(f"ws://{host}", subprotocols=[Subprotocol("arrays.v1")]) as socket,
        ):
            client = Client(socket)
            await client.say("sub", "prices.*")
            assert await client.read() == ["subbed", ["prices.*"], {}]
            await guide.bus.publish("prices.BTC", 1, event="tick")
            assert await client.read() == ["event", "prices.BTC", "tick", 1]
            await client.say("call", "7", "add", {"a": 2, "b": 3})
            assert await client.read() == ["ok", "7", 5]
            await client.say("call", "8", "add", {"a": "2"})
            assert (await client.read())[:3] == ["failed", "8", "VALIDATION_ERROR"]
            await client.say("what")
            assert (await client.read())[2] == "UNKNOWN_TYPE"


async def test_the_guides_server_drains_first() -> None:
    """The uvicorn server of the guide says 1001 itself, before uvicorn would say 1012."""
    with running(HOW_TO / "shutdown.md") as guide:
        async with served(guide.app, guide.endpoint, guide.Server) as host:
            socket = await connect(f"ws://{host}/ws")
            assert (await Client(socket).read())["type"] == "connected"

        await socket.wait_closed()
        assert socket.close_code == 1001


def test_the_floors_are_those_of_the_contract() -> None:
    """The architecture page lists the floors as the import contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    floors = [set(re.split(r" [|:] ", layer)) for layer in contracts["contracts"][0]["layers"]]
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    listed = page.partition("\n## Floors\n")[2].partition("```text\n")[2].partition("```")[0]

    assert [set(line.split(", ")) for line in listed.splitlines()] == floors


@pytest.mark.filterwarnings("ignore::UserWarning")  # Starlette's, about httpx.
def test_a_test_of_an_application_reads_one_message_a_frame() -> None:
    """The test in limits.md passes."""
    with running(HOW_TO / "limits.md") as example:
        example.test_prices_arrive()


async def test_who_is_here_and_what_was_said_last_is_told_by_hooks() -> None:
    """hooks.md: the last messages come after the answer, the others hear who joins and leaves."""
    with running(HOW_TO / "hooks.md") as example:
        async with (
            served(asgi_app(example.bus, autostart=True), example.bus) as host,
            connect(f"ws://{host}/ws", subprotocols=NATIVE) as socket,
        ):
            ada = Client(socket)
            await ada.say(type="subscribe", channels=["chat.lobby"])
            await ada.hear("subscribed")
            await example.say("chat.lobby", "hello")
            assert (await ada.hear("event"))["data"] == "hello"
            async with connect(f"ws://{host}/ws", subprotocols=NATIVE) as other:
                bob = Client(other)
                await bob.hear("connected")
                await bob.say(type="subscribe", channels=["chat.lobby"])
                assert (await bob.read())["type"] == "subscribed"
                assert (await bob.read())["data"] == "hello"
                joined = await ada.hear("event")
                assert (joined["event"], joined["data"]) == ("joined", "anonymous")
            assert (await ada.hear("event"))["event"] == "left"


async def test_a_client_is_taken_out_of_one_channel() -> None:
    """permissions.md: it is told why, and not let in again."""
    with running(HOW_TO / "permissions.md") as example:
        async with (
            served(asgi_app(example.chat, autostart=True), example.chat) as host,
            connect(f"ws://{host}/ws", subprotocols=NATIVE) as socket,
        ):
            client = Client(socket)
            await client.say(type="subscribe", channels=["room.1"])
            await client.hear("subscribed")
            assert example.kick("anonymous", "room.1") == 1
            told = await client.hear("unsubscribed")
            assert told["data"]["reason"] == "banned by a moderator"
            await client.say(type="subscribe", channels=["room.1"])
            (refused,) = (await client.hear("subscribed"))["data"]["rejected"]
            assert refused["message"] == "the application does not allow this"
