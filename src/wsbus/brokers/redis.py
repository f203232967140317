"""A broker over Redis or Valkey: each feed is a channel of their publish and subscribe.

What a turn publishes on one feed is one message, on the channel ``<prefix>:{0}:<feed>``. It is
also sent to the feeds around its own (:mod:`wsbus.core.feeds`), so that a pattern with wildcards is
an ordinary subscription of its literal start: ``PSUBSCRIBE`` would cost the server for each pattern
and each publication.

**Once, in order.** All messages of a turn are in one ``MULTI``, and go out in one write. So a
subscriber's connection gets them in order, whichever channels it follows. Copies come only while
what is followed changes from a feed to one around it; the inbox drops them by their numbers.

**Cluster.** Subscriptions of a cluster reach every node, but only one node keeps the order. ``{0}``
is a hash tag: all channels and keys of a prefix belong to one slot, and a link dials the primary
that has it.

**History.** What families keep is in lists beside the channels; scripts number, keep and publish it
in one step (:class:`.HistoryLink`). It needs Redis 6.2 or newer, or Valkey, and a server that does
not evict keys without a time of their own.

redis-py is asyncio only, and so is this broker.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from .._extras import missing_extra
from ..broker import BrokerReport, Link, Receive
from ..core.choices import choice, shown
from ..core.errors import UsageError

if TYPE_CHECKING:
    from ._redis_dial import Address, RedisPlace

__all__ = ["RedisBroker"]

_Kind: TypeAlias = Literal["server", "unix", "sentinel", "cluster"]
_KINDS: Final[Mapping[str | None, _Kind]] = {
    None: "server",
    "sentinel": "sentinel",
    "cluster": "cluster",
}
_PORTS: Final = {"server": 6379, "sentinel": 26379, "cluster": 6379}
_FORMS: Final = {
    "server": "redis://host:port",
    "unix": "unix:///path/of/socket",
    "sentinel": "redis+sentinel://host:port,host:port/service",
    "cluster": "redis+cluster://host:port,host:port",
}
_TLS_OPTIONS: Final = {
    "ssl_ca_certs",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
}
_WORDS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_is_prefix: Final = re.compile(r"[A-Za-z0-9_.:-]+").fullmatch
_is_scheme: Final = re.compile(r"(?:redis|valkey)(s?)(?:\+(sentinel|cluster))?|unix").fullmatch


class RedisBroker:
    """Joins processes through Redis or Valkey; asyncio only.

    It keeps the history of families, on Redis from 6.2 on and on Valkey. What a server has lost, by
    a restart or by the failover to a replica that lacks the end, subscribers learn by a gap.

    Args:
        url: Where the server is, and how to log in; percent-encode what is special in a name or
            password:

            - ``redis://user:password@host:port``; ``rediss://…`` speaks TLS. ``/1`` at the end is
              the number of a database: buses of different databases do not hear each other.
            - ``unix://user:password@/path/of/socket?db=1``.
            - ``redis+sentinel://user:password@host:port,host:port/service``, with the options
              ``db``, ``sentinel_username`` and ``sentinel_password``. Each link asks the sentinels
              for the primary.
            - ``redis+cluster://user:password@host:port,host:port``: some nodes of a cluster.

            ``valkey`` may stand for ``redis``, and ``rediss+sentinel://`` and ``rediss+cluster://``
            speak TLS. TLS takes the options ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``,
            ``ssl_cert_reqs`` (``required`` or ``none``) and ``ssl_check_hostname``, as redis-py
            does.
        prefix: What the names of all channels and keys begin with. Services that share a server
            have different ones.
        tls: How to verify the server, and the client's certificate; for a URL that speaks TLS.
            None: as :func:`ssl.create_default_context` does, and as the options of the URL say.

    Raises:
        UsageError: A URL or an option that cannot be used.
        ModuleNotFoundError: The extra ``redis`` is not installed.
    """

    def __init__(
        self, url: str, *, prefix: str = "wsbus", tls: ssl.SSLContext | None = None
    ) -> None:
        try:
            from ._redis_history import RedisStore  # It needs the extra.
        except ModuleNotFoundError as exc:
            raise missing_extra("RedisBroker", "redis", exc) from None
        if not _is_prefix(prefix):
            raise UsageError(
                f"the prefix is letters, digits and any of - _ . : but not {shown(prefix)}"
            )
        self._place, self._address = _read(url, tls)
        database = self._place.login.database
        self._prefix: Final = prefix
        self._names: Final = f"{prefix}:{{0}}:" if not database else f"{prefix}:{{0}}@{database}:"
        self._store: Final = RedisStore(self._names)

    @property
    def address(self) -> str:
        """The URL without the login and the options."""
        return self._address

    @asynccontextmanager
    async def connect(self, receive: Receive) -> AsyncIterator[Link]:
        """Find the server and dial it; see :meth:`.Broker.connect`.

        Raises:
            BrokerUnavailable: The server cannot be reached, refuses, or the link has failed.
            UsageError: The event loop is not that of asyncio.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError("RedisBroker needs asyncio: redis-py does not run on trio") from None
        from . import _redis

        async with _redis.linked(self._place, self._names, self._store, receive) as link:
            yield link

    async def inspect(self) -> BrokerReport:
        """Say what the server is, and which rights its user lacks.

        Raises:
            BrokerUnavailable: The server cannot be reached, or refuses the login.
        """
        from ._redis_rights import inspect

        return await inspect(self._place, self._names, self._prefix)


def _read(url: str, tls: ssl.SSLContext | None) -> tuple[RedisPlace, str]:
    """Read a URL, and return it without the login and the options, too."""
    from ._redis_dial import Login, RedisPlace, shown_address

    # No error repeats the URL: it may hold a password.
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise UsageError(f"the URL of Redis cannot be read: {exc}") from None
    kind, is_encrypted = _kind(parts.scheme)
    if tls is not None and not is_encrypted:
        raise UsageError(f"tls is for a URL that speaks TLS: write {_encrypted(parts.scheme)}://…")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    userinfo, _, hosts = parts.netloc.rpartition("@")
    path = parts.path.strip("/")
    starts = _starts(kind, hosts, parts.path)
    service, database = _service(kind, path, options)
    context = _context(options, tls) if is_encrypted else None
    user, _, password = userinfo.partition(":")
    login = Login(
        user=unquote(user) or None,
        password=unquote(password) or None,
        database=database,
        tls=context,
    )
    sentinels = Login(tls=context)
    if kind == "sentinel":
        sentinels = Login(
            user=options.pop("sentinel_username", None),
            password=options.pop("sentinel_password", None),
            tls=context,
        )
    _expect_no_more(parts, options)
    address = f"{parts.scheme}://{','.join([shown_address(each) for each in starts])}"
    if path and kind != "unix":
        address += f"/{path}"
    return RedisPlace(
        kind="server" if kind == "unix" else kind,
        starts=starts,
        login=login,
        service=service,
        sentinels=sentinels,
    ), address


def _kind(scheme: str) -> tuple[_Kind, bool]:
    """Return what a scheme stands for, and whether it speaks TLS."""
    found = _is_scheme(scheme)
    if found is None:
        raise UsageError(
            f"RedisBroker has no URL with {shown(scheme)}; write one of "
            + ", ".join([*_FORMS.values(), "rediss://host:port (TLS)"])
        )
    if scheme == "unix":
        return "unix", False
    return _KINDS[found[2]], bool(found[1])


def _starts(kind: _Kind, hosts: str, path: str) -> tuple[Address, ...]:
    """Return the servers to ask."""
    if kind == "unix":
        if hosts or len(path) < 2:
            raise UsageError(f"the URL of a socket has a path and no host: write {_FORMS[kind]}")
        return (unquote(path),)
    starts = tuple([_address(text, kind) for text in hosts.split(",")])
    if kind == "server" and len(starts) > 1:
        raise UsageError(
            "a URL with several hosts is one of sentinels or of a cluster: write "
            f"{_FORMS['sentinel']} or {_FORMS['cluster']}"
        )
    return starts


def _service(kind: _Kind, path: str, options: dict[str, str]) -> tuple[str, int]:
    """Return the name of the primary, for sentinels, and the number of the database."""
    service = ""
    if kind == "sentinel":
        service = unquote(path)
        if not service or "/" in service:
            raise UsageError(
                f"the URL of sentinels ends with the name of the primary: write {_FORMS[kind]}"
            )
    in_path = path if kind in {"server", "cluster"} else ""
    database = in_path or options.pop("db", "0")
    if not (database.isascii() and database.isdecimal()):
        raise UsageError(f"the number of a database is digits, not {shown(database)}")
    if kind == "cluster" and int(database):
        raise UsageError(f"a cluster has database 0 only: write {_FORMS[kind]}")
    return service, int(database)


def _expect_no_more(parts: SplitResult, options: Mapping[str, str]) -> None:
    """Refuse what no one reads."""
    if options or parts.fragment:
        wrong = ", ".join(sorted(options)) or "what follows #"
        hint = ""
        if _TLS_OPTIONS & options.keys():
            hint = f"; TLS needs {_encrypted(parts.scheme)}://"
        raise UsageError(
            f"RedisBroker knows no {wrong[:80]} in a URL that begins with {parts.scheme}://{hint}"
        )


def _address(text: str, kind: _Kind) -> tuple[str, int]:
    """Read a host and a port."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise UsageError(f"the URL of Redis cannot be read: {exc}") from None
    if not host:
        raise UsageError(f"the URL of Redis names no host: write {_FORMS[kind]}")
    return host, _PORTS[kind] if port is None else port


def _encrypted(scheme: str) -> str:
    first, plus, rest = scheme.partition("+")
    return "rediss" if first == "unix" else f"{first}s{plus}{rest}"


def _context(options: dict[str, str], tls: ssl.SSLContext | None) -> ssl.SSLContext:
    """Take the options of TLS, and return how to verify the server."""
    given = {name: options.pop(name) for name in _TLS_OPTIONS & options.keys()}
    if tls is not None:
        if given:
            raise UsageError(f"give tls or {', '.join(sorted(given))}, not both")
        return tls
    try:
        context = ssl.create_default_context(cafile=given.get("ssl_ca_certs"))
        if "ssl_certfile" in given or "ssl_keyfile" in given:
            context.load_cert_chain(given.get("ssl_certfile", ""), given.get("ssl_keyfile"))
    except OSError as exc:
        raise UsageError(f"the files for TLS cannot be used: {exc}") from None
    is_checked = choice(
        _WORDS, given.get("ssl_check_hostname", "true").lower(), "ssl_check_hostname"
    )
    verify = choice(("required", "none"), given.get("ssl_cert_reqs", "required"), "ssl_cert_reqs")
    context.check_hostname = _WORDS[is_checked] and verify == "required"
    if verify == "none":
        context.verify_mode = ssl.CERT_NONE
    return context
