"""``zigquant-v2``: the protocol of the ZigQuant trading platform, as its clients know it."""

from __future__ import annotations

from .common import Dialogue

__all__ = ["ZigQuant"]


class ZigQuant(Dialogue):
    """The common messages, one in a frame; ``*`` is the only wildcard.

    It has no message for gaps: losses are counted, and not reported to the client.
    """

    name = "zigquant-v2"
