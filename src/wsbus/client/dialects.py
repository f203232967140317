"""The built-in dialects on the client's side: requests to frames, frames to replies and events.

The server's side is :mod:`wsbus.protocols`. Structs that are sent end with ``Out``
(``outgoing``), structs that are received with ``In`` (``incoming``). Unknown types are
ignored, so that an older client understands a newer server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import reduce
from operator import or_
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from .._log import about
from ..core.client.actions import Heard
from ..core.encoding import encode_data
from ..core.errors import UsageError
from ..core.messages import Publication, Receipt, Request
from ..core.packing import pack, pack_json
from .incoming import COMMON_MESSAGES, NATIVE_MESSAGES, MessageIn, Said
from .outgoing import encode_request, pack_request
from .payloads import decoder_of, unpacker_of

__all__ = ["ClientDialect", "dialect"]

logger: Final = logging.getLogger("wsbus.client")
T = TypeVar("T")


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
    is_binary: bool = False
    """Whether its frames are binary."""
    nothing: bytes = b"{}"
    """The parameters of a command without any."""
    has_plus: bool = False
    """Whether ``+`` is a wildcard."""
    messages: ClassVar[tuple[type[MessageIn], ...]] = COMMON_MESSAGES
    _coding: ClassVar[Any] = msgspec.json

    def __init__(self) -> None:
        kinds = reduce(or_, self.messages)  # a union, made at run time
        self._decoder: Final[msgspec.json.Decoder[MessageIn]] = self._coding.Decoder(kinds)
        self._label: Final = self._coding.Decoder(_LabelIn).decode
        self.receipt: Final = self.decoder(Receipt)
        """Decodes the answer to a publication."""
        self._tags: Final = {str(m.__struct_config__.tag) for m in self.messages}

    def data(self, value: object) -> bytes:
        """Encode data of the application.

        Raises:
            UsageError: They have no form in JSON.
        """
        return encode_data(value)

    def decoder(self, payload: type[T]) -> Callable[[bytes], T]:
        """Return a function that decodes data as a type.

        Raises:
            UsageError: Neither msgspec nor pydantic can decode it.
        """
        return decoder_of(payload)

    def encode(self, request: Request) -> bytes:
        """Return the message for ``request``."""
        return encode_request(request)

    def measure(self, request: Request) -> int:
        """Return the size of the message for ``request``, in bytes."""
        return len(self.encode(request))

    def decode(self, text: Any) -> Iterable[Heard | Publication]:
        """Decode one frame; messages that are not understood are logged and ignored.

        It never raises, whatever the server sent.
        """
        said = self._understand(text)
        return () if said is None else (said,)

    def _understand(self, text: str | bytes) -> Said:
        try:
            return self._decoder.decode(text).heard()
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
            self._pass_over(text, error)
            return None

    def _pass_over(self, text: str | bytes, error: Exception) -> None:
        try:
            kind = self._label(text).type
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            kind = UNSET
        if kind is UNSET or kind in self._tags:
            # The type of the error only: its text may repeat the message.
            logger.warning(
                "a message was not understood: %s",
                type(error).__name__,
                extra=about("client_not_understood"),
            )


class NativeDialect(ClientDialect):
    """``wsbus.v1``: a frame holds one message or more, separated by newlines."""

    name = "wsbus.v1"
    greets = True
    is_named = True
    is_rich = True
    has_plus = True
    messages: ClassVar[tuple[type[MessageIn], ...]] = NATIVE_MESSAGES

    def decode(self, text: Any) -> Iterable[Heard | Publication]:
        """Decode one frame; messages that are not understood are logged and ignored."""
        if "\n" not in text:
            return super().decode(text)
        try:
            found = [message.heard() for message in self._decoder.decode_lines(text)]
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError):
            # One of them is not understood: decode them one by one.
            found = [self._understand(line) for line in text.split("\n") if line.strip()]
        return [said for said in found if said is not None]


class MessagePackDialect(NativeDialect):
    """``wsbus.v1.msgpack``: the same as MessagePack; a frame holds one message."""

    name = "wsbus.v1.msgpack"
    is_binary = True
    nothing = b"\x80"
    _coding: ClassVar[Any] = msgspec.msgpack

    def data(self, value: object) -> bytes:
        """Encode data of the application; bytes and moments stay what they are."""
        text = encode_data(value)
        return pack(value, text) or pack_json(text)

    def decoder(self, payload: type[T]) -> Callable[[bytes], T]:
        """Return a function that decodes data as a type."""
        return unpacker_of(payload)

    def encode(self, request: Request) -> bytes:
        """Return the message for ``request``."""
        return pack_request(request)

    def decode(self, text: Any) -> Iterable[Heard | Publication]:
        """Decode one frame; a message that is not understood is logged and ignored."""
        said = self._understand(text)
        return () if said is None else (said,)


_DIALECTS: Final = {d.name: d for d in (NativeDialect(), MessagePackDialect(), ClientDialect())}


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
