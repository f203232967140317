"""Channel names: the grammar, and escaping without loss."""

from __future__ import annotations

import json
import runpy
import unicodedata
from enum import StrEnum
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.channels import (
    FORBIDDEN_CODES,
    MAX_CHANNEL_BYTES,
    MAX_SEGMENTS,
    channel,
    escape_segment,
    parse_channel,
    split_name,
    unescape_segment,
)
from wsbus.core.errors import InvalidChannel, UsageError

TEXT = st.text(st.characters())  # lone surrogates among them
BAD_CODES = {code for first, last in FORBIDDEN_CODES for code in range(first, last + 1)}
VECTORS = Path(__file__).parent / "vectors"
AWKWARD = st.text(st.sampled_from("a%+.*/#> \t\n\u3000\x00\u200b\ud83d\ude00😀贵é2B"))

GOOD = [
    "a",
    "system.health",
    "grid.grid_abc123.order",
    "BTC/USDT",
    "^GSPC",
    "600519",
    "a+b",
    "++",
    "a.+b",
    "股票.贵州茅台",
    "100%",
    "a" * 255,
    "é" * 127,
    ".".join("abcdefghijklmnop"),
]
BAD = [
    "",
    ".",
    "a.",
    ".a",
    "a..b",
    "*",
    "a.*",
    "a*",
    "+",
    "a.+",
    "+.a",
    "a b",
    " a",
    "a\t",
    "a\n",
    "a\u3000b",
    "a\u2028b",
    "a\x00b",
    "a\u200bb",
    "a\ud800",
    "a" * 256,
    "é" * 128,
    "贵" * 86,
    "a" * 1_000_000,
    ".".join("abcdefghijklmnopq"),
]


def is_channel(name: str) -> bool:
    """Say the grammar again, character by character."""
    segments = name.split(".")
    return (
        len(name.encode("utf-8", "surrogatepass")) <= 255
        and len(segments) <= 16
        and all(
            segment != ""
            and set("+#>").isdisjoint(segment.split("/"))
            and all(ord(c) not in BAD_CODES and c != "*" for c in segment)
            for segment in segments
        )
    )


def accepts(name: str) -> bool:
    """Tell whether the name is taken, and taken as it is."""
    try:
        return parse_channel(name) == name
    except InvalidChannel:
        return False


def is_forbidden(code: int) -> bool:
    """Say the rule of the table again, with this interpreter's version of Unicode."""
    category = unicodedata.category(chr(code))
    is_noncharacter = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    return category in {"Cc", "Cf", "Cs", "Co", "Zs", "Zl", "Zp"} or is_noncharacter


def test_the_table_is_that_of_unicode_15() -> None:
    """The fixed table is the rule for all code points on which this interpreter can judge."""
    is_exact = unicodedata.unidata_version in {"15.0.0", "15.1.0"}
    for code in range(0x110000):
        # A newer version assigns code points that Unicode 15.0 does not; an older one misses some.
        if is_exact or (
            unicodedata.category(chr(code)) != "Cn" and unicodedata.unidata_version < "15"
        ):
            assert (code in BAD_CODES) == is_forbidden(code), hex(code)


def test_the_table_is_sorted_and_its_ranges_do_not_touch() -> None:
    """The table has one form, so that other languages can compare theirs with it."""
    edges = [edge for first, last in FORBIDDEN_CODES for edge in (first, last + 1)]
    assert edges == sorted(set(edges))
    assert len(FORBIDDEN_CODES) == 42


def test_each_code_point_is_judged_by_the_table() -> None:
    """Parsing and escaping agree with the table on every code point there is.

    Names that fit are tried 60 code points at a time, since a name with one that does not is
    refused; and no segment, once escaped, holds one that does not.
    """
    escaped = BAD_CODES | {ord(char) for char in ".%*"}
    plain = "".join(chr(code) for code in range(0x110000) if code not in escaped)
    names = [plain[at : at + 60] for at in range(0, len(plain), 60)]
    assert [name for name in names if not accepts(name) or escape_segment(name) != name] == []
    assert {chr(code) for code in escaped if accepts(f"a{chr(code)}b")} == set(".%")
    odd = "".join(map(chr, sorted(escaped)))
    left = {char for at in range(0, len(odd), 10) for char in escape_segment(odd[at : at + 10])}
    assert left.intersection(odd) == {"%"}


def test_the_vectors_are_made_by_their_rule() -> None:
    """The file that other languages read holds what its rule says, for the table of this one."""
    module = runpy.run_path(str(VECTORS / "channels.py"))
    assert (VECTORS / "channels.json").read_text("ascii") == module["text_of"](
        module["make"](FORBIDDEN_CODES)
    )


def test_the_vectors_shared_with_other_languages() -> None:
    """What the clients say of names and segments, this package says."""
    vectors = json.loads((VECTORS / "channels.json").read_text("ascii"))
    assert [[f"{a:04X}", f"{b:04X}"] for a, b in FORBIDDEN_CODES] == vectors["forbidden"]
    for vector in vectors["segments"]:
        assert escape_segment(vector["text"]) == vector["segment"]
        assert unescape_segment(vector["segment"]) == vector["text"]
    assert all(accepts(name) for name in vectors["valid"])
    assert not any(accepts(name) for name in vectors["invalid"])
    for vector in vectors["channels"]:
        if vector["channel"] is None:
            with pytest.raises(InvalidChannel):
                channel(vector["head"], *vector["names"])
        else:
            assert channel(vector["head"], *vector["names"]) == vector["channel"]


@pytest.mark.parametrize("name", GOOD)
def test_good_names_stay_as_they_are(name: str) -> None:
    """A name in the grammar is its own channel."""
    assert parse_channel(name) == name
    assert is_channel(name)


@pytest.mark.parametrize("name", BAD, ids=lambda name: f"{len(name)} {ascii(name)[:20]}")
def test_bad_names_are_refused_without_being_repeated(name: str) -> None:
    """A name out of the grammar raises, and the reason fits a client and does not echo it."""
    with pytest.raises(InvalidChannel) as caught:
        parse_channel(name)
    assert not is_channel(name)
    assert caught.value.reason.isprintable()
    assert len(name) < 4 or name not in caught.value.reason


@pytest.mark.parametrize("name", BAD, ids=lambda name: f"{len(name)} {ascii(name)[:20]}")
def test_the_text_of_the_error_shows_the_name(name: str) -> None:
    """For the application the error repeats what it refused: escaped, and shortened."""
    with pytest.raises(InvalidChannel) as caught:
        parse_channel(name)
    text = str(caught.value)
    assert text.isprintable()
    assert repr(name[:60])[1:-1] in text
    assert len(text) < 400


@pytest.mark.parametrize("name", [None, 3, 1.5, b"a", [], {}, ("a",), object()])
def test_what_is_no_text_is_refused_the_same_way(name: object) -> None:
    """No value whatever raises anything but InvalidChannel, which is the caller's fault."""
    with pytest.raises(InvalidChannel) as caught:
        parse_channel(name)  # type: ignore[arg-type]
    assert isinstance(caught.value, UsageError)


def test_the_grammar_holds_for_all_short_names() -> None:
    """All names up to five characters over the characters that matter are judged right."""
    for length in range(6):
        for name in map("".join, product("a.+*/#", repeat=length)):
            assert accepts(name) == is_channel(name), name


@given(TEXT | AWKWARD | st.lists(AWKWARD, max_size=20).map(".".join))
def test_the_grammar_holds_for_any_text(name: str) -> None:
    """The fast way and the slow way agree with the grammar read character by character."""
    assert accepts(name) == is_channel(name)


@given(st.integers(60, 66), st.sampled_from("aé贵😀"), st.sampled_from(["", "+"]))
def test_length_is_counted_in_bytes(length: int, character: str, suffix: str) -> None:
    """Around the bound of the fast way, what counts are UTF-8 bytes."""
    name = character * length + suffix
    assert accepts(name) == (len(name.encode()) <= MAX_CHANNEL_BYTES)


@pytest.mark.parametrize("separator", [".", ".+"])
def test_segments_are_counted(separator: str) -> None:
    """Sixteen segments are a channel and seventeen are not, whichever way they are parsed."""
    assert accepts("a" + f"{separator}a" * (MAX_SEGMENTS - 1))
    assert not accepts("a" + f"{separator}a" * MAX_SEGMENTS)


def test_subclasses_of_str_become_plain_text() -> None:
    """A member of a StrEnum is a name, and the channel is an ordinary str."""

    class Topic(StrEnum):
        HEALTH = "system.health"
        EVERYTHING = "*"

    assert type(parse_channel(Topic.HEALTH)) is str
    assert parse_channel(Topic.HEALTH) == "system.health"
    assert not accepts(Topic.EVERYTHING)


@given(TEXT | AWKWARD)
def test_escaping_loses_nothing(text: str) -> None:
    """Any text comes back from its segment, so no two texts share one."""
    segment = escape_segment(text)
    assert unescape_segment(segment) == text


@given(TEXT | AWKWARD)
def test_what_is_escaped_is_one_segment(text: str) -> None:
    """The escaped form of any text is one segment, of printable characters without wildcards."""
    segment = escape_segment(text)
    assert split_name(segment[:20]) == [segment[:20]]
    assert "*" not in segment
    assert set("+#>").isdisjoint(segment.split("/"))
    assert BAD_CODES.isdisjoint(map(ord, segment))


def test_escaping_is_injective_on_all_short_texts() -> None:
    """All texts up to four characters over the awkward ones have segments of their own."""
    texts = ["".join(t) for n in range(5) for t in product("%+.*/# 2Ba\ud800", repeat=n)]
    assert len({escape_segment(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("alice", "alice"),
        ("贵州茅台", "贵州茅台"),
        ("a+b", "a+b"),
        ("", "%"),
        ("+", "%2B"),
        ("%", "%25"),
        ("a.b", "a%2Eb"),
        ("*", "%2A"),
        ("#", "%23"),
        (">", "%3E"),
        ("a/+/b", "a/%2B/b"),
        ("C++/C#", "C++/C#"),
        ("a b", "a%20b"),
        ("\n", "%0A"),
        ("\u3000", "%E3%80%80"),
        ("\ud83d\ude00", "%ED%A0%BD%ED%B8%80"),
        ("😀", "😀"),
    ],
)
def test_escaped_forms(text: str, segment: str) -> None:
    """The escaped form is the percent-encoding of what does not fit, and nothing else."""
    assert escape_segment(text) == segment


@pytest.mark.parametrize(
    "segment",
    [
        "",
        "+",
        "#",
        "a/+",
        "%%",
        "100%",
        "%2",
        "%2b",
        "%61",
        "%FF",
        "%ED",
        "a.b",
        "a b",
        "*",
        "\ud800",
    ],
)
def test_only_escaped_forms_are_unescaped(segment: str) -> None:
    """A segment that escaping does not make is refused: no text has two spellings."""
    with pytest.raises(InvalidChannel):
        unescape_segment(segment)


@given(AWKWARD.filter(lambda segment: len(segment) < 8))
def test_unescaping_is_the_inverse_or_refuses(segment: str) -> None:
    """Whatever is unescaped escapes to the same segment."""
    try:
        text = unescape_segment(segment)
    except InvalidChannel:
        return
    assert escape_segment(text) == segment


@given(TEXT | AWKWARD)
def test_a_name_from_outside_cannot_climb(name: str) -> None:
    """A channel built from any name lies right below its head, or is too long."""
    try:
        built = channel("user", name, "inbox")
    except InvalidChannel:
        assert len(escape_segment(name).encode()) > MAX_CHANNEL_BYTES - len("user..inbox")
        return
    head, middle, last = built.split(".")
    assert (head, unescape_segment(middle), last) == ("user", name, "inbox")


def test_the_head_is_literal() -> None:
    """The head may have several segments and must itself be a channel."""
    assert channel("grid.abc", "a.b") == "grid.abc.a%2Eb"
    assert channel("system") == "system"
    for head in ("", "*", "+", "#", ">", "a/+", "a..b", "a b"):
        with pytest.raises(InvalidChannel):
            channel(head, "x")
