"""A bus that declares something of everything, for the tests of schemas."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic

from wsbus import Bus, Connection, Handshake, History, Identity

bus = Bus()


class Status(msgspec.Struct):
    """How far a grid is: */."""

    progress: Annotated[float, msgspec.Meta(ge=0, le=1)]
    at: datetime | None = None
    step: Literal["cut", "weld"] | None = None
    parents: list[Status] = []


class Order(pydantic.BaseModel):
    """An order, as pydantic has it."""

    side: Literal["buy", "sell"]
    lines: list[str] = []


class Stop(TypedDict):
    id: str


status = bus.channel("grid.{id}.status", Status, events=["update"], history=History(size=1))
bus.channel("shop.{id}", events={"ordered": Order, "told": str, "several-of": dict[str, int]})


@bus.command("grid.stop")
def stop(order: Stop, connection: Connection) -> dict[str, str]:
    """Stop a grid.

    This paragraph is for readers of the code.
    """
    return {"id": order["id"], "by": connection.id}


@bus.command("add")
def add(a: float, b: float = 1) -> float:
    """Add two numbers."""
    return a + b


@bus.command("order")
def place(order: Order) -> Order:
    return order


@bus.command("untyped")
def untyped(anything: Any = None) -> Any:
    """Take and return any JSON."""
    return anything


def judge(token: str | None, handshake: Handshake) -> Identity | None:
    """Accept nobody yet."""
    return None


endpoint = bus.endpoint(authenticator=judge, query_token="token")  # a name
