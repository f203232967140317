"""The verbs of a bus that publish, and the families that say what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, TypedDict, Unpack, overload

from ..core.choices import shown
from ..core.encoding import EncHook, encode_data
from ..core.errors import NotStarted, UsageError
from ..core.families import Family
from ..core.messages import Publication, Receipt
from ..core.overflow import Overflow
from ..endpoint import Endpoint
from ._threads import LoopCall
from .host import BusHost
from .post import Encode
from .recipients import Recipients, Who
from .services import Services

__all__ = ["Publisher", "encoder"]

_TIMEOUT: Final = 5.0


class _Options(TypedDict, total=False):
    event: str
    exclude: Who
    key: str | None


class Publisher:
    """What :class:`.Bus` inherits; not for use by itself.

    All methods belong to the thread of the event loop, but for those whose names end with
    ``_threadsafe``.
    """

    def __init__(self, host: BusHost) -> None:
        self._host: Final = host
        self._broadcasts: Final[set[str]] = set()
        self._recipients: Final = Recipients()

    def family(self, pattern: str, *, overflow: Overflow | str | None = None) -> Family:
        """Give the channels that match a pattern a policy of their own: ``family("prices.*", …)``.

        A channel belongs to the most specific family that matches it: an exact name comes before
        every wildcard, ``prices.BTC.*`` before ``prices.*``, ``prices.+`` before ``prices.*``. See
        :mod:`wsbus.core.families` for the rule. Declare families before the bus runs, the same ones
        in each process of a service.

        Args:
            pattern: The channels, in the form of a subscription.
            overflow: What a full queue does with their publications, as :class:`.Overflow` or its
                text; None: as the receiving endpoint or subscription says.

        Raises:
            InvalidChannel: The pattern is none.
            UsageError: The bus is running; another family has a pattern that matches the same
                channels; or ``overflow`` is no policy.
        """
        return self._host.declare(pattern, overflow=overflow)

    async def publish(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: Who = (),
        key: str | None = None,
    ) -> Receipt:
        """Publish to everyone whose patterns match, in the order of the calls.

        It yields to the event loop once per 64 publications or 256 KiB, and then waits for readers
        that drain what they owe, so that a tight loop loses nothing for readers that keep up. It
        waits at most 0.25 s each time, at most 1 s for a reader until that has caught up, and not
        for one that takes nothing. So no subscriber slows it down below 256 publications or 1 MiB
        a second.

        Args:
            channel: Where; an exact name.
            data: What JSON has a form for; msgspec structs, dataclasses and dates, too.
            event: What happened, a word within the channel.
            exclude: Receivers to leave out: a connection, several, or the subject of an identity.
            key: For ``conflate``: what it replaces; None: the same event of the same channel.

        Returns:
            How many it was for, and how many will get it.

        Raises:
            InvalidChannel: It is no channel, a pattern, say.
            UsageError: The data has no JSON form, or an argument is of the wrong type. Nobody got
                anything.
            NotStarted: The bus is not running.
        Cancellation: accepted already.
        """
        services = self._host.services
        post = services.post
        publication = post.accept(channel, event, data, key)
        excluded = self._recipients.members(services.registry, exclude)
        receipt = post.deliver(publication, excluded)
        await post.pace()
        return receipt

    def publish_soon(
        self,
        channel: str,
        data: object = None,
        *,
        event: str = "message",
        exclude: Who = (),
        key: str | None = None,
    ) -> Receipt:
        """Publish from code that cannot await: as :meth:`publish`, in one order with it.

        It never waits; in a tight loop queues may overflow.

        Raises:
            UsageError: Called from another thread, too: see :meth:`publish_threadsafe`.
        """
        services = self._host.services
        post = services.post
        publication = post.accept(channel, event, data, key)
        excluded = self._recipients.members(services.registry, exclude)
        receipt = post.deliver(publication, excluded)
        post.soon()
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
        key: str | None = None,
        wait: bool = True,
        timeout: float = _TIMEOUT,
    ) -> Receipt | None:
        """Publish from another thread, in one order with what the thread published before.

        The data is encoded in the calling thread, and errors in the arguments are raised there,
        too.

        Args:
            channel: As for :meth:`publish`, and so are ``data`` to ``key``.
            data: The same.
            event: The same.
            exclude: The same.
            key: The same.
            wait: Whether to wait until the event loop has accepted it. Without a wait nothing is
                returned, a tight loop is not slowed down, and a bus that stops meanwhile drops it.
            timeout: Seconds to wait at most. The wait does not end as long as the event loop is
                blocked, for instance because it waits for this thread.

        Raises:
            InvalidChannel: As :meth:`publish`.
            UsageError: As :meth:`publish`; called from the thread of the event loop; or the event
                loop did not take it in time, and then nobody gets it.
            NotStarted: The bus is not running.
        """
        publication = self._host.post.accept(channel, event, data, key)

        def deliver() -> Receipt:
            services = self._host.services
            excluded = self._recipients.members(services.registry, exclude)
            receipt = services.post.deliver(publication, excluded)
            services.post.soon()
            return receipt

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

        What their grants deny they do not get. It waits as :meth:`publish` does.

        Args:
            channel: What the event says it is on.
            data: As for :meth:`publish`.
            to: A connection, several, or the subject of an identity; each gets it once.
            endpoint: For a subject, also in ``exclude``: where it authenticated. None: every
                endpoint that has the bus's first authenticator. A subject of another authenticator
                is somebody else.
            event: What happened.
            exclude: As for :meth:`publish`.
            key: As for :meth:`publish`.

        Raises:
            InvalidChannel, UsageError, NotStarted: As :meth:`publish`.
        """
        services = self._host.services
        publication = services.post.accept(channel, event, data, key)
        receipt = self._deliver_to(services, publication, to, exclude, endpoint)
        await services.post.pace()
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
        key: str | None = None,
    ) -> Receipt:
        """Send from code that cannot await: :meth:`send` as :meth:`publish_soon` publishes.

        Raises:
            InvalidChannel, UsageError, NotStarted: As :meth:`publish_soon`.
        """
        services = self._host.services
        publication = services.post.accept(channel, event, data, key)
        receipt = self._deliver_to(services, publication, to, exclude, endpoint)
        services.post.soon()
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
            receipt = self._deliver_to(services, publication, to, exclude, endpoint)
            services.post.soon()
            return receipt

        return self._from_thread("send_soon", deliver, timeout if wait else None)

    def _deliver_to(
        self,
        services: Services,
        publication: Publication,
        to: Who,
        exclude: Who,
        endpoint: Endpoint | None,
    ) -> Receipt:
        registry = services.registry
        members = [c.member for c in self._recipients.find(registry, to, endpoint, "to")]
        excluded = self._recipients.members(registry, exclude, endpoint)
        return services.post.deliver(publication, excluded, members)

    def _from_thread(
        self, instead: str, accept: Callable[[], Receipt], timeout: float | None
    ) -> Receipt | None:
        """Have the event loop accept something; None as ``timeout``: do not wait for it."""
        life = self._host.life
        if life is None:
            raise NotStarted
        if threading.get_ident() == life.thread:
            raise UsageError(f"this is the thread of the event loop: use {instead}")
        call = LoopCall(accept, is_awaited=timeout is not None)
        call.submit(life.token)
        return None if timeout is None else call.wait(timeout)


def encoder(enc_hook: EncHook | None) -> Encode:
    """Return what encodes the data of a bus.

    Raises:
        UsageError: The hook is no function.
    """
    if enc_hook is not None and not callable(enc_hook):
        raise UsageError(
            f"enc_hook is a function that turns an object into data, not {shown(enc_hook)}"
        )
    return partial(encode_data, enc_hook=enc_hook)
