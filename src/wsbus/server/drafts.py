"""Publications that come in one request from outside: all are checked, then all are published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..connection import ConnectionId
from ..core.errors import BrokerUnavailable, InvalidChannel, UsageError
from ..core.messages import Receipt
from .post import Sent
from .publisher import Publisher

__all__ = ["HttpDraft", "UnfitDraft", "publish_all"]


class HttpDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A publication as a request holds it; not checked yet."""

    channel: str
    data: Any = None
    event: str = "message"
    exclude: tuple[str, ...] = ()
    """Ids of connections that do not get it."""
    key: str | None = None
    to: str | None = None
    """The subject of the identity that gets it; None: everyone whose patterns match."""


class UnfitDraft(Exception):
    """One of several publications is refused, and none is published.

    Args:
        index: The place of the publication.
        field: The field that is wrong.
        message: What is wrong with it.
    """

    def __init__(self, index: int, field: str, message: str) -> None:
        super().__init__(message)
        self.index = index
        self.field = field


async def publish_all(bus: Publisher, drafts: Sequence[HttpDraft]) -> list[Receipt]:
    """Publish in order, once all are checked; return the receipts.

    Raises:
        UnfitDraft: One is refused.
        NotStarted: The bus is not running.
        BrokerUnavailable: There is no link to the broker, and nothing was published; or it was
            lost before it took everything.
    """
    host = bus._host  # noqa: SLF001  # here and below: a verb of the bus that is not public
    services = host.services
    post, accepted = services.post, []
    for index, draft in enumerate(drafts):
        try:
            accepted.append(post.accept(draft.channel, draft.event, draft.data, draft.key))
        except InvalidChannel as exc:
            raise UnfitDraft(index, "channel", str(exc)) from None
        except UsageError as exc:
            field = "data" if draft.event.isprintable() else "event"
            raise UnfitDraft(index, field, str(exc)) from None
    if not host.is_healthy:
        raise BrokerUnavailable("there is no link to the broker; nothing was published")
    sent: list[Sent] = []
    for draft, publication in zip(drafts, accepted, strict=True):
        exclude = [ConnectionId(each) for each in draft.exclude] or ()
        if draft.to is None:
            sent.append(bus._deliver(services, publication, exclude))  # noqa: SLF001
        else:
            done = bus._deliver_to(services, publication, draft.to, exclude, None)  # noqa: SLF001
            sent.append(done)
        if (relief := post.pace()) is not None:
            await relief
    return [await each.taken() for each in sent]
