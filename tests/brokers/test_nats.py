"""NatsBroker, against real servers."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import anyio.lowlevel
import pytest
from anyio import (
    CancelScope,
    Event,
    create_task_group,
    fail_after,
    sleep,
    sleep_forever,
    wait_all_tasks_blocked,
)
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from tests.brokers.links import Seen, turn_of
from tests.brokers.servers import NATS, Server
from wsbus import Bus
from wsbus.broker import BoundedLink, Link
from wsbus.brokers import NatsBroker, _nats, broker_of
from wsbus.brokers.nats import subject_of
from wsbus.core.channels import Channel, parse_channel
from wsbus.core.envelope import Turn, largest_item
from wsbus.core.errors import BrokerUnavailable, InvalidChannel, UsageError
from wsbus.core.feeds import ALL_NODES, Feed, feeds_around, is_within

Use: TypeAlias = Callable[[Link], Awaitable[None]]
StartServer = Callable[..., Server]

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """nats-py runs on asyncio only."""
    return request.param


async def stay(
    broker: NatsBroker, use: Use, receive: Callable[[bytes], None] | None = None
) -> None:
    """Use a link, and keep it until it fails."""
    with fail_after(30):
        async with broker.connect(receive or Seen()) as link:
            await use(link)
            await sleep_forever()


async def nothing(link: Link) -> None:
    """Use a link for nothing."""


async def publish_one(link: Link) -> None:
    """Publish on the channel ``a``."""
    await link.publish(turn_of((Feed("=a"), 1)))


async def follow_one(link: Link) -> None:
    """Follow the channel ``a``."""
    await link.follow(feeds("=a"))


def sockets() -> int:
    """Count the sockets of this process."""
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # That of the listing itself.
            found += str(each.readlink()).startswith("socket:")
    return found


def free_port() -> int:
    """Return a port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def certificate(
    tmp_path_factory: pytest.TempPathFactory, require_command: Callable[[str, str], str]
) -> tuple[str, str]:
    """Give a certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    files = str(folder / "cert.pem"), str(folder / "key.pem")
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    openssl = require_command("openssl", "openssl")
    subprocess.run(
        [openssl, *request.split(), *names, "-out", files[0], "-keyout", files[1]],
        check=True,
        capture_output=True,
    )
    return files


class Numbers:
    """What a link brought: the numbers at the end of messages, where they came first."""

    def __init__(self) -> None:
        self.first: list[int] = []
        self.count = 0

    def __call__(self, message: bytes) -> None:
        self.count += 1
        number = int.from_bytes(message[-4:])
        if number not in self.first[-500:]:
            self.first.append(number)


def feeds(*texts: str) -> Sequence[Feed]:
    """Return texts as feeds."""
    return [Feed(text) for text in texts]


def channels() -> st.SearchStrategy[Channel]:
    """Return a strategy of channels, among them those that NATS would read otherwise."""
    segment = st.text("ab>%3E25*$_-\u8d35#+/", min_size=1, max_size=6)
    name = st.lists(segment, min_size=1, max_size=4).map(".".join)
    return name.filter(is_channel).map(parse_channel)


def is_channel(name: str) -> bool:
    """Whether the name of a channel is well formed."""
    try:
        parse_channel(name)
    except InvalidChannel:
        return False
    return True


def matches(wildcard: str, subject: str) -> bool:
    """Match as NATS does: ``>`` stands for one or more tokens."""
    if not wildcard.endswith(".>"):
        return wildcard == subject
    return subject.startswith(wildcard[:-1]) and len(subject) >= len(wildcard)


# --- names ---------------------------------------------------------------------------------------


@given(one=channels(), other=channels())
def test_names_are_spelt_without_loss(one: Channel, other: Channel) -> None:
    """Two channels have one subject only if they are one; a prefix holds what it held before."""
    feed, subject = Feed("=" + one), subject_of(Feed("=" + one), "p")
    assert (subject == subject_of(Feed("=" + other), "p")) == (one == other)
    assert all(token not in {"", ">", "*"} and ">" not in token for token in subject.split("."))
    for wider in feeds_around(Feed("=" + other)):
        assert matches(subject_of(wider, "p"), subject) == is_within(feed, {wider})


@pytest.mark.parametrize(
    ("url", "options", "hint"),
    [
        ("http://a", {}, "begins with nats:// or tls://, not 'http'"),
        ("ws://a", {}, "begins with nats:// or tls://, not 'ws'"),
        ("a:4222", {}, "begins with nats:// or tls://"),
        ("nats://", {}, "names no host"),
        ("nats://a:port", {}, "cannot be read"),
        ("nats://a/db", {}, "has a path or options"),
        ("nats://a?tls=1", {}, "has a path or options"),
        ("nats://a,tls://b", {}, "all nats:// or all tls://"),
        ([], {}, "needs the URL of a server"),
        ("nats://a", {"prefix": "a.*"}, "the prefix is"),
        ("nats://a", {"prefix": ""}, "the prefix is"),
        ("nats://a", {"credentials": "x", "nkey_seed": "y"}, "not both"),
        ("nats://a", {"credentials": "/nowhere"}, "credentials"),
        ("nats://a", {"nkey_seed": "/nowhere"}, "nkey_seed"),
    ],
)
def test_wrong_settings_fail_when_they_are_made(
    url: str | list[str], options: dict[str, Any], hint: str
) -> None:
    """What cannot be used is refused by the constructor, in words."""
    with pytest.raises(UsageError, match=hint):
        NatsBroker(url, **options)


def test_the_address_holds_no_secret() -> None:
    """The address names the servers, each with its port, and none of the secrets."""
    broker = NatsBroker("nats://ada:s%2Cecret@a:1,b,nats://token@[::1]")
    assert broker.address == "nats://a:1,b:4222,[::1]:4222"
    assert NatsBroker(["tls://u:secret@a"]).address == "tls://a:4222"
    assert broker_of("nats://a").address == "nats://a:4222"


def test_this_version_of_nats_py_is_supported() -> None:
    """What a link replaces in nats-py is there, and is called as before."""
    _nats.check_version()
    replaced = {"_process_msg": 5, "_process_err": 1, "_process_op_err": 1}
    for name, arguments in replaced.items():
        assert len(signature(getattr(Client(), name)).parameters) == arguments, name


# --- life ----------------------------------------------------------------------------------------


async def test_a_link_brings_what_it_follows(nats_server: Server) -> None:
    """Exact feeds, prefix feeds and the feed of nodes arrive once and in order, others do not."""
    broker = NatsBroker(nats_server.url, prefix="follow")
    seen = Seen()
    async with broker.connect(seen) as link:
        await link.follow([*feeds("=a.b", "~x."), ALL_NODES])
        turn = turn_of(
            (Feed("=a.b"), 1),
            (Feed("=a"), 2),
            (Feed("=x.y.z"), 3),
            (Feed("=x"), 4),
            (ALL_NODES, 5),
        )
        await link.publish(turn)
        assert await seen.until(3) == [1, 3, 5]
        await link.unfollow(feeds("~x."))
        await link.publish(turn)
        assert await seen.until(5) == [1, 3, 5, 1, 5]


async def test_unusual_names_arrive(nats_server: Server) -> None:
    """A server takes every kind of channel, and brings it by its own feed and by a prefix."""
    names = [
        "C#",
        "a>b",
        "a%3Eb",
        "a%253Eb",
        "\u8d35\u5dde",
        "^GSPC",
        "BTC/USDT",
        "$SYS",
        "a+b",
        "-",
        "\U0001f600",
    ]
    names += ["x." + name for name in names] + ["long." + ">" * 250]
    broker, seen = NatsBroker(nats_server.url, prefix="names"), Seen()
    async with broker.connect(seen) as link:
        items = [(Feed("=" + parse_channel(name)), n) for n, name in enumerate(names)]
        await link.follow([feed for feed, _ in items])
        await link.publish(turn_of(*items))
        assert await seen.until(len(names)) == list(range(len(names)))
        await link.unfollow([feed for feed, _ in items])
        await link.follow([Feed("~")])
        await link.publish(turn_of(*items))
        assert await seen.until(2 * len(names)) == 2 * list(range(len(names)))


async def test_order_stays_while_feeds_change(nats_server: Server) -> None:
    """The first copy of each message comes in order, whichever subscription brings it."""
    broker, seen = NatsBroker(nats_server.url, prefix="order"), Numbers()
    narrow, wide, all_ = feeds("=a.b"), feeds("~a."), feeds("~")
    async with broker.connect(seen) as link, broker.connect(Seen()) as other:
        await link.follow(narrow)
        async with create_task_group() as tasks:

            async def publish() -> None:
                for number in range(400):
                    turn = Turn("node", number, 0.0)
                    turn.add(Feed("=a.b"), number.to_bytes(4))
                    await other.publish(turn)
                tasks.cancel_scope.cancel()

            tasks.start_soon(publish)
            while True:
                for old, new in pairwise([narrow, wide, all_, wide, narrow]):
                    await link.follow(new)
                    await link.unfollow(old)
        await link.publish(turn_of((ALL_NODES, 0)))  # What came before is there after that.
    assert seen.first == list(range(400))
    assert seen.count > 400, "no feed brought a copy: this test shows nothing"


@pytest.mark.parametrize(("old", "new"), [("=a.b", "~a."), ("~a.", "=a.b"), ("~a.b.", "~")])
async def test_an_old_subscription_stays_beside_the_one_that_takes_over(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    """A server may have looked it up for a message already, and drops what it finds gone."""
    monkeypatch.setattr(_nats, "_TAKEOVER_SECONDS", 60.0)
    broker, seen = NatsBroker(nats_server.url, prefix="takeover"), Numbers()
    channel = Feed("=a.b.c" if old == "~a.b." else "=a.b")
    async with broker.connect(seen) as link, create_task_group() as tasks:
        await link.follow(feeds(old, "=other"))
        await link.follow(feeds(new))
        tasks.start_soon(link.unfollow, feeds(old))
        await wait_all_tasks_blocked()
        await link.publish(turn_of((channel, 1)))
        await link.publish(turn_of((ALL_NODES, 0)))  # What came before is there after that.
        assert seen.count == 2
        tasks.cancel_scope.cancel()


async def test_what_nothing_takes_over_is_given_up_at_once(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other channels and other prefixes are followed on; nobody waits for them."""
    monkeypatch.setattr(_nats, "_TAKEOVER_SECONDS", 60.0)
    broker = NatsBroker(nats_server.url, prefix="alone")
    async with broker.connect(Seen()) as link:
        await link.follow(feeds("=a.b", "~a.b.", "=a.c", "~b."))
        with fail_after(10):
            await link.unfollow(feeds("=a.b", "~a.b."))


async def test_a_cancelled_call_costs_nothing(nats_server: Server) -> None:
    """The answer to a cancelled call is not taken for that of the next, and the link lives on."""
    broker, seen = NatsBroker(nats_server.url, prefix="cancelled"), Seen()
    async with broker.connect(seen) as link:
        await link.follow(feeds("=a"))
        for number in range(50):
            with CancelScope() as scope:
                asyncio.get_running_loop().call_later(number * 1e-5, scope.cancel)
                await link.publish(turn_of((Feed("=a"), number)))
        await link.publish(turn_of((Feed("=a"), 50)))
        assert await seen.until(51) == list(range(51))


async def test_a_publish_is_confirmed_after_the_server_has_read_it(nats_server: Server) -> None:
    """Whoever asks the server after the return finds that the messages were there before."""
    broker, seen = NatsBroker(nats_server.url, prefix="confirmed"), Seen()
    async with broker.connect(seen) as link, broker.connect(Seen()) as other:
        await link.follow(feeds("=a"))
        for number in range(100):
            await other.publish(turn_of((Feed("=a"), number)))
            await link.publish(turn_of((Feed("=b"), 0)))  # Its PONG is behind what came before.
            assert len(seen.items) == number + 1


async def test_a_ping_follows_what_it_confirms() -> None:
    """The server reads a turn, then the PING; the call returns with the answer, and not before."""
    read, may_answer = asyncio.Queue[bytes](), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.9.0","max_payload":1000}\r\n')
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        read.put_nowait(await reader.readuntil(b"PING\r\n"))
        await may_answer.wait()
        writer.write(b"PONG\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, create_task_group() as tasks:
        broker = NatsBroker(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with broker.connect(Seen()) as link:
            returned = []

            async def publish() -> None:
                await publish_one(link)
                returned.append(True)

            tasks.start_soon(publish)
            assert (await read.get()).startswith(b"PUB wsbus.c.a ")
            assert not returned
            may_answer.set()
            while not returned:
                await anyio.lowlevel.checkpoint()


async def test_envelopes_above_the_limit_are_split(nats_server: Server) -> None:
    """A turn may be larger than a message of the server; a single item that is, is refused."""
    broker, seen = NatsBroker(nats_server.url, prefix="large"), Numbers()
    async with broker.connect(seen) as link:
        assert isinstance(link, BoundedLink)
        assert link.max_bytes == 1 << 20
        await link.follow(feeds("=a"))
        turn = Turn("0123456789abcdef", 2**40, 1.7e9)
        for number in range(12):
            turn.add(Feed("=a"), bytes(largest_item(link.max_bytes) // 3) + number.to_bytes(4))
        turn.add(Feed("=a"), bytes(largest_item(link.max_bytes) - 4) + (12).to_bytes(4))
        await link.publish(turn)
        while seen.count < 7:
            await anyio.lowlevel.checkpoint()
        assert seen.first[-1] == 12
        turn.add(Feed("=a"), bytes(link.max_bytes))
        with pytest.raises(UsageError, match="the server takes 1048576"):
            await link.publish(turn)
        await link.publish(turn_of((Feed("=a"), 1)))


async def test_a_bus_refuses_what_the_broker_does_not_take(nats_server: Server) -> None:
    """The publisher gets a usage error with both sizes; the link and other publications live on."""
    async with Bus(broker=NatsBroker(nats_server.url, prefix="bus")) as bus:
        with pytest.raises(UsageError, match=r"this has 20000\d\d bytes, and the broker takes"):
            await bus.publish("a", "x" * 2_000_000)
        await bus.publish("a", "x")
        statistics = bus.statistics().broker
        assert statistics is not None
        assert statistics.losses == 0


async def test_ten_thousand_feeds_cost_no_task(nats_server: Server) -> None:
    """Following is one round trip, and makes no task, whatever the number of feeds."""
    broker, seen = NatsBroker(nats_server.url, prefix="many"), Seen()
    many = [Feed(f"=a.{number}") for number in range(10_000)]
    async with broker.connect(seen) as link:
        before = len(asyncio.all_tasks())
        await link.follow(many)
        assert len(asyncio.all_tasks()) == before
        await link.publish(turn_of((many[0], 1), (many[-1], 2), (Feed("=b"), 3)))
        assert await seen.until(2) == [1, 2]
        await link.unfollow(many[1:])
        await link.publish(turn_of((many[0], 4), (many[-1], 5)))
        assert await seen.until(3) == [1, 2, 4]


# --- failures ------------------------------------------------------------------------------------


async def test_a_killed_server_ends_the_link(start_server: StartServer) -> None:
    """The body is cancelled, the context raises, and a new dial is refused in plain words."""
    server = start_server("nats2.9")
    broker = NatsBroker(server.url)

    async def kill(link: Link) -> None:
        server.kill()

    with pytest.raises(BrokerUnavailable, match="the server closed the connection"):
        await stay(broker, kill)
    with pytest.raises(BrokerUnavailable, match=rf"127\.0\.0\.1:{server.port}: connection refused"):
        await stay(broker, nothing)


async def test_a_frozen_server_ends_the_link(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noticed without a call, and with one; a call of many bytes leaves no socket behind."""
    assert (_nats._PING_SECONDS * (_nats._PINGS + 1), _nats._ANSWER_SECONDS) == (3, 3)
    for name, seconds in (("_PING_SECONDS", 0.2), ("_ANSWER_SECONDS", 0.6), ("DIAL_SECONDS", 0.6)):
        monkeypatch.setattr(_nats, name, seconds)
    server = start_server("nats2.15")
    broker = NatsBroker(server.url)
    for calls in (False, True):
        before = sockets()

        async def use(link: Link, calls: bool = calls) -> None:
            server.freeze()
            if calls:
                turn = Turn("node", 1, 0.0)
                for _ in range(16):
                    turn.add(Feed("=a"), bytes(1_000_000))
                with pytest.raises(BrokerUnavailable) as error:
                    await link.publish(turn)
                assert error.value.may_have_arrived

        with pytest.raises(BrokerUnavailable, match="the server did not answer in time"):
            await stay(broker, use)
        with pytest.raises(BrokerUnavailable, match="no answer in time"):
            await stay(broker, nothing)
        assert sockets() == before
        server.thaw()


async def test_a_slow_consumer_is_cut(start_server: StartServer, tmp_path: Path) -> None:
    """What a node cannot take waits at the server, which cuts the link: that is no silent loss."""
    config = tmp_path / "nats.conf"
    config.write_text("max_pending: 1MB\nwrite_deadline: 100ms\n")
    server = start_server("nats2.9", "-c", str(config))
    done = threading.Event()

    def flood() -> None:
        with socket.create_connection(server.address) as peer:
            peer.sendall(b"CONNECT {}\r\n")
            for _ in range(200):
                peer.sendall(b"PUB wsbus.c.a 500000\r\n" + bytes(500_000) + b"\r\n")
        done.set()

    def block(message: bytes) -> None:
        assert done.wait(30)

    async def use(link: Link) -> None:
        await link.follow(feeds("=a"))
        threading.Thread(target=flood).start()

    with pytest.raises(BrokerUnavailable, match=r"closed the connection|slow consumer|reset"):
        await stay(NatsBroker(server.url), use, block)


async def test_any_moment_may_be_cancelled(nats_server: Server) -> None:
    """A cancellation leaves neither a task nor a socket, while it dials, works or ends."""
    broker = NatsBroker(nats_server.url, prefix="any")
    before = len(asyncio.all_tasks()), sockets()
    loop = asyncio.get_running_loop()
    reached = False
    for turns in range(80):
        with CancelScope() as scope:

            def count_down(left: int, scope: CancelScope = scope) -> None:
                if left:
                    loop.call_soon(count_down, left - 1)
                else:
                    scope.cancel()

            loop.call_soon(count_down, turns * turns // 8)
            async with broker.connect(Seen()) as link:
                await link.follow(feeds("=a"))
                await link.publish(turn_of((Feed("=a"), 1)))
                await link.unfollow(feeds("=a"))
                reached = True
        await anyio.lowlevel.checkpoint()
        assert (len(asyncio.all_tasks()), sockets()) == before
    assert reached


async def test_another_server_of_the_cluster_is_dialled(start_server: StartServer) -> None:
    """Two servers carry messages between their links; when one is killed, the other is dialled."""
    ports = [free_port(), free_port()]
    servers = [
        start_server(
            "nats2.15",
            *("--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{ports[n]}"),
            *("--routes", f"nats://127.0.0.1:{ports[1 - n]}"),
        )
        for n in range(2)
    ]
    both, seen = NatsBroker([server.url for server in servers]), Seen()
    async with NatsBroker(servers[1].url).connect(seen) as link:
        await link.follow(feeds("=a"))
        async with NatsBroker(servers[0].url).connect(Seen()) as other:
            with fail_after(20):  # The servers find each other after a while.
                while not seen.items:
                    await other.publish(turn_of((Feed("=a"), 1)))
                    await sleep(0.01)
    servers[0].kill()
    for _ in range(4):
        async with both.connect(seen) as link:
            await link.publish(turn_of((Feed("=a"), 2)))


# --- who may -------------------------------------------------------------------------------------


def permissions() -> str:
    """Return the permissions that the documentation shows."""
    text = Path("docs/how-to/brokers.md").read_text()
    block = re.search(r"```text\n(authorization \{.*?)```", text, re.DOTALL)
    assert block is not None
    return block[1]


@pytest.mark.parametrize("kind", NATS)
async def test_the_documented_permissions_suffice(
    start_server: StartServer,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A link works with the permissions of the docs; another prefix or password is refused."""
    monkeypatch.setenv("NATS_PASSWORD", "p@ss:w/rd")
    config = tmp_path / "nats.conf"
    config.write_text(permissions())
    server = start_server(kind, "-c", str(config))
    host = f"127.0.0.1:{server.port}"
    seen = Seen()
    async with NatsBroker(f"nats://wsbus:p%40ss%3Aw%2Frd@{host}").connect(seen) as link:
        await link.follow([*feeds("=a.b", "~"), ALL_NODES])
        await link.publish(turn_of((ALL_NODES, 1)))
        assert await seen.until(1) == [1]

    elsewhere = NatsBroker(f"nats://wsbus:p%40ss%3Aw%2Frd@{host}", prefix="other")
    for call in (publish_one, follow_one):
        with pytest.raises(BrokerUnavailable, match=r'violation for .* to "other\.c\.a"'):
            await stay(elsewhere, call)
    for user in ("wsbus:secret@", "secret@", ""):
        with pytest.raises(BrokerUnavailable, match="the server refuses the credentials") as error:
            await stay(NatsBroker(f"nats://{user}{host}"), nothing)
        assert "secret" not in str(error.value)
    assert not [record for record in caplog.records if record.name.startswith("nats")]


async def test_a_token_is_enough(start_server: StartServer) -> None:
    """A user without a password is a token."""
    server = start_server("nats2.9", "--auth", "s:cret")
    async with NatsBroker(f"nats://s%3Acret@127.0.0.1:{server.port}").connect(Seen()) as link:
        await link.publish(turn_of((ALL_NODES, 1)))


@pytest.mark.parametrize("kind", NATS)
async def test_tls(start_server: StartServer, kind: str, certificate: tuple[str, str]) -> None:
    """A server with a trusted certificate is spoken to; others are refused in plain words."""
    server = start_server(kind, "--tls", "--tlscert", certificate[0], "--tlskey", certificate[1])
    url, seen = f"tls://127.0.0.1:{server.port}", Seen()
    trust = ssl.create_default_context(cafile=certificate[0])
    async with NatsBroker(url, tls=trust).connect(seen) as link:
        await link.follow(feeds("=a"))
        await link.publish(turn_of((Feed("=a"), 1)))
        assert await seen.until(1) == [1]
    with pytest.raises(BrokerUnavailable, match="TLS failed: CERTIFICATE_VERIFY_FAILED"):
        await stay(NatsBroker(url), nothing)


@pytest.mark.parametrize("url", ["tls://ada:secret@127.0.0.1", "tls://secret@127.0.0.1"])
async def test_secrets_are_never_sent_in_clear_text(url: str) -> None:
    """With tls:// a server that does not ask for TLS gets nothing: someone may be between."""
    received = bytearray()
    asked = Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"auth_required":true,"version":"2.9.0","max_payload":100}\r\n')
        received.extend(await reader.read())
        writer.close()
        asked.set()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="does not ask for TLS"):
            await stay(NatsBroker(f"{url}:{port}"), nothing)
        await asked.wait()
    assert received == b""


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_is_refused(anyio_backend: str) -> None:
    """A link needs asyncio, and says so."""
    with pytest.raises(UsageError, match="asyncio"):
        await stay(NatsBroker("nats://127.0.0.1:1"), nothing)
