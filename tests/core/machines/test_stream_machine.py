"""One producer and its readers (late, cut, resumed, behind) against what was appended.

The model is the page: "A reader replaces what it has by the value; a text never gets shorter", "A
subscription without `since`, and one that could not be recovered, gets one `whole` with `latest`
for everything so far", and "`end`, `fail` and `cancel` are final".
"""

from __future__ import annotations

import json
from typing import Any, Final
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from wsbus.core.channels import Channel
from wsbus.core.events import Position
from wsbus.core.families import Families, History, Stream
from wsbus.core.history import MemoryHistory
from wsbus.core.messages import Publication, Since
from wsbus.core.patterns import parse_pattern
from wsbus.core.recovery import Wanted, reads_of, recover
from wsbus.core.stream_script import StreamScript
from wsbus.core.streams import StreamDuty, StreamEvent, StreamFold, StreamPhase

CHANNEL: Final = Channel("answers.1")
PATTERN: Final = parse_pattern(CHANNEL)
ENDS: Final = {
    StreamEvent.END: StreamPhase.ENDED,
    StreamEvent.FAIL: StreamPhase.FAILED,
    StreamEvent.CANCEL: StreamPhase.CANCELLED,
}
FEW: Final = {  # Small numbers show the same as large ones, sooner.
    "wsbus.core.stream_script.WHOLE_ENTRIES": 8,
    "wsbus.core.recovery.STREAM_NEWEST": 20,
    "wsbus.core.recovery.MAX_REPLAY": 6,
}
KEPT: Final = History(size=20)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=3)


class Reader:
    """A client: its fold, its connection, and what is on the way to it."""

    def __init__(self) -> None:
        self.fold = StreamFold()
        self.mark: Position | None = None
        self.is_here = False
        self.coming: list[Publication] = []
        self.seen = ""
        self.ends = 0


class Streams(RuleBasedStateMachine):
    """A store, one producer, and readers."""

    readers: Bundle[Reader] = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.patches = [mock.patch(name, number) for name, number in FEW.items()]
        for each in self.patches:
            each.start()
        self.strangers = 0
        self.families = Families()
        self.families.declare("answers.*", stream=Stream())
        self.store = MemoryHistory("e")
        self.script = StreamScript(None, 1 << 20)
        self.all: list[Reader] = []
        self.text = ""
        self.phase = StreamPhase.OPEN
        self.extra: Any = None

    def put(self, event: StreamEvent, data: bytes, *, channel: Channel = CHANNEL) -> None:
        draft = Publication(channel, event.value, data, 1.0, node="n")
        kept = self.store.keep(draft, KEPT, 0.0)
        for reader in self.all:
            if reader.is_here and channel == CHANNEL:
                reader.coming.append(kept)

    @initialize()
    def open(self) -> None:
        self.put(StreamEvent.WHOLE, self.script.whole())

    @precondition(lambda self: self.phase is StreamPhase.OPEN)
    @rule(deltas=st.lists(texts, min_size=1, max_size=9))
    def append(self, deltas: list[str]) -> None:
        for delta in deltas:
            data = json.dumps(delta).encode()
            is_due = self.script.append(data)
            self.text += delta
            self.put(StreamEvent.APPEND, data)
            if is_due:
                self.put(StreamEvent.WHOLE, self.script.whole())

    @rule()
    def publish_elsewhere(self) -> None:
        self.put(StreamEvent.APPEND, b'"other"', channel=Channel("answers.2"))

    @precondition(lambda self: self.strangers < 4)
    @rule()
    def ask_to_cancel(self) -> None:
        self.strangers += 1
        self.put(StreamEvent.CANCELLING, b'{"message":null}')

    @precondition(lambda self: self.phase is StreamPhase.OPEN)
    @rule(event=st.sampled_from([*ENDS]))
    def end(self, event: StreamEvent) -> None:
        data = b'{"result":7}' if event is StreamEvent.END else b'{"message":"why"}'
        self.put(event, data)
        self.phase = ENDS[event]

    @precondition(lambda self: self.phase is not StreamPhase.OPEN and self.strangers < 4)
    @rule(event=st.sampled_from([*ENDS, StreamEvent.APPEND]))
    def go_on_after_the_end(self, event: StreamEvent) -> None:
        self.strangers += 1
        self.put(event, b'"late"' if event is StreamEvent.APPEND else b"{}")

    @rule(target=readers)
    def come(self) -> Reader:
        reader = Reader()
        self.all.append(reader)
        self.subscribe(reader)
        return reader

    @rule(reader=readers, share=st.floats(0, 1))
    def receive(self, reader: Reader, share: float) -> None:
        count = round(share * len(reader.coming))
        for publication in reader.coming[:count]:
            self.take(reader, publication)
        del reader.coming[:count]

    @rule(reader=readers)
    def cut(self, reader: Reader) -> None:
        """The connection is lost, with what was on its way."""
        reader.is_here = False
        reader.coming.clear()

    @rule(reader=readers)
    def come_back(self, reader: Reader) -> None:
        if not reader.is_here:
            self.subscribe(reader)

    @rule(reader=readers, data=st.data())
    def lose(self, reader: Reader, data: st.DataObject) -> None:
        """Its queue overflows: some of what comes is dropped, and more follows."""
        if len(reader.coming) > 1:
            del reader.coming[data.draw(st.integers(0, len(reader.coming) - 2))]

    @rule(reader=readers, data=st.data())
    def double(self, reader: Reader, data: st.DataObject) -> None:
        """Something comes twice."""
        if reader.coming:
            at = data.draw(st.integers(0, len(reader.coming) - 1))
            reader.coming.insert(at, reader.coming[at])

    def subscribe(self, reader: Reader) -> None:
        since = None if reader.mark is None else Since(reader.mark)
        wanted = [Wanted(PATTERN, since)]
        pages = [self.store.read(read, 0.0) for read in reads_of(wanted, self.families)]
        brought = recover(wanted, pages, self.families, self.store.head)
        (outcome,) = brought.outcomes
        assert len(brought.latest) <= 1
        assert not (brought.latest and brought.replay)
        reader.is_here = True
        reader.mark = outcome.position
        if outcome.is_recovered is not True:
            assert len(brought.latest) == 1
            reader.fold.lose()
            self.take(reader, brought.latest[0])
            assert reader.fold.text == self.text or reader.ends
        reader.coming = [*brought.replay]

    def take(self, reader: Reader, publication: Publication) -> None:
        was_over = reader.fold.is_over
        duty = reader.fold.take(publication)
        position = publication.position
        assert position is not None
        if reader.mark is None or position.offset > reader.mark.offset:
            reader.mark = position
        reader.ends += reader.fold.is_over and not was_over
        if duty is StreamDuty.ASK:  # It renews its subscription; what was on its way is late.
            reader.mark = None
            reader.coming.clear()
            self.subscribe(reader)

    @invariant()
    def every_text_is_a_prefix_that_grows(self) -> None:
        for reader in self.all:
            assert self.text.startswith(reader.fold.text)
            assert reader.fold.text.startswith(reader.seen)
            reader.seen = reader.fold.text

    @invariant()
    def the_end_comes_once_and_after_everything(self) -> None:
        for reader in self.all:
            assert reader.ends <= 1
            if reader.fold.is_over:
                assert reader.fold.state is self.phase
                assert reader.fold.text == self.text
                assert reader.fold.result == (7 if self.phase is StreamPhase.ENDED else None)

    def teardown(self) -> None:
        """A reader that is here and has got everything has the whole text, and the end."""
        try:
            self.finish()
        finally:
            for each in self.patches:
                each.stop()

    def finish(self) -> None:
        for reader in self.all:
            if not reader.is_here:
                self.subscribe(reader)
            while reader.coming:
                self.take(reader, reader.coming.pop(0))
            assert reader.fold.text == self.text
            assert reader.fold.state is self.phase


TestStreams = Streams.TestCase
TestStreams.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
