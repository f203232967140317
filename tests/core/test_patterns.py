"""Patterns against an oracle that shares nothing with them but the words of the rules."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.channels import parse_channel
from wsbus.core.errors import InvalidChannel
from wsbus.core.patterns import Pattern, parse_pattern


def names(alphabet: str, longest: int) -> list[str]:
    """Return all names of up to so many segments over one-character segments."""
    return [".".join(n) for k in range(1, longest + 1) for n in product(alphabet, repeat=k)]


PATTERNS = names("ab*+", 4)
CHANNELS = names("abc", 5)
SEGMENT = st.sampled_from(["a", "b", "贵", "a+", "^x", "C#", "a/b"])
PATTERN = st.lists(SEGMENT | st.sampled_from("*+"), min_size=1, max_size=7).map(".".join)
CHANNEL = st.lists(SEGMENT, min_size=1, max_size=9).map(".".join)


def oracle(pattern: str) -> re.Pattern[str]:
    """Translate a pattern into a regular expression."""
    *init, last = pattern.split(".")
    one = {"*": r"[^.]+", "+": r"[^.]+"}
    translated = [one.get(segment, re.escape(segment)) for segment in init]
    translated.append(r".+" if last == "*" else one.get(last, re.escape(last)))
    return re.compile(r"\.".join(translated), re.DOTALL)


def test_matches_agrees_with_the_oracle_on_everything_small() -> None:
    """All patterns up to length 4 match all channels up to length 5 as the oracle says."""
    for text in PATTERNS:
        pattern, expression = parse_pattern(text), oracle(text)
        for channel in CHANNELS:
            expected = expression.fullmatch(channel) is not None
            assert pattern.matches(channel) == expected, (text, channel)


def test_covers_is_inclusion_on_everything_small() -> None:
    """One pattern covers another exactly if it matches every channel the other matches."""
    matched = {text: frozenset(filter(oracle(text).fullmatch, CHANNELS)) for text in PATTERNS}
    parsed = {text: parse_pattern(text) for text in PATTERNS}
    for one, other in product(PATTERNS, repeat=2):
        expected = matched[other] <= matched[one]
        assert parsed[one].covers(parsed[other]) == expected, (one, other)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("grid.*", ["grid.abc.status", "grid.def.order", "grid.abc"], ["grid", "system.log"]),
        ("grid.abc.*", ["grid.abc.status", "grid.abc.order"], ["grid.abc", "grid.def.order"]),
        (
            "grid.*.status",
            ["grid.abc.status", "grid.def.status"],
            ["grid.abc.order", "grid.status", "grid.a.b.status"],
        ),
        ("*", ["grid.abc.status", "system.health", "a"], []),
    ],
)
def test_the_normative_table(pattern: str, matching: list[str], other: list[str]) -> None:
    """Each row of the table of the ZigQuant page holds."""
    parsed = parse_pattern(pattern, plus=False)
    assert [name for name in matching + other if parsed.matches(name)] == matching


def test_the_vectors_shared_with_other_languages() -> None:
    """What the clients' matchers must say, this one says."""
    vectors = json.loads((Path(__file__).parent / "vectors" / "patterns.json").read_text("utf-8"))
    for vector in vectors:
        pattern = parse_pattern(vector["pattern"])
        names = [parse_channel(name) for name in (*vector["matches"], *vector["other"])]
        assert [name for name in names if pattern.matches(name)] == vector["matches"], vector


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("grid.*", "grid.a.*", True),
        ("grid.*", "*", False),
        ("*", "grid.*", True),
        ("a.+", "a.*", False),
        ("a.*", "a.+", True),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*.c", "a.+.c", True),
        ("a.+.c", "a.*.c", True),
        ("a.b", "a.b", True),
        ("a.b", "a.+", False),
        ("a.b.c.+", "a.b.c.*", False),
        ("+.*", "*", False),
    ],
)
def test_containment(one: str, other: str, expected: bool) -> None:
    """The examples of the rules hold."""
    assert parse_pattern(one).covers(parse_pattern(other)) is expected


@given(PATTERN, CHANNEL)
def test_matches_agrees_with_the_oracle(text: str, channel: str) -> None:
    """Longer patterns and other characters match as the oracle says."""
    expected = oracle(text).fullmatch(channel) is not None
    assert parse_pattern(text).matches(channel) == expected


@given(PATTERN, PATTERN, CHANNEL)
def test_covers_carries_over_to_channels(one: str, other: str, channel: str) -> None:
    """What a covered pattern matches, the covering one matches too."""
    covering, covered = parse_pattern(one), parse_pattern(other)
    if covering.covers(covered) and covered.matches(channel):
        assert covering.matches(channel)


@given(PATTERN, PATTERN, PATTERN)
def test_covers_is_a_preorder(one: str, two: str, three: str) -> None:
    """Containment is reflexive and transitive, and everything is contained in ``*``."""
    a, b, c = map(parse_pattern, (one, two, three))
    assert a.covers(a)
    assert parse_pattern("*").covers(a)
    assert not (a.covers(b) and b.covers(c)) or a.covers(c)


@given(CHANNEL)
def test_an_exact_pattern_is_its_channel(channel: str) -> None:
    """A channel's name is a pattern that matches this channel only."""
    pattern = parse_pattern(parse_channel(channel))
    assert pattern.is_exact
    assert not pattern.has_tail
    assert pattern.matches(channel)
    assert not pattern.matches(channel + ".x")


@given(st.text(st.characters()), PATTERN)
def test_any_text_can_be_judged(action: str, text: str) -> None:
    """Matching never raises: names of actions are anything a client sends."""
    assert parse_pattern(text).matches(action) in {True, False}
    assert parse_pattern("*").matches(action)


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "a.", ".*", "*.", "a..*", "a*", "*a", "**", "a.*b.c", "*+", "a. .*", "a\n.*"),
        *("a\ud800.*", "a" * 254 + ".*", ".".join("*" * 17)),
    ],
    ids=lambda text: f"{len(text)} {ascii(text)[:20]}",
)
def test_bad_patterns_are_refused(text: str) -> None:
    """What breaks the grammar raises, and so does a wildcard within a segment."""
    with pytest.raises(InvalidChannel):
        parse_pattern(text)


@pytest.mark.parametrize("plus", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "#",
        "a.#",
        "a.#.b",
        ">",
        "a.>",
        "**",
        "a.**",
        "a.b*",
        "a/+/b",
        "a/*/b",
        "a/#",
        "+.#",
        "a.b/+",
    ],
)
def test_wildcards_of_other_systems_are_refused_with_a_hint(text: str, plus: bool) -> None:
    """What MQTT or NATS takes for a wildcard, and is none here, is refused with a word of `*`."""
    with pytest.raises(InvalidChannel, match=r"`\*`|`a\.\*"):
        parse_pattern(text, plus=plus)


@pytest.mark.parametrize("text", ["a.C#", "C#.*", "a->b.*", "<a>.b", "a#b.+", "a/b/c.*", "a+/b+.c"])
def test_the_same_characters_within_text_are_text(text: str) -> None:
    """Characters that are wildcards elsewhere may be part of a segment."""
    assert parse_pattern(text).text == text


@pytest.mark.parametrize("text", [None, 1, b"*", [], ["*"]])
def test_what_is_no_text_is_refused_the_same_way(text: object) -> None:
    """No value whatever raises anything but InvalidChannel."""
    with pytest.raises(InvalidChannel):
        parse_pattern(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["+", "a.+", "+.a", "a.+.*"])
def test_plus_can_be_no_wildcard(text: str) -> None:
    """Where plus is no wildcard, a segment of it alone is refused; within a segment it is text."""
    assert parse_pattern(text).text == text
    with pytest.raises(InvalidChannel):
        parse_pattern(text, plus=False)
    assert parse_pattern("a+b.*", plus=False).matches("a+b.c")


def test_the_bounds_are_those_of_channels() -> None:
    """Sixteen segments and 255 bytes are a pattern."""
    assert len(parse_pattern(".".join("*" * 16)).segments) == 16
    assert parse_pattern("a" * 253 + ".*").has_tail


def test_a_pattern_is_a_value() -> None:
    """Patterns are equal, and hash alike, exactly if spelled the same; they cannot be changed."""
    pattern = parse_pattern("a.*.c")
    assert {pattern} == {parse_pattern("a.*.c")}
    assert pattern != parse_pattern("a.+.c")
    assert str(pattern) == "a.*.c"
    assert repr(pattern) == "Pattern('a.*.c')"
    with pytest.raises(AttributeError):
        pattern.text = "*"  # type: ignore[misc]


@pytest.mark.parametrize("text", PATTERNS[:84])
def test_kinds(text: str) -> None:
    """A pattern knows whether it is exact, has an open end, and is everything."""
    pattern: Pattern = parse_pattern(text)
    assert pattern.is_exact == (not set(text) & set("*+"))
    assert pattern.has_tail == text.endswith("*")
    assert pattern.is_everything == (text == "*")
    assert ".".join(pattern.segments) == text
