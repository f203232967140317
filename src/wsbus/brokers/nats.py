"""A broker over NATS: each channel is a subject, and NATS itself knows who wants it.

A turn's publications on one channel are one message on the subject of that channel,
``<prefix>.c.<channel>``. A feed of a prefix is a wildcard of NATS: ``~a.b.`` is followed as
``<prefix>.c.a.b.>``. What concerns nodes goes to ``<prefix>.n.all``.

**Once.** NATS delivers a message once for each subscription that matches. What a node follows is an
antichain (:class:`.Cover`), so that is once; only while a feed takes over from narrower ones may
two bring the same, and the inbox drops the second by its number.

**Order.** A link is one connection. A server reads what a connection publishes in order, and for
each message it writes to all matching subscriptions of a receiver before it reads the next one. So
what one publisher sends reaches a receiver's connection in order, whichever subscriptions bring it:
when an old and a new one overlap, the first copies are in order, and the second copies are dropped.
Here messages are passed on as they are read, whatever their subscription, without a queue or a task
for each, so that the order stays. Between the servers of a cluster an account uses one route, which
keeps the order as well.

**Confirmed.** A server answers PING after it has read what came before on that connection. So a
PING behind the messages of a turn confirms all of them, and a PING behind subscriptions that they
are known.

**Kept.** Channels with history need nats-server 2.11 or newer with JetStream; see
``wsbus.brokers._nats_history``.

nats-py is asyncio only, and so is this broker.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from os import PathLike
from pathlib import Path
from random import sample
from ssl import SSLContext
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, unquote, urlsplit

from .._extras import missing_extra
from ..broker import BrokerReport, Link, Receive
from ..core.errors import UsageError
from ..core.feeds import Feed

if TYPE_CHECKING:
    from ._nats import NatsServer

__all__ = ["NatsBroker"]

_SCHEMES: Final = ("nats", "tls")
_PORT: Final = 4222
_is_prefix: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*").fullmatch


class NatsBroker:
    """Joins processes through NATS servers; asyncio only.

    Families with history need nats-server 2.11 or newer that runs with JetStream. On others a bus
    without such families runs, and one that has them does not start.

    Args:
        url: ``nats://host:port``, or ``tls://…`` where the server must speak TLS; with
            ``user:password@`` or ``token@`` before the host if it asks for that, and in
            percent-encoding where these hold ``@``, ``:``, ``/``, ``,`` or ``%``. The servers of a
            cluster as a sequence, or in one text with commas. A server without a user takes the
            user of the one before it.
        prefix: The first tokens of every subject. Services that share a server have different ones.
        tls: How to verify the server, and the client's certificate; with it a server must speak
            TLS, whatever the URL says. None: as :func:`ssl.create_default_context` does.
        credentials: The path of a ``.creds`` file, with a JWT and a seed.
        nkey_seed: The path of a file with the seed of an nkey.

    Raises:
        UsageError: A URL or an option that cannot be used.
        ModuleNotFoundError: The extra ``nats`` is not installed.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        prefix: str = "wsbus",
        tls: SSLContext | None = None,
        credentials: str | PathLike[str] | None = None,
        nkey_seed: str | PathLike[str] | None = None,
    ) -> None:
        try:
            from . import _nats  # it needs the extra
        except ModuleNotFoundError as exc:
            raise missing_extra("NatsBroker", "nats", exc) from None
        if not _is_prefix(prefix):
            raise UsageError(
                "the prefix is one or more words of letters, digits, - and _, joined by dots, "
                f"not {prefix!r}"
            )
        if credentials is not None and nkey_seed is not None:
            raise UsageError("give credentials or nkey_seed, not both")
        self._prefix: Final = prefix
        self._servers: Final = [
            _nats.NatsServer(
                host=_netloc(parts),
                user=user,
                password=password,
                must_encrypt=tls is not None or parts.scheme == "tls",
                tls=tls,
                credentials=_existing("credentials", credentials),
                nkey_seed=_existing("nkey_seed", nkey_seed),
            )
            for parts, user, password in _servers(url)
        ]

    @property
    def address(self) -> str:
        """The servers, such as ``nats://a:4222,b:4222``."""
        scheme = "tls" if self._servers[0].must_encrypt else "nats"
        return f"{scheme}://" + ",".join([server.host for server in self._servers])

    @asynccontextmanager
    async def connect(self, receive: Receive) -> AsyncIterator[Link]:
        """Dial one of the servers, in a random order; see :meth:`.Broker.connect`.

        Raises:
            BrokerUnavailable: No server can be reached, or the link has failed.
            UsageError: The event loop is not that of asyncio.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError("NatsBroker needs asyncio: nats-py does not run on trio") from None
        from . import _nats

        servers: list[NatsServer] = sample(self._servers, len(self._servers))
        async with _nats.linked(servers, receive, self._subject, self._prefix) as link:
            yield link

    async def inspect(self) -> BrokerReport:
        """Say what the server is; rights show only when a link publishes and follows.

        Raises:
            BrokerUnavailable: No server can be reached, or they refuse the login.
        """
        from . import _nats

        version = await _nats.version_of(self._servers)
        return BrokerReport(server=f"NATS {version}")

    def _subject(self, feed: Feed) -> str:
        """Return the subject of a feed, or the wildcard for it."""
        return subject_of(feed, self._prefix)


def subject_of(feed: Feed, prefix: str) -> str:
    """Return the subject of a feed, or the wildcard for it.

    Different feeds have different subjects. A channel may hold ``>`` within a segment, which
    clients of NATS refuse: it is spelt ``%3E``, and so ``%`` is ``%25``.
    """
    kind, name = feed[0], feed[1:]
    if kind == "!":
        return f"{prefix}.n.{name}"
    if "%" in name or ">" in name:
        name = name.replace("%", "%25").replace(">", "%3E")
    return f"{prefix}.c.{name}" if kind == "=" else f"{prefix}.c.{name}>"


def _servers(url: str | Sequence[str]) -> list[tuple[SplitResult, str | None, str | None]]:
    """Read URLs as servers with a user, or token, and a password."""
    texts = url.split(",") if isinstance(url, str) else list(url)
    if not texts:
        raise UsageError("NatsBroker needs the URL of a server, such as nats://localhost:4222")
    servers = []
    scheme, user, password = "", None, None
    for text in texts:
        # The text is not repeated: it may hold a password.
        full = text.strip() if "://" in text or not scheme else f"{scheme}://{text.strip()}"
        try:
            parts = urlsplit(full)
            parts.port  # noqa: B018  # it is checked when it is read
        except ValueError as exc:
            raise UsageError(f"the URL of a NATS server cannot be read: {exc}") from None
        if parts.scheme not in _SCHEMES:
            raise UsageError(
                "the URL of a NATS server begins with nats:// or tls://, "
                f"not {parts.scheme or 'a host'!r}"
            )
        if parts.hostname is None:
            raise UsageError("the URL of a NATS server names no host")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise UsageError(
                f"the URL of the NATS server {parts.hostname} has a path or options; "
                "options are arguments of NatsBroker"
            )
        if scheme and scheme != parts.scheme:
            raise UsageError("the URLs of NATS servers are all nats:// or all tls://")
        scheme = parts.scheme
        if parts.username:
            user = unquote(parts.username)
            password = None if parts.password is None else unquote(parts.password)
        servers.append((parts, user, password))
    return servers


def _netloc(parts: SplitResult) -> str:
    host = parts.hostname or ""
    return f"[{host}]:{parts.port or _PORT}" if ":" in host else f"{host}:{parts.port or _PORT}"


def _existing(what: str, path: str | PathLike[str] | None) -> Path | None:
    """Check that a file with secrets is there, and that it can be used."""
    if path is None:
        return None
    try:
        import nkeys  # noqa: F401  # of the extra of nats-py
    except ModuleNotFoundError:
        raise UsageError(f"{what} needs nkeys: pip install 'nats-py[nkeys]'") from None
    if not Path(path).is_file():
        raise UsageError(f"{what} must be the path of a file; there is none at {path}")
    return Path(path)
