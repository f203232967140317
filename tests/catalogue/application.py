"""A bus with something of everything, some of it hostile, for the tests of the catalogue."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Final, Literal

import msgspec

from wsbus import Bus, CommandError, Connection, Endpoint, ErrorCode, Grants, History, Presence
from wsbus.auth import Authenticator

EVIL: Final = "<img src=x onerror=document.title='pwned'>\u202e"
"""What a page that makes markup of texts runs."""


class Step(msgspec.Struct):
    name: str
    seconds: float = 0.0


class Status(msgspec.Struct):
    """How far a grid is.

    Published at each step.
    """

    progress: Annotated[float, msgspec.Meta(ge=0, le=1, description="From 0 to 1.")]
    step: Step | None = None


class Evil(msgspec.Struct):
    text: str = EVIL


Evil.__doc__ = f"Hostile: {EVIL}"


def make(authenticator: Authenticator | None = None) -> tuple[Bus, Endpoint]:
    """Return a bus that has not been started, and its endpoint."""
    bus = Bus()
    every = Grants.of(subscribe=["*"], publish=["grid.*", "notes"], command=["*"])
    anonymous = every if authenticator is None else None
    endpoint = bus.endpoint(anonymous=anonymous, authenticator=authenticator)
    bus.channel(
        "grid.{id}.status",
        events={"update": Status, "removed": str},
        history=History(size=1, ttl=7200),
        overflow="conflate",
    )
    bus.channel("notes", Evil, presence=Presence(max_members=20))
    bus.channel("secret.{who}", dict[str, int], overflow="close")
    bus.command("add")(add)
    bus.command("move")(move)
    bus.command("refuse")(refuse)
    bus.command("evil")(evil)
    bus.command("any")(anything)
    bus.command("whole")(whole)
    return bus, endpoint


def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


def move(
    to: Literal["left", "right"],
    name: str,
    on: date | None = None,
    fast: bool = False,
    path: list[Step] | None = None,
) -> dict[str, Any]:
    """Move it."""
    return {"to": to, "name": name, "on": on, "fast": fast, "path": path}


def refuse(connection: Connection) -> None:
    """Refuse every call."""
    raise CommandError(ErrorCode.FORBIDDEN, f"not now: {EVIL}")


def evil(text: str = EVIL) -> dict[str, str]:
    return {text: EVIL}


evil.__doc__ = f"Hostile: {EVIL}"


def anything(data: Any = None) -> Any:
    return data


def whole(status: Status) -> Status:
    """Answer with what came."""
    return status
