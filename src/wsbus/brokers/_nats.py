"""A link over nats-py; what nats-py is used for, and what is done around it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import SSLContext, SSLError
from typing import Any, Final

import msgspec
from anyio import CancelScope, fail_after, move_on_after
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import AuthorizationError, Error, StaleConnectionError, UnexpectedEOF

from ..broker import DIAL_SECONDS, Link, Receive
from ..core.envelope import Turn
from ..core.errors import BrokerUnavailable
from ..core.feeds import Feed

__all__ = ["Dial", "linked"]

_PING_SECONDS: Final = 1
"""Seconds between two pings of nats-py. With two of them without an answer, the link has failed."""

_CLOSE_SECONDS: Final = 1.0
_PING: Final = b"PING\r\n"


class Dial(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach one server."""

    host: str
    """With its port."""
    user: str | None
    """Without a password it is a token."""
    password: str | None
    must_encrypt: bool
    tls: SSLContext | None
    credentials: Path | None
    nkey_seed: Path | None


@asynccontextmanager
async def linked(
    dials: Sequence[Dial], receive: Receive, subject_of: Callable[[Feed], str]
) -> AsyncIterator[Link]:
    """Dial the servers until one answers, and yield a link to it, until that fails.

    Raises:
        BrokerUnavailable: None answers, or the link has failed.
    """
    client = await _dial(dials)
    try:
        with CancelScope() as scope:
            client.when_lost(scope.cancel)
            yield _NatsLink(client, receive, subject_of)
        if client.failure is not None:
            raise BrokerUnavailable(client.failure)
    finally:
        await client.end()


async def _dial(dials: Sequence[Dial]) -> _NatsClient:
    reasons = []
    for dial in dials:
        client = _NatsClient(dial)
        try:
            with fail_after(DIAL_SECONDS / len(dials)):
                await client.dial()
        except TimeoutError:
            reasons.append(f"{dial.host} did not answer in time")
        except (OSError, Error, BrokerUnavailable) as exc:
            reasons.append(f"{dial.host}: {_reason(exc)}")
        else:
            return client
        finally:
            if not client.is_connected:
                await client.end()
    raise BrokerUnavailable("; ".join(reasons))


class _NatsClient(Client):
    """One connection of nats-py: it ends at the first failure, and says why."""

    def __init__(self, dial: Dial) -> None:
        super().__init__()
        self._dial: Final = dial
        self._is_encrypted = False
        self._has_ended: Final = asyncio.Event()
        self._on_lost: Callable[[], None] | None = None
        self.failure: str | None = None
        """Why it has ended; None: it has not, or it was asked to."""

    @property
    def ssl_context(self) -> SSLContext:
        """nats-py asks for it when it begins to encrypt."""
        self._is_encrypted = True
        return super().ssl_context

    async def dial(self) -> None:
        dial = self._dial

        def say(secret: str) -> Callable[[], str]:
            # Called after the server's greeting: nats-py goes on in clear text where that does
            # not ask for TLS.
            def tell() -> str:
                self._check_encryption()
                return secret

            return tell

        options: dict[str, Any] = {}
        if dial.password is not None:
            options = {"user": say(dial.user or ""), "password": say(dial.password)}
        elif dial.user is not None:
            options = {"token": say(dial.user)}
        if dial.tls is not None:
            options["tls"] = dial.tls
        if dial.credentials is not None:
            options["user_credentials"] = dial.credentials
        if dial.nkey_seed is not None:
            options["nkeys_seed"] = str(dial.nkey_seed)
        await self.connect(
            [f"nats://{dial.host}"],
            name="wsbus",
            allow_reconnect=False,
            connect_timeout=int(DIAL_SECONDS),
            ping_interval=_PING_SECONDS,
            error_cb=self._failed,
            closed_cb=self._closed,
            **options,
        )
        self._check_encryption()

    def _check_encryption(self) -> None:
        if self._dial.must_encrypt and not self._is_encrypted:
            raise BrokerUnavailable("the server does not speak TLS, as its URL demands")

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have a function called when the connection is lost, if that is not so already."""
        self._on_lost = call
        if self.failure is not None:
            call()

    def lose(self, reason: str) -> None:
        """Note that the connection is lost. Idempotent."""
        if self.failure is not None:
            return
        self.failure = reason
        for pong in self._pongs:
            if not pong.done():
                pong.cancel()
        if self._on_lost is not None:
            self._on_lost()

    async def end(self) -> None:
        """Close the connection, and end what nats-py runs for it; bounded, and never cancelled."""
        self._on_lost = None
        with move_on_after(_CLOSE_SECONDS, shield=True):
            if self.is_closed:
                await self._has_ended.wait()
            else:
                await self.close()

    async def _failed(self, exc: Exception) -> None:
        """nats-py tells every error; while it dials, raising it ends the attempt."""
        if not self.is_connected and not self.is_closed and self.failure is None:
            raise exc
        self.lose(_reason(exc))

    async def _closed(self) -> None:
        self._has_ended.set()
        self.lose(_reason(self.last_error) if self.last_error else "the connection was closed")

    async def confirm(self) -> None:
        """Return once the server has read everything that was sent so far."""
        self._check_life()
        pong = asyncio.get_running_loop().create_future()
        # flush() of nats-py writes its PING ahead of what waits to be sent, and confirms nothing.
        self._pongs.append(pong)
        await self._send_command(_PING)
        await self._flush_pending()
        await asyncio.wait([pong])
        if pong.cancelled():
            self._check_life()

    def _check_life(self) -> None:
        if self.failure is not None:
            raise BrokerUnavailable(self.failure)


class _NatsLink:
    def __init__(
        self, client: _NatsClient, receive: Receive, subject_of: Callable[[Feed], str]
    ) -> None:
        self._client: Final = client
        self._sink: Final = _Sink(receive)
        self._subject_of: Final = subject_of
        self._followed: Final[dict[Feed, Subscription]] = {}

    async def publish(self, turn: Turn) -> None:
        client = self._client
        try:
            for feed, message in turn.messages(spread=False):
                await client.publish(self._subject_of(feed), message)
            await client.confirm()
        except (Error, OSError, BrokerUnavailable) as exc:
            raise BrokerUnavailable(
                f"{client.failure or _reason(exc)}; this is published, or not",
                may_have_arrived=True,
            ) from None

    async def follow(self, feeds: Collection[Feed]) -> None:
        await self._call(self._follow(feeds))

    async def unfollow(self, feeds: Collection[Feed]) -> None:
        await self._call(self._unfollow(feeds))

    @property
    def has_others(self) -> bool:
        return True

    def is_wanted(self, feed: Feed) -> bool:
        return True

    async def _follow(self, feeds: Collection[Feed]) -> None:
        for feed in feeds:
            if feed not in self._followed:
                subject = self._subject_of(feed)
                self._followed[feed] = await self._client.subscribe(subject, future=self._sink)

    async def _unfollow(self, feeds: Collection[Feed]) -> None:
        for feed in feeds:
            subscription = self._followed.pop(feed, None)
            if subscription is not None:
                await subscription.unsubscribe()

    async def _call(self, change: Awaitable[None]) -> None:
        client = self._client
        try:
            await change
            await client.confirm()
        except (Error, OSError) as exc:
            raise BrokerUnavailable(client.failure or _reason(exc)) from None


class _Sink(asyncio.Future[Msg]):
    """Takes the messages of all subscriptions as nats-py reads them.

    nats-py gives a subscription's messages to a future that it was made with, within the call that
    reads them. So there is no queue and no task for each subscription. This one never ends.
    """

    def __init__(self, receive: Receive) -> None:
        super().__init__()
        self._receive: Final = receive

    def set_result(self, message: Msg, /) -> None:
        self._receive(message.data)


def _reason(exc: BaseException) -> str:
    """Say what went wrong in plain words, without a secret."""
    if isinstance(exc, UnexpectedEOF):
        return "the server closed the connection"
    if isinstance(exc, StaleConnectionError):
        return "the server did not answer in time"
    if isinstance(exc, AuthorizationError):
        return "the server refuses the credentials"
    if isinstance(exc, SSLError):
        return f"TLS failed: {exc.reason or exc}"
    if isinstance(exc, OSError) and exc.errno is not None and exc.errno > 0:
        return os.strerror(exc.errno).lower()
    text = str(exc).strip().removeprefix("nats: ").strip().strip("'")
    return text or type(exc).__name__
