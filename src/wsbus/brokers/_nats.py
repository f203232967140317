"""A link over nats-py; what nats-py is used for, and what is done around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from ssl import SSLContext
from typing import Any, Final

from anyio import CancelScope, current_time, fail_after, move_on_after, sleep
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import Error
from nats.protocol.command import pub_cmd, sub_cmd, unsub_cmd
from typing_extensions import override

from ..broker import DIAL_SECONDS, Link, Receive
from ..core.envelope import Turn
from ..core.errors import BrokerUnavailable, UsageError
from ..core.events import Position
from ..core.feeds import Feed, feeds_around, is_prefix, is_within
from ..core.history import HistoryPage, HistoryRead, Stored
from ._nats_history import live_message
from ._nats_server import NatsServer, reason_of, refusal_of
from ._nats_stream import INBOX, NatsStream, why_no_history

__all__ = ["NatsServer", "linked", "version_of"]

_PING_SECONDS: Final = 1.0
_PINGS: Final = 2
"""nats-py sends a PING each second; when a third is due and none was answered, the link is lost."""

_ANSWER_SECONDS: Final = 3.0
"""A server that takes longer to confirm a call is lost."""

_CLUSTER_SECONDS: Final = 0.05
"""A server of a cluster confirms for itself; the others know a little later, and none says when."""

_TAKEOVER_SECONDS: Final = 0.1
"""How long an old subscription stays beside the one that takes over: a server drops what it has
looked up for a subscription that is gone when it delivers, on a busy machine a little later."""

_CLOSE_SECONDS: Final = 0.1
"""It waits for no network; nats-py waits in vain for the end of a TLS handshake that failed."""

_PING: Final = b"PING\r\n"

_INSIDE: Final = (
    "_pongs",
    "_process_err",
    "_process_msg",
    "_process_op_err",
    "_server_info",
    "_transport",
)


def check_version() -> None:
    """Check that nats-py still has what is replaced or used of its inside.

    Raises:
        ImportError: It has not.
    """
    client = Client()
    missing = [name for name in _INSIDE if not hasattr(client, name)]
    if missing:
        raise ImportError(f"this version of nats-py is not supported: it has no {missing}")


check_version()


@asynccontextmanager
async def linked(
    servers: Sequence[NatsServer],
    receive: Receive,
    subject_of: Callable[[Feed], str],
    prefix: str,
) -> AsyncIterator[Link]:
    """Dial the servers until one answers, and yield a link to it, until that fails.

    Raises:
        BrokerUnavailable: None answers, or the link has failed.
    """
    client = await _dial(servers, receive)
    try:
        with CancelScope() as scope:
            client.when_lost(scope.cancel)
            why = client.why_no_history
            if why is not None:
                yield _NatsLink(client, subject_of, why)
            else:
                yield _NatsHistoryLink(client, subject_of, prefix)
        if client.failure is not None:
            raise BrokerUnavailable(client.failure)
    finally:
        await client.end()


async def version_of(servers: Sequence[NatsServer]) -> str:
    """Return the version that the first server which answers greets with.

    Raises:
        BrokerUnavailable: None answers.
    """
    client = await _dial(servers, lambda _message: None)
    try:
        return client.version
    finally:
        await client.end()


async def _dial(servers: Sequence[NatsServer], receive: Receive) -> _NatsClient:
    """Try one server after the other; each may take its share of the time that is left."""
    reasons = []
    until = current_time() + DIAL_SECONDS
    for left, server in zip(range(len(servers), 0, -1), servers, strict=True):
        client = _NatsClient(server, receive)
        is_there = False
        try:
            with fail_after((until - current_time()) / left):
                await client.dial()
            is_there = True
        except TimeoutError:
            reasons.append(f"{server.host}: no answer in time")
        except Exception as exc:  # noqa: BLE001  # nats-py and its parts raise many kinds
            reasons.append(f"{server.host}: {reason_of(exc)}")
        finally:
            if not is_there:
                await client.end()
        if is_there:
            return client
    raise BrokerUnavailable("; ".join(reasons))


class _NatsClient(Client):
    """One connection of nats-py: it ends at the first failure, and says why.

    Four things in nats-py keep a failure from being noticed, and are done here instead; a test
    holds each of them, and :func:`check_version` their names:

    - ``flush()`` writes its PING ahead of messages that wait to be sent, so that the answer
      confirms nothing. And an answer to a flush that was cancelled ends the task that reads.
    - After an error it first sends what waits. That raises on a connection that was reset, and
      blocks on a frozen one; its callbacks are not called then.
    - After ``-ERR`` it closes in a task of its own, which nobody awaits.
    - ``subscribe()`` makes 3.6 KB of queue for each subject, and with a callback a task.
    """

    def __init__(self, server: NatsServer, receive: Receive) -> None:
        super().__init__()
        self._server: Final = server
        self._receive: Final = receive
        self._is_encrypted = False
        self._calls: Final[set[asyncio.Future[Any]]] = set()
        self.answered: Callable[[bytes, bytes, bytes | None], None] | None = None
        """Takes what comes to the inbox of the link."""
        self._on_lost: Callable[[], None] | None = None
        self.failure: str | None = None
        """Why it was lost; None: it was not."""

    # --- dialling ----------------------------------------------------------------------------

    @property
    def ssl_context(self) -> SSLContext:
        """nats-py asks for it when it begins to encrypt."""
        self._is_encrypted = True
        return super().ssl_context

    async def dial(self) -> None:
        server = self._server

        def say(secret: str) -> Callable[[], str]:
            # Called after the server's greeting: nats-py goes on in clear text where that does
            # not ask for TLS.
            def tell() -> str:
                self._check_encryption()
                return secret

            return tell

        options: dict[str, Any] = {"connect_timeout": DIAL_SECONDS, "ping_interval": _PING_SECONDS}
        if server.password is not None:
            options |= {"user": say(server.user or ""), "password": say(server.password)}
        elif server.user is not None:
            options["token"] = say(server.user)
        if server.tls is not None:
            options["tls"] = server.tls
        if server.credentials is not None:
            options["user_credentials"] = server.credentials
        if server.nkey_seed is not None:
            options["nkeys_seed"] = str(server.nkey_seed)
        await self.connect(
            [f"nats://{server.host}"],
            name="wsbus",
            allow_reconnect=False,
            max_outstanding_pings=_PINGS,
            error_cb=self._failed,
            **options,
        )
        self._check_encryption()

    def _check_encryption(self) -> None:
        if self._server.must_encrypt and not self._is_encrypted:
            raise BrokerUnavailable("it does not ask for TLS, and must")

    @property
    def version(self) -> str:
        """The version that the server greets with."""
        return str(self._server_info.get("version", "of unknown version"))

    @property
    def is_in_cluster(self) -> bool:
        """Whether the server says that it is one of several."""
        return "cluster" in self._server_info

    @property
    def why_no_history(self) -> str | None:
        """Why the server keeps no history, in words; None: it does."""
        info = self._server_info
        has_jetstream = bool(info.get("jetstream"))
        return why_no_history(str(info.get("version", "")), has_jetstream=has_jetstream)

    # --- the end -----------------------------------------------------------------------------

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have a function called when the connection is lost, if that is not so already."""
        self._on_lost = call
        if self.failure is not None:
            call()

    def lose(self, reason: str) -> None:
        """Note that the connection is lost, which fails every call. Idempotent."""
        if self.failure is not None:
            return
        self.failure = reason
        for call in [*self._calls]:
            if not call.done():
                call.set_exception(BrokerUnavailable(reason, may_have_arrived=True))
        if self._on_lost is not None:
            self._on_lost()

    async def end(self) -> None:
        """Close the connection, and end what nats-py runs for it; bounded, and not cancelled."""
        self._on_lost = None
        if not self._transport:
            return
        self._abort()
        with move_on_after(_CLOSE_SECONDS, shield=True), suppress(OSError, Error):
            await self.close()
        self.lose("the link has ended")

    def _abort(self) -> None:
        """Close the socket at once: a frozen server would keep it open; all calls are confirmed."""
        if isinstance(self._transport, TcpTransport) and self._transport._io_writer is not None:  # noqa: SLF001
            self._transport._io_writer.transport.abort()  # noqa: SLF001

    async def _failed(self, exc: Exception) -> None:
        """nats-py tells every error; while it dials, raising it ends the attempt."""
        if not self.is_connected and not self.is_closed:
            raise exc
        self.lose(reason_of(exc))

    async def _process_op_err(self, e: Exception) -> None:
        """nats-py has met an error of the socket, or no answers to its pings."""
        self.lose(reason_of(e))

    async def _process_err(self, err_msg: str) -> None:
        """The server has sent an error: what a node does must be permitted."""
        self.lose(refusal_of(err_msg))

    # --- use ---------------------------------------------------------------------------------

    async def tell(self, commands: Iterable[bytes]) -> None:
        """Send commands together, and return once the server has read them.

        Raises:
            BrokerUnavailable: The connection was lost.
        """
        if self.failure is not None:
            raise BrokerUnavailable(self.failure)
        assert self._transport is not None
        pong = _NatsPong(loop=asyncio.get_running_loop())
        self._transport.write(b"".join((*commands, _PING)))
        self._pongs.append(pong)
        self.wait_for(pong, _ANSWER_SECONDS)
        await pong

    def wait_for(self, future: asyncio.Future[Any], seconds: float) -> None:
        """Fail a future when the connection is lost, as it is if the future takes too long."""
        self._calls.add(future)
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(seconds, self.lose, "the server did not answer in time")

        def done(_: object) -> None:
            deadline.cancel()
            self._calls.discard(future)
            if not future.cancelled():
                future.exception()  # asyncio reports one that nobody has looked at.

        future.add_done_callback(done)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        """Pass a message on as it is read, whatever its subscription."""
        if sid == INBOX:
            if self.answered is not None:
                self.answered(subject, data, headers)
        else:
            self._receive(data if headers is None else live_message(data, headers))


class _NatsPong(asyncio.Future[bool]):
    """The answer to a PING; one that comes when nobody waits any more is taken as well.

    It stays in the list of nats-py until then, so that it is not taken for the answer to the next.
    """

    @override
    def set_result(self, result: bool, /) -> None:
        if not self.done():
            super().set_result(result)


class _NatsLink:
    def __init__(
        self, client: _NatsClient, subject_of: Callable[[Feed], str], no_history: str = ""
    ) -> None:
        self.no_history: Final = no_history
        """Why it keeps no history."""
        self._client: Final = client
        self._subject_of: Final = subject_of
        self._followed: Final[dict[Feed, int]] = {}
        self._numbers: Final = count(1)

    @property
    def max_bytes(self) -> int:
        """The limit that the server greets with."""
        return self._client.max_payload

    async def publish(self, turn: Turn) -> None:
        await self._client.tell(self._commands(turn))

    def _commands(self, turn: Turn) -> list[bytes]:
        most, commands = self._client.max_payload, []
        for feed, message in turn.messages(spread=False, most=most):
            if len(message) > most:
                raise UsageError(f"this has {len(message)} bytes, and the server takes {most}")
            commands.append(pub_cmd(self._subject_of(feed), "", message))
        return commands

    async def follow(self, feeds: Collection[Feed]) -> None:
        new = {feed: next(self._numbers) for feed in feeds if feed not in self._followed}
        self._followed.update(new)
        await self._client.tell(
            [sub_cmd(self._subject_of(feed), "", number) for feed, number in new.items()]
        )
        if self._client.is_in_cluster:
            await sleep(_CLUSTER_SECONDS)

    async def unfollow(self, feeds: Collection[Feed]) -> None:
        if self._is_taken_over(feeds):
            await sleep(_TAKEOVER_SECONDS)
        old = [self._followed.pop(feed) for feed in feeds if feed in self._followed]
        await self._client.tell([unsub_cmd(number, 0) for number in old])

    def _is_taken_over(self, feeds: Collection[Feed]) -> bool:
        """Whether what stays followed brings some of what these feeds bring."""
        old, followed = {*feeds}, self._followed.keys()
        if any(wider in followed for feed in old for wider in {*feeds_around(feed)} - old):
            return True
        return any(map(is_prefix, old)) and any(is_within(feed, old) for feed in followed - old)

    @property
    def has_others(self) -> bool:
        """NATS does not tell."""
        return True

    def is_wanted(self, feed: Feed) -> bool:
        return True


class _NatsHistoryLink(_NatsLink):
    def __init__(self, client: _NatsClient, subject_of: Callable[[Feed], str], prefix: str) -> None:
        super().__init__(client, subject_of)
        self._stream: Final = NatsStream(client, prefix, subject_of)
        client.answered = self._stream.answered

    async def store(self, turn: Turn) -> Sequence[Stored]:
        return await self._stream.store(turn, self._commands(turn))

    async def read(self, reads: Sequence[HistoryRead]) -> Sequence[HistoryPage]:
        return [await self._stream.read(read) for read in reads]

    async def head(self) -> Position:
        return (await self._stream.head()).head
