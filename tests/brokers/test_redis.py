"""RedisBroker, against real servers."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
from anyio import CancelScope, create_task_group, fail_after, sleep_forever, to_thread
from anyio.lowlevel import checkpoint
from redis import Redis

from tests.brokers.links import Seen, turn_of
from tests.brokers.servers import Server
from wsbus import Bus
from wsbus.brokers import RedisBroker, broker_of
from wsbus.brokers._redis_dial import RIGHTS
from wsbus.core.envelope import Turn
from wsbus.core.errors import BrokerUnavailable, UsageError
from wsbus.core.feeds import ALL_NODES, Feed

GUIDE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "brokers.md"
StartServer = Callable[..., Server]

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """redis-py runs on asyncio only."""
    return request.param


async def stay(broker: RedisBroker, then: Callable[[], object]) -> None:
    """Keep a link until it fails, and do something once it is there."""
    with fail_after(20):
        async with broker.connect(Seen()):
            then()
            await sleep_forever()


def feeds(*texts: str) -> Sequence[Feed]:
    """Return texts as feeds."""
    return [Feed(text) for text in texts]


async def test_a_link_brings_what_it_follows(redis_server: Server) -> None:
    """Exact feeds, prefix feeds and the feed of nodes arrive once and in order, others do not."""
    broker = RedisBroker(redis_server.url, prefix="follow")
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


def test_nodes_meet_in_a_loop_that_anyio_has_not_started(redis_server: Server) -> None:
    """What a link brings finds its event loop, although a callback of the socket brings it."""

    async def main() -> None:
        broker = RedisBroker(redis_server.url, prefix="meet")
        with fail_after(20):
            async with Bus(broker=broker) as here, Bus(broker=broker) as there:
                async with there.subscribe("a.b") as events:
                    await here.publish("a.b", 1)
                    assert (await anext(events)).data == 1
                while len(here.nodes()) < 2 or len(there.nodes()) < 2:
                    await checkpoint()

    asyncio.run(main())


async def test_a_call_that_is_given_up_costs_no_other_call(redis_server: Server) -> None:
    """The replies of a cancelled call are not taken for those of the next one."""
    async with RedisBroker(redis_server.url).connect(Seen()) as link:
        with CancelScope() as scope:
            scope.cancel()
            await link.publish(turn_of((Feed("=a.b"), 1), (Feed("=a.c"), 2)))
        await link.publish(turn_of((Feed("=a.b"), 3)))
        await link.publish(turn_of((Feed("=a.b"), 4), (Feed("=a.c"), 5)))


async def test_a_killed_server_ends_the_link(start_server: StartServer) -> None:
    """The body is cancelled, the context raises, and a new dial is refused in plain words."""
    server = start_server("redis7")
    broker = RedisBroker(server.url)
    with pytest.raises(BrokerUnavailable, match="it closed the connection"):
        await stay(broker, server.kill)
    with pytest.raises(BrokerUnavailable, match="connection refused"):
        await stay(broker, server.kill)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def sent_by(server: Server, *words: str) -> object:
    """Send a command, and return the reply."""
    with Redis(host="127.0.0.1", port=server.port) as client:
        return client.execute_command(*words)


async def works(broker: RedisBroker) -> None:
    """Send something through a link, see it come back, and stop following."""
    seen = Seen()
    async with broker.connect(seen) as link:
        await link.follow([Feed("=a.b"), ALL_NODES])
        await link.publish(turn_of((Feed("=a.b"), 1), (ALL_NODES, 2)))
        assert await seen.until(2) == [1, 2]
        await link.unfollow([Feed("=a.b")])


def documented_rights() -> list[str]:
    """Return the words of the first line that the guide prints."""
    line, _ = re.findall(r"^ACL SETUSER wsbus .*$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    return shlex.split(line)


async def test_the_documented_rights_are_enough(redis_server: Server) -> None:
    """A user with the rights of the guide publishes and follows; the code names the same."""
    assert " ".join(documented_rights()).endswith(RIGHTS)
    sent_by(redis_server, *documented_rights())
    await works(RedisBroker(f"redis://wsbus:secret@127.0.0.1:{redis_server.port}"))


@pytest.mark.parametrize("right", [word for word in RIGHTS.split() if word.startswith("+")])
async def test_each_documented_right_is_needed(redis_server: Server, right: str) -> None:
    """Without one of them the link ends, and the reason names what a user needs."""
    words = [word for word in documented_rights() if word != right]
    sent_by(redis_server, *[word.replace("wsbus", "less") for word in words[:3]], *words[3:])
    broker = RedisBroker(f"redis://less:secret@127.0.0.1:{redis_server.port}")
    if right == "+client|setname":  # The name is for operators.
        await works(broker)
        return
    with pytest.raises(BrokerUnavailable, match=r"it refuses: .*\+publish") as caught:
        await works(broker)
    assert right.removeprefix("+") in str(caught.value)
    assert "secret" not in str(caught.value)
    # Without a transaction, what follows in it is published.
    assert caught.value.may_have_arrived == (right == "+multi")


async def test_other_channels_are_refused(redis_server: Server) -> None:
    """A user of one prefix can neither publish nor follow with another."""
    sent_by(redis_server, *documented_rights())
    broker = RedisBroker(f"redis://wsbus:secret@127.0.0.1:{redis_server.port}", prefix="other")
    with pytest.raises(BrokerUnavailable, match="it refuses: "):
        await works(broker)


@pytest.mark.parametrize(
    ("login", "reason"),
    [
        (":hush-hush@", "it refused the login"),
        ("nobody:hush-hush@", "it refused the login"),
        ("", "it asks for a login: write redis://user:password@"),
    ],
)
async def test_a_wrong_login_is_named(start_server: StartServer, login: str, reason: str) -> None:
    """The reason is plain, and no password is in it, nor in the chain of errors."""
    server = start_server("redis7", "--requirepass", "right")
    broker = RedisBroker(f"redis://{login}127.0.0.1:{server.port}")
    with pytest.raises(BrokerUnavailable, match=reason) as caught:
        await works(broker)
    assert "hush-hush" not in "".join(traceback.format_exception(caught.value))
    assert "hush-hush" not in broker.address
    await works(RedisBroker(f"redis://:right@127.0.0.1:{server.port}/1"))


async def test_a_socket_of_this_machine(start_server: StartServer, tmp_path: Path) -> None:
    """``unix://`` dials a path; without a server the reason is plain."""
    path = tmp_path / "a b.sock"
    server = start_server("redis7", "--unixsocket", str(path), "--requirepass", "p@ss")
    broker = RedisBroker(f"unix://:p%40ss@{quote(str(path))}?db=1")
    await works(broker)
    assert broker.address == f"unix://{path}"
    server.kill()
    with pytest.raises(BrokerUnavailable, match="connection refused"):
        await works(broker)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a certificate for ``localhost``, which signs itself, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    found, key = directory / "certificate.pem", directory / "key.pem"
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("needs openssl: apt-get install -y openssl")
    subprocess.run(
        [
            *(program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(found)),
        ],
        check=True,
        capture_output=True,
    )
    return found, key


async def test_tls(start_server: StartServer, certificate: tuple[Path, Path]) -> None:
    """``rediss://`` checks the certificate and the name in it, unless it is told not to."""
    found, key = certificate
    port = free_port()
    start_server(
        "redis7",
        *("--tls-port", str(port), "--tls-cert-file", str(found), "--tls-key-file", str(key)),
        *("--tls-auth-clients", "no"),
    )
    await works(RedisBroker(f"rediss://localhost:{port}?ssl_ca_certs={found}"))
    await works(RedisBroker(f"valkeys://127.0.0.1:{port}?ssl_cert_reqs=none"))
    trusting = ssl.create_default_context(cafile=str(found))
    await works(RedisBroker(f"rediss://localhost:{port}", tls=trusting))
    unchecked = f"rediss://127.0.0.1:{port}?ssl_ca_certs={found}&ssl_check_hostname=false"
    await works(RedisBroker(unchecked))
    with pytest.raises(BrokerUnavailable, match="TLS failed: self-signed certificate"):
        await works(RedisBroker(f"rediss://localhost:{port}"))
    with pytest.raises(BrokerUnavailable, match="TLS failed: ip address mismatch"):
        await works(RedisBroker(f"rediss://127.0.0.1:{port}?ssl_ca_certs={found}"))
    with pytest.raises(BrokerUnavailable, match="it closed the connection"):
        await works(RedisBroker(f"redis://localhost:{port}"))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://me:pw@h", "redis://h:6379"),
        ("redis://[::1]:7000/2", "redis://[::1]:7000/2"),
        ("valkey://h", "valkey://h:6379"),
        ("rediss+sentinel://me:pw@a,b:7/main?db=3", "rediss+sentinel://a:26379,b:7/main"),
        (
            "redis+sentinel://a/main?sentinel_username=u&sentinel_password=pw",
            "redis+sentinel://a:26379/main",
        ),
        ("redis+cluster://:pw@a,b", "redis+cluster://a:6379,b:6379"),
        ("unix://me:pw@/tmp/s?db=1", "unix:///tmp/s"),
    ],
)
def test_addresses(url: str, address: str) -> None:
    """An address names the servers, and neither the login nor the options."""
    broker = broker_of(url)
    assert isinstance(broker, RedisBroker)
    assert broker.address == address


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://pw@h", "no URL with 'http'; write one of redis://host:port, unix:"),
        ("redis+http://pw@h", r"no URL with 'redis\+http'"),
        ("", "no URL with ''"),
        ("redis://:pw@", "names no host: write redis://host:port"),
        ("redis://:pw@h:port", "cannot be read"),
        ("redis://:pw@a,b", r"several hosts .* write redis\+sentinel://"),
        ("redis://:pw@h/main", "the number of a database is digits, not 'main'"),
        ("redis://:pw@h?health_check_interval=3", "knows no health_check_interval"),
        ("redis://:pw@h?ssl_cert_reqs=none", "TLS needs rediss://"),
        ("redis://:pw@h#1", "knows no what follows #"),
        ("rediss://:pw@h?ssl_cert_reqs=maybe", "ssl_cert_reqs must be one of"),
        ("rediss://:pw@h?ssl_ca_certs=/nowhere", "the files for TLS cannot be used"),
        ("redis+sentinel://:pw@a,b", r"ends with the name of the primary: write redis\+sentinel:"),
        ("redis+cluster://:pw@a/1", "a cluster has database 0 only"),
        ("unix://:pw@h/tmp/s", "has a path and no host: write unix:///path"),
        ("unix://:pw@", "has a path and no host"),
    ],
)
def test_wrong_urls(url: str, error: str) -> None:
    """A URL that cannot be used is refused when the broker is made; it is not repeated."""
    with pytest.raises(UsageError, match=error) as caught:
        RedisBroker(url)
    assert "pw" not in str(caught.value)


def test_wrong_options() -> None:
    """Prefixes that channels or rights would take apart, and TLS that no one speaks."""
    for prefix in ("", "a{b}", "a*", "a b", "é"):
        with pytest.raises(UsageError, match="the prefix is letters"):
            RedisBroker("redis://h", prefix=prefix)
    context = ssl.create_default_context()
    with pytest.raises(UsageError, match=r"write valkeys\+cluster://"):
        RedisBroker("valkey+cluster://h", tls=context)
    with pytest.raises(UsageError, match="give tls or ssl_ca_certs, not both"):
        RedisBroker("rediss://h?ssl_ca_certs=/x", tls=context)


async def test_databases_and_prefixes_are_apart(redis_server: Server) -> None:
    """Buses of another database or another prefix do not hear each other."""
    seen = Seen()
    near = RedisBroker(redis_server.url, prefix="apart")
    others = [
        RedisBroker(f"{redis_server.url}/1", prefix="apart"),
        RedisBroker(redis_server.url, prefix="apart2"),
    ]
    async with near.connect(seen) as link:
        await link.follow(feeds("~"))
        for other in others:
            async with other.connect(Seen()) as far:
                await far.publish(turn_of((Feed("=a.b"), 1)))
        await link.publish(turn_of((Feed("=a.b"), 2)))
        assert await seen.until(1) == [2]


NAMES: Final = ["BTC/USDT", "^GSPC", "C#", "贵州茅台", "a{1}", "[x]?", "é" * 127, "$5\\r", "*2"]


async def test_every_name_is_a_channel_of_its_own(redis_server: Server) -> None:
    """Names that mean something to Redis or to its protocol mean nothing here."""
    names = [Feed(f"={name}") for name in NAMES]
    seen = Seen()
    async with RedisBroker(redis_server.url, prefix="names").connect(seen) as link:
        for number, name in enumerate(names):
            await link.follow([name])
            await link.publish(turn_of(*[(each, 100 + at) for at, each in enumerate(names)]))
            assert await seen.until(1) == [100 + number]
            await link.unfollow([name])
            seen.items.clear()


async def test_large_messages_and_many_channels(redis_server: Server) -> None:
    """10,000 feeds are followed in one call; a message of 8 MB and small ones keep their order."""
    broker = RedisBroker(redis_server.url, prefix="large")
    seen = Seen()
    many = [Feed(f"=many.c{number}") for number in range(10_000)]
    async with broker.connect(seen) as link:
        await link.follow(many)
        big = Turn("node", 1, 0.0)
        big.add(many[0], bytes(8 << 20) + b"\x01")
        await link.publish(big)
        await link.publish(turn_of((many[-1], 2), (Feed("=many.none"), 3), (many[5000], 4)))
        assert await seen.until(3) == [1, 2, 4]
        await link.unfollow(many[1:])
        await link.publish(turn_of(*[(feed, 5) for feed in many[1:50]], (many[0], 6)))
        assert await seen.until(4) == [1, 2, 4, 6]


async def test_two_tasks_publish_and_follow_side_by_side(redis_server: Server) -> None:
    """What one task follows while another publishes is brought once follow has returned."""
    seen, count = Seen(), 100
    async with (
        RedisBroker(redis_server.url, prefix="side").connect(seen) as near,
        RedisBroker(redis_server.url, prefix="side").connect(Seen()) as far,
    ):

        async def follow() -> None:
            for number in range(count):
                await near.follow([Feed(f"=extra.c{number}")])

        async with create_task_group() as tasks:
            await near.follow(feeds("=a.b"))
            tasks.start_soon(follow)
            for number in range(count):
                await far.publish(turn_of((Feed("=a.b"), number)))
        assert await seen.until(count) == [*range(count)]
        await far.publish(turn_of(*[(Feed(f"=extra.c{number}"), number) for number in range(9)]))
        assert (await seen.until(count + 9))[count:] == [*range(9)]


async def test_a_reader_that_lags_is_cut(start_server: StartServer) -> None:
    """The server ends a link whose messages pile up, and the link says so."""
    server = start_server(
        "redis7", "--client-output-buffer-limit", "pubsub 1mb 0 0", "--repl-backlog-size", "16kb"
    )
    broker = RedisBroker(server.url)
    payload = bytes(1 << 20)

    def flood() -> None:
        with Redis(host="127.0.0.1", port=server.port) as client:
            for _ in range(40):
                client.publish("wsbus:{0}:=a.b", payload)

    async def follow() -> None:
        with fail_after(20):
            async with broker.connect(Seen()) as link:
                await link.follow(feeds("=a.b"))
                flood()  # The event loop stands meanwhile.
                await sleep_forever()

    with pytest.raises(BrokerUnavailable, match="it closed the connection"):
        await follow()
    await works(broker)


async def test_a_bus_that_lags_tells_a_gap(start_server: StartServer) -> None:
    """A bus whose link is cut, since it reads too slowly, follows again; its subscribers know."""
    server = start_server("redis7", "--client-output-buffer-limit", "pubsub 1mb 0 0")
    near, far = [Bus(broker=RedisBroker(server.url)) for _ in range(2)]
    payload = bytes(1 << 20)
    async with near, far, near.subscribe("a.*") as events:
        stream = aiter(events)
        with fail_after(20):
            await far.publish("a.b", 1)
            assert (await anext(stream)).data == 1
            with Redis(host="127.0.0.1", port=server.port) as client:
                for _ in range(40):  # The event loop stands meanwhile.
                    client.publish("wsbus:{0}:~a.", payload)
            while not ((link := near.statistics().broker) and link.is_up and link.gaps):
                await checkpoint()
            await far.publish("a.b", 2)
            event = await anext(stream)
        assert (event.data, event.gap is not None) == (2, True)


async def test_the_links_of_a_cancelled_body_are_closed(start_server: StartServer) -> None:
    """However a body ends, and however far the dial is, no connection is left."""
    server = start_server("redis7")
    broker = RedisBroker(server.url)

    async def dial() -> None:
        async with broker.connect(Seen()) as link:
            await link.follow(feeds("=a"))
            while True:
                await link.publish(turn_of((Feed("=a"), 1), (ALL_NODES, 2)))

    for turns in range(60):  # Turns of the event loop until it is cancelled.
        async with create_task_group() as tasks:
            tasks.start_soon(dial)
            for _ in range(turns):
                await checkpoint()
            tasks.cancel_scope.cancel()
    with pytest.raises(ZeroDivisionError):
        async with broker.connect(Seen()):
            raise ZeroDivisionError
    with Redis(host="127.0.0.1", port=server.port) as client, fail_after(10):
        while len(client.client_list()) > 1:
            await checkpoint()  # The server learns of it soon.


async def test_what_is_no_redis_is_not_taken_for_one() -> None:
    """A server of another protocol is refused in plain words."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(1000)

        broker = RedisBroker(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        async with create_task_group() as tasks:
            tasks.start_soon(to_thread.run_sync, answer)
            with pytest.raises(BrokerUnavailable, match="does not speak the protocol of Redis"):
                await works(broker)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_is_refused(anyio_backend: str) -> None:
    """A link needs asyncio, and says so."""
    with pytest.raises(UsageError, match="asyncio"):
        await stay(RedisBroker("redis://127.0.0.1:1"), lambda: None)
