"""The verbs of a bus that publish."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, TypeAlias, TypedDict, Unpack, overload

from ..core.channels import parse_channel
from ..core.choices import member_of, shown
from ..core.encoding import EncHook, encode_data
from ..core.errors import NotStarted, UsageError
from ..core.instant import Instant
from ..core.messages import Publication, Receipt
from ..core.overflow import Overflow
from ..endpoint import Endpoint
from ._threads import LoopCall
from .host import BusHost
from .recipients import Recipients, Who
from .services import Services

__all__ = ["Encode", "Publisher", "encoder"]

_TIMEOUT: Final = 5.0

Encode: TypeAlias = Callable[[object], bytes]
"""Turns data into JSON."""


class _Options(TypedDict, total=False):
    event: str
    exclude: Who
    overflow: Overflow | str | None
    key: str | None


class Publisher:
    """The methods of a :class:`.Bus` that publish; not for use by itself.

    Call them in the thread of the event loop, except those whose names end with ``_threadsafe``.
    """

    def __init__(self, encode: Encode, clock: Callable[[], Instant], host: BusHost) -> None:
        self._encode: Final = encode
        self._clock: Final = clock
        self._host: Final = host
        self._broadcasts: Final[set[str]] = set()
        self._recipients: Final = Recipients()

    async def publish(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: Who = (),
        overflow: Overflow | str | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish to everyone whose patterns match, in the order of the calls.

        It yields to the event loop once per 64 publications or 256 KiB, and then waits for readers
        that are catching up, so that a tight loop loses nothing for readers that keep up. It waits
        at most 0.25 s each time, at most 1 s for a reader until that has caught up, and not for
        one that reads nothing. So no subscriber slows it down below 256 publications or 1 MiB a
        second.

        Args:
            channel: The exact name.
            data: Anything that has a form in JSON, including structs, dataclasses and dates.
            event: The event: a word that says what happened.
            exclude: Receivers to leave out: a connection, several, or the subject of an identity.
            overflow: The overflow policy, as :class:`.Overflow` or its text; None: the endpoint's.
            key: For ``conflate``, the key; None: channel and event.

        Returns:
            The number of receivers, and how many of them will get it.

        Raises:
            InvalidChannel: The channel is invalid; a pattern, for example.
            UsageError: The data has no JSON form, or an argument has the wrong type. Nothing was
                published.
            NotStarted: The bus is not running.
        Cancellation: accepted already.
        """
        services = self._host.services
        publication = self._publication(channel, data, event, overflow, key)
        receipt = services.hub.publish(
            publication, self._recipients.members(services.registry, exclude)
        )
        await self._pace(services)
        return receipt

    def publish_soon(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: Who = (),
        overflow: Overflow | str | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish from code that cannot await; like :meth:`publish`, and in one order with it.

        It never waits; in a tight loop queues may overflow.

        Raises:
            UsageError: Called from another thread, too: see :meth:`publish_threadsafe`.
        """
        services = self._host.services
        publication = self._publication(channel, data, event, overflow, key)
        receipt = services.hub.publish(
            publication, self._recipients.members(services.registry, exclude)
        )
        services.flusher.soon()
        return receipt

    @overload
    def publish_threadsafe(
        self,
        channel: str,
        data: object = None,
        *,
        wait: Literal[True] = True,
        timeout: float = _TIMEOUT,
        **options: Unpack[_Options],
    ) -> Receipt: ...

    @overload
    def publish_threadsafe(
        self,
        channel: str,
        data: object = None,
        *,
        wait: Literal[False],
        timeout: float = _TIMEOUT,
        **options: Unpack[_Options],
    ) -> None: ...

    def publish_threadsafe(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: Who = (),
        overflow: Overflow | str | None = None,
        key: str | None = None,
        wait: bool = True,
        timeout: float = _TIMEOUT,
    ) -> Receipt | None:
        """Publish from another thread, in the order of the thread's calls.

        The data is encoded in the calling thread, and errors in the arguments are raised there.

        Args:
            channel: As for :meth:`publish`, and so are ``data`` to ``key``.
            data: The same.
            event: The same.
            exclude: The same.
            overflow: The same.
            key: The same.
            wait: Whether to wait until the event loop has accepted it. False: nothing is returned,
                a tight loop is not slowed down, and a bus that stops meanwhile drops it.
            timeout: Seconds to wait at most; the event loop may be blocked, for example because
                it waits for this thread.

        Raises:
            InvalidChannel: As :meth:`publish`.
            UsageError: As :meth:`publish`; or it was called in the thread of the event loop; or
                the event loop did not accept it in time, and it was dropped.
            NotStarted: The bus is not running.
        """
        publication = self._publication(channel, data, event, overflow, key)

        def accept() -> Receipt:
            services = self._host.services
            receipt = services.hub.publish(
                publication, self._recipients.members(services.registry, exclude)
            )
            services.flusher.soon()
            return receipt

        return self._from_thread("publish_soon", accept, timeout if wait else None)

    async def broadcast(
        self,
        data: object = None,
        *,
        event: str = "message",
        exclude: Who = (),
        overflow: Overflow | str | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish to every authenticated connection of the endpoints with a broadcast channel.

        Args are those of :meth:`publish`.

        Raises:
            UsageError: No endpoint has one; and as :meth:`publish`.
        """
        if not self._broadcasts:
            raise UsageError("no endpoint has a broadcast channel: bus.endpoint(broadcast=…)")
        receipts = [
            await self.publish(name, data, event=event, exclude=exclude, overflow=overflow, key=key)
            for name in self._broadcasts
        ]
        return Receipt(
            sum(r.local_matched for r in receipts), sum(r.local_accepted for r in receipts)
        )

    async def send(
        self,
        channel: str,
        data: object = None,
        *,
        to: Who,
        endpoint: Endpoint | None = None,
        event: str = "message",
        exclude: Who = (),
        overflow: Overflow | str | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish to connections, or to all of one identity, whatever they subscribe to.

        Their denies apply. It waits as :meth:`publish` does.

        Args:
            channel: The channel of the event.
            data: As for :meth:`publish`.
            to: A connection, several, or the subject of an identity; each gets it once.
            endpoint: For a subject, also in ``exclude``, its endpoint. None: every endpoint with
                the bus's first authenticator. The same subject of another authenticator is another
                identity.
            event: As for :meth:`publish`.
            exclude: As for :meth:`publish`.
            overflow: As for :meth:`publish`.
            key: As for :meth:`publish`.

        Raises:
            InvalidChannel, UsageError, NotStarted: As :meth:`publish`.
        """
        services = self._host.services
        publication = self._publication(channel, data, event, overflow, key)
        receipt = self._send(services, publication, to, exclude, endpoint)
        await self._pace(services)
        return receipt

    def send_soon(
        self,
        channel: str,
        data: object = None,
        *,
        to: Who,
        endpoint: Endpoint | None = None,
        event: str = "message",
        exclude: Who = (),
        overflow: Overflow | str | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Send from code that cannot await: :meth:`send` as :meth:`publish_soon` publishes.

        Raises:
            InvalidChannel, UsageError, NotStarted: As :meth:`publish_soon`.
        """
        services = self._host.services
        publication = self._publication(channel, data, event, overflow, key)
        receipt = self._send(services, publication, to, exclude, endpoint)
        services.flusher.soon()
        return receipt

    @overload
    def send_threadsafe(
        self,
        channel: str,
        data: object = None,
        *,
        to: Who,
        endpoint: Endpoint | None = None,
        wait: Literal[True] = True,
        timeout: float = _TIMEOUT,
        **options: Unpack[_Options],
    ) -> Receipt: ...

    @overload
    def send_threadsafe(
        self,
        channel: str,
        data: object = None,
        *,
        to: Who,
        endpoint: Endpoint | None = None,
        wait: Literal[False],
        timeout: float = _TIMEOUT,
        **options: Unpack[_Options],
    ) -> None: ...

    def send_threadsafe(
        self,
        channel: str,
        data: object = None,
        *,
        to: Who,
        endpoint: Endpoint | None = None,
        event: str = "message",
        exclude: Who = (),
        overflow: Overflow | str | None = None,
        key: str | None = None,
        wait: bool = True,
        timeout: float = _TIMEOUT,
    ) -> Receipt | None:
        """Send from another thread: :meth:`send` as :meth:`publish_threadsafe` publishes.

        Raises:
            InvalidChannel, UsageError, NotStarted: As :meth:`publish_threadsafe`.
        """
        publication = self._publication(channel, data, event, overflow, key)

        def accept() -> Receipt:
            services = self._host.services
            receipt = self._send(services, publication, to, exclude, endpoint)
            services.flusher.soon()
            return receipt

        return self._from_thread("send_soon", accept, timeout if wait else None)

    async def _pace(self, services: Services) -> None:
        flusher = services.flusher
        if flusher.is_overdue:
            await flusher.flushed()
        else:
            flusher.soon()

    def _send(
        self,
        services: Services,
        publication: Publication,
        to: Who,
        exclude: Who,
        endpoint: Endpoint | None,
    ) -> Receipt:
        registry = services.registry
        members = [d.member for d in self._recipients.find(registry, to, endpoint, "to")]
        excluded = self._recipients.members(registry, exclude, endpoint)
        return services.hub.publish_to(members, publication, excluded)

    def _from_thread(
        self, instead: str, accept: Callable[[], Receipt], timeout: float | None
    ) -> Receipt | None:
        """Make a call in the event loop's thread; ``timeout`` None: do not wait for it."""
        life = self._host.life
        if life is None:
            raise NotStarted
        if threading.get_ident() == life.thread:
            raise UsageError(f"this is the thread of the event loop: use {instead}")
        call = LoopCall(accept, is_awaited=timeout is not None)
        call.submit(life.token)
        return None if timeout is None else call.wait(timeout)

    def _publication(
        self,
        channel: str,
        data: object,
        event: str,
        overflow: Overflow | str | None,
        key: str | None,
    ) -> Publication:
        name = parse_channel(channel)
        if not isinstance(event, str) or not event.isprintable():  # type: ignore[redundant-expr]
            raise UsageError(f"an event is a printable text, not {shown(event)}")
        if overflow is not None:
            overflow = member_of(Overflow, overflow, "overflow")
        if key is not None and not isinstance(key, str):
            raise UsageError(f"key must be a text or None, not {type(key).__name__}")
        return Publication(name, event, self._encode(data), self._clock().wall, overflow, key)


def encoder(enc_hook: EncHook | None) -> Encode:
    """Return the encoder for the data of a bus.

    Raises:
        UsageError: The hook is not a function.
    """
    if enc_hook is not None and not callable(enc_hook):
        raise UsageError(
            f"enc_hook is a function that turns an object into data, not {shown(enc_hook)}"
        )
    return partial(encode_data, enc_hook=enc_hook)
