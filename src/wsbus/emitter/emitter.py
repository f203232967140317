"""Publish from code with an event loop, without a bus."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Final, Self

from anyio import CancelScope, to_thread

from .._spawn import is_asyncio
from ..broker import Broker
from ..brokers import MemoryBroker
from ..core.encoding import EncHook
from ..core.errors import CloseCode, UsageError
from ..core.families import Families, Family, History, Stream
from ..core.messages import Receipt
from ..core.tracing import Tracing
from ..server.batch import EmitterBatch
from ..server.recipients import RemoteWho
from ..server.sender import Sender
from ..server.sender_thread import SenderThread
from ..server.services import new_id, read_clocks
from ..server.source import encoder, new_source, packer, tracing_setting
from ..server.stream_writer import StreamWriter
from .streams import new_writer
from .target import TIMEOUT, broker_for, receipt_of

__all__ = ["Emitter"]

_DRAIN_SECONDS: Final = 1.0


class Emitter:
    """Publishes from code with an event loop: ``async with Emitter(broker) as emitter:``.

    It dials with the first call, and again with the next call after a link was lost. All tasks of
    the event loop may use it. It may be entered again after its end.

    On trio, brokers for several processes run in a thread of their own, since their clients need
    asyncio.

    Args:
        broker: The broker of the service, or its URL; see ``wsbus.brokers.broker_of``.
        enc_hook: Turns objects that msgspec cannot encode into ones that it can.
        tracing: As for :class:`.Bus`: has a span for each publication, to which those link that
            get it. None: nothing is traced.

    Raises:
        UsageError: An argument is wrong.
        ModuleNotFoundError: The extra of that broker is not installed.
    """

    def __init__(
        self,
        broker: Broker | str,
        *,
        enc_hook: EncHook | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._broker: Final = broker_for(broker)
        self._encode: Final = encoder(enc_hook)
        self._families: Final = Families()
        self._source: Final = new_source(
            new_id(),
            self._encode,
            read_clocks,
            self._families,
            packer(enc_hook),
            tracing=tracing_setting(tracing),
        )
        self._thread = 0
        self._run: Sender | SenderThread | None = None

    def family(
        self, pattern: str, *, history: History | None = None, stream: Stream | None = None
    ) -> Family:
        """Declare a family of channels, as on the bus: ``emitter.family("chat.*", history=…)``.

        What is published on its channels is then kept. An emitter asks no bus: declare the same
        families here that the processes of the service have. Without that, subscribers get it live,
        and those that come back later do not.

        Args:
            pattern: The channels, in the form of a subscription.
            history: How long each of them keeps what is published; None: it keeps nothing, although
                a wider family does.
            stream: Whether each of them is a finite stream, for :meth:`stream`.

        Raises:
            InvalidChannel: The pattern is none.
            UsageError: The emitter is in use; another family matches the same channels; or
                ``history`` or ``stream`` is none.
        """
        if self._run is not None:
            raise UsageError("declare families before the emitter is used")
        return self._families.declare(pattern, history=history, stream=stream)

    async def __aenter__(self) -> Self:
        """Start; it does not dial yet.

        Raises:
            UsageError: It is in use already.
        """
        if self._run is not None:
            raise UsageError("this emitter is in use already")
        self._thread = threading.get_ident()
        if is_asyncio() or isinstance(self._broker, MemoryBroker):
            self._run = Sender(self._broker, self._source.node)
        else:
            self._run = SenderThread(self._broker, self._source.node)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hand over what was put, and end the link; bounded."""
        run, self._run = self._run, None
        if isinstance(run, Sender):
            await run.close(_DRAIN_SECONDS)
        elif run is not None:
            with CancelScope(shield=True):
                await to_thread.run_sync(run.stop)

    async def publish(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: RemoteWho = (),
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Publish to everyone whose patterns match, in the order of the calls.

        Args are those of :meth:`.EmitterBatch.publish`.

        Returns:
            A receipt; it counts no receivers, which only nodes know. It has a position if a family
            of the emitter keeps history.

        Raises:
            InvalidChannel, UsageError: As :meth:`.EmitterBatch.publish`; or it is not in use.
            BrokerUnavailable: The broker has not taken it, or that will never be known.
        Cancellation: it may be published, or not.
        """
        batch = EmitterBatch(self._source, self._families)
        batch.publish(
            channel, data, event=event, exclude=exclude, key=key, idempotency_key=idempotency_key
        )
        return await self._send(batch)

    async def broadcast(
        self,
        data: object = None,
        *,
        event: str = "message",
        exclude: RemoteWho = (),
        key: str | None = None,
    ) -> Receipt:
        """Publish on the broadcast channels of every node; see :meth:`.EmitterBatch.broadcast`.

        Raises:
            UsageError, BrokerUnavailable: As :meth:`publish`.
        """
        batch = EmitterBatch(self._source, self._families)
        batch.broadcast(data, event=event, exclude=exclude, key=key)
        return await self._send(batch)

    async def send(
        self,
        channel: str,
        data: object = None,
        *,
        to: RemoteWho,
        event: str = "message",
        exclude: RemoteWho = (),
        key: str | None = None,
    ) -> Receipt:
        """Publish to connections, or to all of one identity; see :meth:`.EmitterBatch.send`.

        Raises:
            InvalidChannel, UsageError, BrokerUnavailable: As :meth:`publish`.
        """
        batch = EmitterBatch(self._source, self._families)
        batch.send(channel, data, to=to, event=event, exclude=exclude, key=key)
        return await self._send(batch)

    async def disconnect(
        self,
        who: RemoteWho,
        *,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "disconnected by the server",
    ) -> None:
        """End connections, or all of one identity; see :meth:`.EmitterBatch.disconnect`.

        Raises:
            UsageError, BrokerUnavailable: As :meth:`publish`.
        """
        batch = EmitterBatch(self._source, self._families)
        batch.disconnect(who, code=code, reason=reason)
        await self._send(batch)

    async def revoke(self, who: RemoteWho, pattern: str, *, reason: str | None = None) -> None:
        """Take a subscription away; see :meth:`.EmitterBatch.revoke`.

        Raises:
            InvalidChannel, UsageError, BrokerUnavailable: As :meth:`publish`.
        """
        batch = EmitterBatch(self._source, self._families)
        batch.revoke(who, pattern, reason=reason)
        await self._send(batch)

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[EmitterBatch]:
        """Collect publications and orders, and have the broker take them at the end.

        Nothing is published if the block raises. A batch of at most 10,000 items and 16 MiB is
        taken at once. If a larger one fails, a part may be published
        (:attr:`.BrokerUnavailable.may_have_arrived`).

        Raises:
            UsageError, BrokerUnavailable: As :meth:`publish`.
        """
        batch = EmitterBatch(self._source, self._families)
        yield batch
        await self._send(batch)

    def stream(self, channel: str) -> StreamWriter:
        """Return the producer of a stream; as :meth:`.Bus.stream`.

        It learns within two seconds that someone asks to cancel it. On trio it needs a broker of
        this process.

        Raises:
            InvalidChannel: The channel is invalid.
            UsageError: The emitter has no family of streams for it.
        """
        return new_writer(self._sender, self._source, self._encode, self._families, channel)

    def _sender(self) -> Sender:
        if not isinstance(self._run, Sender):
            raise UsageError(
                "use the emitter inside `async with Emitter(broker) as emitter:`; on trio, "
                "produce streams with SyncEmitter in a thread"
            )
        return self._run

    async def _send(self, batch: EmitterBatch) -> Receipt:
        run = self._run
        if run is None:
            raise UsageError("use the emitter inside `async with Emitter(broker) as emitter:`")
        if threading.get_ident() != self._thread:
            raise UsageError("this emitter belongs to another thread: use a SyncEmitter there")
        if isinstance(run, Sender):
            return receipt_of(await run.send(batch.items))
        call = partial(run.send, batch.items, TIMEOUT)
        return receipt_of(await to_thread.run_sync(call, abandon_on_cancel=True))
