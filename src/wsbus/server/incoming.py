"""Carries out what other nodes send: publications for members of this node, and orders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from .._log import BoundedLog, about, escaped
from ..core.envelope import (
    Addressed,
    AttendanceAsked,
    Attended,
    Dismissed,
    Item,
    Kept,
    Published,
    Revoked,
    StreamLease,
    kept_publication,
    publication_of,
)
from ..core.errors import WsbusError, is_sendable
from ..core.member import Member
from ..endpoint import Endpoint
from .connection import ConnectionDriver
from .services import Services

__all__ = ["Incoming"]

logger: Final = logging.getLogger("wsbus.relay")

_NO_MEMBERS: Final[frozenset[Member]] = frozenset()


class Incoming:
    """Takes items of other nodes.

    Args:
        services: Those of the bus.
        endpoints: The endpoints of the bus, in the order that every node has them.
    """

    def __init__(self, services: Services, endpoints: Sequence[Endpoint]) -> None:
        self._services: Final = services
        self._deliver: Final = services.post.deliver
        self._endpoints: Final = endpoints
        families = services.hub.families
        self._keep_history: Final = families.keep_history
        self._history_of: Final = families.history_of
        self._log: Final = BoundedLog(logger)

    def publish(self, item: Published, node: str) -> bool:
        """Deliver a publication of another node; never waits, never raises.

        Returns:
            Whether its content is fit.
        """
        try:
            if item.channel and item.to is None and item.excluded is None:  # Most are so.
                publication = publication_of(item, item.channel, node)
                if publication is not None:
                    self._deliver(publication)
                    if self._keep_history and self._history_of(publication.channel) is not None:
                        self._tell_unkept(publication.channel)
                return publication is not None
            return self._publish(item, node)
        except Exception:
            logger.exception(
                "a publication of another process cannot be delivered",
                extra=about("not_delivered", node=escaped(node)),
            )
            return False

    def keep(self, kept: Kept) -> bool:
        """Deliver a publication that a store has numbered, of any node; never waits, never raises.

        Returns:
            Whether its content is fit.
        """
        try:
            publication = kept_publication(kept)
            if publication is not None:
                excluded = self._excluded(kept.published, kept.node)
                self._services.post.deliver_kept(publication, excluded)
        except Exception:
            logger.exception(
                "a publication that the broker keeps cannot be delivered",
                extra=about("not_delivered", node=escaped(kept.node)),
            )
            return False
        return publication is not None

    def carry_out(self, item: Item, node: str) -> bool:
        """Carry an order of another node out; never waits, never raises.

        Returns:
            Whether its content is fit.
        """
        try:
            match item:
                case Dismissed():
                    return self._dismiss(item, node)
                case Attended() | AttendanceAsked():
                    self._services.attendances.hear(item, node)
                case StreamLease():
                    if self._services.streams is not None:
                        self._services.streams.hear(item)
                case Revoked():
                    for driver in self._find(item.to, node):
                        driver.connection.revoke(item.pattern, item.reason)
        except WsbusError:
            return False
        except Exception:
            logger.exception(
                "an order of another process cannot be carried out",
                extra=about("order_failed", node=escaped(node)),
            )
            return False
        return True

    def _publish(self, item: Published, node: str) -> bool:
        """Deliver what goes to some connections, not to others, or to the broadcast channels."""
        excluded = self._excluded(item, node)
        members = None
        if item.to is not None:
            members = [driver.member for driver in self._find(item.to, node)]
        is_fit = True
        for channel in (item.channel,) if item.channel else self._broadcast_channels():
            publication = publication_of(item, channel, node)
            if publication is None:
                is_fit = False
            else:
                self._deliver(publication, excluded, members)
        return is_fit

    def _excluded(self, item: Published, node: str) -> frozenset[Member]:
        """Return the members that do not get a publication of a node."""
        if item.excluded is None:
            return _NO_MEMBERS
        excluded = self._find(item.excluded, node)
        return frozenset([member for driver in excluded for member in driver.members])

    def _tell_unkept(self, channel: str) -> None:
        self._log.warning(
            "a publication on %s is not kept: the emitter or process that sent it has not declared "
            "this family with history",
            escaped(channel),
            extra=about("not_kept", channel=escaped(channel)),
        )

    def _dismiss(self, item: Dismissed, node: str) -> bool:
        if not is_sendable(item.code):
            return False
        for driver in self._find(item.to, node):
            driver.connection.disconnect(item.code, item.reason)
        return True

    def _broadcast_channels(self) -> Sequence[str]:
        names = [endpoint.broadcast for endpoint in self._endpoints]
        return [*dict.fromkeys([name for name in names if name is not None])]

    def _find(self, to: Addressed, node: str) -> list[ConnectionDriver]:
        """Return the connections of this node that another one addresses, or this one itself."""
        registry = self._services.registry
        found: dict[ConnectionDriver, None] = {}
        own = to.own if node == self._services.post.node else ()
        for name in (*to.connections, *own):
            for endpoint in registry.endpoints():
                driver = registry.named(endpoint, name)
                if driver is not None:
                    found[driver] = None
        if to.subject is not None:
            found.update(dict.fromkeys(self._of_subject(to, to.subject)))
        return [*found]

    def _of_subject(self, to: Addressed, subject: str) -> Sequence[ConnectionDriver]:
        endpoint = None
        if to.endpoint is not None:
            if not 0 <= to.endpoint < len(self._endpoints):
                return ()
            endpoint = self._endpoints[to.endpoint]
        realm = to.realm
        if realm is None:
            realm = 1 if any(each.realm for each in self._endpoints) else 0
        return self._services.registry.of(realm, subject, endpoint)
