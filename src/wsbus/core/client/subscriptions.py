"""A client's subscriptions, and their holders in the client.

A name is subscribed once for all its holders. Holders get events only while the server has
confirmed their name: the table of :meth:`ClientHoldings.audience` has no others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Final, Generic, TypeVar

from ..channels import Channel
from ..errors import CommandError, ErrorCode, WsbusError
from ..events import Gap, GapCause
from ..messages import Subscribe, Subscribed, Unsubscribe
from ..patterns import Pattern
from ..subscriptions import SubscriptionTable
from .actions import ClientAction, Confirm, Dismiss, Lose

__all__ = ["ClientHoldings"]

H = TypeVar("H", bound=Hashable)
_CACHE_SIZE: Final = 1024
_RECONNECTED: Final = Gap(None, GapCause.RECONNECT)


class _Name(Generic[H]):
    """One name, as spelled, and its holders."""

    __slots__ = ("holders", "is_held", "missed", "pattern", "ref")

    def __init__(self, pattern: Pattern) -> None:
        self.pattern: Final = pattern
        self.holders: Final[dict[H, None]] = {}
        self.missed: Final[set[H]] = set()
        """Holders that were confirmed before the last connection ended."""
        self.is_held = False
        """Whether the server has confirmed it, and not taken it back."""
        self.ref: str | None = None
        """The ref of the request that subscribes to it."""


class ClientHoldings(Generic[H]):
    """Names, their holders, and the server's answers about them."""

    def __init__(self) -> None:
        self._names: Final[dict[str, _Name[H]]] = {}
        self._wanted: dict[str, None] = {}
        """Names to subscribe to."""
        self._unwanted: Final[dict[str, None]] = {}
        """Names to unsubscribe from."""
        self._leaving: Final[dict[str, tuple[str, ...]]] = {}
        """Names in unsubscribe requests without an answer yet, by ref."""
        self._unasked: Final[dict[H, Pattern]] = {}
        self._missed: Final[set[H]] = set()
        """Holders without a subscription that may have missed events since the last connection."""
        self._table = self._new_table()

    def audience(self, channel: Channel) -> Collection[H]:
        """Return the holders that get events of a channel now, each once. Cost: a look-up."""
        return self._table.match(channel)

    @property
    def names(self) -> Collection[str]:
        """The names that holders want, in the order in which they were added."""
        return self._names.keys()

    @property
    def held(self) -> Collection[str]:
        """The names that the server has confirmed."""
        return [text for text, name in self._names.items() if name.is_held]

    @property
    def is_settled(self) -> bool:
        """Whether the server has confirmed all names."""
        return all(name.is_held for name in self._names.values())

    @property
    def has_requests(self) -> bool:
        """Whether there are requests to send."""
        return bool(self._wanted or self._unwanted)

    def is_renewal(self, ref: str) -> bool:
        """Tell whether a request is for names that were held before."""
        return any(name.ref == ref and name.missed for name in self._names.values())

    def add(self, pattern: Pattern, holder: H) -> list[ClientAction]:
        """Add a holder, and subscribe to its name if that is new."""
        name = self._names.get(pattern.text)
        if name is None:
            name = self._names[pattern.text] = _Name(pattern)
            self._wanted[pattern.text] = None
        name.holders[holder] = None
        if not name.is_held:
            return []
        self._table.add(pattern, holder)
        return [Confirm(holder)]

    def add_unasked(self, pattern: Pattern, holder: H) -> list[ClientAction]:
        """Add a holder that gets events that the server sends without a subscription."""
        self._unasked[holder] = pattern
        self._table.add(pattern, holder)
        return [Confirm(holder)]

    def remove(self, pattern: Pattern, holder: H) -> None:
        """Forget a holder, and unsubscribe from a name without holders."""
        self._table.discard(pattern, holder)
        if self._unasked.pop(holder, None) is not None:
            return
        name = self._names.get(pattern.text)
        if name is None or holder not in name.holders:
            return
        del name.holders[holder]
        name.missed.discard(holder)
        if not name.holders:
            del self._names[pattern.text]
            self._wanted.pop(pattern.text, None)
            if name.is_held or name.ref is not None:
                self._unwanted[pattern.text] = None

    def next_request(
        self, new_ref: Callable[[], str], max_names: int, max_bytes: int
    ) -> Subscribe | Unsubscribe | None:
        """Return the next request, or None; names are given up before new ones are added."""
        if self._unwanted:
            names = _some(self._unwanted, max_names, max_bytes)
            leave = Unsubscribe(names, new_ref())
            assert leave.ref is not None
            self._leaving[leave.ref] = names
            return leave
        if self._wanted:
            names = _some(self._wanted, max_names, max_bytes)
            ask = Subscribe(names, new_ref())
            for text in names:
                self._names[text].ref = ask.ref
            return ask
        return None

    def left(self, ref: str | None) -> None:
        """Note that the server answered an unsubscribe request."""
        if ref is not None:
            self._leaving.pop(ref, None)

    def count(self, ref: str) -> int:
        """Return the number of names in an unanswered request; 0: it is not one of these."""
        if ref in self._leaving:
            return len(self._leaving[ref])
        return sum(name.ref == ref for name in self._names.values())

    def postpone(self, ref: str) -> None:
        """Make a request again that the server did not act on."""
        if ref in self._leaving:
            names = self._leaving.pop(ref)
            self._unwanted.update(dict.fromkeys(names))
            return
        for text, name in self._names.items():
            if name.ref == ref:
                name.ref = None
                self._wanted[text] = None

    def answered(self, answer: Subscribed) -> list[ClientAction]:
        """Take the answer to a subscribe request; names that were not in it are ignored."""
        actions: list[ClientAction] = []
        refused = {
            rejected.name: CommandError(rejected.code, f"{rejected.name}: {rejected.message}")
            for rejected in answer.rejected
        }
        accepted = frozenset(answer.names)
        for text in [text for text, name in self._names.items() if name.ref == answer.ref]:
            if text in accepted:
                actions += self._hold(self._names[text])
            else:
                # A server that omits a name must not leave its holders waiting.
                why = f"{text}: the server did not say whether it accepts this"
                default = CommandError(ErrorCode.INTERNAL_ERROR, why)
                actions += self.dismiss(text, refused.get(text, default))
        return actions

    def refuse(self, ref: str, error: WsbusError) -> list[ClientAction]:
        """Handle the refusal of a whole request."""
        texts = [text for text, name in self._names.items() if name.ref == ref]
        return [action for text in texts for action in self.dismiss(text, error)]

    def taken(self, names: Collection[str], reason: str | None) -> list[ClientAction]:
        """Drop names that the server has taken away; they are not subscribed again."""
        actions: list[ClientAction] = []
        for text in names:
            name = self._names.get(text)
            if name is not None and name.is_held:
                why = f"{text}: the server took the subscription away"
                if reason is not None:
                    why += f": {reason}"
                actions += self.dismiss(text, CommandError(ErrorCode.FORBIDDEN, why))
        return actions

    def dismiss(self, text: str, error: WsbusError) -> list[ClientAction]:
        """Forget a name; its holders get the error."""
        name = self._names.pop(text)
        self._wanted.pop(text, None)
        for holder in name.holders:
            self._table.discard(name.pattern, holder)
        return [Dismiss(holder, error) for holder in name.holders]

    def connected(self) -> list[ClientAction]:
        """Handle a new connection; events without a subscription may have been missed."""
        holders = [holder for holder in self._unasked if holder in self._missed]
        self._missed.clear()
        return [Lose(holder, _RECONNECTED) for holder in holders]

    def disconnected(self) -> None:
        """Handle the end of the connection: no name is confirmed any more."""
        self._table = self._new_table()
        for holder, pattern in self._unasked.items():
            self._table.add(pattern, holder)
        self._missed.update(self._unasked)
        for name in self._names.values():
            if name.is_held:
                name.missed.update(name.holders)
            name.is_held, name.ref = False, None
        self._wanted = dict.fromkeys(self._names)
        self._unwanted.clear()
        self._leaving.clear()

    def lose(self, gap: Gap) -> list[ClientAction]:
        """Note that the server dropped publications: of channels that it names, or of any."""
        patterns = dict(self._unasked)
        for name in self._names.values():
            if name.is_held:
                patterns.update(dict.fromkeys(name.holders, name.pattern))
        return [
            Lose(holder, share)
            for holder, pattern in patterns.items()
            if (share := _share(gap, pattern)) is not None
        ]

    def _hold(self, name: _Name[H]) -> list[ClientAction]:
        name.is_held, name.ref = True, None
        actions: list[ClientAction] = []
        for holder in name.holders:
            self._table.add(name.pattern, holder)
            if holder in name.missed:
                actions.append(Lose(holder, _RECONNECTED))
            else:
                actions.append(Confirm(holder))
        name.missed.clear()
        return actions

    def _new_table(self) -> SubscriptionTable[H, Collection[H]]:
        return SubscriptionTable(tuple, cache_size=_CACHE_SIZE)


def _share(gap: Gap, pattern: Pattern) -> Gap | None:
    """Return what of a gap concerns a pattern; None: nothing."""
    if gap.channels is None:
        return gap
    theirs = {name: loss for name, loss in gap.channels.items() if pattern.matches(name)}
    if not theirs:
        return None
    counts = [loss.lost for loss in theirs.values()]
    known = [count for count in counts if count is not None]
    return Gap(sum(known) if len(known) == len(counts) else None, gap.cause, theirs)


def _some(texts: dict[str, None], max_names: int, max_bytes: int) -> tuple[str, ...]:
    """Remove and return the first names, at least one, within the bounds."""
    names: list[str] = []
    size = 0
    for text in texts:
        size += len(text.encode()) + 3  # quotes and a comma
        if names and (size > max_bytes or len(names) >= max_names):
            break
        names.append(text)
    for text in names:
        del texts[text]
    return tuple(names)
