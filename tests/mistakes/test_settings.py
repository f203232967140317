"""Mistakes in setting up are refused where they are made, with what to write instead."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import Depends, Query, Request, WebSocket
from pydantic import BaseModel

from tests.mistakes.rows import Row, check, table
from wsbus import (
    JWT,
    Bus,
    Connection,
    Grants,
    Handshake,
    HeartbeatPolicy,
    Identity,
    Limits,
    UsageError,
    channel,
)
from wsbus.client import Retry, connect
from wsbus.core.errors import InvalidChannel
from wsbus.protocols import WireProtocol, register

SECRET = "change me: at least 32 bytes long"


def endpoint(**settings: Any) -> Any:
    """Make an endpoint."""
    return Bus().endpoint(**settings)


def twice() -> None:
    """Declare two families of the same channels."""
    bus = Bus()
    bus.family("a.*.c")
    bus.family("a.+.c")


def command(function: Any, *, name: Any = "go", **settings: Any) -> Any:
    """Register a command."""
    return Bus().command(name, **settings)(function)


# --- what people write ----------------------------------------------------------------------------


def plain() -> None: ...


async def waits(handshake: Handshake) -> str:
    return handshake.path


def parts() -> Any:
    yield 1


async def async_parts(connection: Connection) -> Any:
    yield connection


def only_token(token: str) -> None: ...


def by_position(amount: int, /) -> None: ...


def unknown(amount: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def socket(websocket: WebSocket) -> None: ...


def request(request: Request) -> None: ...


def depends(db: object = Depends(plain)) -> None: ...


def depends_annotated(db: Annotated[object, Depends(plain)]) -> None: ...


def query(page: int = Query(1)) -> None: ...


def wants_bus(bus: Bus) -> None: ...


def many(*names: str) -> None: ...


def rest(**fields: int) -> None: ...


def identities(who: list[Identity]) -> None: ...


class Dialect(WireProtocol):
    name = "mine"


class Thing:
    def act(self) -> None: ...


class Order(BaseModel):
    amount: int


BUS = [
    Row("Bus(enc_hook=text)", lambda: Bus(enc_hook="str"), ("enc_hook", "function", "'str'")),  # type: ignore[arg-type]
    Row("Bus(clock=number)", lambda: Bus(clock=5), ("clock", "function")),  # type: ignore[arg-type]
    Row("Bus(authorize=True)", lambda: Bus(authorize=True), ("authorize", "function", "bool")),  # type: ignore[arg-type]
    Row(
        "Bus(authorize=a function of one argument)",
        lambda: Bus(authorize=only_token),  # type: ignore[arg-type]
        ("authorize", "identity, action, name", "only_token"),
    ),
    Row(
        "Bus(authorize=a generator)",
        lambda: Bus(authorize=async_parts),  # type: ignore[arg-type]
        ("authorize", "yield"),
    ),
    Row(
        "Bus(flush_interval=text)",
        lambda: Bus(flush_interval="0.01"),  # type: ignore[arg-type]
        ("flush_interval", "0 to 1 seconds", "'0.01'"),
    ),
    Row("Bus(flush_interval=milliseconds)", lambda: Bus(flush_interval=50), ("1 seconds", "50")),
    Row("Bus(flush_interval=nan)", lambda: Bus(flush_interval=float("nan")), ("flush_interval",)),
    Row(
        "on_connect(a hook without a parameter)",
        lambda: Bus().on_connect(plain),  # type: ignore[type-var]
        ("on_connect", "plain(connection)", "does not take"),
    ),
    Row(
        "on_connect(a hook like Starlette's)",
        lambda: Bus().on_connect(lambda websocket, client: None),  # type: ignore[type-var]
        ("on_connect", "connection"),
    ),
    Row(
        "on_disconnect(a class)",
        lambda: Bus().on_disconnect(Thing),  # type: ignore[type-var]
        ("on_disconnect", "class Thing", "object made of it"),
    ),
    Row("on_connect(None)", lambda: Bus().on_connect(None), ("on_connect", "None")),  # type: ignore[type-var]
    Row(
        "on_connect(a lifespan)",
        lambda: Bus().on_connect(async_parts),
        ("on_connect", "yield"),
    ),
    Row(
        "on_connect with parentheses",
        lambda: Bus().on_connect(),  # type: ignore[call-arg]
        ("on_connect()", "hook"),
        TypeError,
    ),
    Row("lifespan=bus", lambda: Bus()(object()), ("lifespan=lifespan(bus)",)),
    Row(
        "subscribe(two patterns)",
        lambda: Bus().subscribe("a", "b"),  # type: ignore[call-arg, arg-type]
        (".subscribe()", "positional"),
        TypeError,
    ),
    Row("subscribe(a list)", lambda: Bus().subscribe(["a"]), ("text", "list"), InvalidChannel),  # type: ignore[arg-type]
    Row("subscribe(empty segment)", lambda: Bus().subscribe("a..b"), ("'a..b'",), InvalidChannel),
    Row("subscribe(white space)", lambda: Bus().subscribe("a b"), ("'a b'",), InvalidChannel),
    Row("subscribe(half a wildcard)", lambda: Bus().subscribe("a.b*"), ("'a.b*'", "segment")),
    Row("subscribe(MQTT)", lambda: Bus().subscribe("a.#"), ("'a.#'", "`*`")),
    Row("subscribe(NATS)", lambda: Bus().subscribe("a.>"), ("'a.>'", "`*`")),
    Row("family(overflow typo)", lambda: Bus().family("a", overflow="conflat"), ("`conflate`",)),
    Row("family(half a wildcard)", lambda: Bus().family("a.b*"), ("'a.b*'", "segment")),
    Row("family(two patterns)", lambda: Bus().family("a", "b"), ("positional",), TypeError),  # type: ignore[call-arg]
    Row("family(declared twice)", twice, ("'a.*.c'", "'a.+.c'", "declare one")),
    Row("subscribe(overflow typo)", lambda: Bus().subscribe("a", overflow="drop"), ("`close`",)),
    Row(
        "subscribe(max_messages=text)",
        lambda: Bus().subscribe("a", max_messages="10"),  # type: ignore[arg-type]
        ("bounds", "whole numbers", "'10'"),
    ),
    Row("subscribe(max_messages=0)", lambda: Bus().subscribe("a", max_messages=0), ("above 0",)),
    Row("channel(a number)", lambda: channel("a", 5), ("text", "str(number)", "int")),  # type: ignore[arg-type]
    Row("channel(None)", lambda: channel("a", None), ("text", "not None")),  # type: ignore[arg-type]
]

ENDPOINT = [
    Row("protocols=text", lambda: endpoint(protocols="wsbus.v1"), ("protocols=['wsbus.v1']",)),
    Row("protocols=[]", lambda: endpoint(protocols=[]), ("at least one protocol",)),
    Row("protocols=number", lambda: endpoint(protocols=5), ("at least one protocol",)),
    Row("protocols=[unknown]", lambda: endpoint(protocols=["json"]), ("'json'", "wsbus.v1")),
    Row("protocols=[class]", lambda: endpoint(protocols=[Dialect]), ("Dialect()", "parentheses")),
    Row("protocols=[number]", lambda: endpoint(protocols=[5]), ("protocol", "WireProtocol", "5")),
    Row(
        "protocols=[twice]",
        lambda: endpoint(protocols=["wsbus.v1", "wsbus.v1"]),
        ("two protocols", "'wsbus.v1'"),
    ),
    Row("register(object)", lambda: register(object()), ("WireProtocol", "object")),  # type: ignore[arg-type]
    Row("joins=text", lambda: endpoint(joins="no"), ("joins", "True or False", "'no'")),
    Row("authenticator=text", lambda: endpoint(authenticator=SECRET), ("authenticator", "str")),
    Row("authenticator=class", lambda: endpoint(authenticator=JWT), ("class JWT", "object")),
    Row(
        "authenticator=one argument",
        lambda: endpoint(authenticator=only_token),
        ("authenticator", "token, handshake", "only_token"),
    ),
    Row(
        "authenticator=a dependency of FastAPI",
        lambda: endpoint(authenticator=Depends(plain)),
        ("authenticator", "function", "Depends"),
    ),
    Row("anonymous=dict", lambda: endpoint(anonymous={"subscribe": ["*"]}), ("Grants",)),
    Row("anonymous={}", lambda: endpoint(anonymous={}), ("anonymous", "Grants")),
    Row("anonymous=False", lambda: endpoint(anonymous=False), ("anonymous", "Grants", "False")),
    Row(
        "anonymous= and authenticator=",
        lambda: endpoint(anonymous=Grants.open(), authenticator=JWT(SECRET)),
        ("anonymous=", "authenticator", "leave one"),
    ),
    Row("query_token=True", lambda: endpoint(query_token=True), ('query_token="token"',)),
    Row("query_token=empty", lambda: endpoint(query_token=""), ('query_token="token"',)),
    Row("query_token= alone", lambda: endpoint(query_token="token"), ("authenticator",)),
    Row("origins=text", lambda: endpoint(origins="https://a.example"), ("['https://a.example']",)),
    Row("origins=None", lambda: endpoint(origins=None), ("origins", "'*'")),
    Row("origins=[host]", lambda: endpoint(origins=["a.example"]), ("'https://a.example'",)),
    Row(
        "origins=[dev]", lambda: endpoint(origins=["localhost:3000"]), ("'http://localhost:3000'",)
    ),
    Row("origins=[wildcard]", lambda: endpoint(origins=["https://*.a.example"]), ("wildcards",)),
    Row("origins=[path]", lambda: endpoint(origins=["https://a/app"]), ("path", "'https://a'")),
    Row("origins=[wss]", lambda: endpoint(origins=["wss://a"]), ("'https://a'",)),
    Row("origins=[number]", lambda: endpoint(origins=[5]), ("origin", "5")),
    Row("origins=[* and more]", lambda: endpoint(origins=["*", "https://a"]), ("origins='*'",)),
    Row("limits=dict", lambda: endpoint(limits={}), ("limits", "Limits(…)", "dict")),
    Row("heartbeat=number", lambda: endpoint(heartbeat=30), ("heartbeat", "HeartbeatPolicy")),
    Row("heartbeat=False", lambda: endpoint(heartbeat=False), ("heartbeat", "HeartbeatPolicy")),
    Row("heartbeat=class", lambda: endpoint(heartbeat=HeartbeatPolicy), ("class",)),
    Row("overflow=typo", lambda: endpoint(overflow="drop"), ("overflow", "`drop_oldest`")),
    Row("broadcast=pattern", lambda: endpoint(broadcast="a.*"), ("'a.*'", "wildcards")),
    Row("broadcast=True", lambda: endpoint(broadcast=True), ("text", "bool")),
    Row("name_connection=async", lambda: endpoint(name_connection=waits), ("no async def",)),
    Row("name_connection=text", lambda: endpoint(name_connection="id"), ("name_connection",)),
    Row("name_connection=no argument", lambda: endpoint(name_connection=plain), ("handshake",)),
    Row("on_duplicate=typo", lambda: endpoint(on_duplicate="kick"), ("`replace`", "'kick'")),
    Row("client_address=async", lambda: endpoint(client_address=waits), ("client_address",)),
    Row("trusted_proxies=text", lambda: endpoint(trusted_proxies="10.1.2.3"), ("['10.1.2.3']",)),
    Row("trusted_proxies=name", lambda: endpoint(trusted_proxies=["nginx"]), ("'nginx'", "unix")),
    Row("trusted_proxies=None", lambda: endpoint(trusted_proxies=None), ("collection",)),
    Row(
        "an unknown setting",
        lambda: endpoint(auth=JWT(SECRET)),
        ("endpoint()", "'auth'"),
        TypeError,
    ),
    Row("max_connections=text", lambda: Limits(max_connections="5"), ("max_connections", "'5'")),  # type: ignore[arg-type]
    Row("max_connections=-1", lambda: Limits(max_connections=-1), ("max_connections", "-1")),
    Row("max_connections=True", lambda: Limits(max_connections=True), ("max_connections", "True")),
    Row("max_message_bytes=0", lambda: Limits(max_message_bytes=0), ("max_message_bytes", "0")),
    Row("queue_messages=None", lambda: Limits(queue_messages=None), ("whole number", "None")),  # type: ignore[arg-type]
    Row("queue_messages=1.5", lambda: Limits(queue_messages=1.5), ("whole number", "1.5")),  # type: ignore[arg-type]
    Row("command_timeout=text", lambda: Limits(command_timeout="9"), ("command_timeout", "'9'")),  # type: ignore[arg-type]
    Row("a rate=text", lambda: Limits(messages_per_second="9"), ("messages_per_second", "None")),  # type: ignore[arg-type]
    Row("a rate=inf", lambda: Limits(commands_per_second=float("inf")), ("or None", "inf")),
    Row("interval above timeout", lambda: HeartbeatPolicy(interval=60, timeout=30), ("60", "30")),
    Row("interval=text", lambda: HeartbeatPolicy(interval="30"), ("interval", "'30'")),  # type: ignore[arg-type]
    Row("interval=-1", lambda: HeartbeatPolicy(interval=-1), ("interval", "-1")),
    Row("timeout=True", lambda: HeartbeatPolicy(timeout=True), ("timeout", "True")),
]

AUTH = [
    Row("JWT(short)", lambda: JWT("short"), ("5 bytes", "32", "token_hex(32)")),
    Row("JWT(an unset variable)", lambda: JWT(os.environ.get("NO_SUCH")), ("key", "None")),  # type: ignore[arg-type]
    Row("JWT(empty)", lambda: JWT(""), ("key", "HS256", "empty")),
    Row("JWT(path)", lambda: JWT("/etc/ssl/key.pem"), ("path of a file", "read the file")),
    Row("JWT({})", lambda: JWT({}), ("dict", "`kid`")),
    Row("JWT(one JWK)", lambda: JWT({"kty": "oct", "k": "AA"}), ('{"keys": [jwk]}',)),
    Row("JWT(none)", lambda: JWT(SECRET, algorithms=["none"]), ("'none'", "HS256")),
    Row("JWT(typo)", lambda: JWT(SECRET, algorithms=["HS255"]), ("'HS255'", "HS256")),
    Row("JWT(algorithms=text)", lambda: JWT(SECRET, algorithms="HS256"), ('["HS256"]',)),
    Row("JWT(both kinds)", lambda: JWT(SECRET, algorithms=["HS256", "RS256"]), ("one kind",)),
    Row("JWT(RS256, secret)", lambda: JWT(SECRET, algorithms=["RS256"]), ("key", "RS256")),
    Row("JWT(leeway=text)", lambda: JWT(SECRET, leeway="5"), ("leeway", "seconds")),  # type: ignore[arg-type]
    Row("JWT(audience=number)", lambda: JWT(SECRET, audience=5), ("audience",)),  # type: ignore[arg-type]
    Row("JWT(grants=Grants)", lambda: JWT(SECRET, grants=Grants()), ("grants", "function")),  # type: ignore[arg-type]
    Row("Grants(texts)", lambda: Grants(subscribe=["a.*"]), ('Grants.of(subscribe=["a.*"])',)),  # type: ignore[arg-type]
    Row("Grants.of(text)", lambda: Grants.of(subscribe="a.*"), ("'a.*'", '["a.*"]')),
    Row("Grants.of(None)", lambda: Grants.of(subscribe=None), ('["a.*"]', "None")),  # type: ignore[arg-type]
    Row("Grants.of(number)", lambda: Grants.of(subscribe=5), ('["a.*"]', "int")),  # type: ignore[arg-type]
    Row("Grants.of(numbers)", lambda: Grants.of(publish=[5]), ("text", "int")),  # type: ignore[list-item]
    Row("Grants.of(no pattern)", lambda: Grants.of(publish=["a..b"]), ("'a..b'",)),
    Row("Grants.of(admin=1)", lambda: Grants.of(admin=1), ("admin", "True or False")),  # type: ignore[arg-type]
    Row("Identity(number)", lambda: Identity(5, Grants()), ("subject", "str(id)")),  # type: ignore[arg-type]
    Row("Identity(None)", lambda: Identity(None, Grants()), ("subject", "text")),  # type: ignore[arg-type]
    Row("Identity(empty)", lambda: Identity("", Grants()), ("subject", "text")),
    Row("Identity(dict)", lambda: Identity("u", {"a": 1}), ("grants", "Grants.of(…)")),  # type: ignore[arg-type]
    Row("Identity(no grants)", lambda: Identity("u"), ("'grants'",), TypeError),  # type: ignore[call-arg]
    Row(
        "Identity(expires_at=datetime)",
        lambda: Identity("u", Grants(), expires_at=datetime(2030, 1, 1)),  # type: ignore[arg-type]  # noqa: DTZ001
        ("expires_at", "timestamp()"),
    ),
    Row("Identity(claims=list)", lambda: Identity("u", Grants(), claims=[1]), ("claims",)),  # type: ignore[arg-type]
]

COMMANDS = [
    Row("@command without parentheses", lambda: Bus().command(plain), ('command("plain")',)),  # type: ignore[arg-type]
    Row("@command()", lambda: Bus().command(), ("'action'",), TypeError),  # type: ignore[call-arg]
    Row("an empty name", lambda: command(plain, name=""), ("name of a command",)),
    Row("a name with a newline", lambda: command(plain, name="a\n"), ("printable",)),
    Row("a pattern as name", lambda: command(plain, name="grid.*"), ("'grid.*'", "pattern")),
    Row("a class", lambda: command(Thing), ("'go'", "class", "def or async def")),
    Row("a text", lambda: command("plain"), ("'go'", "str", "function")),
    Row("a generator", lambda: command(parts), ("'go'", "generator", "Publish the parts")),
    Row("an async generator", lambda: command(async_parts), ("'go'", "generator")),
    Row("threaded async", lambda: command(waits, threaded=True), ("'go'", "async", "threaded")),
    Row("threaded=text", lambda: command(plain, threaded="no"), ("threaded", "True or False")),
    Row("timeout=text", lambda: command(plain, timeout="5"), ("'go'", "timeout", "'5'")),
    Row("timeout=0", lambda: command(plain, timeout=0), ("timeout", "above 0")),
    Row("*args", lambda: command(many), ("'names'", "by name")),
    Row("**kwargs", lambda: command(rest), ("'fields'", "by name")),
    Row("positional only", lambda: command(by_position), ("'amount'", "by name")),
    Row("an unknown type", lambda: command(unknown), ("Nowhere", "TYPE_CHECKING")),
    Row("an unbound method", lambda: command(Thing.act), ("method", "thing.method")),
    Row("a WebSocket", lambda: command(socket), ("'websocket'", "WebSocket", "`Connection`")),
    Row("a Request", lambda: command(request), ("'request'", "Request", "`Handshake`")),
    Row("Depends as default", lambda: command(depends), ("'db'", "Depends", "fastapi")),
    Row("Depends annotated", lambda: command(depends_annotated), ("'db'", "Depends")),
    Row("Query", lambda: command(query), ("'page'", "Query", "fastapi")),
    Row("the bus as parameter", lambda: command(wants_bus), ("'bus'", "Bus", "msgspec")),
    Row("identities of a client", lambda: command(identities), ("'who'", "Identity")),
    Row("a function in C", lambda: command(max), ("'go'", "parameters", "def")),
    Row(
        "twice",
        lambda: (bus := Bus(), bus.command("go")(plain), bus.command("go")(plain)),
        ("'go'", "registered already"),
    ),
]

CLIENT = [
    Row("connect(None)", lambda: connect(None), ("address", "ws://", "None")),  # type: ignore[arg-type]
    Row("connect(number)", lambda: connect(8000), ("address", "ws://", "8000")),  # type: ignore[arg-type]
    Row("connect(http://)", lambda: connect("http://h/ws"), ("http://h/ws", "ws://")),
    Row("connect(https://)", lambda: connect("https://h/ws"), ("wss://",)),
    Row("connect(no scheme)", lambda: connect("h:80/ws"), ("h:80/ws", "ws://")),
    Row("token=number", lambda: connect("ws://h", token=5), ("token", "function", "5")),  # type: ignore[arg-type]
    Row("token_in=body", lambda: connect("ws://h", token_in="body"), ("`message`", "`query`")),  # type: ignore[arg-type]
    Row("protocol=typo", lambda: connect("ws://h", protocol="v1"), ("v1", "wsbus.v1")),
    Row("connect_timeout=text", lambda: connect("ws://h", connect_timeout="5"), ("'5'",)),  # type: ignore[arg-type]
    Row("ping_interval=text", lambda: connect("ws://h", ping_interval="5"), ("ping_interval",)),  # type: ignore[arg-type]
    Row("ping_timeout=0", lambda: connect("ws://h", ping_timeout=0), ("ping_timeout", "0")),
    Row("Retry(base=text)", lambda: Retry(base="1"), ("base", "'1'")),  # type: ignore[arg-type]
    Row("Retry(attempts=-1)", lambda: Retry(attempts=-1), ("attempts", "-1")),
    Row("a header with a newline", lambda: connect("ws://h", headers={"a": "\n"}), ("header",)),
]


@table([*BUS, *ENDPOINT, *AUTH, *COMMANDS, *CLIENT])
def test_a_mistake_in_setting_up_is_refused_in_words(row: Row) -> None:
    """The error names the thing and the cure; nothing is accepted that has no effect."""
    with pytest.raises(row.error) as refused:
        row.do()
    check(row, str(refused.value))


def test_a_coroutine_for_a_function_is_told_apart() -> None:
    """Who calls an async function where the function itself is wanted reads what to leave out."""
    called = waits(Handshake("/"))
    with pytest.raises(UsageError, match="without calling it"):
        Bus().on_connect(called)  # type: ignore[type-var, unused-coroutine]
    called.close()


@pytest.mark.parametrize(
    "good",
    [
        lambda token, handshake: None,
        lambda *given: None,
        lambda token, handshake, extra=1: None,
        partial(lambda extra, token, handshake: None, 1),
        JWT(SECRET),
    ],
    ids=["two", "any", "default", "partial", "object"],
)
def test_what_can_be_called_is_taken(good: Any) -> None:
    """The check of arguments refuses nothing that works."""
    endpoint(authenticator=good)


def test_a_refused_endpoint_leaves_nothing() -> None:
    """Its broadcast channel is none of the bus's."""
    bus = Bus()
    with pytest.raises(UsageError):
        bus.endpoint(broadcast="all", overflow="typo")
    endpoints = bus.endpoint()

    async def broadcast() -> None:
        async with bus:
            await bus.broadcast(1)

    with pytest.raises(UsageError, match="no endpoint has a broadcast channel"):
        asyncio.run(broadcast())
    assert endpoints.broadcast is None
