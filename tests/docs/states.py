"""Draws ``docs/explanation/states.md`` from the code: ``python -m tests.docs.states``."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

from wsbus.core import member, session_states
from wsbus.core.client import states as client_states

S = TypeVar("S", bound=Enum)
H = TypeVar("H", bound=Enum)

PAGE: Final = Path(__file__).parents[2] / "docs" / "explanation" / "states.md"

_HEAD: Final = """\
# States

Three things in wsbus have states: a conversation on the server's side, a client, and a member.
Each has one table, which says for every input what is done in each state.
These are the tables of the code: `python -m tests.docs.states` writes this page.

A cell names what is done and, after an arrow, the next state where it is another one.
An empty cell cannot happen: if it does, a part of wsbus is wrong, and the call raises.
"""


def words(title: str, kind: type[Enum]) -> list[str]:
    """Return what each member of an enum stands for, as a list under a title."""
    texts = {each.name: each.value for each in kind}
    if not all(isinstance(text, str) for text in texts.values()):
        texts = documented(kind)
    return ["", f"{title}:", "", *[f"- `{name}`: {text}" for name, text in texts.items()]]


def documented(kind: type[Enum]) -> dict[str, str]:
    """Return the first sentence of each member's docstring, or its name if it has none."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    found = {each.name: each.name.lower() for each in kind}
    name = ""
    for statement in definition.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]):
                pass
            case ast.Expr(ast.Constant(str(text))) if name:
                sentence = " ".join(text.split()).partition(". ")[0].rstrip(".")
                found[name] = sentence[0].lower() + sentence[1:]
    return found


def grid(
    states: Iterable[S],
    inputs: Iterable[H],
    cells: Mapping[tuple[S, H], tuple[Enum, Enum]],
) -> list[str]:
    """Return a table with a row for each input and a column for each state."""
    states = list(states)
    lines = ["| | " + " | ".join(f"`{state.name}`" for state in states) + " |"]
    lines.append("| --- " * (len(states) + 1) + "|")
    for heard in inputs:
        row = [f"`{heard.name}`"]
        for state in states:
            if (state, heard) not in cells:
                row.append("")
                continue
            duty, then = cells[state, heard]
            does = duty.name.lower()
            row.append(does if then is state else f"{does} → `{then.name}`")
        lines.append("| " + " | ".join(row) + " |")
    return lines


def draw() -> str:
    """Return the page."""
    standings = {
        (standing, heard): (cell[1], cell[0])
        for heard, row in member.TABLE.items()
        for standing, cell in zip(member.Standing, row, strict=True)
        if cell is not None
    }
    server, client = session_states, client_states
    parts = [
        "\n## A conversation on the server's side\n",
        "`wsbus.core.session_states`\n",
        *grid(server.State, server.SessionInput, server.TABLE),
        *words("The states", server.State),
        *words("The inputs", server.SessionInput),
        *words("What is done", server.SessionDuty),
        "\n## A client\n",
        "`wsbus.core.client.states`\n",
        *grid(client.ClientState, client.ClientInput, client.TABLE),
        *words("The states", client.ClientState),
        *words("The inputs", client.ClientInput),
        *words("What is done", client.ClientDuty),
        "\n## A member of the hub\n",
        "`wsbus.core.member`, which also holds the theory of operation\n",
        *grid(member.Standing, member.Input, standings),
        *words("The states", member.Standing),
        *words("The inputs", member.Input),
        *words("What is done", member.Duty),
    ]
    return _HEAD + "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(draw(), encoding="utf-8")
