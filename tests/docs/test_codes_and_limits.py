"""The pages about codes and limits say what the code does."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import reduce
from typing import Any, Final

import msgspec
import pytest

import wsbus
import wsbus.client
import wsbus.emitter
from tests.docs.documents import ROOT, rows_below
from wsbus import brokers
from wsbus._naming import MAX_NAME_BYTES
from wsbus.core import recovery
from wsbus.core.channels import MAX_CHANNEL_BYTES, MAX_SEGMENTS
from wsbus.core.errors import CloseCode, ErrorCode, is_sendable, may_reconnect
from wsbus.core.history import IDEMPOTENCY_SECONDS, MemoryHistory
from wsbus.core.limits import MAX_DEPTH, MAX_EXTREMES, NAMES_PER_MESSAGE, Limits
from wsbus.core.publications import is_event
from wsbus.core.replays import Replays
from wsbus.protocols.native_past import ReadHistoryMessage
from wsbus.server import interest, outgoing
from wsbus.transport import MAX_HANDSHAKE_BYTES

REFERENCE: Final = ROOT / "docs" / "reference"
CODES: Final = REFERENCE / "close-codes.md"
LIMITS: Final = REFERENCE / "limits.md"
SOURCES: Final = sorted((ROOT / "src" / "wsbus" / "web" / "source").glob("*.js"))


def test_every_error_code_is_explained() -> None:
    """The table of error codes holds each of them once, and nothing else."""
    rows = rows_below(CODES, "code | when | the connection | what to do")

    assert [row[0] for row in rows] == list(ErrorCode)
    assert all(row[3] for row in rows)


def test_every_close_code_is_explained() -> None:
    """The table of close codes holds each of them, and agrees on who may come again."""
    rows = rows_below(CODES, "code | name | sent by | meaning | come again | what to do")

    assert [(int(row[0]), row[1], row[4]) for row in rows] == [
        (code.value, code.name, "yes" if may_reconnect(code) else "no") for code in CloseCode
    ]
    unsent = {int(row[0]) for row in rows if row[2] == "neither"}
    assert unsent == {code for code in CloseCode if not is_sendable(code)}


def test_every_limit_is_there_with_its_default() -> None:
    """The table of limits holds every field of Limits, in order, with its default."""
    limits = Limits()
    rows = rows_below(LIMITS, "limit | default | unit | consequence")

    assert [(row[0], row[1]) for row in rows] == [
        (name, shown(getattr(limits, name))) for name in Limits.__struct_fields__
    ]
    offs = {name for name in Limits.__struct_fields__ if can_be_off(name)}
    assert {row[0] for row in rows if "None: off" in row[2]} == offs


def can_be_off(name: str) -> bool:
    """Tell whether a limit may be None."""
    return "None" in str(Limits.__annotations__[name])


def shown(value: float | None) -> str:
    """Return a default as the pages write it."""
    return "None" if value is None else str(int(value)) if value == int(value) else f"{value:g}"


def settings(section: str) -> list[list[str]]:
    """Return the rows of the settings in a section."""
    text = LIMITS.read_text(encoding="utf-8")
    before = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in before.splitlines()
        if line.startswith("| `")
    ]


@pytest.mark.parametrize("section", ["In the server", "In the Python client"])
def test_settings_have_their_defaults(section: str) -> None:
    """Each setting is a parameter of what stands before it, with that default."""
    rows = settings(section)

    assert len(rows) > 10
    for name, default, *_ in rows:
        *path, parameter = name.split(".")
        found = reduce(getattr, path[1:], home_of(path[0]))
        assert shown(default_of(found, parameter)) == default, name


def home_of(name: str) -> Any:
    """Return what users import by this name."""
    for module in (wsbus, wsbus.client, wsbus.emitter, brokers):
        if name in module.__all__:
            return getattr(module, name)
    raise AssertionError(name)


def default_of(found: Callable[..., Any], parameter: str) -> Any:
    """Return the default of a parameter."""
    if isinstance(found, type) and issubclass(found, msgspec.Struct):
        return next(f.default for f in msgspec.structs.fields(found) if f.name == parameter)
    return inspect.signature(found).parameters[parameter].default


@pytest.mark.parametrize(
    "function",
    [
        wsbus.client.connect,
        wsbus.client.Retry,
        pytest.param(wsbus.client.Client.subscribe, id="Client.subscribe"),
        wsbus.History,
        wsbus.Stream,
        wsbus.Presence,
        brokers.MemoryBroker,
        wsbus.Bus.aclose,
        wsbus.Bus.drain,
        pytest.param(wsbus.Bus.subscribe, id="Bus.subscribe"),
    ],
)
def test_no_number_is_left_out(function: Any) -> None:
    """Each parameter whose default is a number stands on the page."""
    listed = {
        row[0] for name in ("In the server", "In the Python client") for row in settings(name)
    }
    if isinstance(function, type) and issubclass(function, msgspec.Struct):
        defaults = {field.name: field.default for field in msgspec.structs.fields(function)}
    else:
        parameters = inspect.signature(function).parameters.values()
        defaults = {parameter.name: parameter.default for parameter in parameters}
    numbers = {name for name, default in defaults.items() if type(default) in {int, float}}

    assert numbers
    for name in numbers:
        assert any(row.endswith(f"{function.__name__}.{name}") for row in listed), name


STARTS: Final = {
    "retry": "retry: {",
    "heartbeat": "heartbeat: {",
    "events": "events(",
    "": "wait = (",
}
"""The beginnings of the parameters in the source of the JavaScript client."""


def test_settings_in_javascript_have_their_defaults() -> None:
    """Each setting of the JavaScript client has the default that its source names."""
    source = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    rows = settings("In the JavaScript client")

    assert rows
    for name, default, *_ in rows:
        group, _, option = name.rpartition(".")
        place = re.search(rf"{re.escape(STARTS[group])}[^}}]*?\b{option} = (\w+)", source)
        assert place is not None, name
        assert place[1].replace("_", "") == default, name


def test_bounds_that_cannot_be_set_are_those_of_the_code() -> None:
    """The values of the last table are the constants, in order."""
    memory = inspect.signature(MemoryHistory).parameters
    longest = max(n for n in range(1000) if is_event("e" * n))
    limit = msgspec.json.schema(ReadHistoryMessage)["$defs"]["ReadHistoryMessage"]["properties"][
        "limit"
    ]

    assert [int(row[1]) for row in rows_below(LIMITS, "bound | value | when it is reached")] == [
        MAX_CHANNEL_BYTES,
        MAX_SEGMENTS,
        MAX_DEPTH,
        MAX_EXTREMES,
        longest,
        MAX_NAME_BYTES,
        MAX_HANDSHAKE_BYTES,
        recovery.MAX_REPLAY,
        recovery.MAX_REPLAY_BYTES,
        limit["maximum"],
        IDEMPOTENCY_SECONDS,
        outgoing.MAX_ITEMS,
        outgoing.MAX_BYTES,
        interest.REACH_SECONDS,
        memory["max_channels"].default,
        memory["max_bytes"].default,
        2 * inspect.signature(Replays).parameters["max_bytes"].default,
    ]
    assert f"for each {NAMES_PER_MESSAGE} names begun" in LIMITS.read_text(encoding="utf-8")
