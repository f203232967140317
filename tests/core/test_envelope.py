from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.channels import Channel
from wsbus.core.envelope import (
    VERSION,
    Addressed,
    Beacon,
    Dismissed,
    Item,
    Published,
    Revoked,
    Turn,
    encode_item,
    open_envelope,
    publication_of,
    publish_item,
    read_items,
)
from wsbus.core.feeds import ALL_NODES, Feed, feeds_around
from wsbus.core.messages import Publication

texts = st.text(max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1)
times = st.floats(allow_nan=False)
addressed = st.builds(
    Addressed,
    connections=st.lists(texts, max_size=3).map(tuple),
    subject=st.none() | texts,
    realm=st.none() | numbers,
    endpoint=st.none() | numbers,
)
items = st.one_of(
    st.builds(
        Published,
        number=numbers,
        channel=texts,
        event=texts,
        data=st.binary(max_size=20),
        timestamp=times,
        key=st.none() | texts,
        excluded=st.none() | addressed,
        to=st.none() | addressed,
    ),
    st.builds(Dismissed, to=addressed, code=numbers, reason=texts),
    st.builds(Revoked, to=addressed, pattern=texts, reason=st.none() | texts),
    st.builds(
        Beacon,
        number=numbers,
        host=texts,
        pid=numbers,
        connections=numbers,
        started_at=times,
        is_leaving=st.booleans(),
    ),
)
feeds = st.sampled_from([ALL_NODES, *map(Feed, ["=a", "=a.b", "=a.b.c", "=d"])])


def published(data: bytes = b"1", **fields: object) -> Published:
    values = {"number": 1, "channel": "a", "event": "e", "data": data, "timestamp": 1.0} | fields
    return Published(**values)  # type: ignore[arg-type]


def message_of(*parts: object, version: int = VERSION, more: list[object] | None = None) -> bytes:
    """Return an envelope of plain values, as another version might write it."""
    return bytes([version]) + msgspec.msgpack.encode(["node", 7, 1.5, [*parts], *(more or [])])


def plain(item: Item, *more: object) -> list[object]:
    """Return an item as a list, with fields that a later version may have appended."""
    return [*msgspec.msgpack.decode(encode_item(item)), *more]


@given(st.lists(st.tuples(feeds, items), max_size=8), st.booleans(), texts, numbers, times)
def test_a_turn_arrives_as_it_was_put(
    put: list[tuple[Feed, Item]], spread: bool, node: str, number: int, sent_at: float
) -> None:
    """Each feed has one envelope with its items in order; spread, those around it have them too."""
    turn = Turn(node, number, sent_at)
    for feed, item in put:
        turn.add(feed, encode_item(item))

    messages = [*turn.messages(spread=spread)]

    expected: dict[Feed, list[Item]] = {}
    for feed, item in put:
        for each in (feed, *(feeds_around(feed) if spread else ())):
            expected.setdefault(each, []).append(item)
    assert len(turn) == len(put)
    assert len(messages) == len(expected)
    for feed, message in messages:
        envelope = open_envelope(message)
        assert envelope is not None
        assert (envelope.node, envelope.number, envelope.sent_at) == (node, number, sent_at)
        assert read_items(envelope) == (expected[feed], 0)


@given(items)
def test_the_next_version_is_read(item: Item) -> None:
    """Appended fields are skipped; a kind that is not known costs its item."""
    message = message_of(
        plain(item, "new", {"a": [1]}),
        ["x", 1, 2],
        ["zz"],
        plain(item),
        version=VERSION + 1,
        more=["new", None],
    )
    envelope = open_envelope(message)
    assert envelope is not None
    assert (envelope.node, envelope.number, envelope.sent_at) == ("node", 7, 1.5)
    assert read_items(envelope) == ([item, item], 2)


@pytest.mark.parametrize("version", [0, VERSION + 2, VERSION + 3, 91, 255])
def test_other_versions_are_not_read(version: int) -> None:
    """A node reads its own version and the next one, and no other."""
    assert open_envelope(message_of(plain(published()), version=version)) is None


BROKEN: list[object] = [
    None,
    [],
    7,
    {},
    "p",
    ["p"],
    ["p", "one", "a", "e", b"1", 1.0],
    ["p", 1, "a", "e", "no bytes", 1.0],
    ["d", "ada", 4000, "reason"],
    ["d", [["id"]], "4000", "reason"],
    ["n", 1, "host", None, 1, 1.0],
    ["r", [], None],
    [7, 1],
    [["p"], 1],
]


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_what_is_broken_costs_its_item_only(broken: object) -> None:
    """Items around a broken one are read, and it is counted."""
    envelope = open_envelope(message_of(plain(published()), broken, plain(published(b"2"))))
    assert envelope is not None
    assert read_items(envelope) == ([published(), published(b"2")], 1)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01",
        b"\x01\x90",
        b"\x01\x94\xa4node\x07",
        b"\x01" + b"\x91" * 100_000,
        b"\x01" + msgspec.msgpack.encode(["node", 7, 1.5]),
        b"\x01" + msgspec.msgpack.encode([7, 7, 1.5, []]),
        b"\x01" + msgspec.msgpack.encode(["node", 7, 1.5, []]) + b"more",
        b"\x01\x94\xa2\xff\xfe\x07\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\x90",
        b'{"node": 1}',
    ],
    ids=repr,
)
def test_what_is_no_envelope_is_none(message: bytes) -> None:
    """A head that cannot be read is told by None, and by no error."""
    assert open_envelope(message) is None


@pytest.mark.parametrize(
    "items", [None, 7, {"a": 1}, "text", b"\x91" * 9_000], ids=["nil", "int", "map", "str", "bin"]
)
def test_items_that_are_no_list(items: object) -> None:
    """They cost one, whatever they are."""
    envelope = open_envelope(b"\x01" + msgspec.msgpack.encode(["node", 7, 1.5, items]))
    assert envelope is not None
    assert read_items(envelope) == ([], 1)


@pytest.mark.parametrize(
    ("fields", "channel"),
    [
        ({}, "a..b"),
        ({}, "*"),
        ({}, ""),
        ({}, "a" * 256),
        ({"data": b""}, "a"),
        ({"data": b"{"}, "a"),
        ({"data": b"NaN"}, "a"),
        ({"data": b"1 2"}, "a"),
        ({"data": b"[1,\n2]"}, "a"),
        ({"data": b'"\xff"'}, "a"),
        ({"data": b'"\xed\xa0\x80"'}, "a"),
        ({"data": b"[" * 65 + b"]" * 65}, "a"),
        ({"data": b"[" * 100_000}, "a"),
        ({"event": "a\nb"}, "a"),
        ({"event": "\x00"}, "a"),
        ({"timestamp": float("nan")}, "a"),
        ({"timestamp": float("inf")}, "a"),
        ({"timestamp": -1.0}, "a"),
        ({"timestamp": 1e300}, "a"),
    ],
    ids=str,
)
def test_what_is_unfit_for_subscribers(fields: dict[str, object], channel: str) -> None:
    """Content is checked as if a client had sent it: names, JSON, depth, lines, moments."""
    assert publication_of(published(**fields), channel, "node") is None  # type: ignore[arg-type]


def test_a_publication_arrives_as_it_was() -> None:
    """What an item publishes is what was accepted, with its node."""
    publication = Publication(Channel("a.b"), "e", '{"é":1}'.encode(), 1.5, "key", "node", 7)
    item = msgspec.msgpack.decode(publish_item(publication), type=Published)
    arrived = publication_of(item, item.channel, "node")
    assert arrived is not None
    assert msgspec.structs.astuple(arrived) == msgspec.structs.astuple(publication)


def test_hostile_bytes_never_raise() -> None:
    """However an envelope is damaged, reading it does not fail, and nothing unfit comes out."""
    chance = random.Random(12)
    parts = [plain(published(b'{"a":[1,2,"x"]}')), plain(Beacon(1, "host", 2, 3, 4.0))]
    to = Addressed(("id",), "ada", 1, 0)
    parts += [plain(Dismissed(to, 4000, "why")), plain(Revoked(to, "a.*")), ["p", 1, "a"]]
    whole = [message_of(*parts), message_of(*parts, version=2, more=["new"])]
    read = 0
    for _ in range(20_000):
        message = bytearray(chance.choice(whole))
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(message) or 1)
            match chance.randrange(4):
                case 0:
                    message[place : place + 1] = chance.randbytes(1)
                case 1:
                    del message[place : place + chance.randrange(1, 9)]
                case 2:
                    message[place:place] = chance.randbytes(chance.randrange(1, 9))
                case _:
                    message[place : place + 1] = bytes([chance.choice([0x91, 0xC1, 0xDC, 0xFF, 0])])
        envelope = open_envelope(bytes(message))
        if envelope is None:
            continue
        found, unread = read_items(envelope)
        assert unread >= 0
        for item in found:
            if isinstance(item, Published):
                publication = publication_of(item, item.channel, envelope.node)
                if publication is not None:
                    msgspec.json.decode(publication.data.decode())
                    assert b"\n" not in publication.data
                    read += 1
    assert read > 1_000
