from __future__ import annotations

import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.errors import InvalidChannel, UsageError
from wsbus.core.families import Families, Family
from wsbus.core.overflow import Overflow

SEGMENTS: Final = st.lists(st.sampled_from(["a", "b", "*", "+"]), min_size=1, max_size=4)
PATTERNS: Final = st.lists(SEGMENTS.map(".".join), max_size=12)
CHANNELS: Final = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5).map(".".join)


def oracle(pattern: str) -> re.Pattern[str]:
    """Say in a regular expression which channels a pattern matches."""
    *most, last = pattern.split(".")
    parts = ["[^.]+" if segment in {"*", "+"} else segment for segment in most]
    parts.append({"*": ".+", "+": "[^.]+"}.get(last, last))
    return re.compile(r"\.".join(parts))


def beats(one: str, other: str) -> bool:
    """Compare two patterns that match the same channel, as the guide says.

    families.md: "segment by segment from the left. At the first difference a literal segment comes
    before a wildcard, and a wildcard for one segment before a last `*`."
    """
    kinds = [
        ["tail" if at == len(text) - 1 and s == "*" else "one" if s in "*+" else "literal"
         for at, s in enumerate(text)]
        for text in (one.split("."), other.split("."))
    ]  # fmt: skip
    for mine, its in zip(*kinds, strict=False):
        if mine != its:
            return ["tail", "one", "literal"].index(mine) > ["tail", "one", "literal"].index(its)
    return False


def declare(patterns: list[str]) -> tuple[Families, dict[str, Family]]:
    """Declare all that can be; return those that were taken."""
    families, taken = Families(), dict[str, Family]()
    for pattern in patterns:
        try:
            taken[pattern] = families.declare(pattern)
        except UsageError:
            meaning = oracle(pattern).pattern
            assert meaning in [oracle(other).pattern for other in taken]
    return families, taken


@given(PATTERNS, st.lists(CHANNELS, min_size=1, max_size=20))
def test_the_most_specific_family_wins(patterns: list[str], channels: list[str]) -> None:
    """Of the families that match a channel one comes before all others, and that is the answer."""
    families, taken = declare(patterns)

    for channel in channels * 2:  # The second time out of the cache.
        matching = [text for text in taken if oracle(text).fullmatch(channel)]
        best = [t for t in matching if all(beats(t, other) for other in matching if other != t)]
        assert len(best) == bool(matching)
        assert families.find(channel) is (taken[best[0]] if best else None)


@given(PATTERNS, PATTERNS)
def test_the_order_of_declaration_says_nothing(first: list[str], second: list[str]) -> None:
    """A family that comes later is found at once, and the answers are those of the other order."""
    families, taken = declare(first)
    families.find("a.b")
    for pattern in second:
        try:
            taken[pattern] = families.declare(pattern)
        except UsageError:
            continue
    other, _ = declare(list(taken)[::-1])

    for channel in ("a", "a.b", "b.a.b", "a.a.a.a"):
        one, another = families.find(channel), other.find(channel)
        assert (one and one.pattern) == (another and another.pattern)


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("a.*.c", "a.+.c"), ("*.a", "+.a")])
def test_families_that_tie_are_refused(first: str, second: str) -> None:
    """Two patterns that match the same channels are refused together, with both names."""
    families = Families()
    families.declare(first, overflow="close")

    with pytest.raises(UsageError) as refused:
        families.declare(second)
    assert repr(first) in str(refused.value)
    assert repr(second) in str(refused.value)
    assert len(families) == 1


def test_a_family_is_checked_when_it_is_declared() -> None:
    """A wrong pattern or word is refused at once, and leaves nothing behind."""
    families = Families()
    with pytest.raises(InvalidChannel):
        families.declare("a.b*")
    with pytest.raises(UsageError, match="`conflate`"):
        families.declare("a", overflow="conflat")

    assert len(families) == 0
    assert families.declare("a", overflow="conflate").overflow is Overflow.CONFLATE


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"level":3,"price":1.5}', b"3"),
        (b'{"level":"3"}', b'"3"'),
        (b'{"level":{"a":[1]}}', b'{"a":[1]}'),
        (b'{"level":null}', b"null"),
        (b'{"price":1}', None),
        (b"[1]", None),
        (b'"level"', None),
        (b"null", None),
    ],
)
def test_a_key_is_a_field_of_the_data(data: bytes, value: bytes | None) -> None:
    """Its value as JSON text; None if the data has no such field."""
    assert Families().declare("a", overflow="conflate", key="level").key_in(data) == value


@pytest.mark.parametrize(
    ("overflow", "key"), [("conflate", ""), ("conflate", 1), ("drop_oldest", "a"), ("close", "a")]
)
def test_a_key_that_cannot_take_effect_is_refused(overflow: str, key: str) -> None:
    """Also one that is no name; nothing is declared then."""
    families = Families()

    with pytest.raises(UsageError, match="key"):
        families.declare("a", overflow=overflow, key=key)

    assert len(families) == 0
