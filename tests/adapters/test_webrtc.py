"""Data channels, between aiortc and itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pytest
from anyio import Event, create_task_group, fail_after, sleep
from anyio.lowlevel import checkpoint

from wsbus import Bus, CommandError, Grants, Handshake, Identity, Limits, Unauthenticated
from wsbus.core.errors import CloseCode, TransportClosed, UsageError
from wsbus.testing import TRANSPORT_CHECKS, Peer, check_transport
from wsbus.testing.adapters import JsonPeer, Site, open_site

pytest.importorskip("aiortc", reason="needs aiortc: pip install -e '.[servers]'")

from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)

from tests.adapters.data_channels import (
    ADAPTER,
    DataChannelPeer,
    ask,
    new_peer,
    serve_data_channels,
)
from wsbus.adapters._data_channel import DataChannelTransport
from wsbus.adapters.webrtc import DataChannels

ELSEWHERE: Final = "the WebSocket that asks is judged by its own adapter"
NO_FRAMES: Final = "it writes frames of RFC 6455, which a data channel has not"
SLOW: Final = "its thousands of small packets take aiortc too long: see below"
EXCUSED: Final = {
    "subprotocols": "a data channel names one dialect: see below",
    "refusals": f"{ELSEWHERE}: see below",
    "tokens": ELSEWHERE,
    "fragments": NO_FRAMES,
    "pings": NO_FRAMES,
    "oversized_messages": f"{NO_FRAMES}: see below",
    "invalid_utf8": f"{NO_FRAMES}: see below",
    "choked_reading": f"{NO_FRAMES}: see below",
    "ping_flood": NO_FRAMES,
    "order_out": SLOW,
    "stuck_peer": SLOW,
    "tight_publisher": SLOW,
}
"""Laws of other transports, and why they do not apply."""
CONFIGURATION: Final = RTCConfiguration(iceServers=[])
KEPT: Final = [name for name in TRANSPORT_CHECKS if name not in EXCUSED]


@pytest.mark.parametrize("check", KEPT)
async def test_data_channels_keep_the_laws_of_transports(check: str) -> None:
    """The law is the docstring of the check, in wsbus.testing.checks."""
    await check_transport(ADAPTER, check)


# --- order, and the end ------------------------------------------------------------------------


async def hears(client: JsonPeer, count: int) -> None:
    for number in range(count):
        message = await client.hear("event", "gap")
        assert message.get("data") == number


@pytest.mark.parametrize("protocol", ["wsbus.v1", "wsbus.v1.single", "zigquant-v2"])
async def test_publications_arrive_in_order(protocol: str) -> None:
    """All of them, in every dialect."""
    async with open_site(ADAPTER, protocols=["wsbus.v1", "zigquant-v2"]) as site:
        client = await site.connect(subprotocols=[protocol])
        await client.subscribe("a.*")
        async with create_task_group() as tasks:
            tasks.start_soon(hears, client, 300)
            for number in range(300):
                await site.bus.publish(f"a.{number % 3}", number)
        assert site.info(client).protocol == protocol


async def test_a_peer_that_reads_nothing_is_aborted_at_the_write_deadline() -> None:
    """And nobody else is: the one beside it has a small share of what is published."""
    async with open_site(ADAPTER, limits=Limits(write_deadline=2)) as site:
        stuck, reader = await site.connect(receive_buffer=4096), await site.connect()
        await stuck.subscribe("a")
        await reader.subscribe("b")
        with fail_after(40):
            while not site.has_left(stuck):
                await site.bus.publish("a", 0, event="x" * 8000)
                await sleep(0.01)  # Time must pass; both ends share this thread.
        await site.bus.publish("b", "done")
        assert (await reader.hear("event"))["data"] == "done"
        assert site.bus.statistics().connections == 1


async def test_a_message_over_the_limit_ends_the_connection() -> None:
    """One of exactly the limit passes."""
    async with open_site(ADAPTER, limits=Limits(max_message_bytes=2000)) as site:
        client = await site.connect()
        head, tail = '{"type":"ping","id":"', '"}'
        fits = head + "é" * 500 + "x" * (1000 - len(head) - len(tail)) + tail
        await client.peer.send(fits)
        assert len((await client.hear("pong"))["id"].encode()) == 2000 - len(head) - len(tail)
        await client.peer.send(fits.replace("x", "xx", 1))
        assert (await client.peer.wait_closed()).code == CloseCode.MESSAGE_TOO_BIG


async def test_a_publication_larger_than_the_client_takes_ends_its_connection() -> None:
    """The client has said in its offer how large messages may be."""
    async with open_site(ADAPTER) as site:
        client, other = await site.connect(), await site.connect()
        for each in (client, other):
            await each.subscribe("a")
        await site.bus.publish("a", "x" * 300_000)
        closed = await client.peer.wait_closed()
        assert closed.code == CloseCode.MESSAGE_TOO_BIG
        assert closed.reason == "larger than the client takes"


# --- hostile clients ---------------------------------------------------------------------------


def raw(client: JsonPeer) -> DataChannelPeer:
    assert isinstance(client.peer, DataChannelPeer)
    return client.peer


async def test_text_that_is_not_utf_8_ends_the_connection_and_no_other() -> None:
    """Aiortc itself would fail over it."""
    async with open_site(ADAPTER) as site:
        bad, good = await site.connect(), await site.connect()
        association = raw(bad).association
        await association._send(raw(bad).stream, 51, b"\xff")
        gone = await site.departure(bad)
        assert gone.close_code == CloseCode.RATE_ABUSE
        await good.ping("still here")


async def test_a_message_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept until memory is full."""
    monkeypatch.setattr("wsbus.adapters._aiortc._TOO_FAR", -700_000)
    async with open_site(ADAPTER) as site:
        bad, good = await site.connect(), await site.connect()
        raw(bad).association._remote_max_message_size = 0  # It does not keep to what it heard.
        raw(bad).channel.send(b"x" * (4 << 20))
        gone = await site.departure(bad)
        assert gone.close_code == CloseCode.RATE_ABUSE
        assert gone.close_reason == "it sends more than it may"
        await good.ping("still here")


async def test_a_second_data_channel_is_cut_off() -> None:
    """Each offer takes one place."""
    async with open_site(ADAPTER) as site:
        client = await site.connect()
        raw(client).rtc.createDataChannel("another")
        assert (await site.departure(client)).close_code == CloseCode.RATE_ABUSE


@pytest.mark.parametrize("message", [b"x" * 60_000, "价" * 20_000], ids=["bytes", "text"])
async def test_a_client_hears_how_much_it_may_send(message: str | bytes) -> None:
    """What nobody has read leaves so many bytes less; what is read leaves more again."""
    async with transports() as (transport, client, channel):
        association, server = client.sctp, transport.peer.sctp
        assert association is not None
        assert server is not None
        server._advertised_rwnd = 100_000
        window, handle = Changing(100_000), association._receive_sack_chunk

        async def listen(chunk: Any) -> None:
            window.set(chunk.advertised_rwnd)
            await handle(chunk)

        setattr(association, "_receive_sack_chunk", listen)  # noqa: B010  # for mypy
        for _ in range(2):
            channel.send(message)
        await window.until(lambda size: size == 0)
        while len(transport._messages) < 2:  # The last packet is acknowledged then.
            await checkpoint()
        for _ in range(2):
            assert await transport.receive() == message
        await window.until(lambda size: size > 0)


class Changing:
    """A number, and those who wait for it."""

    def __init__(self, value: int) -> None:
        self._value, self._changed = value, Event()

    def set(self, value: int) -> None:
        self._value = value
        changed, self._changed = self._changed, Event()
        changed.set()

    async def until(self, is_right: Callable[[int], bool]) -> None:
        while not is_right(self._value):
            await self._changed.wait()


@asynccontextmanager
async def transports() -> AsyncIterator[
    tuple[DataChannelTransport, RTCPeerConnection, RTCDataChannel]
]:
    """Yield a transport without a bus, and its client."""
    client, is_open = new_peer(), Event()
    channel = client.createDataChannel("wsbus")
    channel.on("open", is_open.set)
    await client.setLocalDescription(await client.createOffer())
    async with DataChannelTransport(CONFIGURATION, Limits()) as transport:
        answer = await transport.answer(client.localDescription.sdp)
        await client.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await transport.opened(10)
        await is_open.wait()
        yield transport, client, channel
    await client.close()


# --- who may have one, and whose it is ---------------------------------------------------------


async def offer_of(peer: RTCPeerConnection, **options: Any) -> str:
    """Return an offer of a data channel."""
    peer.createDataChannel("wsbus", **options)
    await peer.setLocalDescription(await peer.createOffer())
    return peer.localDescription.sdp


async def signal_to(site: Site, **options: Any) -> JsonPeer:
    """Connect the WebSocket that asks."""
    peer = await Peer.connect(site.address, **options)
    site.peers.append(peer)
    return JsonPeer(peer)


async def refused(site: Site, sdp: str, protocol: str | None = None) -> str:
    """Return the code with which an offer is refused."""
    with pytest.raises(CommandError) as caught:
        await ask(await signal_to(site), sdp, protocol)
    return caught.value.code


async def test_the_endpoint_judges_before_anything_is_answered() -> None:
    """Its number of connections, and its dialects; what a refused offer took is free again."""
    peer = new_peer()
    offer = await offer_of(peer)
    async with open_site(ADAPTER, limits=Limits(max_connections=1)) as site:
        assert await refused(site, offer, "else") == "VALIDATION_ERROR"
        assert await refused(site, "v=0\r\nnonsense") == "VALIDATION_ERROR"
        assert await refused(site, "x" * 20_000) == "VALIDATION_ERROR"
        client = await site.connect()
        await client.ping()
        assert await refused(site, offer) == "UNAVAILABLE"
        client.peer.reset()
        await site.departure(client)
        await (await site.connect()).ping()
    await peer.close()


async def test_an_offer_of_sound_is_refused() -> None:
    """Beside the data channel, too: nothing would be decoded."""
    peer = new_peer()
    peer.addTransceiver("audio")
    offer = await offer_of(peer)
    async with open_site(ADAPTER) as site:
        assert await refused(site, offer) == "VALIDATION_ERROR"
    await peer.close()


async def test_no_address_of_an_offer_is_used() -> None:
    """Else a client could have the server send packets to anybody."""
    peer = new_peer()
    offer = await offer_of(peer)
    assert "a=candidate:" in offer
    async with DataChannelTransport(CONFIGURATION, Limits()) as transport:
        await transport.answer(offer)
        assert transport.peer.sctp is not None
        assert transport.peer.sctp.transport.transport.getRemoteCandidates() == []
    await peer.close()


async def test_a_data_channel_has_the_identity_of_the_connection_that_asks() -> None:
    """Its subject and its grants, judged once; it ends with all connections of that subject."""
    judged: list[str | None] = []

    def judge(token: str | None, handshake: Handshake) -> Identity:
        judged.append(token)
        if token is None:
            raise Unauthenticated
        return Identity(token, Grants.of(subscribe=[f"{token}.*"], command=["webrtc.offer"]))

    async with open_site(ADAPTER, authenticator=judge) as site:
        client = await site.connect(headers=[("Authorization", "Bearer ann")])
        assert (await client.hear("connected"))["data"]["subject"] == "ann"
        assert judged == ["ann"]
        await client.subscribe("ann.x")
        await client.say("subscribe", channels=["bob.x"])
        assert [each["code"] for each in (await client.hear("subscribed"))["data"]["rejected"]] == [
            "FORBIDDEN"
        ]
        site.bus.disconnect("ann", code=4999, reason="out")
        closed = await client.peer.wait_closed()
        assert (closed.code, closed.reason) == (4999, "out")


async def test_a_data_channel_that_is_not_opened_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a line in the log; its place is free again."""
    peer = new_peer()
    offer = await offer_of(peer)
    impatient = replace(ADAPTER, serve=partial(serve_data_channels, open_timeout=0.0))
    async with open_site(impatient, limits=Limits(max_connections=1)) as site:
        signal = await signal_to(site)
        for _ in range(2):
            await ask(signal, offer)
            await vacancy(site)
    assert caplog.text.count("was not opened: the client did not open it within 0 s") == 2
    await peer.close()


async def vacancy(site: Site) -> None:
    while site.endpoint.places.taken:
        await checkpoint()


async def test_few_data_channels_may_be_under_way_at_once() -> None:
    """Each holds sockets; at the end of the server they are given up."""
    peer, before = new_peer(), asyncio.all_tasks()
    offer = await offer_of(peer)
    async with open_site(ADAPTER) as site:
        signal = await signal_to(site)
        for _ in range(4):
            await ask(signal, offer)
        with pytest.raises(CommandError, match="not open yet"):
            await ask(signal, offer)
        await ask(await signal_to(site), offer)
    await peer.close()
    left = asyncio.all_tasks() - before
    if left:
        await asyncio.wait(left)


@pytest.mark.parametrize("options", [{"ordered": False}, {"maxRetransmits": 0}])
async def test_a_data_channel_that_may_lose_messages_is_refused(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """No dialect counts with that."""
    peer, is_closed = new_peer(), Event()

    @peer.on("connectionstatechange")
    def look() -> None:
        if peer.connectionState == "closed":
            is_closed.set()

    async with open_site(ADAPTER) as site:
        answer = await ask(await signal_to(site), await offer_of(peer, **options))
        await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await is_closed.wait()
    assert "its data channel is not ordered and reliable" in caplog.text
    await peer.close()


async def test_offers_come_while_it_is_entered() -> None:
    """Before that it is a mistake, afterwards the end."""
    bus = Bus()
    channels = DataChannels(bus)
    connection: Any = None
    with pytest.raises(UsageError, match="before"):
        await channels.answer(connection, "")
    async with bus:
        async with channels:
            with pytest.raises(UsageError, match="once"):
                await channels.__aenter__()
        with pytest.raises(CommandError, match="shutting down"):
            await channels.answer(connection, "")


@pytest.mark.parametrize("protocol", ["wsbus.v1", "zigquant-v2"])
async def test_a_client_that_takes_next_to_nothing_ends_alone(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even the goodbye fits; nobody else notices, and the log has nothing to say."""
    peer, is_closed = new_peer(), Event()
    channel = peer.createDataChannel("wsbus")
    channel.on("close", is_closed.set)
    channel.on("open", lambda: channel.send("x" * 3000))
    await peer.setLocalDescription(await peer.createOffer())
    said = peer.localDescription.sdp
    offer = re.sub(r"a=max-message-size:\d+", "a=max-message-size:8", said)
    limits = Limits(max_message_bytes=2000)
    async with open_site(ADAPTER, protocols=["wsbus.v1", "zigquant-v2"], limits=limits) as site:
        good = await site.connect()
        answer = await ask(await signal_to(site), offer, protocol)
        await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await is_closed.wait()
        while site.endpoint.places.taken > 1:
            await checkpoint()
        await good.ping("still here")
    assert [each for each in caplog.records if each.name.startswith("wsbus")] == []
    await peer.close()


async def test_what_came_before_a_client_was_lost_is_read() -> None:
    """Also where it waits to hear that it may send more, which nobody can say any more."""
    async with transports() as (transport, _, channel):
        server = transport.peer.sctp
        assert server is not None
        server._advertised_rwnd = 100_000
        for _ in range(2):
            channel.send(b"x" * 60_000)
        while len(transport._messages) < 2:
            await checkpoint()
        await server.transport.transport.stop()
        while server.transport.state != "closed":
            await checkpoint()
        for _ in range(2):
            assert len(await transport.receive()) == 60_000
        with pytest.raises(TransportClosed):
            await transport.receive()


async def test_a_data_channel_that_fails_ends_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever aiortc does at its end."""
    async with open_site(ADAPTER) as site:
        good = await site.connect()
        with monkeypatch.context() as patched:
            patched.setattr(DataChannelTransport, "__aexit__", fail)
            bad = await site.connect()
        await bad.peer.close()
        while "a data channel of" not in caplog.text:
            await checkpoint()
        await good.ping("still here")


leave: Final = DataChannelTransport.__aexit__


async def fail(transport: DataChannelTransport, *exc: object) -> None:
    await leave(transport, *exc)
    raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    "options",
    [{"open_timeout": "15"}, {"open_timeout": -1}, {"open_timeout": True}, {"configuration": {}}],
)
def test_a_wrong_setting_is_refused_when_it_is_made(options: dict[str, Any]) -> None:
    """Not when the first client comes."""
    with pytest.raises(UsageError, match=next(iter(options))):
        DataChannels(Bus(), **options)
