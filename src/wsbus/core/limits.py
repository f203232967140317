"""Every bound of a connection, and the small machines that enforce them."""

from __future__ import annotations

import math
import re
from itertools import islice
from typing import Final

import msgspec

from .choices import is_number, shown
from .errors import UsageError

__all__ = [
    "MAX_DEPTH",
    "MAX_EXTREMES",
    "MAX_LONG",
    "MAX_PARTS",
    "NAMES_PER_MESSAGE",
    "ExcessRun",
    "Limits",
    "TokenBucket",
    "bucket",
    "has_extremes",
    "has_long_numbers",
    "too_deep",
    "too_many_parts",
]

MAX_DEPTH: Final = 64
"""How deep JSON may be nested, 1 for ``[]``. Data of one client go into the messages of others,
whose parsers have limits of their own."""

MAX_EXTREMES: Final = 128
"""Numbers with exponents of three digits (``1e308``) in one message; a message with more is
refused, see :func:`has_extremes`."""

MAX_LONG: Final = 16
"""Thousands of digits in numbers of a thousand digits and more; see :func:`has_long_numbers`."""

MAX_PARTS: Final = 16_384
"""Arrays and objects in one message that holds little else; see :func:`too_many_parts`. Making
each takes 0.1 µs. 64 KiB of points such as ``[1,2]`` have fewer."""

NAMES_PER_MESSAGE: Final = 8
"""A request with more names, or with more in its answer, counts as one message for each so many
names begun. A name costs about an eighth as much as a message."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of each connection of an endpoint; durations are seconds.

    Raises:
        UsageError: A bound is not positive, or is infinite.
    """

    max_message_bytes: int = 64 * 1024
    """The largest message read; a larger one ends the connection with close 1009. Commands and
    subscriptions are small; it bounds what any client can make the server hold and parse."""
    max_subscriptions: int = 128
    """Subscriptions held at once; more are refused as ``TOO_MANY_SUBSCRIPTIONS``."""
    max_names: int = 128
    """Names in one subscribe or unsubscribe request; a request with more is refused whole as
    ``INVALID_MESSAGE``. It bounds what one message can ask for: by default all the subscriptions
    that a connection may hold."""
    messages_per_second: float | None = 100
    """Messages of any kind, pings too, with a burst of one second; an excess one is not decoded
    and answered ``RATE_LIMITED``. Requests with many names count more, see
    :data:`NAMES_PER_MESSAGE`. None: any number."""
    commands_per_second: float | None = 10
    """The same for commands, which cause work in the application."""
    rate_abuse_seconds: float = 10.0
    """A client that exceeds a rate for so long is closed with ``RATE_ABUSE``; pauses help little,
    see :class:`ExcessRun`."""
    auth_timeout: float = 10.0
    """From the handshake to a valid token; then close ``TOKEN_REFUSED``."""
    max_waiting: int = 16
    """Requests that are pending (the application is asked about them, say) or wait for one that
    is. Above it the connection is not read until one is answered; none is refused for it."""
    max_running_commands: int = 16
    """Commands carried out at once for one connection; more are ``RATE_LIMITED``."""
    command_timeout: float = 25.0
    """A command that takes longer is cancelled and answered ``TIMEOUT``; below the clients' own
    timeout of 30 s."""
    queue_messages: int = 1000
    """Publications that wait for a connection that does not read; beyond, the overflow policy."""
    queue_bytes: int = 1 << 20
    """The same in bytes."""
    control_bytes: int = 256 * 1024
    """Bytes of replies that wait. Above it the connection is not read until they drain, so that a
    client that sends commands and never reads the answers delays only itself."""
    write_deadline: float = 5.0
    """A transport that takes nothing for so long is aborted."""
    close_timeout: float = 5.0
    """For a closing handshake; then the transport is aborted."""
    max_connections: int | None = None
    """Connections of the endpoint at once, including handshakes without an answer yet; more are
    refused at the handshake. None: any number."""
    max_connections_per_address: int | None = None
    """The same for one address (of IPv6: one network of 64 bits). None: any number."""
    max_connections_per_identity: int | None = None
    """The same for one identity: more are refused once they have authenticated. None: any
    number."""

    def __post_init__(self) -> None:
        """Check that each bound is positive and finite."""
        for name in self.__struct_fields__:
            bound, kind = getattr(self, name), _KINDS[name]
            if bound is None and "None" in kind:
                continue
            is_whole = kind.startswith("int")
            if not (is_number(bound) and bound > 0 and (isinstance(bound, int) or not is_whole)):
                what = "a whole number above 0" if is_whole else "a number above 0"
                other = ", or None" if "None" in kind else ""
                raise UsageError(f"the limit {name} must be {what}{other}, not {shown(bound)}")


_KINDS: Final[dict[str, str]] = Limits.__annotations__
"""The type of each limit, such as ``int`` or ``float | None``."""


class TokenBucket:
    """A rate with a burst of one second.

    Law: between any two moments ``t`` seconds apart, at most ``burst + rate * t`` are granted.
    Time that goes back grants nothing.

    Args:
        rate: Tokens per second.
        now: When it starts, full; monotonic seconds.

    Raises:
        UsageError: ``rate`` is not positive.
    """

    __slots__ = ("_last", "burst", "rate", "tokens")

    def __init__(self, rate: float, now: float = -math.inf) -> None:
        if not 0 < rate < math.inf:
            raise UsageError("a rate must be positive and finite")
        self.rate: Final = rate
        self.burst: Final = max(1.0, rate)
        self.tokens: float = self.burst
        """Tokens left at the last look; there may be more by now."""
        self._last = now

    def take(self, now: float, count: int = 1) -> bool:
        """Take tokens at this monotonic second; false if there are too few.

        Args:
            now: Monotonic seconds.
            count: Number of tokens; more than the burst count as the burst, so that a full bucket
                grants everything. If there are too few, one is taken nevertheless, for looking at
                the refused message. 0: only check whether there is one.
        """
        if now > self._last:
            tokens = self.tokens + (now - self._last) * self.rate
            # min() would take thrice as long.
            self.tokens = tokens if tokens < self.burst else self.burst  # noqa: FURB136
            self._last = now
        if self.tokens < 1:
            return False
        if count > 1:
            count = min(count, int(self.burst))
            if self.tokens < count:
                self.tokens -= 1
                return False
        self.tokens -= count
        return True


def bucket(rate: float | None) -> TokenBucket | None:
    """Return a full bucket of this rate; None: any number is taken."""
    return None if rate is None else TokenBucket(rate)


class ExcessRun:
    """Distinguishes a client that exceeds its rate now and then from one that keeps exceeding it.

    It measures the time spent in excess: the time between two excesses counts in full if they are
    less than a pause apart; of a longer time a fifth is subtracted. So occasional excesses have no
    consequence, and a flood with pauses has.

    Args:
        seconds: Time in excess after which the client is closed.
        pause: Seconds; the time between excesses that are closer together counts in full.
    """

    __slots__ = ("_last", "_measure", "pause", "seconds")

    _FORGIVEN: Final = 0.2

    def __init__(self, seconds: float, pause: float = 1.0) -> None:
        self.seconds: Final = seconds
        self.pause: Final = pause
        self._measure = 0.0
        self._last = -math.inf

    def exceeded(self, now: float) -> bool:
        """Note an excess at this monotonic second; true if it has lasted too long."""
        gap = now - self._last
        self._last = now
        if gap < self.pause:
            self._measure += max(gap, 0.0)
        else:
            self._measure = max(0.0, self._measure - gap * self._FORGIVEN)
        return self._measure >= self.seconds


_ARRAYS: Final = bytes.maketrans(b"{}", b"[]")
_UNMARKED: Final = bytes(set(range(256)) - set(b'[]{}"'))
_RUNS: Final = re.compile(rb"\[+|\]+")
_OPENS: Final = ord("[")


def too_deep(text: str | bytes, max_depth: int) -> bool:
    """Tell whether JSON text is nested deeper than ``max_depth``; ``[[1]]`` has depth 2.

    Exact for well-formed JSON. For other input the answer may be either, but comes as fast.

    Cost: linear, and no Python code per character: a millisecond for the worst 64 KiB; two counts
    if there are few brackets.
    """
    if len(text) <= 2 * max_depth:  # Each level takes two characters.
        return False
    if isinstance(text, str):
        # Most data has no array; to look for one takes a quarter of the time of a count (3.11).
        if ("[" in text and text.count("[")) + text.count("{") <= max_depth:
            return False
        text = text.encode("utf-8", "surrogatepass")
    elif (_OPENS in text and text.count(b"[")) + text.count(b"{") <= max_depth:
        return False
    brackets, room = _brackets(text), max_depth
    while brackets:
        # What holds nothing goes, which is one level everywhere. It takes eight times at most
        # until so little goes that few runs of brackets are left.
        left = brackets.replace(b"[]", b"")
        if len(left) > len(brackets) * 7 // 8:
            break
        brackets, room = left, room - 1
    depth = 0
    for run in _RUNS.findall(brackets):
        if run[0] != _OPENS:
            depth -= len(run)
        elif (depth := depth + len(run)) > room:
            return True
    return room < 0


def _brackets(text: bytes) -> bytes:
    """Return the brackets of JSON text outside of strings, all as square ones."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # A pair of quotes with nothing between opens and closes, or closes and opens: no matter.
    marks = text.translate(_ARRAYS, _UNMARKED).replace(b'""', b"")
    return b"".join(marks.split(b'"')[::2]) if b'"' in marks else marks


_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_EXTREME: Final = re.compile(r"[eE][+-]?[0-9]{3}")


_BYTE_STRING: Final = re.compile(_STRING.pattern.encode(), re.DOTALL)
_DIGITS: Final = bytes.maketrans(b"123456789", b"000000000")
_LONG: Final = b"0" * 1000


def has_long_numbers(text: str, most: int) -> bool:
    """Tell whether numbers of a thousand digits and more hold more than ``most`` thousand of them.

    Reading and writing a whole number takes time in the square of its digits: 15 numbers of 4,300
    digits take 3 ms.

    Cost: 0.2 ms for 64 KiB; more to find the strings if there are so many digits. Bytes are
    searched, since ``str.translate`` takes 5 ms for text that is not ASCII.
    """
    if len(text) <= most * len(_LONG):
        return False
    raw = text.encode("utf-8", "surrogatepass")
    if raw.translate(_DIGITS).count(_LONG) <= most:
        return False
    return _BYTE_STRING.sub(b"", raw).translate(_DIGITS).count(_LONG) > most


def too_many_parts(text: str) -> bool:
    """Tell whether JSON text has more than :data:`MAX_PARTS` arrays and objects, and is dense.

    Dense is one for less than four characters, as in ``[[],[],…``. Brackets in strings count, too.
    """
    count = text.count("[") + text.count("{")
    return count > MAX_PARTS and count * 4 > len(text)


def has_extremes(text: str, most: int) -> bool:
    """Tell whether JSON text holds more than ``most`` numbers with exponents of three digits.

    Near the limits of a ``float``, one takes 13 µs to read (measured), 200 times as long as others,
    so that 10,000 of them in 64 KiB would take a seventh of a second.

    Cost: linear; two counts if there are few letters ``e``.
    """
    if text.count("e") + text.count("E") <= most or not _more(text, most):
        return False
    return _more(_STRING.sub("", text), most)


def _more(text: str, most: int) -> bool:
    """Tell whether there are more extremes than that, wherever they stand."""
    return next(islice(_EXTREME.finditer(text), most, None), None) is not None
