"""Dialects: what clients say and hear, as frames, and what it means.

A client picks one by its subprotocol token. Those of this package are registered here; an
application registers its own with :func:`register`, or hands the object itself to an endpoint.
"""

from __future__ import annotations

from .base import WireProtocol
from .native import Native
from .registry import protocol, register
from .zigquant import ZigQuant

__all__ = ["Native", "WireProtocol", "ZigQuant", "protocol", "register"]

register(Native())
register(ZigQuant())
