"""A client's subscriptions, and their holders in the client.

A name is subscribed once for all its holders. Holders get events only while the server has
confirmed their name: the table of :meth:`ClientHoldings.receive` has no others.

A name of channels with history has a *mark*: the position up to which its holders have everything.
The server's confirmation sets it, and each new event moves it before the holders get that event. An
event that is not after the mark is not new for the holders of that name. After a lost connection
the name goes on at its mark, and the server says whether nothing is missing since. See the protocol
reference, "History and recovery".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Final, Generic, TypeVar

from ..errors import CommandError, ErrorCode, PositionLost, UsageError, WsbusError
from ..events import Gap, GapCause, Position
from ..messages import (
    Publication,
    StartPosition,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from ..patterns import Pattern
from ..recovery import MAX_RECOVERED
from ..subscriptions import SubscriptionTable
from .actions import ClientAction, Confirm, Dismiss, LatestPublication, Lose
from .names import ClientName, size_of, take_names

__all__ = ["ClientHoldings"]

H = TypeVar("H", bound=Hashable)
T = TypeVar("T", bound=Hashable)
_CACHE_SIZE: Final = 1024
_RECONNECTED: Final = Gap(None, GapCause.RECONNECT)


class ClientHoldings(Generic[H]):
    """Names, their holders, and the server's answers about them."""

    def __init__(self) -> None:
        self._names: Final[dict[str, ClientName[H]]] = {}
        self._wanted: dict[str, None] = {}
        """Names to subscribe to."""
        self._unwanted: Final[dict[str, None]] = {}
        """Names to unsubscribe from."""
        self._leaving: Final[dict[str, tuple[str, ...]]] = {}
        """Names in unsubscribe requests without an answer yet, by ref."""
        self._retuned: Final[dict[str, None]] = {}
        """Names that are held, or asked for, with another rate than their holders want now."""
        self._tuning: Final[dict[str, tuple[str, ...]]] = {}
        """Names in requests for another rate without an answer yet, by ref."""
        self._unasked: Final[dict[H, Pattern]] = {}
        self._missed: Final[set[H]] = set()
        """Holders without a subscription that may have missed events since the last connection."""
        self._fresh: set[ClientName[H]] = set()
        """Names of the last confirmation that did not go on: the latest events are for them."""
        self._table: SubscriptionTable[H, Collection[H]] = _new_table()
        self._held: SubscriptionTable[ClientName[H], Collection[ClientName[H]]] = _new_table()

    def receive(self, publication: Publication) -> Collection[H]:
        """Return the holders that get an event, each once, and move the marks of their names.

        Call it once for each event, in their order. Cost: a look-up; two where there is history.
        """
        holders = self._table.match(publication.channel)
        position = publication.position
        if position is None:
            return holders
        names = self._held.match(publication.channel)
        if isinstance(publication, LatestPublication):
            takers = [name for name in names if name in self._fresh]
        else:
            takers = [name for name in names if name.takes(position)]
        if len(takers) == len(names):
            return holders
        return [
            holder
            for holder in holders
            if any(holder in name.holders for name in takers)
            or (takers and holder in self._unasked)
        ]

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
        return bool(self._wanted or self._unwanted or self._retuned)

    def is_renewal(self, ref: str) -> bool:
        """Tell whether a request is for names that were held before."""
        return any(name.ref == ref and name.missed for name in self._names.values())

    def is_cut_short(self, answer: Subscribed) -> bool:
        """Tell whether the server cannot serve now what it served over an earlier connection."""
        codes = [rejected.code for rejected in answer.rejected]
        return ErrorCode.UNAVAILABLE in codes and self.is_renewal(answer.ref or "")

    def add(
        self, pattern: Pattern, holder: H, since: Position | None, rate: float | None = None
    ) -> list[ClientAction]:
        """Add a holder, and subscribe to its name if that is new, or gets another rate.

        Raises:
            UsageError: It is to begin at a position, and the name is subscribed already.
        """
        name = self._names.get(pattern.text)
        if name is None:
            name = self._names[pattern.text] = ClientName(pattern)
            name.start, name.starter = since, None if since is None else holder
            self._wanted[pattern.text] = None
        elif since is not None:
            raise UsageError(
                f"{pattern.text}: this client is subscribed to it already, and gets what is new; "
                "end that subscription before you subscribe since a position"
            )
        name.holders[holder] = rate
        self._tune(name)
        if not name.is_held:
            return []
        self._table.add(pattern, holder)
        return [Confirm(holder, name.mark)]

    def add_unasked(self, pattern: Pattern, holder: H) -> list[ClientAction]:
        """Add a holder that gets events that the server sends without a subscription."""
        self._unasked[holder] = pattern
        self._table.add(pattern, holder)
        return [Confirm(holder, None)]

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
        self._tune(name)
        if not name.holders:
            del self._names[pattern.text]
            self._held.discard(pattern, name)
            self._wanted.pop(pattern.text, None)
            if name.is_held or name.ref is not None:
                self._unwanted[pattern.text] = None

    def renew(self, pattern: Pattern, holder: H) -> None:
        """Give a name up and subscribe to it anew, without its mark; its holders miss something.

        It does nothing while the name is not confirmed, since it begins anew then.
        """
        name = self._names.get(pattern.text)
        if name is None or holder not in name.holders or not name.is_held:
            return
        name.missed.update(name.holders)
        name.is_held, name.mark = False, None
        self._held.discard(pattern, name)
        for each in name.holders:
            self._table.discard(pattern, each)
        self._unwanted[pattern.text] = self._wanted[pattern.text] = None

    def next_request(
        self, new_ref: Callable[[], str], max_names: int, max_bytes: int
    ) -> Subscribe | Unsubscribe | None:
        """Return the next request, or None; names are given up before new ones are added.

        Args:
            new_ref: Returns the next ``ref``.
            max_names: Names in it.
            max_bytes: Bytes of names and positions, half of what the server reads at most; at least
                one name is in it.
        """
        if self._unwanted:
            names = take_names(self._unwanted, max_names, max_bytes, size_of)
            leave = Unsubscribe(names, new_ref())
            assert leave.ref is not None
            self._leaving[leave.ref] = names
            return leave
        if self._wanted:
            if any(self._names[text].goes_on for text in self._wanted):
                max_names = min(max_names, MAX_RECOVERED)
            names = take_names(
                self._wanted, max_names, max_bytes, lambda text: self._names[text].size
            )
            found = {text: self._names[text].since(max_bytes) for text in names}
            since = {text: at for text, at in found.items() if at is not None}
            ask = Subscribe(names, new_ref(), since, self._rates(names))
            for text in names:
                self._names[text].ref = ask.ref
            return ask
        if self._retuned:
            names = take_names(
                self._retuned, max_names, max_bytes, lambda text: self._names[text].size
            )
            ref = new_ref()
            self._tuning[ref] = names
            return Subscribe(names, ref, {}, self._rates(names))
        return None

    def _rates(self, names: Collection[str]) -> dict[str, float]:
        """Return the rates for a request, and note them."""
        for text in names:
            self._names[text].asked = self._names[text].rate
            self._retuned.pop(text, None)
        asked = {text: self._names[text].asked for text in names}
        return {text: rate for text, rate in asked.items() if rate is not None}

    def _tune(self, name: ClientName[H]) -> None:
        """Ask for a name anew if its rate is another now."""
        self._retuned.pop(name.pattern.text, None)
        is_asked = name.is_held or name.ref is not None
        if name.holders and is_asked and name.rate != name.asked:
            self._retuned[name.pattern.text] = None

    def left(self, ref: str | None) -> None:
        """Note that the server answered an unsubscribe request."""
        if ref is not None:
            self._leaving.pop(ref, None)

    def count(self, ref: str) -> int:
        """Return the number of names in an unanswered request; 0: it is not one of these."""
        for said in (self._leaving, self._tuning):
            if ref in said:
                return len(said[ref])
        return sum(name.ref == ref for name in self._names.values())

    def postpone(self, ref: str) -> None:
        """Make a request again that the server did not act on."""
        if ref in self._leaving:
            names = self._leaving.pop(ref)
            self._unwanted.update(dict.fromkeys(names))
            return
        for text in self._tuning.pop(ref, ()):
            if text in self._names:
                self._retuned[text] = None
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
        starts = {start.name: start for start in answer.positions}
        self._tuning.pop(answer.ref or "", None)
        texts = [text for text, name in self._names.items() if name.ref == answer.ref]
        if texts:
            self._fresh = set()
        for text in texts:
            if text in accepted:
                actions += self._hold(self._names[text], starts.get(text))
            elif text in refused and refused[text].code == ErrorCode.POSITION_LOST:
                actions += self._cannot_start(text, PositionLost(refused[text].message))
            else:
                # A server that omits a name must not leave its holders waiting.
                why = f"{text}: the server did not say whether it accepts this"
                default = CommandError(ErrorCode.INTERNAL_ERROR, why)
                actions += self.dismiss(text, refused.get(text, default))
        return actions

    def refuse(self, ref: str, error: WsbusError) -> list[ClientAction]:
        """Handle the refusal of a whole request."""
        self._tuning.pop(ref, None)
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
        self._held.discard(name.pattern, name)
        self._wanted.pop(text, None)
        self._retuned.pop(text, None)
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
        self._fresh = set()
        self._table, self._held = _new_table(), _new_table()
        for holder, pattern in self._unasked.items():
            self._table.add(pattern, holder)
        self._missed.update(self._unasked)
        for name in self._names.values():
            if name.is_held:
                name.missed.update(name.holders)
            name.is_held, name.ref, name.gaps = False, None, None
        self._wanted = dict.fromkeys(self._names)
        for waiting in (self._unwanted, self._leaving, self._retuned, self._tuning):
            waiting.clear()

    def lose(self, gap: Gap) -> list[ClientAction]:
        """Note that the server dropped publications: of channels that it names, or of any.

        A gap stands where the first of them is missing. So one that comes before a confirmation
        may count for what is missing after it.
        """
        patterns = dict(self._unasked)
        for name in self._names.values():
            if name.is_held:
                patterns.update(dict.fromkeys(name.holders, name.pattern))
            elif name.ref is not None and (share := _share(gap, name.pattern)) is not None:
                name.gaps = [*(name.gaps or ()), share]
        return [
            Lose(holder, share)
            for holder, pattern in patterns.items()
            if (share := _share(gap, pattern)) is not None
        ]

    def _hold(self, name: ClientName[H], start: StartPosition | None) -> list[ClientAction]:
        name.is_held, name.ref, name.start, name.starter = True, None, None, None
        name.mark = None if start is None else start.position
        is_recovered = start is not None and start.is_recovered is True
        if not is_recovered:
            self._fresh.add(name)
        self._held.add(name.pattern, name)
        actions: list[ClientAction] = []
        for holder in name.holders:
            self._table.add(name.pattern, holder)
            if holder not in name.missed:
                actions.append(Confirm(holder, name.mark))
            elif not is_recovered:
                actions.append(Lose(holder, _RECONNECTED))
            actions += [Lose(holder, gap) for gap in name.gaps or ()]
        name.missed.clear()
        name.gaps = None
        return actions

    def _cannot_start(self, text: str, error: PositionLost) -> list[ClientAction]:
        """Dismiss the holder that wanted a position; for others the name is asked for without."""
        name = self._names[text]
        if name.start is None:
            return self.dismiss(text, error)
        starter, name.start, name.starter = name.starter, None, None
        if not any(holder != starter for holder in name.holders):
            return self.dismiss(text, error)
        name.ref = None
        self._wanted[text] = None
        if starter is None or starter not in name.holders:
            return []
        del name.holders[starter]
        self._tune(name)
        return [Dismiss(starter, error)]


def _new_table() -> SubscriptionTable[T, Collection[T]]:
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
