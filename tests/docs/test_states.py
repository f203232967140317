from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

from tests.docs.states import PAGE, draw

CORE: Final = Path(__file__).parents[2] / "src" / "wsbus" / "core"


def test_the_page_of_states_is_drawn_from_the_code() -> None:
    """``python -m tests.docs.states`` brings it up to date."""
    assert PAGE.read_text(encoding="utf-8") == draw()


@pytest.mark.parametrize("path", ["session.py", "client/session.py"])
def test_nothing_bypasses_the_table(path: str) -> None:
    """A session's state is set where it begins, and by what looks the next one up."""
    tree = ast.parse((CORE / path).read_text(encoding="utf-8"))
    found: list[tuple[str, str]] = []
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        for node in ast.walk(function):
            match node:
                case ast.Attribute(ast.Name("self"), "state", ast.Store()):
                    found.append((function.name, ast.unparse(node)))
                case _:
                    pass

    assert [name for name, _ in found if name != "__init__"] in (["_take"], ["_takes"])
    assert len(found) == 2
