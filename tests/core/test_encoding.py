from __future__ import annotations

import json
import math
import subprocess
import sys
from array import array
from collections import ChainMap, UserDict, UserList, UserString, deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from ipaddress import ip_address, ip_network
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import attrs
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


class Number(IntEnum):
    ONE = 1


class Colour(Flag):
    RED = 1
    BLUE = 2


class Text(str):
    __slots__ = ()


class Whole(int): ...


class Real(float): ...


class Octets(bytes): ...


class Moment(datetime): ...


class Day(date): ...


class Span(timedelta): ...


class Point(NamedTuple):
    a: int
    b: object


@attrs.frozen
class Attrs:
    a: object


class Opaque:
    """JSON has no form for it."""


@dataclass(frozen=True, slots=True)
class Slotted:
    a: int
    b: object


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


def as_text(value: Any) -> Any:
    """Be a hook that knows one class only."""
    if isinstance(value, Opaque):
        return "o"
    raise NotImplementedError  # By msgspec's rule for hooks.


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
        (Number.ONE, b"1"),
        (Colour.RED | Colour.BLUE, b"3"),
        (range(3), b"[0,1,2]"),
        (Point(1, deque([2])), b"[1,[2]]"),
        (array("i", [1, 2]), b"[1,2]"),
        ({"a": 1}.keys(), b'["a"]'),
        ({"a": 1}.values(), b"[1]"),
        (MappingProxyType({"a": ChainMap({"b": deque()})}), b'{"a":{"b":[]}}'),
        (UserList([UserDict(a=1)]), b'[{"a":1}]'),
        (
            [UserString("a"), Text("b"), Whole(5), Real(1.5), Octets(b"ab")],
            b'["a","b",5,1.5,"YWI="]',
        ),
        ({Text("a"): 1, 2: 3, Side.BUY: 4}, b'{"a":1,"2":3,"buy":4}'),
        (Moment(2026, 1, 2, 3, 4, 5, 6), b'"2026-01-02T03:04:05.000006"'),
        ([Day(2026, 1, 2), Span(days=1)], b'["2026-01-02","P1D"]'),
        (memoryview(b"ab"), b'"YWI="'),
        (Slotted(1, deque()), b'{"a":1,"b":[]}'),
        (Attrs(deque([1])), b'{"a":[1]}'),
    ],
)
def test_what_the_standard_library_has_is_sent(value: object, text: bytes) -> None:
    """Collections, paths, addresses, enums and subclasses of simple types need no hook.

    A hook that knows others does no harm.
    """
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
    text = b'{"symbol":"BTC","last":"1.5"}'
    for holder in ([quote], {"q": quote}, Slotted(1, quote), Order(1, quote), Attrs(quote)):
        assert text in encode_data(holder)
        assert text in encode_data(holder, enc_hook=fail)
    assert encode_data(pydantic.RootModel[list[int]]([1])) == b"[1]"
    assert encode_data(pydantic.AnyUrl("http://a.example/b")) == b'"http://a.example/b"'


def test_what_a_model_holds_is_sent_as_elsewhere() -> None:
    """A model may hold what pydantic has no form for: we, and the hook, are asked for it."""
    pydantic = pytest.importorskip("pydantic")
    np = pytest.importorskip("numpy")
    model = pydantic.create_model("Holder", x=(Any, ...))
    assert encode_data([model(x={"n": np.int64(3)})]) == b'[{"x":{"n":3}}]'
    assert encode_data(model(x=Opaque()), enc_hook=as_text) == b'{"x":"o"}'
    with pytest.raises(UsageError, match=r"data\[0\]\.x: .*Opaque has no form"):
        encode_data([model(x=Opaque())])
    with pytest.raises(UsageError, match=r"data\.x is a number that is not finite"):
        encode_data(pydantic.create_model("Price", x=(float, ...))(x=math.nan))
    with pytest.raises(UsageError, match="SecretStr has no form"):
        encode_data({"password": pydantic.SecretStr("hunter2")})


def test_numpy_is_sent() -> None:
    """Numbers, texts, dates and durations of numpy, and arrays of any number of dimensions."""
    np = pytest.importorskip("numpy")
    value = [np.int64(3), np.float32(1.5), np.bool_(True), np.arange(3), np.zeros((1, 2))]
    assert encode_data(value) == b"[3,1.5,true,[0,1,2],[[0.0,0.0]]]"
    assert encode_data({np.int64(1): np.array(5)}) == b'{"1":5}'
    assert encode_data([np.longdouble(1.5), np.str_("a"), np.uint64(2**64 - 1)]) == (
        b'[1.5,"a",18446744073709551615]'
    )
    assert encode_data(np.array([1, "a", Side.BUY], dtype=object)) == b'[1,"a","buy"]'
    assert encode_data(np.datetime64("2026-01-01")) == b'"2026-01-01"'
    assert encode_data(np.array(["2026-01-01T00:00:01"], "M8[ns]")) == (
        b'["2026-01-01T00:00:01.000000000"]'
    )
    assert encode_data([np.timedelta64(5, "s"), np.timedelta64(-1_500_000_000, "ns")]) == (
        b'["PT5S","-PT1.5S"]'
    )


def test_what_numpy_has_and_json_has_not_is_refused() -> None:
    """Not finite, no time, complex: the text names the place and what numpy calls it."""
    np = pytest.importorskip("numpy")
    for bad in (np.float64("nan"), np.array([1.0, np.inf]), np.longdouble("inf")):
        with pytest.raises(UsageError, match=r"data\.v.* not finite"):
            encode_data({"v": bad})
    for bad, name in {
        np.complex128(1): "numpy.complex128",
        np.datetime64("NaT", "s"): "numpy.datetime64 that is no time",
        np.timedelta64(1, "Y"): "numpy.timedelta64",
    }.items():
        with pytest.raises(UsageError, match=rf"data\.quotes\[3\]\.price: {name}.* has no form"):
            encode_data({"quotes": [1, 2, 3, {"price": bad}]})
    with pytest.raises(UsageError, match=r"data\[0\]: numpy.ndarray of complex128 has no form"):
        encode_data([np.array([1j])])


def test_no_library_is_imported() -> None:
    """Data without objects of pydantic and numpy is encoded without either."""
    code = (
        "import sys; from collections import deque; from wsbus.core.encoding import encode_data; "
        "encode_data({'a': deque([1])}); print({'numpy', 'pydantic'} & sys.modules.keys())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Opaque(), r"data: .*Opaque has no form .*enc_hook"),
        ({"orders": [1, Opaque()]}, r"data\.orders\[1\]: .*Opaque has no form .*enc_hook"),
        ([Order(1, Opaque())], r"data\[0\]\.side: .*Opaque has"),  # type: ignore[arg-type]
        ([Price(Opaque(), 1)], r"data\[0\]\.pair: .*Opaque has"),  # type: ignore[arg-type]
        ([Attrs(Opaque())], r"data\[0\]\.a: .*Opaque has"),
        ({"a b": {"x": ValueError("hunter2")}}, r"data\[\.\.\.\]\.x: ValueError has"),
        ({"x": {(1, 2): "hunter2"}}, r"data\.x: a key of type tuple has"),
        ({None: 1}, r"data: a key of type NoneType has"),
        ({True: 1}, r"data: a key of type bool has"),
        (["a", "hunter2\ud800"], r"data\[1\]: .*surrogate"),
        (UserList([deque([Opaque()])]), r"data\[0\]\[0\]: "),
        ([0, {"x": math.nan}], r"data\[1\]\.x is a number that is not finite"),
        (Opaque, r"data: the class .*Opaque has no form"),
        ({"x": (i for i in "ab")}, r"data\.x: generator has no form .*send list\(…\)"),
        (1j, r"data: complex has"),
        (UTC, r"data: datetime\.timezone has"),
    ],
    ids=range(16),
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
    assert encode_data([msgspec.Raw(b'{"a":\r\r1}')]) == b'[{"a":1}]'
    for raw in (
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"[" * 65 + b"]" * 65,
        b"[null,NaN]",
        b"{\n",
        b'"\r"',
    ):
        with pytest.raises(UsageError):
            encode_data([msgspec.Raw(raw)])
