from __future__ import annotations

import json
import math
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from ipaddress import ip_address, ip_network
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbus.core.encoding import encode_data
from wsbus.core.errors import UsageError

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
NOT_FINITE: Final = [math.nan, math.inf, -math.inf]


class Side(Enum):
    BUY = "buy"


class Opaque:
    """JSON has no form for it."""


@dataclass
class Price:
    pair: str
    price: float


class Order(msgspec.Struct):
    level: int
    side: str | None


def nested(levels: int) -> object:
    """Return lists in lists, that many of them."""
    value: object = []
    for _ in range(levels - 1):
        value = [value]
    return value


@given(json_values)
def test_what_json_can_say_comes_back(value: object) -> None:
    """Another reader of JSON sees the same value, in one line of UTF-8."""
    text = encode_data(value)

    assert json.loads(text) == value
    assert b"\n" not in text


def test_it_is_compact_and_unescaped() -> None:
    """No spaces, and Chinese as itself."""
    assert (
        encode_data({"名": "贵州茅台", "a": [1, None]}) == '{"名":"贵州茅台","a":[1,null]}'.encode()
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Price("BTC", 1.5), b'{"pair":"BTC","price":1.5}'),
        (Order(2, None), b'{"level":2,"side":null}'),
        (datetime(2024, 1, 2, tzinfo=UTC), b'"2024-01-02T00:00:00Z"'),
        ({1: "a"}, b'{"1":"a"}'),
        ((1, 2), b"[1,2]"),
        (10**30, b"1000000000000000000000000000000"),
        ("null", b'"null"'),
        (msgspec.Raw(b"null"), b"null"),
        ([msgspec.Raw(b'{"a":null}')], b'[{"a":null}]'),
    ],
)
def test_python_objects_with_an_obvious_form(value: object, text: bytes) -> None:
    """Structs, dataclasses, dates and the like are encoded as msgspec does."""
    assert encode_data(value) == text


def not_finite(number: float) -> list[object]:
    """Return what hides a number."""
    return [
        number,
        [None, number],
        {"a": {"b": (1, number)}},
        {number},
        frozenset([number]),
        Price("BTC", number),
        [None] * 100 + [number],
        {"null": None, "x": number},
    ]


@pytest.mark.parametrize("number", NOT_FINITE)
def test_numbers_that_are_not_finite_are_refused_wherever_they_hide(number: float) -> None:
    """JSON has none, and ``null`` would be a lie."""
    for value in not_finite(number):
        with pytest.raises(UsageError, match="finite"):
            encode_data(value)
        with pytest.raises(UsageError, match="finite"):
            encode_data(value, enc_hook=str)


def test_what_a_hook_returns_is_checked_too() -> None:
    """A hook cannot bring in what is refused elsewhere."""
    assert encode_data([Opaque()], enc_hook=lambda _: {"is": "opaque"}) == b'[{"is":"opaque"}]'
    with pytest.raises(UsageError):
        encode_data([Opaque()], enc_hook=lambda _: math.nan)


def fail(value: Any) -> Any:
    """Be a hook that does not know it, either."""
    raise TypeError(value)


@pytest.mark.parametrize(
    "value",
    [Opaque(), "\ud800", {"\udfff": 1}, ["a", {"b": "c\ud800"}], {None: 1}],
    ids=["object", "surrogate", "surrogate in a key", "surrogate inside", "key"],
)
def test_what_has_no_form_is_refused(value: object) -> None:
    """Unknown objects, lone surrogates and keys that are no text raise UsageError."""
    with pytest.raises(UsageError):
        encode_data(value)
    with pytest.raises(UsageError):
        encode_data(value, enc_hook=fail)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (deque([1, deque([2])]), b"[1,[2]]"),
        ({"p": PurePosixPath("/tmp/a")}, b'{"p":"/tmp/a"}'),
        (ip_address("127.0.0.1"), b'"127.0.0.1"'),
        ([ip_network("::/8")], b'["::/8"]'),
        (Side.BUY, b'"buy"'),
    ],
)
def test_what_the_standard_library_has_is_sent(value: object, text: bytes) -> None:
    """Deques, paths and IP addresses need no hook, and a hook that knows others does no harm."""
    assert encode_data(value) == text
    assert encode_data(value, enc_hook=fail) == text


def test_a_hook_is_asked_first() -> None:
    """The application decides how an object is sent, also one that needs no hook."""
    assert encode_data(PurePosixPath("/a"), enc_hook=lambda path: path.name) == b'"a"'


def test_pydantic_models_are_sent() -> None:
    """A model is sent as its own JSON form, wherever it stands."""
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Quote", symbol=(str, ...), last=(Decimal, ...))
    quote = model(symbol="BTC", last="1.5")
    assert encode_data({"quotes": [quote]}) == b'{"quotes":[{"symbol":"BTC","last":"1.5"}]}'


def test_numpy_is_sent() -> None:
    """Numbers and arrays are sent as numbers and lists; what is not finite is refused."""
    np = pytest.importorskip("numpy")
    value = [np.int64(3), np.float32(1.5), np.bool_(True), np.arange(3), np.zeros((1, 2))]
    assert encode_data(value) == b"[3,1.5,true,[0,1,2],[[0.0,0.0]]]"
    assert encode_data(np.datetime64("2026-01-01")) == b'"2026-01-01"'
    for bad in (np.float64("nan"), np.array([1.0, np.inf])):
        with pytest.raises(UsageError, match="finite"):
            encode_data({"v": bad})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Opaque(), r"type Opaque .*enc_hook.* at \$$"),
        ({"orders": [1, Opaque()]}, r"type Opaque .*enc_hook.* at \$\.orders\[1\]$"),
        ([Order(1, Opaque())], r"type Opaque .* at \$\[0\]\.side$"),  # type: ignore[arg-type]
        ([Price(Opaque(), 1)], r"type Opaque .* at \$\[0\]\.pair$"),  # type: ignore[arg-type]
        ({"a b": {"x": ValueError("hunter2")}}, r"type ValueError .* at \$\[\.\.\.\]\.x$"),
        ({"x": {(1, 2): "hunter2"}}, r"keys of type tuple .* at \$\.x$"),
        (["a", "hunter2\ud800"], r"surrogate.* at \$\[1\]$"),
        (object, r"type type .*enc_hook"),
    ],
    ids=range(8),
)
def test_refusals_name_the_type_the_place_and_the_way_out(value: object, said: str) -> None:
    """Whoever reads the error finds the object, and no data beside it."""
    for hook in (None, fail):
        with pytest.raises(UsageError, match=said) as caught:
            encode_data(value, enc_hook=hook)
        assert "hunter2" not in str(caught.value)


def test_refusals_do_not_show_the_data() -> None:
    """Error texts end up in logs, where data must not be."""
    with pytest.raises(UsageError) as caught:
        encode_data({"password": "hunter2", "bad": "\ud800"})

    assert "hunter2" not in str(caught.value)


def test_depth_is_bounded() -> None:
    """64 levels pass, 65 do not, and a cycle ends."""
    cycle: list[object] = []
    cycle.append(cycle)

    assert encode_data(nested(64)) == b"[" * 64 + b"]" * 64
    for value in (nested(65), nested(5000), cycle):
        with pytest.raises(UsageError):
            encode_data(value)


def test_raw_json_cannot_break_frames_of_others() -> None:
    """What is spliced unread is at least one line of UTF-8, and not too deep."""
    assert encode_data({"a": msgspec.Raw(b'{\n  "x": [1, 2]\n}')}) == b'{"a":{"x":[1,2]}}'
    for raw in (b'"\xff"', b'"\xed\xa0\x80"', b"[" * 65 + b"]" * 65, b"[null,NaN]", b"{\n"):
        with pytest.raises(UsageError):
            encode_data([msgspec.Raw(raw)])
