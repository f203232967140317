"""Laws of the handshake."""

from __future__ import annotations

from typing import Any

import msgspec
from anyio import Event

from ...connection import Connection
from ...core.errors import Unauthenticated
from ...core.limits import Limits
from ...core.permissions import Grants, Identity
from ...transport import Handshake
from ..adapters import Adapter, Site, open_site, require

__all__ = ["handshake_as_sent", "handshake_of_any_bytes", "refusals", "subprotocols", "tokens"]


async def handshake_as_sent(adapter: Adapter) -> None:
    """The application sees path, query, headers and address as the client sent them."""
    async with open_site(adapter) as site:
        arrived = Event()
        seen: list[Handshake] = []

        def note(connection: Connection) -> None:
            seen.append(connection.handshake)
            arrived.set()

        site.bus.on_connect(note)
        query = "b=%2F&a=1&a=%E9%9B%80"
        origin = f"http://{site.address[0]}:{site.address[1]}"
        fields = [("X-Twice", "one"), ("X-TWICE", "two"), ("Origin", origin), ("X-Empty", "")]
        client = await site.connect(f"/a%20b/%C3%A9?{query}", headers=fields)
        await arrived.wait()

        handshake = seen[0]
        require(handshake.path == "/a b/é", "the path is percent-decoded, without the query")
        require(handshake.query_string == query, "the query is as it was sent")
        require(handshake.query("a") == "1", "of two parameters of one name the first counts")
        require(handshake.client == client.peer.address, "the address is the peer's")
        require(handshake.headers.get("x-twice") == "one, two", "headers of one name are joined")
        require(handshake.headers.get("x-empty") == "", "an empty header is there")
        require(handshake.headers.get("origin") == origin, "headers go by lower-case names")


async def handshake_of_any_bytes(adapter: Adapter) -> None:
    """An application can read the handshake of each connection, whatever bytes it holds."""
    async with open_site(adapter) as site:
        for target in ("/%FF%FE?a=%FF", "/%ED%A0%80", "/%00%0D%0A", "/\udcff?\udcfe", "/é"):
            try:
                client = await site.connect(target, headers=[("X-Odd", "\udcff\udcfe")])
            except AssertionError:
                continue  # The server itself refuses it, or closes the socket.
            await client.ping("1")
            connection = site.connection(client)
            msgspec.json.encode(site.bus.connections())
            heard = [repr(connection), repr(connection.handshake), *connection.handshake.headers]
            heard += [*connection.handshake.headers.values(), connection.handshake.query_string]
            for text in heard:
                text.encode()
            if target.startswith("/%FF"):
                path = connection.handshake.path
                require(path == "/\ufffd\ufffd", f"U+FFFD stands for other bytes, not {path!a}")


async def subprotocols(adapter: Adapter) -> None:
    """The first known subprotocol offered is echoed; none: the first spoken, and none echoed."""
    async with open_site(adapter, protocols=["zigquant-v2", "wsbus.v1"]) as site:
        silent = await site.connect()
        chosen = await site.connect(subprotocols=["else", "wsbus.v1", "zigquant-v2"])
        lost = await site.knock(subprotocols=["else", "other"])

        require(silent.peer.subprotocol is None, "nothing is echoed that was not offered")
        await silent.ping("1")
        require(site.info(silent).protocol == "zigquant-v2", "the endpoint's first is spoken")
        require(chosen.peer.subprotocol == "wsbus.v1", "the client's first that is known is echoed")
        require((await chosen.hear())["type"] == "connected", "the one that is echoed is spoken")
        require(lost.peer.status in {400, 403}, "a client with unknown ones only is refused")


async def tokens(adapter: Adapter) -> None:
    """A token is taken from a header, a subprotocol, the query and a cookie, in this order."""

    def judge(token: str | None, handshake: Handshake) -> Identity | None:
        if token == "bad":  # noqa: S105  # no secret
            raise Unauthenticated
        return None if token is None else Identity(token, Grants.open())

    shown: dict[str, dict[str, Any]] = {
        "header": {"headers": [("Authorization", "Bearer ann")]},
        "subprotocol": {"subprotocols": ["wsbus.token.Ym9i", "wsbus.v1"]},
        "query": {"target": "/ws?token=cid"},
        "cookie": {"headers": [("Cookie", "a=b; token=dan")]},
    }
    everything: dict[str, Any] = {
        "target": "/ws?token=cid",
        "headers": [("Authorization", "Bearer ann"), ("Cookie", "token=bad")],
        "subprotocols": ["wsbus.v1", "wsbus.token.Ym9i"],
    }
    options = {"authenticator": judge, "query_token": "token", "cookie_token": "token"}
    async with open_site(adapter, **options) as site:
        for subject, (source, how) in zip(("ann", "bob", "cid", "dan"), shown.items(), strict=True):
            client = await site.connect(**how)
            found = (await client.hear("connected"))["data"].get("subject")
            require(found == subject, f"a token is taken from the {source}")
            echoed = "wsbus.v1" if source == "subprotocol" else None
            require(client.peer.subprotocol == echoed, "only a dialect is echoed, never a token")
        client = await site.connect(**everything)
        found = (await client.hear("connected"))["data"]["subject"]
        require(found == "ann", "the header goes before the others")
        bad = await site.knock(subprotocols=["wsbus.v1", "wsbus.token.YmFk"])
        require(bad.peer.status in {401, 403}, "a bad token in a subprotocol is refused")


async def refusals(adapter: Adapter) -> None:
    """A handshake is refused before it is accepted, with the status that fits or with 403."""

    def judge(token: str | None, handshake: Handshake) -> Identity | None:
        if token is not None:
            raise Unauthenticated
        return None

    async def answer(site: Site, target: str, **headers: str) -> int:
        client = await site.knock(target, headers=[*headers.items()])
        return client.peer.status

    options = {"authenticator": judge, "query_token": "token", "origins": ["http://friend"]}
    limits = Limits(max_connections=1)
    async with open_site(adapter, limits=limits, **options) as site:
        fitting = [
            (401, await answer(site, "/ws?token=bad")),
            (403, await answer(site, "/ws", Origin="http://stranger")),
            (101, await answer(site, "/ws", Origin="http://friend")),
            (503, await answer(site, "/ws")),
        ]

        for fits, status in fitting:
            allowed = {fits} if adapter.chooses_status or fits == 101 else {403}
            require(status in allowed, f"answered with {status} where {fits} fits")
