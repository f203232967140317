"""The subscription table by itself, in this process; paho-mqtt's beside it, if installed.

Of ten patterns six are exact, two end in ``*`` and two have a ``*`` within, as an application's
would: ``desk.17.orders.filled``, ``desk.17.*``, ``desk.*.orders.e17``. Each member has one.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import tracemalloc
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from time import thread_time
from typing import Any, Final

import msgspec

from ..core.channels import Channel, parse_channel
from ..core.hub import Hub
from ..core.member import Member
from ..core.outlet import Outlet, Owed
from ..core.patterns import Pattern, parse_pattern
from ..core.queue import MessageQueue
from ..core.subscriptions import SubscriptionTable
from ..protocols.native import Native
from .report import progress_bar

__all__ = ["MatchResult", "growth", "match"]

_COLD: Final = 2000
_REPEAT: Final = 100


class MatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of a table with so many patterns; each figure is the least of several."""

    table: str
    """``wsbus``, or ``paho-mqtt``."""
    patterns: int
    cached_ns: float | None
    """To match a channel that was matched before, in nanoseconds; None: the table has no cache."""
    cold_us: float
    """To match a new channel, and build its audience, in microseconds."""
    add_us: float
    """To add one more pattern, and to discard it again, each on its own."""
    discard_us: float
    bytes_per_pattern: float
    """The table's memory for each pattern; pattern and member themselves are not counted."""


def growth(patterns: int) -> list[dict[str, Any]]:
    """Return rows of figures with 1,000 patterns, ten times as many, and so on up to ``patterns``.

    Args:
        patterns: The largest number of patterns.
    """
    sizes = [1000]
    while sizes[-1] * 10 <= patterns:
        sizes.append(sizes[-1] * 10)
    if patterns not in sizes:
        sizes = [*[size for size in sizes if size < patterns], patterns]
    rows = []
    for size in sizes:
        with progress_bar(f"{size:,} patterns", size * len(_tables())) as advance:
            rows += [msgspec.structs.asdict(result) for result in match(size, progress=advance)]
    return rows


def match(patterns: int, *, progress: Callable[[int], None] | None = None) -> list[MatchResult]:
    """Measure a table with so many patterns.

    Args:
        patterns: Number of patterns, each of a member of its own.
        progress: Called with the number of patterns added since.
    """
    parsed = [parse_pattern(_pattern(number)) for number in range(patterns)]
    step = max(1, patterns // _COLD) | 1  # Odd: every kind of pattern has its turn.
    channels = [parse_channel(_channel(number)) for number in range(0, patterns, step)]
    return [_measure(table(), parsed, channels, progress) for table in _tables()]


def _tables() -> Sequence[Callable[[], _Ours | _Paho]]:
    return [_Ours, _Paho] if importlib.util.find_spec("paho") else [_Ours]


def _pattern(number: int) -> str:
    match number % 10:
        case 0 | 1:
            return f"desk.{number}.*"
        case 2 | 3:
            return f"desk.*.orders.e{number}"
        case _:
            return f"desk.{number}.orders.filled"


def _channel(number: int) -> str:
    """Return a channel that the pattern of this number matches."""
    is_within = number % 10 in {2, 3}
    return f"desk.{number}.orders.{f'e{number}' if is_within else 'filled'}"


class _Nowhere(Outlet):
    """An outlet for members that are only looked up."""

    receiver = None

    def overflow(self, queue: MessageQueue[Owed], now: float) -> None:
        """Do nothing: nothing is queued."""


class _Ours:
    """The hub's table, with the hub's audiences: members by protocol and form."""

    name = "wsbus"

    def __init__(self) -> None:
        self._hub = Hub(cache_size=0)
        self._kept: SubscriptionTable[Member, Collection[Member]] = SubscriptionTable(
            lambda members: members
        )
        self._protocol = Native()

    def member(self) -> Member:
        return Member(self._protocol, MessageQueue[Owed](), _Nowhere())

    def add(self, pattern: Pattern, member: Any) -> None:
        self._hub.join(member, pattern)

    def discard(self, pattern: Pattern, member: Any) -> None:
        self._hub.leave(member, pattern)

    def find(self, channel: Channel) -> Collection[Any]:
        return self._hub.matching(channel)

    def cached_ns(self, patterns: Iterable[Pattern], channels: Sequence[Channel]) -> float:
        table = self._kept
        for pattern in patterns:
            table.add(pattern, self.member())
        some = channels[:_REPEAT]
        for channel in some:
            table.match(channel)
        look = table.match

        def all_again() -> None:
            for _ in range(_REPEAT):
                for channel in some:
                    look(channel)

        return _least(all_again) / (_REPEAT * len(some)) * 1e9


class _Paho:
    """The matcher of paho-mqtt, for which ``desk.*.orders`` is ``desk/+/orders``.

    It holds one value for each filter, so the members of a filter are a list; the audience is all
    of them, once.
    """

    name = "paho-mqtt"

    def __init__(self) -> None:
        self._matcher: Any = importlib.import_module("paho.mqtt.matcher").MQTTMatcher()

    def member(self) -> object:
        return object()

    def add(self, pattern: Pattern, member: Any) -> None:
        self._matcher[_translated(pattern)] = [member]

    def discard(self, pattern: Pattern, member: Any) -> None:
        del self._matcher[_translated(pattern)]

    def find(self, channel: Channel) -> Collection[Any]:
        topic = channel.replace(".", "/")
        return frozenset([each for found in self._matcher.iter_match(topic) for each in found])

    def cached_ns(self, patterns: Iterable[Pattern], channels: Sequence[Channel]) -> None:
        return None


def _translated(pattern: Pattern) -> str:
    text = pattern.text.replace(".", "/")
    return f"{text[:-1].replace('*', '+')}#" if pattern.has_tail else text.replace("*", "+")


def _measure(
    table: _Ours | _Paho,
    patterns: Sequence[Pattern],
    channels: Sequence[Channel],
    progress: Callable[[int], None] | None,
) -> MatchResult:
    members = [table.member() for _ in patterns]
    for number, (pattern, member) in enumerate(zip(patterns, members, strict=True), 1):
        table.add(pattern, member)
        if progress is not None and number % 1000 == 0:
            progress(1000)
    assert all(table.find(channel) for channel in channels), "everybody has a subscriber"
    cold = _least(lambda: deque(map(table.find, channels), maxlen=0))
    more = [
        (parse_pattern(_pattern(len(patterns) + number)), table.member()) for number in range(_COLD)
    ]
    add = discard = float("inf")
    for _ in range(5):
        add = min(add, _least(lambda: [table.add(*pair) for pair in more], rounds=1))
        discard = min(discard, _least(lambda: [table.discard(*pair) for pair in more], rounds=1))
    return MatchResult(
        table=table.name,
        patterns=len(patterns),
        cached_ns=table.cached_ns(patterns, channels),
        cold_us=cold / len(channels) * 1e6,
        add_us=add / len(more) * 1e6,
        discard_us=discard / len(more) * 1e6,
        bytes_per_pattern=_bytes_of(type(table)(), patterns) / len(patterns),
    )


def _bytes_of(table: _Ours | _Paho, patterns: Sequence[Pattern]) -> int:
    """Return the memory that the table needs for these patterns, by Python's allocator."""
    member = table.member()
    tracemalloc.start()
    try:
        for pattern in patterns:
            table.add(pattern, member)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def _least(call: Callable[[], object], *, rounds: int = 5) -> float:
    """Return the CPU seconds that a call takes, the least of several, without garbage collection.

    A collection visits all objects; with a million patterns it would take most of the time, in
    some rounds and not in others.
    """
    gc.collect()
    gc.disable()
    try:
        return min(_seconds(call) for _ in range(rounds))
    finally:
        gc.enable()


def _seconds(call: Callable[[], object]) -> float:
    began = thread_time()
    call()
    return thread_time() - began
