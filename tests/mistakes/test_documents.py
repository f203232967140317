"""The guides know what the log says."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from wsbus import CloseCode

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "src" / "wsbus"
LEVELS: Final = {"warning", "error", "exception", "critical", "log"}


@cache
def modules() -> Mapping[str, ast.Module]:
    """Read the source when a test asks for it: each worker collects all tests."""
    return {
        path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCE.rglob("*.py"))
        if "bench" not in path.parts
    }


def texts_of(module: ast.Module) -> dict[str, list[str]]:
    """Return the texts that names of a module stand for."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for node in ast.walk(module):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text)))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(text)))
            ):
                found[name].append(text)
    return found


def texts_logged() -> Iterator[str]:
    """Yield what is logged at WARNING and above, with ``…`` for what is filled in."""
    for module in modules().values():
        names = texts_of(module)
        for node in ast.walk(module):
            match node:
                case ast.Call(func=ast.Attribute(attr=attr, value=on), args=args) if (
                    attr in LEVELS and args and "log" in ast.unparse(on)
                ):
                    given = args[1] if attr == "log" and len(args) > 1 else args[0]
                    match given:
                        case ast.Constant(value=str(text)):
                            texts = [text]
                        case ast.Name(id=name):
                            texts = names[name]
                        case _:
                            texts = []
                    yield from (re.sub(r"%[-\\.0-9]*[a-z]", "…", text) for text in texts)


@cache
def lines() -> frozenset[str]:
    """Return the lines that have words of their own."""
    return frozenset(line for line in texts_logged() if line.strip("…"))


GUIDE: Final = (ROOT / "docs" / "how-to" / "logging.md").read_text(encoding="utf-8")


def test_the_lines_are_found() -> None:
    """The search finds what it is for, in all its forms."""
    assert len(lines()) >= 45
    assert "the command … failed" in lines()
    assert "… reads too slowly: … publications were lost" in lines()


TOLD: Final = re.findall(
    r"^\| `(.+?)` \| (?:WARNING|ERROR|CRITICAL)[^|]* \| [^|]{10,} \|$", GUIDE, re.MULTILINE
)
"""The lines of the guide that have a level and a cure."""
PROBLEMS: Final = {
    "… is not served: …",
    "… is for HTTP only, as add_route has it, and takes no WebSocket",
}
"""Those about routes, which are made elsewhere; see test_mounting.py."""


def test_each_line_is_in_the_guide_with_its_cure() -> None:
    """What is logged for operators is in docs/how-to/logging.md, with a level and what to do."""
    untold = {line for line in lines() if not any(told in line for told in TOLD)}
    assert untold == set()


def test_the_guide_knows_no_other_lines() -> None:
    """A line that the code no longer has is not in the guide."""
    strange = {told for told in TOLD if not any(told in line for line in lines())}
    assert strange == PROBLEMS


def test_each_status_and_code_has_a_remedy() -> None:
    """Whatever number a client may see is in docs/how-to/troubleshooting.md."""
    guide = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \| [^|]{10,} \| [^|]{8,} \|$", guide, re.MULTILINE)
    told = {int(number) for row in rows for number in row.split(",")}
    statuses = {
        int(node.args[0].value)
        for module in modules().values()
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "Refusal"
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, int)
    }
    assert {400, 401, 403, 409, 429, 500, 503} <= statuses
    assert (statuses | {404, 426, 431} | set(CloseCode)) - told == set()
