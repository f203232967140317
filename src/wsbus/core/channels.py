"""Channel names: the grammar, and escaping for names from outside.

A channel is one to 16 segments joined by ``.``, at most 255 bytes of UTF-8. A segment is a
non-empty run of characters that :data:`FORBIDDEN_CODES` does not list, without ``*``. The wildcards
``+``, ``#`` and ``>`` (of wsbus, MQTT and NATS) do not stand alone in it, nor alone between
slashes: ``BTC/USDT``, ``^GSPC``, ``600519``, ``C#``, ``a+b`` and ``贵州茅台`` are segments, and
``+``, ``#`` and ``a/+/b`` are not.

The table is fixed. A name that is valid in one version of Python is valid in every other one, and
in JavaScript, whatever version of Unicode they know. The vectors in
``tests/core/vectors/channels.json`` hold all of them to it.

Only :func:`parse_channel` and :func:`channel` make a :data:`Channel`, so that its holder need not
check it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NewType
from urllib.parse import unquote_to_bytes

from .errors import InvalidChannel

__all__ = [
    "FORBIDDEN_CODES",
    "MAX_CHANNEL_BYTES",
    "MAX_SEGMENTS",
    "Channel",
    "channel",
    "check_alone",
    "escape_segment",
    "parse_channel",
    "split_name",
    "unescape_segment",
]

Channel = NewType("Channel", str)
"""The exact name of a channel, known to be well formed."""

MAX_CHANNEL_BYTES: Final = 255
"""The longest name of a channel or pattern, in bytes of UTF-8."""

MAX_SEGMENTS: Final = 16
"""The most segments of a channel or pattern: it bounds the depth of every search."""

FORBIDDEN_CODES: Final = (
    (0x0000, 0x0020),
    (0x007F, 0x00A0),
    (0x00AD, 0x00AD),
    (0x0600, 0x0605),
    (0x061C, 0x061C),
    (0x06DD, 0x06DD),
    (0x070F, 0x070F),
    (0x0890, 0x0891),
    (0x08E2, 0x08E2),
    (0x1680, 0x1680),
    (0x180E, 0x180E),
    (0x2000, 0x200F),
    (0x2028, 0x202F),
    (0x205F, 0x2064),
    (0x2066, 0x206F),
    (0x3000, 0x3000),
    (0xD800, 0xF8FF),
    (0xFDD0, 0xFDEF),
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0xFFFE, 0xFFFF),
    (0x110BD, 0x110BD),
    (0x110CD, 0x110CD),
    (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    *((plane << 16 | 0xFFFE, plane << 16 | 0xFFFF) for plane in range(1, 14)),
    (0xE0001, 0xE0001),
    (0xE0020, 0xE007F),
    (0xEFFFE, 0x10FFFF),
)
"""Code points that no name may hold, as first and last of each range.

They are the general categories Cc, Cf, Cs, Co, Zs, Zl and Zp of Unicode 15.0 (control and format
characters, surrogates, private use, white space), and the noncharacters. Code points that Unicode
15.0 does not assign may stand in a name.
"""

_RANGES: Final = "".join([rf"\U{first:08x}-\U{last:08x}" for first, last in FORBIDDEN_CODES])
_ALONE: Final = "(?<![^/])[+#>](?![^/])"
_find_forbidden: Final = re.compile(f"[{_RANGES}]").search
_find_alone: Final = re.compile(_ALONE).search
_replace_unfit: Final = re.compile(f"[{_RANGES}%.*]|{_ALONE}").sub
# Most names: printable ASCII without a character that may be part of a wildcard.
_PLAIN: Final = r"[!-\"$-)\,\-/-=?-~]+"
_is_plain: Final = re.compile(
    rf"(?=.{{1,{MAX_CHANNEL_BYTES}}}\Z){_PLAIN}(?:\.{_PLAIN}){{0,{MAX_SEGMENTS - 1}}}"
).fullmatch


def parse_channel(name: str) -> Channel:
    """Check that ``name`` is the name of a channel.

    Args:
        name: Any text; other objects are refused in the same way.

    Returns:
        The same text.

    Raises:
        InvalidChannel: The name breaks the grammar, or holds a wildcard.

    Cost: O(length), a fraction of a microsecond for most names in ASCII, and for all others that
    were parsed lately.
    """
    if type(name) is str:
        if _is_plain(name):
            return name  # type: ignore[return-value]  # calling a NewType would cost a fifth more
        return _parse(name)
    # A member of a StrEnum, say, becomes the plain text that encoders are fast at.
    if isinstance(name, str):
        return _parse(str.__str__(name))
    raise InvalidChannel("a name must be text", name)


def channel(head: str, *names: str) -> Channel:
    """Build a channel from text of your own and names from outside.

    ``channel("user", name)`` is always a channel right below ``user``, whatever ``name`` holds,
    and two different names never share one.

    Args:
        head: Literal text: one or more segments.
        names: Any text; each becomes one segment by :func:`escape_segment`.

    Raises:
        InvalidChannel: ``head`` breaks the grammar, or the result exceeds the bounds.
    """
    for part in (head, *names):
        if not isinstance(part, str):
            raise InvalidChannel("the parts of a channel must be text, such as str(number)", part)
    return parse_channel(".".join((head, *map(escape_segment, names))))


def escape_segment(text: str) -> str:
    """Spell any text as one segment, without loss.

    Text that is a segment and holds no ``%`` stays as it is. Otherwise each character that does
    not fit, and ``.`` and ``%``, becomes the percent-encoding of its UTF-8 bytes (a lone surrogate
    is encoded as if it were a character): ``a b`` becomes ``a%20b``, ``+`` becomes ``%2B``, and
    ``a/#`` becomes ``a/%23``. The empty text becomes ``%``.

    Guarantees: different texts give different segments. The length is not bounded: a channel of
    it may still exceed 255 bytes.
    """
    return _replace_unfit(_escape_character, text) or "%"


def unescape_segment(segment: str) -> str:
    """Return the text that :func:`escape_segment` spelled as ``segment``.

    Guarantees: one segment only for each text, so that ``user.%61`` cannot pass for ``user.a``.

    Raises:
        InvalidChannel: :func:`escape_segment` does not make such a segment.
    """
    if segment == "%":
        return ""
    try:
        text = unquote_to_bytes(segment).decode("utf-8", "surrogatepass")
    except UnicodeError:
        text = ""
    if not text or escape_segment(text) != segment:
        raise InvalidChannel("the segment is not the escaped form of any text", segment)
    return text


def split_name(name: object) -> list[str]:
    """Check the rules that channels and patterns share, and split at the dots.

    The caller checks the wildcards: segments may be ``+``, or contain ``*``.

    Raises:
        InvalidChannel: ``name`` is not a text, is too long, or has a segment that is empty, or
            holds white space or characters that cannot be printed.
    """
    if not isinstance(name, str):
        raise InvalidChannel("a name must be text", name)
    # A name of a megabyte is not worth a search: its start is enough to refuse it.
    if _find_forbidden(name, 0, MAX_CHANNEL_BYTES):
        raise InvalidChannel(
            "a name must not contain white space or characters that cannot be printed",
            name,
        )
    # Characters are counted first: a name of a megabyte is not worth encoding.
    if len(name) > MAX_CHANNEL_BYTES or len(name.encode()) > MAX_CHANNEL_BYTES:
        raise InvalidChannel(f"a name may have at most {MAX_CHANNEL_BYTES} bytes", name)
    segments = name.split(".")
    if "" in segments:
        raise InvalidChannel("a name must not be empty, nor any of its segments", name)
    if len(segments) > MAX_SEGMENTS:
        raise InvalidChannel(f"a name may have at most {MAX_SEGMENTS} segments", name)
    return segments


def check_alone(segments: Iterable[str], name: str) -> None:
    """Check that no segment is or holds a wildcard of MQTT or NATS.

    Raises:
        InvalidChannel: ``+``, ``#`` or ``>`` stands alone, or alone between slashes.
    """
    for segment in segments:
        found = _find_alone(segment)
        if found and "/" in segment:
            raise InvalidChannel(
                f"`{found[0]}` cannot stand alone between slashes: it is not a wildcard there, "
                "since segments are joined by `.`, as in `a.*.b`",
                name,
            )
        if found and found[0] != "+":
            raise InvalidChannel(
                f"`{found[0]}` cannot be a segment: it is not a wildcard here; a last `*` matches "
                "one or more segments, as in `a.*`",
                name,
            )
        if found:
            raise InvalidChannel("a channel must not contain wildcards", name)


@lru_cache(1024)
def _parse(name: str) -> Channel:
    segments = split_name(name)
    if "*" in name:
        raise InvalidChannel("a channel must not contain wildcards", name)
    check_alone(segments, name)
    return Channel(name)


def _escape_character(found: re.Match[str]) -> str:
    return "".join([f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass")])
