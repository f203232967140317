"""The built-in dialects on the client's side: requests to text, text to replies and events.

The server's side is :mod:`wsbus.protocols`. Structs that are sent end with ``Out``
(``outgoing``), structs that are received with ``In`` (``incoming``). Unknown types are
ignored, so that an older client understands a newer server.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import ClassVar, Final

import msgspec
from msgspec import UNSET, UnsetType

from ..core.client.actions import Heard
from ..core.errors import UsageError
from ..core.messages import Publication, Request
from .incoming import COMMON_MESSAGES, NATIVE_MESSAGES, MessageIn, Said
from .outgoing import encode_request

__all__ = ["ClientDialect", "dialect"]

logger: Final = logging.getLogger("wsbus.client")


class _LabelIn(msgspec.Struct, frozen=True):
    type: str | UnsetType = UNSET


class ClientDialect:
    """``zigquant-v2``; ``wsbus.v1`` is derived from it."""

    name: str = "zigquant-v2"
    """The WebSocket subprotocol token."""
    greets: bool = False
    """Whether the server speaks first."""
    is_named: bool = False
    """Whether the server must echo the subprotocol."""
    is_rich: bool = False
    """Whether a client can publish, and ask for the status."""
    has_plus: bool = False
    """Whether ``+`` is a wildcard."""
    messages: ClassVar[tuple[type[MessageIn], ...]] = COMMON_MESSAGES

    def __init__(self) -> None:
        self._decoder: Final[msgspec.json.Decoder[MessageIn]] = msgspec.json.Decoder(
            reduce(or_, self.messages)  # a union, made at run time
        )
        self._tags: Final = {str(m.__struct_config__.tag) for m in self.messages}

    def encode(self, request: Request) -> bytes:
        """Return the message for ``request``."""
        return encode_request(request)

    def measure(self, request: Request) -> int:
        """Return the size of the message for ``request``, in bytes."""
        return len(self.encode(request))

    def decode(self, text: str) -> Iterable[Heard | Publication]:
        """Decode one frame; messages that are not understood are logged and ignored.

        It never raises, whatever the server sent.
        """
        said = self._understand(text)
        return () if said is None else (said,)

    def _understand(self, text: str) -> Said:
        try:
            return self._decoder.decode(text).heard()
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
            self._pass_over(text, error)
            return None

    def _pass_over(self, text: str, error: Exception) -> None:
        try:
            kind = msgspec.json.decode(text, type=_LabelIn).type
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            kind = UNSET
        if kind is UNSET or kind in self._tags:
            # The type of the error only: its text may repeat the message.
            logger.warning("a message was not understood: %s", type(error).__name__)


class NativeDialect(ClientDialect):
    """``wsbus.v1``: a frame holds one message or more, separated by newlines."""

    name = "wsbus.v1"
    greets = True
    is_named = True
    is_rich = True
    has_plus = True
    messages: ClassVar[tuple[type[MessageIn], ...]] = NATIVE_MESSAGES

    def decode(self, text: str) -> Iterable[Heard | Publication]:
        """Decode one frame; messages that are not understood are logged and ignored."""
        if "\n" not in text:
            return super().decode(text)
        try:
            found = [message.heard() for message in self._decoder.decode_lines(text)]
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError):
            # One of them is not understood: decode them one by one.
            found = [self._understand(line) for line in text.split("\n") if line.strip()]
        return [said for said in found if said is not None]


_DIALECTS: Final = {d.name: d for d in (NativeDialect(), ClientDialect())}


def dialect(name: str) -> ClientDialect:
    """Return the dialect of this name.

    Raises:
        UsageError: The client has no such dialect.
    """
    try:
        return _DIALECTS[name]
    except KeyError:
        known = ", ".join(_DIALECTS)
        raise UsageError(f"this client does not speak {name!r}; it speaks {known}") from None
