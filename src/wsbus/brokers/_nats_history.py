"""History on JetStream: one stream for each prefix, and what its messages mean.

A publication that is kept is one message on ``<prefix>.in.<channel>``. One stream takes all of
these, so that its sequence is the offset, and sends each on to ``<prefix>.c.<channel>``, the
subject that links follow anyway, with the sequence of the channel's message before it.

**Epoch.** The name of the stream ends with a random text, its epoch. Each message that it sends on
and each acknowledgement names the stream, so that a stream that was deleted and made again is never
taken for the old one.

**Size and age.** The stream has one limit for each of them: the greatest that a family asks for,
and more. A message holds its own limits, which are applied when it is read. The stream keeps at
least one message of a channel more than can be read: so a reader sees whether something before
the first one that it got is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec

from ..core.envelope import Draft, Kept, Published, kept_item, kept_publication
from ..core.events import Position
from ..core.history import IDEMPOTENCY_SECONDS, HistoryPage, HistoryRead, cut, offset_of
from ..core.messages import Publication

__all__ = [
    "StreamEntry",
    "StreamLimits",
    "StreamState",
    "answer",
    "bounds",
    "entry_of",
    "epoch_of",
    "headers_of",
    "keeping",
    "live_message",
    "seconds_of",
    "state_of",
]

_MARGIN_SECONDS: Final = 3600
_BILLION: Final = 1_000_000_000


class StreamLimits(NamedTuple):
    """The least that a stream keeps."""

    size: int = 100
    ttl: float = 3600.0

    def over(self, drafts: Iterable[Draft]) -> StreamLimits:
        """Return limits that are enough for these, too."""
        size, ttl = self
        for draft in drafts:
            size, ttl = max(size, draft.history.size), max(ttl, draft.history.ttl)
        return StreamLimits(size, ttl)

    def config(self, name: str, prefix: str) -> dict[str, Any]:
        """Return the configuration of a new stream."""
        return {
            "name": name,
            "subjects": [f"{prefix}.in.>"],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": 1,
            "allow_direct": True,
            "max_msgs_per_subject": self.size + 1,
            "max_age": int((self.ttl + _MARGIN_SECONDS) * _BILLION),
            "duplicate_window": int(IDEMPOTENCY_SECONDS * _BILLION),
            "republish": {"src": f"{prefix}.in.>", "dest": f"{prefix}.c.>"},
        }

    def widened(self, config: dict[str, Any]) -> dict[str, Any] | None:
        """Return the configuration that a stream needs beyond its own; None: its own will do."""
        size, age = self.size + 1, int((self.ttl + _MARGIN_SECONDS) * _BILLION)
        most, oldest = config.get("max_msgs_per_subject", -1), config.get("max_age", 0)
        is_large = most < 1 or most >= size
        is_long = oldest == 0 or oldest >= age
        if is_large and is_long:
            return None
        return config | {
            "max_msgs_per_subject": most if is_large else size,
            "max_age": oldest if is_long else age,
        }


class StreamState(NamedTuple):
    """A stream at a moment."""

    epoch: str
    first: int
    last: int
    now: float
    most: int
    """Messages of a channel that it keeps; below 1: without a limit."""

    @property
    def head(self) -> Position:
        """The position of the store."""
        return Position(self.epoch, self.last)


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The bounds of the stream."""

    head: bytes
    """The start of an envelope of the turn; see :attr:`.Turn.head`."""
    node: str
    item: msgspec.Raw
    size: int
    ttl: float


class StreamEntry(NamedTuple):
    """A message of the stream."""

    offset: int
    subject: str
    at: float
    data: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_message: Final = msgspec.msgpack.Decoder(_Message).decode
_published: Final = msgspec.msgpack.Decoder(Published).decode


def keeping(draft: Draft, head: bytes, node: str) -> tuple[bytes, bytes]:
    """Return the headers and the content of the message that keeps a draft."""
    headers = b"NATS/1.0\r\n"
    if draft.idempotency_key is not None:
        headers += b"Nats-Msg-Id: " + sha256(draft.idempotency_key.encode()).hexdigest().encode()
        headers += b"\r\n"
    size, ttl = draft.history.size, draft.history.ttl
    return headers + b"\r\n", _encode((head, node, msgspec.Raw(draft.item), size, ttl))


def headers_of(raw: bytes) -> dict[bytes, bytes]:
    """Return headers by name; that of the status is empty."""
    first, _, rest = raw.partition(b"\r\n")
    found = {b"": first[9:12]}
    for line in rest.split(b"\r\n"):
        name, _, value = line.partition(b":")
        found.setdefault(name, value.strip())
    return found


def live_message(data: bytes, headers: bytes) -> bytes:
    """Return the envelope for a message that a stream has sent on."""
    fields = headers_of(headers)
    try:
        message = _message(data)
        epoch = epoch_of(fields[b"Nats-Stream"].decode())
        offset, last = int(fields[b"Nats-Sequence"]), int(fields[b"Nats-Last-Sequence"])
    except (msgspec.MsgspecError, UnicodeError, KeyError, ValueError):
        return data  # It is no envelope, and counted as one that cannot be read.
    kept = kept_item(bytes(message.item), message.node, Position(epoch, offset), last)
    return message.head + b"\x91" + kept


def entry_of(data: bytes, fields: dict[bytes, bytes]) -> StreamEntry:
    """Return a message that was asked for."""
    return StreamEntry(
        int(fields[b"Nats-Sequence"]),
        fields[b"Nats-Subject"].decode(),
        seconds_of(fields[b"Nats-Time-Stamp"].decode()),
        data,
    )


def state_of(info: dict[str, Any]) -> StreamState:
    """Return the state that an answer of the server holds."""
    config, state = info["config"], info["state"]
    return StreamState(
        epoch_of(config["name"]),
        state["first_seq"],
        state["last_seq"],
        seconds_of(info["ts"]),
        config.get("max_msgs_per_subject", -1),
    )


def seconds_of(text: str) -> float:
    """Return the seconds since 1970 of a time as servers write it, with nanoseconds."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or 0}")


def bounds(read: HistoryRead, state: StreamState) -> tuple[int, int, bool]:
    """Return after and before which offset a question asks, and whether ``after`` is known."""
    after, before = read.after, read.before
    is_known = after is None or (after.epoch == state.epoch and after.offset <= state.last)
    start = after.offset if after is not None and is_known else 0
    end = state.last + 1
    if before is not None and before.epoch == state.epoch:
        end = min(before.offset, end)
    return start, end, is_known


def answer(
    read: HistoryRead,
    state: StreamState,
    found: Sequence[StreamEntry],
    before: Sequence[StreamEntry] | None,
) -> HistoryPage:
    """Answer a question.

    Args:
        read: The question.
        state: The stream, before the messages were read.
        found: What is kept after the start, on each channel below the pattern's literal start.
        before: The last message of each channel up to the start, read after the others; None:
            these are too many.
    """
    start, end, is_complete = bounds(read, state)
    last_before = {entry.subject: entry.offset for entry in before or ()}
    counts = Counter([entry.subject for entry in found])
    if read.after is not None:
        # What the stream has dropped at its start may be all that a channel had.
        has_start = state.first - 1 <= start
        is_complete = is_complete and before is not None and has_start
    parts: list[list[Publication]] = []
    for subject, messages in _by_channel(found, state.last).items():
        kept, matches = _kept(state, messages, last_before.get(subject, 0), read)
        if not matches:
            continue
        was_trimmed = subject not in last_before and 0 < state.most <= counts[subject]
        if read.after is not None and (len(kept) < len(messages) or was_trimmed):
            is_complete = False
        part = [each for each in kept if offset_of(each) < end]
        parts.append(part if read.newest is None else part[-read.newest :])
    publications, has_more = cut(parts, read)
    return HistoryPage(publications, state.head, is_complete, has_more)


def _by_channel(
    found: Sequence[StreamEntry], last: int
) -> dict[str, list[tuple[StreamEntry, _Message]]]:
    """Return what can be read, up to an offset, by subject and in order."""
    channels: dict[str, list[tuple[StreamEntry, _Message]]] = {}
    for entry in sorted(found, key=itemgetter(0)):
        message = _opened(entry) if entry.offset <= last else None
        if message is not None:
            channels.setdefault(entry.subject, []).append((entry, message))
    return channels


def _kept(
    state: StreamState,
    messages: Sequence[tuple[StreamEntry, _Message]],
    previous: int,
    read: HistoryRead,
) -> tuple[list[Publication], bool]:
    """Return what a channel keeps of its messages, and whether the question is about it."""
    first, matches = _first_kept(messages, state.now), False
    kept = []
    for index, (entry, message) in enumerate(messages):
        publication = _publication(state.epoch, entry, message, previous)
        previous = entry.offset
        if publication is not None:
            matches = read.pattern.matches(publication.channel)
            if matches and first <= index:
                kept.append(publication)
    return kept, matches


def _first_kept(messages: Sequence[tuple[StreamEntry, _Message]], now: float) -> int:
    """Return the index of the first message of a channel within its limits of size and age."""
    first = 0
    for index, (_, message) in enumerate(messages):
        first = max(first, index + 1 - message.size)
    while first < len(messages) and messages[first][0].at + messages[first][1].ttl <= now:
        first += 1
    return first


def _opened(entry: StreamEntry) -> _Message | None:
    try:
        return _message(entry.data)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _publication(
    epoch: str, entry: StreamEntry, message: _Message, previous: int
) -> Publication | None:
    try:
        published = _published(message.item)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return kept_publication(Kept(published, message.node, epoch, entry.offset, previous))


def epoch_of(stream: str) -> str:
    """Return the epoch in the name of a stream."""
    return stream.rpartition("-")[2]
