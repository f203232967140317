"""Publish from code without an event loop, and without a bus."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from ..broker import Broker
from ..brokers import MemoryBroker
from ..core.choices import is_number, shown
from ..core.encoding import EncHook
from ..core.errors import CloseCode, UsageError
from ..core.families import Families, Family, History, Stream
from ..core.messages import Receipt
from ..core.tracing import Tracing
from ..server.batch import EmitterBatch
from ..server.recipients import RemoteWho
from ..server.sender_thread import SenderThread
from ..server.services import new_id, read_clocks
from ..server.source import encoder, new_source, packer, tracing_setting
from .streams import SyncStreamWriter, new_writer
from .target import TIMEOUT, broker_for, receipt_of

__all__ = ["SyncEmitter"]

STREAM_TIMEOUT: Final = 15.0
"""Longer than a producer waits for a broker."""


class SyncEmitter:
    """Publishes from code without an event loop: Celery, Django views, scripts, cron.

    Make it anywhere, also at import. Its first call starts a thread with an event loop, and dials.
    All threads may use it. A process that is forked has a thread and a link of its own: a child of
    Celery's prefork pool, or a worker of ``gunicorn --preload``. It is closed by :meth:`close`, by
    ``with``, or as the process ends.

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
        if isinstance(self._broker, MemoryBroker):
            raise UsageError(
                "a MemoryBroker belongs to one event loop: use Emitter there, or "
                "bus.publish_threadsafe from other threads"
            )
        self._encode: Final = encoder(enc_hook)
        self._pack: Final = packer(enc_hook)
        self._families: Final = Families()
        self._tracing: Final = tracing_setting(tracing)
        self._is_closed = False
        self._begin()
        _emitters.add(self)

    def _begin(self) -> None:
        """Begin in this process, without anything of the process that it was forked from."""
        self._source = new_source(
            new_id(), self._encode, read_clocks, self._families, self._pack, tracing=self._tracing
        )
        self._lock = threading.Lock()
        self._thread: SenderThread | None = None
        self._finalizer: weakref.finalize[[], SyncEmitter] | None = None

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
        if self._thread is not None:
            raise UsageError("declare families before the emitter is used")
        return self._families.declare(pattern, history=history, stream=stream)

    def __enter__(self) -> Self:
        """Use it in a ``with`` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def publish(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: RemoteWho = (),
        key: str | None = None,
        idempotency_key: str | None = None,
        timeout: float = TIMEOUT,
    ) -> Receipt:
        """Publish to everyone whose patterns match, in the order of a thread's calls.

        Args are those of :meth:`.EmitterBatch.publish`, and ``timeout``, in seconds.

        Returns:
            A receipt; it counts no receivers, which only nodes know. It has a position if a family
            of the emitter keeps history.

        Raises:
            InvalidChannel, UsageError: As :meth:`.EmitterBatch.publish`; or the emitter is closed.
            BrokerUnavailable: The broker has not taken it in time, or that will never be known.
        """
        batch = EmitterBatch(self._source, self._families)
        batch.publish(
            channel, data, event=event, exclude=exclude, key=key, idempotency_key=idempotency_key
        )
        return self._send(batch, timeout)

    def broadcast(
        self,
        data: object = None,
        *,
        event: str = "message",
        exclude: RemoteWho = (),
        key: str | None = None,
        timeout: float = TIMEOUT,
    ) -> Receipt:
        """Publish on the broadcast channels of every node; see :meth:`.EmitterBatch.broadcast`.

        Raises:
            UsageError, BrokerUnavailable: As :meth:`publish`.
        """
        batch = EmitterBatch(self._source, self._families)
        batch.broadcast(data, event=event, exclude=exclude, key=key)
        return self._send(batch, timeout)

    def send(
        self,
        channel: str,
        data: object = None,
        *,
        to: RemoteWho,
        event: str = "message",
        exclude: RemoteWho = (),
        key: str | None = None,
        timeout: float = TIMEOUT,
    ) -> Receipt:
        """Publish to connections, or to all of one identity; see :meth:`.EmitterBatch.send`.

        Raises:
            InvalidChannel, UsageError, BrokerUnavailable: As :meth:`publish`.
        """
        batch = EmitterBatch(self._source, self._families)
        batch.send(channel, data, to=to, event=event, exclude=exclude, key=key)
        return self._send(batch, timeout)

    def disconnect(
        self,
        who: RemoteWho,
        *,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "disconnected by the server",
        timeout: float = TIMEOUT,
    ) -> None:
        """End connections, or all of one identity; see :meth:`.EmitterBatch.disconnect`.

        Raises:
            UsageError, BrokerUnavailable: As :meth:`publish`.
        """
        batch = EmitterBatch(self._source, self._families)
        batch.disconnect(who, code=code, reason=reason)
        self._send(batch, timeout)

    def revoke(
        self,
        who: RemoteWho,
        pattern: str,
        *,
        reason: str | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Take a subscription away; see :meth:`.EmitterBatch.revoke`.

        Raises:
            InvalidChannel, UsageError, BrokerUnavailable: As :meth:`publish`.
        """
        batch = EmitterBatch(self._source, self._families)
        batch.revoke(who, pattern, reason=reason)
        self._send(batch, timeout)

    @contextmanager
    def batch(self, *, timeout: float = TIMEOUT) -> Iterator[EmitterBatch]:
        """Collect publications and orders; as :meth:`.Emitter.batch`.

        Raises:
            UsageError, BrokerUnavailable: As :meth:`publish`.
        """
        batch = EmitterBatch(self._source, self._families)
        yield batch
        self._send(batch, timeout)

    def stream(self, channel: str, *, timeout: float = STREAM_TIMEOUT) -> SyncStreamWriter:
        """Return the producer of a stream: ``with emitter.stream("answers.42") as s:``.

        It learns within two seconds that someone asks to cancel it.

        Args:
            channel: A channel of a family with ``stream=Stream()``.
            timeout: Seconds for each call.

        Raises:
            InvalidChannel: The channel is invalid.
            UsageError: The emitter has no family of streams for it, or is closed.
        """
        source, families = self._source, self._families
        return SyncStreamWriter(
            lambda: new_writer(lambda: self._run().sender, source, self._encode, families, channel),
            lambda act: self._run().call(act, timeout),
        )

    def close(self) -> None:
        """Hand over what was put, and end the thread; within 2 s. Idempotent."""
        self._is_closed = True
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()

    def _send(self, batch: EmitterBatch, timeout: float) -> Receipt:
        if not (is_number(timeout) and timeout > 0):
            raise UsageError(f"timeout is a positive number of seconds, not {shown(timeout)}")
        return receipt_of(self._run().send(batch.items, timeout))

    def _run(self) -> SenderThread:
        with self._lock:
            if self._is_closed:
                raise UsageError("the emitter is closed")
            thread = self._thread
            if thread is None:
                thread = self._thread = SenderThread(self._broker, self._source.node)
                self._finalizer = weakref.finalize(self, thread.stop, waits=False)
                self._finalizer.atexit = False
        return thread


_emitters: Final[weakref.WeakSet[SyncEmitter]] = weakref.WeakSet()
_inherited: Final[list[object]] = []
"""Threads of the parent of a forked process: kept, so that nothing ends it here."""


def _begin_in_child() -> None:
    for emitter in [*_emitters]:
        _inherited.append(emitter._thread)  # noqa: SLF001  # the same module
        if emitter._finalizer is not None:  # noqa: SLF001
            emitter._finalizer.detach()  # noqa: SLF001
        emitter._begin()  # noqa: SLF001


def _close_all() -> None:
    for emitter in [*_emitters]:
        emitter.close()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
