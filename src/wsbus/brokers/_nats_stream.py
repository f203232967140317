"""The stream of a prefix: requests of a link to JetStream, and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from secrets import token_hex
from typing import Any, Final, Protocol

import msgspec
from nats.protocol.command import hpub_cmd, pub_cmd, sub_cmd

from ..core.envelope import Turn
from ..core.errors import BrokerUnavailable, UsageError
from ..core.events import Position
from ..core.feeds import Feed, feed_of
from ..core.history import HistoryPage, HistoryRead, Stored
from ._nats_history import (
    StreamEntry,
    StreamLimits,
    StreamState,
    answer,
    bounds,
    entry_of,
    epoch_of,
    headers_of,
    keeping,
    seconds_of,
    state_of,
)

__all__ = ["INBOX", "NatsStream", "why_no_history"]

INBOX: Final = 0
"""The number of the subscription that brings answers."""

_NEEDED: Final = (2, 11)
_BATCH: Final = 1000
_OTHER_SECONDS: Final = 0.5
"""For which an answer of another stream waits for that of the stream that was written to."""
_ANSWER_SECONDS: Final = 3.0
_CHOICE_SECONDS: Final = 10.0
"""After which a choice of the epoch is that of a link which was lost. Its stream may have been
made, and deleted since: one of the same epoch would use its offsets again."""
_TRIES: Final = 5
_OVERLAPS: Final = 10065
_NAME_IN_USE: Final = 10058
_NO_STREAM: Final = 10059
_GONE: Final = b"503"
_END: Final = b"204"
_NOTHING: Final = b"404"

_encode: Final = msgspec.json.Encoder().encode
_json: Final = msgspec.json.Decoder(dict[str, Any]).decode


class _Connection(Protocol):
    @property
    def max_payload(self) -> int: ...

    async def tell(self, commands: Iterable[bytes]) -> None: ...

    def wait_for(self, future: asyncio.Future[Any], seconds: float) -> None: ...


class _NoStream(Exception):
    """No stream takes what was asked for; nothing was kept."""


class _NotAccepted(Exception):
    """The server refuses a request."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def why_no_history(version: str, *, has_jetstream: bool) -> str | None:
    """Return why a server keeps no history, in words; None: it does."""
    parts = [int(part) if part.isdigit() else 0 for part in version.split(".")[:2]]
    if tuple(parts) < _NEEDED:
        return f"this is nats-server {version}, and history needs 2.11 or newer"
    if not has_jetstream:
        return "history needs JetStream, and this nats-server runs without it: start it with -js"
    return None


class NatsStream:
    """Requests of one link.

    Args:
        client: The connection.
        prefix: The first tokens of every subject.
        subject_of: Returns the subject of a feed.
    """

    def __init__(self, client: _Connection, prefix: str, subject_of: Callable[[Feed], str]) -> None:
        self._client: Final = client
        self._prefix: Final = prefix
        self._subject_of: Final = subject_of
        self._inbox: Final = f"{prefix}.i.{token_hex(8)}"
        self._numbers: Final = count(1)
        self._waiting: Final[dict[int, Callable[[bytes, bytes | None], None]]] = {}
        self._name: str | None = None
        self._limits: StreamLimits | None = None
        """The least that the stream is known to keep."""
        self._has_inbox = False

    def answered(self, subject: bytes, data: bytes, headers: bytes | None) -> None:
        """Take an answer."""
        number = subject.rpartition(b".")[2]
        take = self._waiting.get(int(number)) if number.isdigit() else None
        if take is not None:
            take(data, headers)

    # --- use ---------------------------------------------------------------------------------

    async def store(self, turn: Turn, others: Sequence[bytes]) -> list[Stored]:
        """Keep the drafts of a turn, and send other commands; see :class:`.HistoryLink`."""
        limits = (self._limits or StreamLimits()).over(turn.drafts)
        messages = []
        for draft in turn.drafts:
            subject = f"{self._prefix}.in.{self._channel(draft.feed)}"
            headers, content = keeping(draft, turn.head, turn.node)
            if len(headers) + len(content) > self._client.max_payload:
                most = self._client.max_payload
                raise UsageError(f"this has {len(content)} bytes, and the server takes {most}")
            messages.append((subject, headers, content))
        for _ in range(_TRIES):
            if self._name is None or self._limits is None or limits != self._limits:
                await self._open(limits)
            try:
                return await self._keep(messages, others)
            except _NoStream:
                self._name, others = None, ()
        raise BrokerUnavailable("the stream of the history does not stay")

    async def _keep(
        self, messages: Sequence[tuple[str, bytes, bytes]], others: Sequence[bytes]
    ) -> list[Stored]:
        commands, acks, numbers = [], [], []
        try:
            for subject, headers, content in messages:
                number, ack = self._expect_one(self._name)
                numbers.append(number)
                acks.append(ack)
                reply = f"{self._inbox}.{number}"
                commands.append(hpub_cmd(subject, reply, headers, content))
            await self._client.tell([*commands, *others])
            stored: list[Stored] = []
            for ack in acks:
                data, raw = await ack
                if raw is not None and headers_of(raw)[b""] == _GONE:
                    if not stored:
                        raise _NoStream
                    raise BrokerUnavailable("the stream has gone", may_have_arrived=True)
                reply_ = _checked(data)
                position = Position(epoch_of(reply_["stream"]), reply_["seq"])
                stored.append(Stored(position, is_repeated=reply_.get("duplicate", False)))
        except _NotAccepted as exc:
            raise BrokerUnavailable(f"JetStream refuses: {exc}", may_have_arrived=True) from None
        else:
            return stored
        finally:
            for number in numbers:
                del self._waiting[number]

    async def head(self) -> StreamState:
        """Return the state of the stream; it is made if there is none."""
        for _ in range(_TRIES):
            if self._name is None:
                await self._open(self._limits or StreamLimits())
            try:
                return state_of(await self._ask(f"STREAM.INFO.{self._name}"))
            except _NoStream:
                self._name = None
            except _NotAccepted as exc:
                if exc.code != _NO_STREAM:
                    raise BrokerUnavailable(f"JetStream refuses: {exc}") from None
                self._name = None
        raise BrokerUnavailable("the stream of the history does not stay")

    async def read(self, read: HistoryRead) -> HistoryPage:
        """Answer a question."""
        for _ in range(_TRIES):
            state = await self.head()
            start, _, is_known = bounds(read, state)
            subject = f"{self._prefix}.in.{self._channel(feed_of(read.pattern))}"
            before: list[StreamEntry] | None = []
            try:
                found = await self._all_after(subject, start)
                if read.after is not None and is_known and start:
                    asked = {"multi_last": [subject], "up_to_seq": start, "batch": _BATCH}
                    before, pending = await self._get(asked)
                    if pending:
                        before = None
            except _NoStream:
                self._name = None
                continue
            return answer(read, state, found, before)
        raise BrokerUnavailable("the stream of the history does not stay")

    async def _all_after(self, subject: str, start: int) -> list[StreamEntry]:
        found: list[StreamEntry] = []
        while True:
            asked = {"seq": start + 1, "next_by_subj": subject, "batch": _BATCH}
            entries, pending = await self._get(asked)
            found += entries
            if not entries or not pending:
                return found
            start = entries[-1].offset

    def _channel(self, feed: Feed) -> str:
        return self._subject_of(feed).removeprefix(f"{self._prefix}.c.")

    # --- the stream --------------------------------------------------------------------------

    async def _open(self, limits: StreamLimits) -> None:
        """Find the stream, or make it; several links may do so at once."""
        try:
            for _ in range(_TRIES):
                names = await self._ask("STREAM.NAMES", {"subject": f"{self._prefix}.in.>"})
                found = names.get("streams") or ()
                if found:
                    self._name = await self._oldest(found)
                    await self._widen(limits)
                    return
                try:
                    await self._make(limits)
                except _NotAccepted as exc:
                    if exc.code not in {_OVERLAPS, _NAME_IN_USE, _NO_STREAM}:
                        raise
        except _NoStream:
            raise UsageError("history needs JetStream, and this account does not have it") from None
        except _NotAccepted as exc:
            raise BrokerUnavailable(f"JetStream refuses the stream of the history: {exc}") from None
        raise BrokerUnavailable("the stream of the history cannot be made")

    async def _make(self, limits: StreamLimits) -> None:
        """Make the stream, with the epoch that all links agree on.

        A busy server makes two streams of the same subjects for requests that come at once, but
        never two of one name. So a second stream, which is there for that moment only, has a name
        that is always the same. The link that makes it chooses the epoch.
        """
        first = f"{self._prefix.replace('.', '_')}-first"
        epoch: str | None = token_hex(8)
        config = {"name": first, "subjects": [f"{self._prefix}.first"], "storage": "memory"}
        try:
            await self._ask(f"STREAM.CREATE.{first}", config | {"metadata": {"epoch": epoch}})
        except _NotAccepted as exc:
            if exc.code != _NAME_IN_USE:
                raise
            epoch = await self._agreed(first)
        try:
            if epoch is not None:
                name = first.removesuffix("first") + epoch
                await self._ask(f"STREAM.CREATE.{name}", limits.config(name, self._prefix))
        finally:
            with suppress(_NotAccepted):  # Another link has deleted it meanwhile.
                await self._ask(f"STREAM.DELETE.{first}")

    async def _agreed(self, first: str) -> str | None:
        """Return the epoch that another link has chosen; None: that is long ago."""
        info = await self._ask(f"STREAM.INFO.{first}")
        age = seconds_of(info["ts"]) - seconds_of(info["created"])
        epoch = info["config"].get("metadata", {}).get("epoch")
        return epoch if isinstance(epoch, str) and age < _CHOICE_SECONDS else None

    async def _oldest(self, names: Sequence[str]) -> str:
        """Return the first stream that was made, and delete others, which hold nothing more.

        A server may make two streams of the same subjects for requests that come at once. Both
        take each message then, and the link that has made the second one sees both.
        """
        if len(names) == 1:
            return names[0]
        made = []
        for name in names:
            with suppress(_NotAccepted):  # Another link has deleted it meanwhile.
                made.append(((await self._ask(f"STREAM.INFO.{name}"))["created"], name))
        oldest, *others = [name for _, name in sorted(made)] or names
        for name in others:
            with suppress(_NotAccepted):
                await self._ask(f"STREAM.DELETE.{name}")
        return oldest

    async def _widen(self, limits: StreamLimits) -> None:
        config = (await self._ask(f"STREAM.INFO.{self._name}"))["config"]
        wider = limits.widened(config)
        if wider is not None:
            await self._ask(f"STREAM.UPDATE.{self._name}", wider)
        self._limits = limits

    # --- requests ----------------------------------------------------------------------------

    def _expect_one(
        self, stream: str | None = None
    ) -> tuple[int, asyncio.Future[tuple[bytes, bytes | None]]]:
        """Wait for an answer; of several streams that answer, for that of ``stream``.

        Two that were made at once (see :meth:`_oldest`) both answer until one is deleted, and the
        position in that one means nothing.
        """
        number, loop = next(self._numbers), asyncio.get_running_loop()
        future: asyncio.Future[tuple[bytes, bytes | None]] = loop.create_future()
        own = None if stream is None else f'"{stream}"'.encode()

        def settle(data: bytes, headers: bytes | None) -> None:
            if not future.done():
                future.set_result((data, headers))

        def take(data: bytes, headers: bytes | None) -> None:
            if own is None or own in data or b'"stream"' not in data:
                settle(data, headers)
            else:  # Another stream may have taken the place of this one, too.
                loop.call_later(_OTHER_SECONDS, settle, data, headers)

        self._waiting[number] = take
        self._client.wait_for(future, _ANSWER_SECONDS)
        return number, future

    async def _ask(self, what: str, body: object = None) -> dict[str, Any]:
        await self._listen()
        number, future = self._expect_one()
        content = b"" if body is None else _encode(body)
        reply = f"{self._inbox}.{number}"
        try:
            await self._client.tell([pub_cmd(f"$JS.API.{what}", reply, content)])
            data, headers = await future
        finally:
            del self._waiting[number]
        if headers is not None and headers_of(headers)[b""] == _GONE:
            raise _NoStream
        return _checked(data)

    async def _get(self, asked: dict[str, Any]) -> tuple[list[StreamEntry], int | None]:
        """Ask for messages; return them, and how many there are beyond (None: too many)."""
        number = next(self._numbers)
        entries: list[StreamEntry] = []
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        pending = 0

        def take(data: bytes, headers: bytes | None) -> None:
            nonlocal pending
            fields = headers_of(headers or b"")
            status = fields[b""]
            if not status.strip():
                entries.append(entry_of(data, fields))
            elif not done.done():
                pending = int(fields.get(b"Nats-Num-Pending", b"0"))
                done.set_result(status)

        self._waiting[number] = take
        self._client.wait_for(done, _ANSWER_SECONDS)
        try:
            subject, reply = f"$JS.API.DIRECT.GET.{self._name}", f"{self._inbox}.{number}"
            await self._client.tell([pub_cmd(subject, reply, _encode(asked))])
            status = await done
        finally:
            del self._waiting[number]
        if status == _GONE:
            raise _NoStream
        if status in {_END, _NOTHING}:
            return entries, pending
        return [], 1

    async def _listen(self) -> None:
        if not self._has_inbox:
            await self._client.tell([sub_cmd(f"{self._inbox}.*", "", INBOX)])
            self._has_inbox = True


def _checked(data: bytes) -> dict[str, Any]:
    try:
        reply = _json(data)
    except (msgspec.MsgspecError, UnicodeError):
        raise _NotAccepted(0, "its answer cannot be read") from None
    error = reply.get("error")
    if error:
        raise _NotAccepted(error.get("err_code", 0), str(error.get("description", "")))
    return reply
