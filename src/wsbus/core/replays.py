"""Publications of the past, encoded once for subscribers that come back together.

When a server or a network is back, thousands of clients ask at once for the same publications.
What was encoded for the first of them is kept for a while, so that the others share it, and those
that ask within one turn share their writes, too.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from .families import Families
from .messages import Publication
from .outlet import Owed
from .protocol import WireProtocol

__all__ = ["Replays"]

_FrameKey: TypeAlias = tuple[Publication, WireProtocol, bool]

_MAX_BYTES: Final = 8 << 20
_MORE_BYTES: Final = 512
"""An entry beside its frame, roughly."""


class Replays:
    """Publications of the past as members owe them.

    Law: what is kept was asked for since the last but one :meth:`settle`, and takes at most twice
    ``max_bytes``, or one entry more.

    Args:
        families: Those of the bus.
        max_bytes: About half of the memory that it takes at most.
    """

    def __init__(self, families: Families, max_bytes: int = _MAX_BYTES) -> None:
        self._families: Final = families
        self._max_bytes: Final = max_bytes
        # What was asked for since it settled last, and in the time before that.
        self._new: dict[_FrameKey, Owed] = {}
        self._old: dict[_FrameKey, Owed] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._new) + len(self._old)

    def owed(
        self, publication: Publication, protocol: WireProtocol | None, *, is_latest: bool
    ) -> Owed:
        """Return a publication as members of a dialect owe it.

        Args:
            publication: It was published before.
            protocol: The dialect; None: that of members inside the process.
            is_latest: Whether it is the latest of its channel, for a new subscription.
        """
        if protocol is None:
            return self._made(publication, None, is_latest=is_latest)
        key = (publication, protocol, is_latest)
        owed = self._new.get(key)
        if owed is None:
            owed = self._old.pop(key, None)
            if owed is None:
                owed = self._made(publication, protocol, is_latest=is_latest)
            self._keep(key, owed)
        return owed

    def settle(self) -> None:
        """Forget what was not asked for since the last call."""
        self._old, self._new, self._bytes = self._new, {}, 0

    def _keep(self, key: _FrameKey, owed: Owed) -> None:
        if owed.is_latest and owed.family is not None and owed.family.stream is not None:
            return  # It is made anew for each reader.
        self._bytes += owed.size + _MORE_BYTES
        if self._bytes > self._max_bytes:
            self.settle()
            self._bytes = owed.size + _MORE_BYTES
        self._new[key] = owed

    def _made(
        self, publication: Publication, protocol: WireProtocol | None, *, is_latest: bool
    ) -> Owed:
        frame = None
        if protocol is not None:
            encode = protocol.encode_latest if is_latest else protocol.encode_publication
            frame = encode(publication)
        family = self._families.find(publication.channel)
        return Owed(frame, publication, family, is_latest=is_latest)
