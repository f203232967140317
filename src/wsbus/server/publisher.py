"""The verbs of a bus that publish, and the families that say what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Literal, TypedDict, Unpack, overload

from ..core.errors import NotStarted, UsageError
from ..core.messages import Publication, Receipt
from ..endpoint import Endpoint
from ._threads import LoopCall
from .channels import Channels
from .host import BusHost
from .post import Sent
from .recipients import Recipients, Who
from .services import Services

__all__ = ["Publisher"]

_TIMEOUT: Final = 5.0


class _Options(TypedDict, total=False):
    event: str
    exclude: Who
    key: str | None


class Publisher(Channels):
    """The methods of a :class:`.Bus` that publish; not for use by itself.

    Call them in the thread of the event loop, except those whose names end with ``_threadsafe``.
    """

    def __init__(self, host: BusHost) -> None:
        super().__init__(host)
        self._broadcasts: Final[set[str]] = set()
        self._recipients: Final = Recipients(host.endpoints)

    async def publish(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: Who = (),
        key: str | None = None,
        idempotency_key: str | None = None,
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
            key: For ``conflate``, the key; None: channel and event.
            idempotency_key: On a channel with history, a text that a repetition of this publication
                has, too: of those within two minutes only the first is published.

        Returns:
            The number of receivers, how many of them will get it, and its position.

        Raises:
            InvalidChannel: The channel is invalid; a pattern, for example.
            UsageError: The data has no JSON form, or an argument has the wrong type, or there is an
                ``idempotency_key`` and no history: nothing was published. Or it is larger than the
                broker takes: other processes do not get it.
            NotStarted: The bus is not running.
            BrokerUnavailable: The broker has not taken it, so that other processes do not get it;
                the subscribers of this one do, unless the broker keeps the history of the channel.
        Cancellation: accepted already.
        """
        services = self._host.services
        post = services.post
        publication = post.accept(channel, event, data, key)
        sent = self._deliver(services, publication, exclude, idempotency_key)
        return await post.settled(sent)

    def publish_soon(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: Who = (),
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Publish from code that cannot await; like :meth:`publish`, and in one order with it.

        It never waits; in a tight loop queues may overflow. What the broker does not confirm later
        is logged and counted (:attr:`.LinkStatistics.unconfirmed`). Where the broker keeps the
        history, the receipt has no position.

        Raises:
            BrokerUnavailable: There is no link to the broker now.
            UsageError: Called from another thread, too: see :meth:`publish_threadsafe`.
        """
        services = self._host.services
        post = services.post
        publication = post.accept(channel, event, data, key)
        sent = self._deliver(services, publication, exclude, idempotency_key)
        post.soon()
        return sent.checked()

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
        publication = self._host.post.accept(channel, event, data, key)

        def deliver() -> Receipt:
            services = self._host.services
            sent = self._deliver(services, publication, exclude)
            services.post.soon()
            return sent.checked()

        return self._from_thread("publish_soon", deliver, timeout if wait else None)

    async def broadcast(
        self,
        data: object = None,
        *,
        event: str = "message",
        exclude: Who = (),
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
            await self.publish(name, data, event=event, exclude=exclude, key=key)
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
            key: As for :meth:`publish`.

        Raises:
            InvalidChannel, UsageError, NotStarted: As :meth:`publish`.
        """
        services = self._host.services
        publication = services.post.accept(channel, event, data, key)
        sent = self._deliver_to(services, publication, to, exclude, endpoint)
        return await services.post.settled(sent)

    def send_soon(
        self,
        channel: str,
        data: object = None,
        *,
        to: Who,
        endpoint: Endpoint | None = None,
        event: str = "message",
        exclude: Who = (),
        key: str | None = None,
    ) -> Receipt:
        """Send from code that cannot await: :meth:`send` as :meth:`publish_soon` publishes.

        Raises:
            InvalidChannel, UsageError, NotStarted: As :meth:`publish_soon`.
        """
        services = self._host.services
        publication = services.post.accept(channel, event, data, key)
        sent = self._deliver_to(services, publication, to, exclude, endpoint)
        services.post.soon()
        return sent.checked()

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
        key: str | None = None,
        wait: bool = True,
        timeout: float = _TIMEOUT,
    ) -> Receipt | None:
        """Send from another thread: :meth:`send` as :meth:`publish_threadsafe` publishes.

        Raises:
            InvalidChannel, UsageError, NotStarted: As :meth:`publish_threadsafe`.
        """
        publication = self._host.post.accept(channel, event, data, key)

        def deliver() -> Receipt:
            services = self._host.services
            sent = self._deliver_to(services, publication, to, exclude, endpoint)
            services.post.soon()
            return sent.checked()

        return self._from_thread("send_soon", deliver, timeout if wait else None)

    def _deliver_to(
        self,
        services: Services,
        publication: Publication,
        to: Who,
        exclude: Who,
        endpoint: Endpoint | None,
    ) -> Sent:
        registry, post, recipients = services.registry, services.post, self._recipients
        members = [c.member for c in recipients.find(registry, to, endpoint, "to")]
        excluded = recipients.members(registry, exclude, endpoint)
        receipt = post.deliver(publication, excluded, members)
        elsewhere = None if post.outgoing is None else recipients.elsewhere(to, endpoint)
        if elsewhere is None:
            return Sent(receipt)
        absent = recipients.elsewhere(exclude, endpoint)
        return Sent(receipt, post.hand_over(publication, absent, elsewhere))

    def _deliver(
        self,
        services: Services,
        publication: Publication,
        exclude: Who,
        idempotency_key: str | None = None,
    ) -> Sent:
        post, recipients = services.post, self._recipients
        excluded = recipients.members(services.registry, exclude)
        absent = None
        if exclude != () and post.outgoing is not None:  # It seldom leaves anyone out.
            absent = recipients.elsewhere(exclude, and_here=post.keeps(publication.channel))
        scoped = None
        if idempotency_key is not None:
            scoped = post.scoped(idempotency_key, publication.channel)
        return post.publish(publication, excluded, absent, scoped)

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
