from __future__ import annotations

import json
import math
import time
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsbus.core.errors import UsageError
from wsbus.core.limits import (
    ExcessRun,
    Limits,
    TokenBucket,
    has_extremes,
    has_long_numbers,
    too_deep,
    too_many_parts,
)

# --- Limits ----------------------------------------------------------------------------------


def test_every_limit_has_a_default() -> None:
    """An endpoint that says nothing is bounded all the same."""
    limits = Limits()

    assert limits.max_message_bytes == 65536
    assert (limits.queue_messages, limits.queue_bytes) == (1000, 1 << 20)
    assert [name for name in limits.__struct_fields__ if getattr(limits, name) is None] == [
        "max_connections",
        "max_connections_per_address",
        "max_connections_per_identity",
    ]


@pytest.mark.parametrize("name", Limits.__struct_fields__)
@pytest.mark.parametrize("bound", [0, -1, math.inf, math.nan])
def test_a_limit_that_bounds_nothing_is_refused_by_name(name: str, bound: float) -> None:
    """A limit is positive and finite; the error says which is not."""
    bounds: dict[str, Any] = {name: bound}

    with pytest.raises(UsageError, match=name):
        Limits(**bounds)


def test_rates_may_be_off() -> None:
    """None means any number, where the field allows it."""
    limits = Limits(messages_per_second=None, commands_per_second=None)

    assert limits.messages_per_second is limits.commands_per_second is None


def test_limits_do_not_change() -> None:
    """Endpoints share them with every connection."""
    with pytest.raises(AttributeError):
        setattr(Limits(), "max_waiting", 3)  # noqa: B010 -- the type checker forbids the plain form


# --- TokenBucket -----------------------------------------------------------------------------


def test_a_burst_is_one_second_of_rate() -> None:
    """A full bucket grants exactly the rate at once, and then nothing."""
    bucket = TokenBucket(100)

    assert [bucket.take(1e6) for _ in range(101)] == [True] * 100 + [False]


def test_a_rate_below_one_grants_one_at_a_time() -> None:
    """A bucket holds one token at least, or it could never grant any."""
    bucket = TokenBucket(0.5)

    assert [bucket.take(now) for now in (0.0, 1.0, 2.0, 3.0, 4.0)] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_tokens_come_back_with_time_and_not_by_asking() -> None:
    """A refused one costs no token: who asks again in time is granted."""
    bucket = TokenBucket(2, now=10.0)

    assert [bucket.take(10.0) for _ in range(4)] == [True, True, False, False]
    assert bucket.take(10.5)
    assert not bucket.take(10.5)


def test_a_bucket_does_not_save_up() -> None:
    """A day of silence grants one burst."""
    bucket = TokenBucket(2, now=0.0)

    assert [bucket.take(86400.0) for _ in range(3)] == [True, True, False]


def test_time_that_goes_back_grants_nothing() -> None:
    """Neither the step back nor the way forward again fills the bucket."""
    bucket = TokenBucket(1, now=100.0)
    bucket.take(100.0)

    assert [bucket.take(now) for now in (50.0, 99.0, 100.0)] == [False] * 3
    assert bucket.take(101.0)


def test_time_that_goes_back_takes_nothing_away() -> None:
    """The tokens that were there are there still."""
    bucket = TokenBucket(2, now=100.0)

    assert [bucket.take(now) for now in (100.0, 50.0, 50.0)] == [True, True, False]


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_rate_is_positive_and_finite(rate: float) -> None:
    """Who wants no limit makes no bucket."""
    with pytest.raises(UsageError):
        TokenBucket(rate)


@given(
    rate=st.floats(0.01, 1000),
    start=st.floats(0, 1e6),
    steps=st.lists(st.floats(-1, 5) | st.just(0.0), max_size=60),
)
def test_no_window_ever_grants_more_than_burst_and_rate(
    rate: float, start: float, steps: list[float]
) -> None:
    """Between any two moments t apart at most burst + rate * t are granted."""
    bucket, now, latest = TokenBucket(rate, start), start, start
    granted = []
    for step in steps:
        now += step
        latest = max(latest, now)
        if bucket.take(now):
            granted.append(latest)

    for first, begin in enumerate(granted):
        for last in range(first, len(granted)):
            allowed = bucket.burst + rate * (granted[last] - begin)
            assert last - first + 1 <= allowed * (1 + 1e-9) + 1e-6


@given(rate=st.integers(1, 200), seconds=st.integers(1, 5))
def test_who_keeps_to_the_rate_is_never_refused(rate: int, seconds: int) -> None:
    """Evenly spaced, rate messages a second all pass."""
    bucket = TokenBucket(rate)

    assert all(bucket.take(n / rate) for n in range(rate * seconds))


def test_a_token_may_be_looked_at() -> None:
    """To look takes nothing, at any moment."""
    bucket = TokenBucket(2)

    assert all(bucket.take(0, 0) for _ in range(9))
    assert [bucket.take(0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(now, 0) for now in (0, 0.4, 0.5, 0.5)] == [False, False, True, True]


@pytest.mark.parametrize(("count", "left"), [(1, 7), (5, 3), (8, 0), (1000, 0)])
def test_several_tokens_are_taken_at_once(count: int, left: int) -> None:
    """More than the burst counts as the burst, so that a full bucket grants everything."""
    bucket = TokenBucket(8)

    assert bucket.take(0, count)
    assert sum(bucket.take(0) for _ in range(8)) == left


def test_what_is_refused_for_its_size_takes_a_token() -> None:
    """Or whoever asks for too much at once could ask any number of times."""
    bucket = TokenBucket(8)
    bucket.take(0, 5)

    assert [bucket.take(0, 4) for _ in range(4)] == [False] * 4
    assert not bucket.take(0)


# --- ExcessRun -------------------------------------------------------------------------------


def test_who_stumbles_is_not_an_abuser() -> None:
    """A single burst of excesses, however large, is no run of ten seconds."""
    run = ExcessRun(10.0)

    assert not any(run.exceeded(5.0 + n / 1000) for n in range(900))


def test_who_keeps_on_is_found_when_the_time_is_up() -> None:
    """Excesses less than a second apart make a run, which is too long at its tenth second."""
    run = ExcessRun(10.0)
    verdicts = [run.exceeded(100.0 + n / 2) for n in range(22)]

    assert verdicts == [False] * 20 + [True] * 2


def test_a_pause_takes_little_off() -> None:
    """protocol.md: of time without excess "a fifth is subtracted" from the measure."""
    run = ExcessRun(2.0, pause=1.0)
    stretch = [n / 4 for n in range(8)]  # 1.75 s.

    assert not any(run.exceeded(now) for now in stretch)
    assert not run.exceeded(3.0)  # 1.75 - 1.25 / 5 = 1.5
    assert not run.exceeded(3.25)
    assert run.exceeded(3.5)


def test_who_stumbles_for_ever_is_not_an_abuser() -> None:
    """Half a second of excess in every four is forgiven, however long it goes on."""
    run = ExcessRun(10.0)

    assert not any(run.exceeded(4 * n + tenth / 10) for n in range(500) for tenth in range(6))


def test_who_floods_and_pauses_for_ever_is_an_abuser() -> None:
    """Whatever the pauses of a second and more: twice as much excess as rest is found."""
    run = ExcessRun(10.0)

    assert any(run.exceeded(3 * n + tenth / 10) for n in range(20) for tenth in range(20))


@given(
    steps=st.lists(st.integers(0, 24).map(lambda n: n / 8), min_size=1, max_size=80),
    seconds=st.integers(1, 5).map(float),
)
def test_a_run_is_what_the_whole_history_says(steps: list[float], seconds: float) -> None:
    """The verdict is that of adding up all times between excesses, never below nothing."""
    run, now = ExcessRun(seconds), 50.0
    run.exceeded(now)
    measure = 0.0
    for step in steps:
        now += step
        measure = measure + step if step < 1.0 else max(0.0, measure - step * 0.2)
        if abs(measure - seconds) < 1e-6:
            return  # Where rounding decides, either will do.

        assert run.exceeded(now) == (measure >= seconds)


# --- too_deep --------------------------------------------------------------------------------


def depth_of(value: object) -> int:
    """Return how deep ``value`` is nested."""
    match value:
        case dict():
            return 1 + max(map(depth_of, value.values()), default=0)
        case list():
            return 1 + max(map(depth_of, value), default=0)
        case _:
            return 0


nasty_text = st.text(alphabet='[]{}"\\\n\u2028é中x', max_size=12)
json_values = st.recursive(
    st.none() | st.integers() | nasty_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(nasty_text, inner, max_size=3),
    max_leaves=30,
)


@given(value=json_values, ascii_only=st.booleans())
@example(value=["[[[[[["], ascii_only=True)
@example(value={'\\"[[[[': "\\"}, ascii_only=True)
def test_depth_is_exact_for_json(value: object, *, ascii_only: bool) -> None:
    """Brackets nest, those inside strings do not, in text and in bytes."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    depth = depth_of(value)

    for limit in range(depth + 3):
        assert too_deep(text, limit) == (depth > limit)
        assert too_deep(text.encode(), limit) == (depth > limit)


def test_the_bound_itself_is_not_too_deep() -> None:
    """64 levels pass, 65 do not."""
    assert not too_deep("[" * 64 + "]" * 64, 64)
    assert too_deep("[" * 65 + "]" * 65, 64)
    assert too_deep('{"a":' * 65 + "1" + "}" * 65, 64)


def test_many_shallow_brackets_are_not_deep() -> None:
    """Their number alone says nothing."""
    assert not too_deep(b"[" + b",".join([b'{"a":[]}'] * 5000) + b"]", 3)


@given(text=st.text(alphabet='[]{}"\\ :,1\ud800é', max_size=60), limit=st.integers(0, 5))
def test_what_is_no_json_is_judged_without_complaint(text: str, limit: int) -> None:
    """Unterminated strings, stray brackets and lone surrogates raise nothing."""
    assert too_deep(text, limit) in {True, False}
    assert too_deep(text.encode("utf-8", "replace"), limit) in {True, False}


SIZE: Final = 64 * 1024
HOSTILE: Final = {
    "open": "[" * SIZE,
    "nested": "[" * (SIZE // 2) + "]" * (SIZE // 2),
    "pairs": "[]" * (SIZE // 2),
    "short strings": "[" * 70 + '"a"' * (SIZE // 3),
    "bracket, quote": '["' * (SIZE // 2),
    "unterminated": "[" * 70 + '"' + "x" * SIZE,
    "unterminated, escaped quotes": "[" * 70 + '"' + '\\"' * (SIZE // 2),
    "backslashes": "[" * 70 + '"' + "\\" * (SIZE - 71),
    "quote, backslash": "[" * 70 + '"\\' * (SIZE // 2),
    "quote, backslash, newline": "[" * 70 + '"\\\n' * (SIZE // 3),
    "brackets in strings": '"[[",' * (SIZE // 5),
    "up and down a little": ("[" * 9 + "]" * 9) * (SIZE // 18),
    "up and down far": "[" * 10 + ("[" * 50 + "]" * 50) * (SIZE // 100),
}


def cost(text: str) -> float:
    """Return the CPU seconds that one look at ``text`` costs: the least of five."""
    times = []
    for _ in range(5):
        start = time.thread_time()
        too_deep(text, 64)
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_costs_no_more_than_its_length(text: str) -> None:
    """Eight times the text costs about eight times the work, where a square would be 64 times."""
    assert cost(text) < 24 * cost(text[: len(text) // 8]) + 0.001


@given(steps=st.lists(st.sampled_from("[]"), max_size=300), limit=st.integers(1, 20))
def test_depth_is_exact_for_any_mountains(steps: list[str], limit: int) -> None:
    """Arrays go up and down in any way, and it is the highest peak that counts."""
    text, depth, highest = "[", 1, 1
    for step in steps:
        if step == "[" or depth > 1:
            text += step
            depth += 1 if step == "[" else -1
            highest = max(highest, depth)
    text += "]" * depth

    assert too_deep(text, limit) == (highest > limit)


@pytest.mark.parametrize(
    ("item", "counts"),
    [
        ("1e308", True),
        ("5E-324", True),
        ("-1.7976931348623157e+308", True),
        ("1e0308", True),
        ("1e99", False),
        ("12345", False),
        ("true", False),
        ('"1e308"', False),
        ('"\\"1e308"', False),
        ('"0e123456789e555"', False),
    ],
)
def test_numbers_near_the_ends_are_counted(item: str, *, counts: bool) -> None:
    """Those with exponents of three digits or more, and none that stands in a string."""
    for count in (3, 4):
        text = json.dumps(["e"] * 50)[:-1] + f",{item}" * count + "]"

        assert has_extremes(text, 3) == (counts and count > 3)


def test_numbers_of_a_thousand_digits_are_bounded() -> None:
    """What counts is thousands of their digits; short numbers and strings do not count."""
    number, short = "1234567890" * 100, "1234567890" * 99

    assert not has_long_numbers(f"[{','.join([number] * 3)}]", 3)
    assert has_long_numbers(f"[{','.join([number] * 4)}]", 3)
    assert has_long_numbers(f"[{number * 4}]", 3)
    assert not has_long_numbers(f"[{','.join([short] * 60)}]", 3)
    assert not has_long_numbers(f'["{number * 60}"]', 3)


@pytest.mark.parametrize("letter", ["e", "é", "€", "😀", "\ud800"])
def test_digits_are_counted_as_bytes(letter: str) -> None:
    """``str.translate`` takes 5 ms for 64 KiB that are not ASCII."""

    class Text(str):
        __slots__ = ()

        def translate(self, table: object, /) -> str:
            raise AssertionError("bytes take a hundredth of the time")

    number = "1234567890" * 100
    beside = f'"\\"{letter * 5000}",'

    assert has_long_numbers(Text(f"[{beside}{number * 4}]"), 3)
    assert not has_long_numbers(Text(f"[{beside}{number * 3}]"), 3)
    assert not has_long_numbers(Text(f'[{beside}"{letter}{number * 60}"]'), 3)


def test_arrays_that_hold_next_to_nothing_are_bounded() -> None:
    """16,384 of them, or any number where each takes four characters and more."""
    points, nothing = "[1,2]," * 100_000, "[]," * 16_384

    assert not too_many_parts(points)
    assert not too_many_parts(nothing)
    assert too_many_parts(nothing + "{}")


def test_the_scan_agrees_with_the_decoder() -> None:
    """What passes the scan is decoded, whatever the interpreter's own limit is."""
    text = "[" * 64 + "]" * 64

    assert not too_deep(text, 64)
    assert depth_of(msgspec.json.decode(text)) == 64
