"""Log records have attributes for machines, and the page about logging has all of them."""

from __future__ import annotations

import ast
import logging
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wsbus
from tests.server.clients import UNLIMITED, connecting
from wsbus import Bus, Handshake
from wsbus._log import BoundedLog, about, escaped

SOURCE: Final = Path(wsbus.__file__).parent
PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "logging.md"
LEVELS: Final = {"debug", "info", "warning", "error", "exception", "critical", "log"}
LOGS: Final = {"logger", "log", "_log", "_logger"}
OTHERS: Final = {"_log.py", "adapters/_logs.py"}
"""What passes records on: those of wsbus, and those of uvicorn."""
FOREIGN: Final = re.compile(r"(str\()?([\w.]+\.)?_?(exc|error|failure|why|reason|message|event)\)?")
"""What may hold words of a peer."""
OURS: Final = {"exc.why"}
"""The reason why a token is refused repeats nothing of it."""
MAKERS: Final = {"about": set(), "about_driver": {"connection"}, "_report": {"connection", "lost"}}
"""Functions that take a kind first, and what they add."""


@cache
def calls() -> list[tuple[str, ast.Call]]:
    """Return each call in wsbus, with its place."""
    return [*_calls()]


def _calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{name}:{node.lineno}", node


def is_log_call(call: ast.Call) -> bool:
    """Tell whether a call logs a line."""
    function = call.func
    if not isinstance(function, ast.Attribute) or function.attr not in LEVELS:
        return False
    return ast.unparse(function.value).rpartition(".")[2] in LOGS


def kinds() -> dict[str, set[str]]:
    """Return the kinds of lines, each with its attributes."""
    found: dict[str, set[str]] = defaultdict(set)
    for _, call in calls():
        name = ast.unparse(call.func).rpartition(".")[2]
        if name in MAKERS and call.args and isinstance(call.args[0], ast.Constant):
            facts = {each.arg for each in call.keywords if each.arg} | MAKERS[name]
            found[str(call.args[0].value)] |= {f"wsbus_{fact}" for fact in facts}
    return found


def rows(header: str) -> dict[str, str]:
    """Return the first two cells of each row of a table of the page."""
    table = PAGE.read_text(encoding="utf-8").partition(f"| {header} |\n")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", table, re.MULTILINE))


def test_every_log_call_gives_attributes() -> None:
    """No line of wsbus is for people only."""
    found = [(place, call) for place, call in calls() if is_log_call(call)]
    found = [each for each in found if each[0].partition(":")[0] not in OTHERS]
    bare = [place for place, call in found if "extra" not in {key.arg for key in call.keywords}]
    assert len(found) > 60
    assert bare == []


def test_what_peers_say_is_escaped() -> None:
    """No line has an error, a reason or a message as it is: a peer's words may be in it."""
    found = [(place, call) for place, call in calls() if is_log_call(call)]
    found = [each for each in found if each[0].partition(":")[0] not in OTHERS]
    bare = [
        f"{place} {name}"
        for place, call in found
        for argument in call.args[1:]
        if FOREIGN.fullmatch(name := ast.unparse(argument)) and name not in OURS
    ]
    assert bare == []


@given(st.text(), st.integers(0, 300))
def test_escaped_text_is_one_short_line_of_ascii(text: str, limit: int) -> None:
    """Whatever a client sends: no line of its own, no order to a terminal."""
    line = escaped(text, limit)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= 10 * limit + 6
    if text.isascii() and text.isprintable() and "\\" not in text and len(text) <= limit:
        assert line == text


def test_the_page_has_every_kind_and_every_attribute() -> None:
    """The tables hold what the code gives, and nothing else."""
    known = kinds()
    page = {
        kind: set(re.findall(r"wsbus_\w+", cell))
        for kind, cell in rows("kind | attributes").items()
    }
    assert page == known
    attributes = set().union(*known.values()) | {"wsbus_kind", "wsbus_left_out"}
    assert set(rows("attribute | value")) == attributes


def test_what_is_not_known_is_left_out() -> None:
    """An attribute without a value is no attribute."""
    assert about("kind", path=None, count=0) == {"wsbus_kind": "kind", "wsbus_count": 0}


def test_a_bounded_log_passes_attributes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Each line has them, and the first one after a flood has the count of those before."""
    log = BoundedLog(logging.getLogger("wsbus.test"), a_minute=1)
    for count in range(4):
        log.warning("%d", count, extra=about("flood", count=count))
    log._kinds["%d", ""].since -= 61
    log.error("%d", 4, extra=about("flood", count=4))
    first, last = [vars(record) for record in caplog.records]
    assert (first["wsbus_kind"], first["wsbus_count"]) == ("flood", 0)
    assert "wsbus_left_out" not in first
    assert (last["wsbus_count"], last["wsbus_left_out"]) == (4, 3)


async def test_a_record_says_what_it_is_about(caplog: pytest.LogCaptureFixture) -> None:
    """A command that fails has its name; a handshake without a bus has its path, escaped."""
    bus = Bus()
    endpoint = bus.endpoint(limits=UNLIMITED)

    @bus.command("fail")
    def fail() -> None:
        raise ValueError

    await endpoint.admit(Handshake("/ws\n"))
    async with bus, connecting(endpoint) as connect:
        client = await connect()
        assert await client.is_refused("fail") == "INTERNAL_ERROR"
    refused, failed = [vars(record) for record in caplog.records]
    assert (refused["wsbus_kind"], refused["wsbus_path"]) == ("not_started", "/ws\\n")
    assert (failed["wsbus_kind"], failed["wsbus_command"]) == ("command_failed", "fail")
