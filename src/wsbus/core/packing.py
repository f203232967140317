"""Data as MessagePack, which tells bytes and moments from text.

Every publication has its data as JSON text. Where MessagePack says more, the packed form goes along
with the text; where it does not, it is made of the text when a dialect asks for it.

What is packed here has one form: each value is in its shortest encoding, keys of maps are texts,
and of the extension types there is only the timestamp (-1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from .encoding import EncHook, hook_of, not_finite, simplified
from .limits import MAX_DEPTH, MAX_EXTREMES, MAX_PARTS, has_extremes

__all__ = [
    "MAX_SCANNED",
    "InvalidPacked",
    "Packed",
    "is_plain",
    "open_packed",
    "pack",
    "pack_json",
    "pack_value",
    "packed_decoder",
    "text_of",
    "unpack",
]


class Packed(bytes):
    """MessagePack that was checked, where JSON text may stand, too."""

    __slots__ = ()


class InvalidPacked(ValueError):
    """Bytes that are not taken; the text says why, and repeats nothing of them."""


MAX_SCANNED: Final = 8192
"""Values in one message whose encodings are not the shortest ones. Such a message is searched for
keys that are there twice, which takes 0.2 µs for each value (measured)."""

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_are_scalars: Final = _SCALARS.issuperset
_are_texts: Final = frozenset({str}).issuperset


def _refuse_extension(code: int, data: memoryview) -> object:
    raise InvalidPacked(f"there is no extension type {code} here, only timestamps (-1)")


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(ext_hook=_refuse_extension).decode
_json: Final = msgspec.json.Decoder().decode
_text: Final = msgspec.json.Encoder().encode
_MOMENT: Final = type(_decode(b"\xd6\xff\0\0\0\0"))
"""The class of moments; its module, which has a clock, is not imported here."""
_KEPT: Final = (bytes, bytearray, memoryview, _MOMENT)
_SPECIAL: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xca[\x7f\xff][\x80-\xff]")
"""May be the beginning of a number that is not finite."""
_are_leaves: Final = (_SCALARS | {bytes, _MOMENT}).issuperset
_NO_HOLDERS: Final = bytes(range(0x80)) + bytes(range(0xA0, 0xDC)) + bytes(range(0xE0, 0x100))
"""The bytes that arrays and maps do not begin with."""
_FAILED: Final = (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError, OverflowError)


# --- what the application publishes ---------------------------------------------------------------


def is_plain(data: Any) -> bool:
    """Tell whether data holds only what JSON has.

    Only the built-in types count, so that the answer is quick; of an object it is "no".
    """
    kind = type(data)
    values: Iterable[Any]
    if kind is dict:
        values = data.values()
    elif kind is list or kind is tuple:
        values = data
    else:
        return kind in _SCALARS
    if _are_scalars(map(type, values)):
        return True
    for value in values:  # noqa: SIM110  # quicker, and this is for every publication
        if type(value) not in _SCALARS and not is_plain(value):
            return False
    return True


def pack(data: object, text: bytes, enc_hook: EncHook | None = None) -> bytes | None:
    """Return data as MessagePack; None: it would say no more than the JSON text.

    Args:
        data: What was encoded as the text, so that it has a form in JSON.
        text: The JSON text.
        enc_hook: See :func:`.encode_data`.
    """
    if is_plain(data):
        return None
    hook = simplified if enc_hook is None else hook_of(enc_hook)

    def known(value: object) -> object:
        return _json(value) if isinstance(value, msgspec.Raw) else hook(value)

    try:
        built = msgspec.to_builtins(data, builtin_types=_KEPT, str_keys=True, enc_hook=known)
    except TypeError:  # A key is of bytes: only in JSON it is text.
        return None
    packed = pack_value(built)
    return None if packed == pack_json(text) else packed


def pack_value(value: Any) -> bytes:
    """Return a value as MessagePack: one of JSON, or with bytes and moments.

    A whole number beyond 64 bits becomes a float, as in JavaScript.
    """
    try:
        return _encode(value)
    except OverflowError:
        return _encode(_narrow(value))


def pack_json(text: bytes) -> bytes:
    """Return JSON text as MessagePack."""
    return pack_value(_json(text))


def _narrow(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _narrow(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_narrow(each) for each in value]
    if type(value) is not int or -(2**63) <= value < 2**64:
        return value
    try:
        return float(value)
    except OverflowError:
        return str(value)


# --- what comes from outside ----------------------------------------------------------------------


def packed_decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """Return a decoder of a type that takes no extension type but timestamps."""
    return msgspec.msgpack.Decoder(kind, ext_hook=_refuse_extension)


def unpack(packed: bytes) -> Any:
    """Return the value of what was checked."""
    return _decode(packed)


def text_of(value: Any) -> bytes:
    """Return the JSON text of what :func:`open_packed` has returned.

    Bytes become base64 text, and a moment its text in RFC 3339.

    Raises:
        InvalidPacked: The text would take others too long to read.
    """
    text = _text(value)
    if len(text) > 2 * MAX_DEPTH and has_extremes(text.decode(), MAX_EXTREMES):
        raise InvalidPacked(f"more than {MAX_EXTREMES} numbers with exponents of three digits")
    return text


def open_packed(frame: bytes) -> Any:
    """Check and decode MessagePack that anyone may have sent.

    Raises:
        InvalidPacked: It is refused; the text says why.
    """
    try:
        value = _decode(frame)
    except RecursionError:
        raise InvalidPacked(f"nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeError:
        raise InvalidPacked("text that is not UTF-8") from None
    except InvalidPacked:
        raise
    except _FAILED as exc:
        raise InvalidPacked(f"not MessagePack: {exc}") from None
    if len(frame) > MAX_PARTS and len(frame.translate(None, _NO_HOLDERS)) > MAX_PARTS:
        _refuse_crowd(value)
    pairs = _survey(value, MAX_DEPTH) if type(value) is dict or type(value) is list else 0
    if _SPECIAL.search(frame) and not_finite(value) is not None:
        raise InvalidPacked("a number that is not finite, which JSON does not have")
    # In the shortest form nothing is hidden. If a key is there twice, the last one counts, and what
    # was decoded is shorter.
    if pairs and _encode(value) != frame and _declared_pairs(frame) != pairs:
        raise InvalidPacked("a map has a key twice")
    return value


def _survey(holder: Any, room: int) -> int:
    """Return how many entries the maps in an array or map have, itself included.

    Args:
        holder: What was decoded.
        room: How deep it may be nested.
    """
    if not room:
        raise InvalidPacked(f"nested deeper than {MAX_DEPTH} levels")
    pairs: int = 0
    values: Iterable[Any] = holder
    if type(holder) is dict:
        if not _are_texts(map(type, holder)):
            raise InvalidPacked("a key of a map is not a text")
        pairs, values = len(holder), holder.values()
    if not _are_leaves(map(type, values)):
        for value in values:
            if type(value) is dict or type(value) is list:
                pairs += _survey(value, room - 1)
    return pairs


def _refuse_crowd(value: Any) -> None:
    """Refuse too many arrays and maps, which take more time than others."""
    parts, level = 0, [value]
    while level:
        holders = [each for each in level if type(each) is dict or type(each) is list]
        parts += len(holders)
        if parts > MAX_PARTS:
            raise InvalidPacked(f"more than {MAX_PARTS} arrays and maps")
        level = []
        for each in holders:
            level += each.values() if isinstance(each, dict) else each


def _sizes() -> tuple[list[int], list[int]]:
    """Return by first byte how long a value is, and how many bytes of it are its length."""
    fixed, counted = [1] * 256, [0] * 256
    for first in range(0xA0, 0xC0):
        fixed[first] = 1 + first - 0xA0
    for first, size in {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.items():
        fixed[first] = 1 + size
    for first, size in {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}.items():
        fixed[first] = 1 + size
    for power in range(5):
        fixed[0xD4 + power] = 2 + (1 << power)
    for first, size in {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}.items():
        fixed[first], counted[first] = 1 + size, size
    for first, size in {0xC7: 1, 0xC8: 2, 0xC9: 4}.items():
        fixed[first], counted[first] = 2 + size, size
    for first, size in {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}.items():
        fixed[first] = 1 + size
    return fixed, counted


_FIXED, _COUNTED = _sizes()


def _declared_pairs(frame: bytes) -> int:
    """Return how many entries the maps in MessagePack say that they have; it decodes without error.

    Its values stand one after the other, whatever holds them.
    """
    at = pairs = scanned = 0
    end = len(frame)
    while at < end:
        first = frame[at]
        if 0x80 <= first < 0x90:
            pairs += first - 0x80
        elif first == 0xDE or first == 0xDF:  # noqa: PLR1714  # quicker
            pairs += int.from_bytes(frame[at + 1 : at + _FIXED[first]])
        counted = _COUNTED[first]
        if counted:
            at += int.from_bytes(frame[at + 1 : at + 1 + counted])
        at += _FIXED[first]
        scanned += 1
        if scanned > MAX_SCANNED:
            raise InvalidPacked(
                f"more than {MAX_SCANNED} values, and not each in its shortest encoding"
            )
    return pairs
