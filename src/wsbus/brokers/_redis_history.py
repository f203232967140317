"""Questions of a link to the scripts of a store, and the meaning of their replies.

Nothing here waits: :mod:`wsbus.brokers._redis` sends the commands.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from secrets import token_urlsafe
from typing import Any, Final

import msgspec

from ..core.envelope import Draft, Turn, kept_publication, open_kept
from ..core.events import Position
from ..core.feeds import Feed, feed_of, feeds_around
from ..core.history import HistoryPage, HistoryRead, Stored
from ..core.messages import Publication
from ._redis_scripts import HEAD, READ, STORE, TAIL_BYTES
from ._redis_stream import Words

__all__ = ["Question", "RedisStore"]

_MOST_READS: Final = 4
"""How often a pattern is read again, because channels of it have come meanwhile."""

_FAR: Final = 1 << 53
"""No offset is as great: the numbers of a script are floats."""

_encode: Final = msgspec.msgpack.Encoder().encode
_tail: Final = struct.Struct(">B8sBQBQB8sBQBI").unpack
_TAIL_MARKS: Final = (0xA8, 0xCF, 0xCF, 0xA8, 0xCF, 0xCE)


class RedisStore:
    """The history of one prefix: the commands for it, and the greatest position that was seen.

    All links of a broker share it, so that a new link knows what those before it have seen.

    Args:
        names: What the names of all channels and keys begin with.
    """

    def __init__(self, names: str) -> None:
        self._names: Final = names
        self._state: Final = [f"{names}{key}".encode() for key in ("history", "channels", "turns")]
        self._cut: Final = len(f"{names}h:".encode()) + 1
        self._seen: Position | None = None
        self.newest: bytes = b""
        """The last message that a link was brought and that ends with an entry."""

    def storing(self, turn: Turn) -> tuple[Words, str]:
        """Return the command that stores a turn, and the tag that it gives."""
        names, tag = self._names, token_urlsafe(6)
        lists: dict[str, int] = {}
        keys: dict[str, int] = {}
        sizes, times, channels, items, keyed = [], [], [], [], []
        for draft in turn.drafts:
            channel = draft.publication.channel
            number = lists.get(channel)
            if number is None:
                number = lists[channel] = len(lists) + 1
                sizes.append(draft.history.size)
                times.append(max(round(draft.history.ttl * 1000), 1))
            channels.append(number)
            items.append(_binary(draft.item))
            key = draft.idempotency_key
            keyed.append(0 if key is None else keys.setdefault(key, len(keys) + 1))
        others: list[str | msgspec.Raw] = []
        for feed, message in turn.messages(spread=True):
            others += feed, _binary(message)
        plan = (
            token_urlsafe(6),
            *(names, tag, _binary(turn.head), _binary(_encode(turn.node))),
            *(sizes, times, channels, items),
            *(keyed if keys else False, *_runs(turn.drafts), others),
        )
        all_keys = [
            *self._state,
            *[f"{names}h:{channel}".encode() for channel in lists],
            *[f"{names}k:{key}".encode() for key in keys],
        ]
        return STORE.call(all_keys, _encode(plan)), tag

    def stored(self, reply: Any, tag: str, count: int) -> list[Stored]:
        """Return the outcomes of a turn with so many drafts."""
        epoch, offset, repetitions = reply
        epoch = _text(epoch)
        repeated = dict(zip(repetitions[::2], repetitions[1::2], strict=True))
        outcomes = []
        for index in range(count):
            if repeated and index in repeated:
                outcomes.append(Stored(_position(repeated[index]), is_repeated=True))
            else:
                offset += 1
                outcomes.append(Stored(Position(epoch, offset, tag)))
        if len(repeated) < count:
            self.see(Position(epoch, offset, tag))
        return outcomes

    def asking_head(self) -> Words:
        """Return the command that asks for the head."""
        position = position_in(self.newest)
        seen = self._seen
        if position is not None and (seen is None or position.epoch == seen.epoch):
            self.see(position)
            seen = self._seen
        known = None if seen is None else (seen.epoch, seen.offset, seen.tag)
        return HEAD.call(self._state, _encode((token_urlsafe(6), known)))

    def head(self, reply: Any) -> Position:
        """Return the head."""
        epoch, offset, tag = reply
        self._seen = Position(_text(epoch), offset, _text(tag))
        return self._seen

    def see(self, position: Position) -> None:
        """Take note of a position that the store has given."""
        seen = self._seen
        if seen is None or position.epoch != seen.epoch or position.offset > seen.offset:
            self._seen = position

    def reading(
        self,
        read: HistoryRead,
        channels: Sequence[str],
        within: str | None = None,
        since: int | None = None,
        *,
        is_last: bool = False,
    ) -> Words:
        """Return the command that answers a question about some channels.

        Args:
            read: The question.
            channels: The channels.
            within: The literal start of a pattern with wildcards; None: it has none.
            since: Channels of that start that have changed since this offset are returned, too;
                None: since ``after``.
            is_last: Whether the answer is that of the moment when the head was there.
        """
        after, before = read.after, read.before
        plan = (
            token_urlsafe(6),
            after and (after.epoch, _offset(after), after.tag),
            before and (before.epoch, _offset(before)),
            *(read.limit, read.newest, read.is_from_end, self._cut, within, since, is_last),
        )
        keys = [f"{self._names}h:{channel}".encode() for channel in channels]
        return READ.call([*self._state, *keys], _encode(plan))


class Question:
    """A question on its way: one command for exact channels, at least two with wildcards.

    The channels of a pattern are in the index of the store. The first command asks which of them
    have changed, and each later one reads them, and asks which others have changed meanwhile. So
    the last one has read all of them in one step. If channels never stop coming, the answer is
    that of the moment of an earlier command, as far as it is still kept.
    """

    def __init__(self, read: HistoryRead, store: RedisStore) -> None:
        self._read: Final = read
        self._store: Final = store
        self._count = 0
        self._head: Position | None = None
        """The head of the last reply."""
        self._channels: dict[str, None] = {}
        """Those that had changed by then, in the order in which they were found."""
        self._within: str | None = None
        if read.pattern.is_exact:
            self._channels[read.pattern.text] = None
        else:
            self._within = feed_of(read.pattern)[1:]
        self.page: HistoryPage | None = None
        """The answer; None: there is more to ask."""

    def next(self) -> Words:
        """Return the next command."""
        since = None if self._head is None else self._head.offset
        return self._store.reading(
            self._read, [*self._channels], self._within, since, is_last=self._is_last
        )

    def take(self, reply: Any) -> None:
        """Take the reply."""
        epoch, offset, tag, is_complete, has_more, entries, changed = reply
        head, before = Position(_text(epoch), offset, _text(tag)), self._head
        self._store.see(head)
        if before is not None and before.epoch != head.epoch:
            self._head, self._channels = None, {}  # The store is a new one: ask anew.
            return
        if before is not None and self._is_last:
            head, changed = before, ()
        matches, known = self._read.pattern.matches, self._channels
        fresh = [
            name
            for name in [_text(each) for each in changed]
            if name not in known and matches(name)
        ]
        self._count += 1
        self._head = head
        if fresh:
            known.update(dict.fromkeys(fresh))
            return
        publications = _publications(entries, self._read)
        is_whole = bool(is_complete) and len(publications) == len(entries)
        self.page = HistoryPage(tuple(publications), head, is_whole, bool(has_more))

    @property
    def _is_last(self) -> bool:
        return self._head is not None and self._count >= _MOST_READS


def position_in(message: bytes) -> Position | None:
    """Return the position of the last entry of a message; None: it ends with something else."""
    if len(message) < TAIL_BYTES:
        return None
    a, epoch, b, offset, c, _, d, tag, e, _, f, _ = _tail(message[-TAIL_BYTES:])
    if (a, b, c, d, e, f) != _TAIL_MARKS or offset >= _FAR:
        return None
    return Position(_text(epoch), offset, _text(tag))


def _runs(drafts: Sequence[Draft]) -> tuple[list[Feed], list[tuple[list[int], int, int]]]:
    """Return the feeds of drafts, and the messages for them, the first ones first.

    A message has the numbers of the feeds that get it, of its first item and of its last one. It
    ends where a draft is not of its feed, so that what comes on several feeds that do not hold each
    other is in order.
    """
    feeds: dict[Feed, int] = {}
    runs: list[list[int]] = []
    latest: list[list[int]] = [[0, 0, 0]]
    for number, draft in enumerate(drafts, 1):
        for feed in (draft.feed, *feeds_around(draft.feed)):
            index = feeds.get(feed)
            if index is None:
                index = feeds[feed] = len(feeds) + 1
                latest.append([0, 0, 0])
            run = latest[index]
            if run[2] == number - 1 and run[0]:
                run[2] = number
            else:
                latest[index] = run = [index, number, number]
                runs.append(run)
    messages: dict[tuple[int, int], list[int]] = {}
    for index, start, end in runs:
        messages.setdefault((start, end), []).append(index)
    return [*feeds], [(some, start, end) for (start, end), some in messages.items()]


def _binary(data: bytes) -> msgspec.Raw:
    """Encode bytes as a text: the MessagePack of Redis knows no others."""
    return msgspec.Raw(b"\xdb" + len(data).to_bytes(4) + data)


def _publications(entries: Sequence[bytes], read: HistoryRead) -> list[Publication]:
    """Return what can be read of the entries; others may have written to the lists."""
    publications: list[Publication] = []
    newest = 0
    for entry in entries:
        kept = open_kept(entry)
        publication = None if kept is None else kept_publication(kept)
        if kept is None or publication is None or kept.offset <= newest:
            continue
        if read.pattern.matches(publication.channel):
            publications.append(publication)
            newest = kept.offset
    return publications


def _position(text: bytes) -> Position:
    """Return the position that an idempotency key was given."""
    epoch, tag, offset = _text(text).split(" ")
    return Position(epoch, int(offset), tag)


def _offset(position: Position) -> int:
    return min(max(position.offset, 0), _FAR)


def _text(name: bytes) -> str:
    return name.decode(errors="replace")
