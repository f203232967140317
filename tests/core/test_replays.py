"""The past is encoded once for all that ask for it within a short time."""

from __future__ import annotations

from typing import Final

from tests.core.test_hub import Dialect, enter
from wsbus.core.channels import parse_channel
from wsbus.core.families import Families, History, Stream
from wsbus.core.frame import Frame
from wsbus.core.hub import Hub
from wsbus.core.messages import Publication
from wsbus.core.outlet import Owed
from wsbus.core.replays import Replays

CHANNEL: Final = parse_channel("kept.a")
STREAM: Final = parse_channel("stream.a")


class Latest(Dialect):
    """Says the latest publication in another way."""

    def encode_latest(self, publication: Publication) -> Frame:
        return Frame(b"latest " + self.encode_publication(publication).payload)


def families() -> Families:
    declared = Families()
    declared.declare("kept.*", history=History())
    declared.declare("stream.*", stream=Stream())
    return declared


def past(count: int, size: int = 1) -> list[Publication]:
    return [Publication(CHANNEL, "e", b"%0*d" % (size, n), 0.0) for n in range(count)]


def told(owed: Owed) -> bytes:
    assert owed.frame is not None
    return owed.frame.payload


def test_subscribers_that_come_back_together_share_frames_and_writes() -> None:
    """Two of one dialect owe the same objects in one write; another dialect has its own."""
    one, other, hub, publications = Dialect("one"), Dialect("other"), Hub(families()), past(5)
    members = [enter(hub, "kept.a", dialect=dialect) for dialect in (one, one, other)]
    for member in members:
        hub.replay(member, publications)
    first, second = hub.take_plan().writes
    assert [*first.members] == members[:2]
    assert [told(owed) for owed in first.owed] == [each.data for each in publications]
    assert [*second.members] == members[2:]
    assert {*one.encoded.values()} == {*other.encoded.values()} == {1}


def test_the_latest_has_a_frame_of_its_own() -> None:
    """A publication that was the latest for one subscriber is an event for the next."""
    dialect, replays, (publication,) = Latest("one"), Replays(families()), past(1)
    for _ in range(2):
        assert told(replays.owed(publication, dialect, is_latest=True)) == b"latest 0"
        assert told(replays.owed(publication, dialect, is_latest=False)) == b"0"
    assert dialect.encoded[b"0"] == 2


def test_what_nobody_asks_for_again_is_forgotten() -> None:
    """It is kept while it is asked for between two calls of ``settle``."""
    dialect, replays, publications = Dialect("one"), Replays(families()), past(2)
    often, once = publications
    for _ in range(4):
        replays.owed(often, dialect, is_latest=False)
        replays.settle()
    replays.owed(once, dialect, is_latest=False)
    replays.settle()
    assert len(replays) == 1
    replays.settle()
    assert len(replays) == 0
    for each in publications:
        replays.owed(each, dialect, is_latest=False)
    assert dialect.encoded == {often.data: 2, once.data: 2}


def test_what_is_kept_is_bounded() -> None:
    """However much is asked for: at most twice the bytes, and an entry."""
    dialect, replays = Dialect("one"), Replays(families(), 100_000)
    for publication in past(1000, size=1000):
        replays.owed(publication, dialect, is_latest=False)
        assert len(replays) * 1000 <= 201_000
    assert len(replays) > 50
    (large,) = past(1, size=1 << 20)
    replays.owed(large, dialect, is_latest=False)
    replays.owed(large, dialect, is_latest=False)
    assert dialect.encoded[large.data] == 1


def test_what_is_made_for_one_reader_is_not_kept() -> None:
    """The whole of a stream is another object each time; and a member inside has no frame."""
    dialect, replays = Dialect("one"), Replays(families())
    whole = Publication(STREAM, "whole", b"1", 0.0)
    assert told(replays.owed(whole, dialect, is_latest=True)) == b"1"
    assert replays.owed(whole, None, is_latest=False).frame is None
    assert len(replays) == 0
