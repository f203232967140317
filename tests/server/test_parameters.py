# what FastAPI would take here
"""What may stand in the signature of a command, and what each parameter gets."""

import dataclasses
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import partial, wraps
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict, Union
from uuid import UUID

import msgspec
import pydantic
import pytest
import typing_extensions
from fastapi import BackgroundTasks, Depends, Header, Query, Request, Security, WebSocket
from pydantic.dataclasses import dataclass as pydantic_dataclass
from starlette.requests import HTTPConnection

from tests.server.clients import connecting, steady
from wsbus import Bus, Connection, Grants, Handshake, Identity, UsageError


class Side(Enum):
    BUY = "buy"


class Order(msgspec.Struct):
    side: Side
    price: Decimal
    number: Annotated[int, msgspec.Meta(gt=0)]
    parts: list["Order"] = []


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict):
    loud: bool


class Claims(TypedDict):
    who: Identity


class Pair(NamedTuple):
    a: int
    b: str


class Model(pydantic.BaseModel):
    x: int


class Shelf(typing_extensions.TypedDict):  # pydantic wants this one before Python 3.12.
    models: list[Model]


@pydantic_dataclass
class Checked:
    x: int


class Thing:
    """A class of the application."""


class Mine(Connection):
    """A connection of the application's own class."""


class Holder(msgspec.Struct):
    who: Identity


class DeepModel(msgspec.Struct):
    models: dict[str, list[Model]]


class Mixed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    orders: list[Order]


class MetaInModel(pydantic.BaseModel):
    x: Annotated[int, msgspec.Meta(gt=0)]


class ModelOfIdentity(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    who: Identity | None = None


class Undefined(pydantic.BaseModel):
    x: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


class DeepCheck(msgspec.Struct):
    x: Annotated[int, pydantic.Field(gt=0)]


@dataclasses.dataclass
class DeepThing:
    things: tuple[Thing, ...] | None


Number = NewType("Number", int)


def find() -> int:
    """Be a dependency."""
    return 1


# --- what the server supplies ---------------------------------------------------------------------


async def ask(function: Callable[..., Any], params: dict[str, Any]) -> Any:
    """Return what a client is answered by a command."""
    bus = Bus()
    bus.command("it")(function)
    async with bus, connecting(bus.default_endpoint, path="/here") as connect:
        answer = await (await connect()).command("it", **params)
        return answer["data"] if answer["success"] else answer["error"]["code"]


def by_connection(who: Connection) -> Any:
    return who.handshake.path


def by_identity(who: Identity) -> Any:
    return who.subject


def by_handshake(who: Handshake) -> Any:
    return who.path


def by_none(who: Connection | None = None) -> Any:
    return who and who.handshake.path


def by_optional(who: Optional[Identity]) -> Any:  # noqa: UP045
    return who and who.subject


def by_union(who: Union[Handshake, None]) -> Any:  # noqa: UP007
    return who and who.path


def by_annotated(who: Annotated[Connection, "the caller"]) -> Any:
    return who.handshake.path


def by_all(
    a: Annotated[Identity | None, "who"], n: int, b: Handshake, c: Connection, d: Connection
) -> Any:
    return [a and a.subject, n, b.path, c is d]


async def by_async(who: Identity, point: Point) -> Any:
    return [who.subject, point.x]


@pytest.mark.parametrize(
    ("function", "params", "expected"),
    [
        (by_connection, {}, "/here"),
        (by_identity, {}, "anonymous"),
        (by_handshake, {}, "/here"),
        (by_none, {}, "/here"),
        (by_optional, {}, "anonymous"),
        (by_union, {}, "/here"),
        (by_annotated, {}, "/here"),
        (by_all, {"n": 5}, ["anonymous", 5, "/here", True]),
        (by_async, {"x": 3}, ["anonymous", 3]),
    ],
)
async def test_the_server_supplies_what_is_its_own(
    function: Callable[..., Any], params: dict[str, Any], expected: Any
) -> None:
    """A client that sends such a parameter is not heard: it gets what the server knows."""
    forged = {"subject": "root", "grants": {"admin": True}, "path": "/forged"}
    assert await ask(function, params) == expected
    for name in ("who", "a", "b", "c", "d"):
        assert await ask(function, {**params, name: forged}) == expected


# --- what is refused ------------------------------------------------------------------------------


def depends(x: int = Depends(find)) -> None: ...
def security(x: int = Security(find)) -> None: ...
def query(x: int = Query(1)) -> None: ...
def header(x: Annotated[str, Header()]) -> None: ...
def depends_in_annotated(x: Annotated[int, Depends(find)]) -> None: ...
def depends_on_supplied(x: Annotated[Connection, Depends(find)]) -> None: ...
def depends_deep(x: list[Annotated[int, Depends(find)]]) -> None: ...
def request(x: Request) -> None: ...
def websocket(x: WebSocket) -> None: ...
def http_connection(x: HTTPConnection | None = None) -> None: ...
def background(x: BackgroundTasks) -> None: ...
def model_in_struct(x: DeepModel) -> None: ...
def struct_in_model(x: Mixed) -> None: ...
def meta_beside_field(x: Annotated[int, pydantic.Field(gt=0), msgspec.Meta(lt=9)]) -> None: ...
def meta_in_model(x: MetaInModel) -> None: ...
def struct_beside_model(x: Order | Model) -> None: ...
def identity_in_model(x: ModelOfIdentity) -> None: ...
def thing_beside_model(x: tuple[Model, Thing]) -> None: ...
def model_not_defined(x: Undefined) -> None: ...
def field_default(x: int = pydantic.Field(5)) -> None: ...
def default_in_field(x: Annotated[int, pydantic.Field(5)]) -> None: ...
def alias_in_field(x: Annotated[int, pydantic.Field(alias="y")]) -> None: ...
def field_in_struct(x: DeepCheck) -> None: ...
def thing(x: Thing) -> None: ...
def things(x: list[Thing]) -> None: ...
def thing_deep(x: DeepThing) -> None: ...
def thing_or_int(x: Thing | int) -> None: ...
def function(x: Callable[[], int]) -> None: ...
def connections(x: list[Connection]) -> None: ...
def connection_or_text(x: Connection | str) -> None: ...
def identity_in_struct(x: Holder) -> None: ...
def identity_in_typed_dict(x: Claims) -> None: ...
def handshakes(x: dict[str, Handshake]) -> None: ...
def mine(x: Mine) -> None: ...
def grants(x: Grants) -> None: ...
def any_number(*x: int) -> None: ...
def any_names(**x: int) -> None: ...
def nameless(x: int, /) -> None: ...
def not_a_type(x: 5) -> None: ...  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (depends, "Depends"),
        (security, "Security"),
        (query, "Query"),
        (header, "Header"),
        (depends_in_annotated, "Depends"),
        (depends_on_supplied, "Depends"),
        (depends_deep, "Depends"),
        (request, "Request"),
        (websocket, "WebSocket"),
        (http_connection, "HTTPConnection"),
        (background, "BackgroundTasks"),
        (model_in_struct, "both Model of pydantic and DeepModel of msgspec"),
        (struct_in_model, "both Mixed of pydantic and Order of msgspec"),
        (meta_beside_field, "both FieldInfo.* and Meta"),
        (meta_in_model, "both MetaInModel of pydantic and Meta"),
        (struct_beside_model, "both Model of pydantic and Order of msgspec"),
        (identity_in_model, "its field 'who', has Identity inside another type"),
        (thing_beside_model, "cannot be checked by pydantic"),
        (model_not_defined, "not defined yet"),
        (field_default, r"Annotated\[…, Field\(…\)\] = …"),
        (default_in_field, "after the annotation"),
        (alias_in_field, "alias"),
        (field_in_struct, "both FieldInfo.* and DeepCheck"),
        (thing, "Thing"),
        (things, "Thing"),
        (thing_deep, "Thing"),
        (thing_or_int, "x"),
        (function, "x"),
        (connections, "Connection"),
        (connection_or_text, "Connection"),
        (identity_in_struct, "Identity"),
        (identity_in_typed_dict, "field 'who', has Identity"),
        (handshakes, "Handshake"),
        (mine, "Mine"),
        (any_number, "name"),
        (any_names, "name"),
        (nameless, "name"),
        (not_a_type, "Type"),
    ],
)
def test_what_would_not_mean_what_it_says_is_refused(
    function: Callable[..., Any], word: str
) -> None:
    """When it is registered: the error names command and parameter, and what to write."""
    with pytest.raises(UsageError, match=word) as caught:
        Bus().command("it")(function)
    assert "'it'" in str(caught.value)


def generates() -> Iterator[int]:
    yield 1


async def generates_late() -> AsyncIterator[int]:
    yield 1


@wraps(generates)
def wrapped() -> Iterator[int]:
    return generates()


class Generates:
    def __call__(self) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (generates, "generator"),
        (generates_late, "generator"),
        (wrapped, "generator"),
        (Generates(), "generator"),
        (partial(generates), "generator"),
        (Thing, "class"),
        (Order, "class"),
        (None, "NoneType"),
        ("text", "str"),
        (Bus.broadcast, "method"),
    ],
    ids=[str(n) for n in range(10)],
)
def test_a_command_is_a_function(function: Any, word: str) -> None:
    """No generator, no class, no method without its object."""
    with pytest.raises(UsageError, match=word):
        Bus().command("it")(function)


def test_a_command_has_a_name() -> None:
    """A decorator without parentheses is told what to write."""
    with pytest.raises(UsageError, match=r'write @bus\.command\("find"\)'):
        Bus().command(find)  # type: ignore[arg-type]
    for name in ("", "a\nb", None, 5):
        with pytest.raises(UsageError):
            Bus().command(name)(find)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True])
def test_a_time_limit_is_a_number_of_seconds(timeout: Any) -> None:
    """Anything else would end every call of it, or none."""
    with pytest.raises(UsageError, match="timeout"):
        Bus().command("it", timeout=timeout)(find)


# --- what is taken --------------------------------------------------------------------------------


def plain(a: int, b: str = "x", c: float | None = None) -> None: ...
def untyped(a, b=1) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
def anything(a: Any) -> None: ...
def order(order: Order) -> None: ...
def point(point: Point) -> None: ...
def options(options: Options) -> None: ...
def pair(pair: Pair) -> None: ...
def known(a: UUID, b: datetime, c: Decimal, d: Side, e: bytes, f: frozenset[int]) -> None: ...
def newtype(a: Number) -> None: ...
def literal(a: Literal["a", 1]) -> None: ...
def limited(a: Annotated[int, msgspec.Meta(gt=0)]) -> None: ...
def noted(a: Annotated[int, "a note"]) -> None: ...
def raw(a: msgspec.Raw) -> None: ...
def mapping(params: dict[str, list[int | None]]) -> None: ...


class Adder:
    """An object that can be called."""

    async def __call__(self, a: int) -> int:
        return a

    def method(self, a: int) -> int:
        return a


@wraps(by_async)
def decorated(*args: Any, **kwargs: Any) -> Any:
    return by_async(*args, **kwargs)


@pytest.mark.parametrize(
    "function",
    [
        plain, untyped, anything, order, point, options, pair, known, newtype, literal, limited,
        noted, raw, mapping, Adder(), Adder().method, decorated, partial(plain, a=1),
        lambda a: a, find,
    ],
    ids=steady,
)  # fmt: skip
def test_what_msgspec_can_decode_is_taken(function: Callable[..., Any]) -> None:
    """Types of the standard library and of msgspec, and whatever is made of them."""
    Bus().command("it")(function)


async def test_an_async_function_may_be_wrapped() -> None:
    """A decorator's ``def`` around an ``async def`` is awaited, as an object's call is."""
    assert await ask(decorated, {"x": 3}) == ["anonymous", 3]
    assert await ask(Adder(), {"a": 3}) == 3
    assert await ask(Adder().method, {"a": 3}) == 3


# --- what pydantic checks -------------------------------------------------------------------------


@dataclasses.dataclass
class Basket:
    models: list[Model]
    note: str = ""


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    name: Annotated[str, pydantic.Field(max_length=5)] = "rex"


class Numbers(pydantic.RootModel[list[int]]): ...


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    x: int
    parts: list["Strict"] = []


seen: ContextVar[str] = ContextVar("seen", default="")


def remember(text: str) -> str:
    """Be a validator that leaves something behind, or fails."""
    if text == "fail":
        raise KeyError(text)
    seen.set(seen.get() + text)
    return seen.get()


Pet = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


def by_model(order: Model) -> Any:
    return order.x


def by_model_and_number(order: Model, n: int) -> Any:
    return [order.x, n]


def by_struct_and_field(order: Order | None, n: Annotated[int, pydantic.Field(gt=0)] = 7) -> Any:
    return [order and order.number, n]


def by_annotated_model(order: Annotated[Model, "a note"]) -> Any:
    return order.x


def by_list(models: list[Model]) -> Any:
    return [each.x for each in models]


def by_dict(models: dict[str, Model]) -> Any:
    return {name: each.x for name, each in models.items()}


def by_optional_model(model: Model | None = None) -> Any:
    return model and model.x


def by_pet(pet: Pet) -> Any:
    return type(pet).__name__


def by_basket(basket: Basket) -> Any:
    return [each.x for each in basket.models]


def by_shelf(shelf: Shelf) -> Any:
    return [each.x for each in shelf["models"]]


def by_checked(it: Checked) -> Any:
    return it.x


def by_root(numbers: Numbers) -> Any:
    return numbers.root


def by_positive(n: pydantic.PositiveInt) -> Any:
    return n


def by_strict(it: Strict, who: Identity) -> Any:
    return [it.x, who.subject]


def by_validator(text: Annotated[str, pydantic.AfterValidator(remember)]) -> Any:
    return text


async def returns_model(n: int) -> Model:
    return Model(x=n)


@pytest.mark.parametrize(
    ("function", "params", "expected"),
    [
        (by_model, {"x": 3}, 3),
        (by_model, {"x": "3", "more": 1}, 3),
        (by_model_and_number, {"order": {"x": 3}, "n": 4}, [3, 4]),
        (by_struct_and_field, {"order": None}, [None, 7]),
        (by_struct_and_field, {"order": None, "n": 1}, [None, 1]),
        (by_annotated_model, {"x": 3}, 3),
        (by_list, {"models": [{"x": 1}, {"x": 2}]}, [1, 2]),
        (by_dict, {"a": {"x": 1}}, {"a": 1}),
        (by_optional_model, {}, None),
        (by_optional_model, {"model": None}, None),
        (by_optional_model, {"model": {"x": 1}}, 1),
        (by_pet, {"pet": {"kind": "dog"}}, "Dog"),
        (by_basket, {"models": [{"x": 1}]}, [1]),
        (by_shelf, {"models": [{"x": 1}]}, [1]),
        (by_checked, {"x": 1}, 1),
        (by_root, {"numbers": [1, 2]}, [1, 2]),
        (by_positive, {"n": 1}, 1),
        (by_strict, {"x": 1}, [1, "anonymous"]),
        (by_validator, {"text": "a"}, "a"),
        (returns_model, {"n": 1}, {"x": 1}),
    ],
)
async def test_pydantic_decodes_what_is_its_own(
    function: Callable[..., Any], params: dict[str, Any], expected: Any
) -> None:
    """Models, dataclasses of models and checked numbers arrive as in FastAPI."""
    assert await ask(function, params) == expected


@pytest.mark.parametrize(
    ("function", "params", "told"),
    [
        (by_model, {}, ["Field required - at `$.params.x`"]),
        (by_model, {"x": "q"}, ["valid integer", "at `$.params.x`"]),
        (by_model_and_number, {"order": {"x": 3}}, ["`n`", "at `$.params`"]),
        (by_model_and_number, {"order": {}, "n": 4}, ["at `$.params.order.x`"]),
        (by_struct_and_field, {"order": None, "n": 0}, ["greater than 0 - at `$.params.n`"]),
        (by_struct_and_field, {"order": None, "n": "z" * 300}, ["at `$.params.n`"]),
        (by_list, {"models": [{"x": 1}, {}]}, ["at `$.params.models[1].x`"]),
        (by_list, {"models": [{}] * 9}, ["models[0].x`; ", "models[4].x`; and 4 more"]),
        (by_dict, {"z" * 300: {}}, ["at `$.params[...].x`"]),
        (by_pet, {"pet": {"kind": "z" * 300}}, ["Input tag 'zzz", "at `$.params.pet`"]),
        (by_pet, {"pet": {"kind": "dog", "name": "z" * 300}}, ["at `$.params.pet.dog.name`"]),
        (by_root, {"numbers": [1, None]}, ["at `$.params.numbers[1]`"]),
        (by_positive, {"n": -1}, ["greater than 0 - at `$.params.n`"]),
        (by_strict, {"x": 1, "z" * 300: 1}, ["Extra inputs", "at `$.params[...]`"]),
        (by_strict, {"x": 1, "parts": [{}]}, ["at `$.params.parts[0].x`"]),
    ],
)
async def test_what_pydantic_refuses_is_told_with_its_place(
    function: Callable[..., Any], params: dict[str, Any], told: list[str]
) -> None:
    """``VALIDATION_ERROR``, as for any other type; nothing long of the client's is repeated."""
    bus = Bus()
    bus.command("it")(function)
    async with bus, connecting(bus.default_endpoint) as connect:
        answer = await (await connect()).command("it", **params)
    assert answer["error"]["code"] == "VALIDATION_ERROR"
    message = answer["error"]["message"]
    assert all(word in message for word in told), message
    assert "z" * 60 not in message
    assert len(message) < 600


async def test_a_validator_has_a_context_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """What it sets is gone after it; if it fails, the command fails, and the log says how."""
    bus = Bus()
    bus.command("it")(by_validator)
    async with bus, connecting(bus.default_endpoint) as connect:
        client = await connect()
        for _ in range(2):
            assert (await client.command("it", text="a"))["data"] == "a"
        failed = await client.command("it", text="fail")
    assert failed["error"]["code"] == "INTERNAL_ERROR"
    assert "the command it failed" in caplog.text


def test_without_pydantic_nothing_imports_it() -> None:
    """Commands of other types neither need pydantic nor load it."""
    code = (
        "import sys; from wsbus import Bus; bus = Bus()\n"
        "@bus.command('it')\ndef it(n: int, m: list[str]) -> int: return n\n"
        "print('pydantic' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
