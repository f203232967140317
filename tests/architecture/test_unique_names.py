"""A name means one thing: no two classes share it, and no import hides one behind another's."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import wsbus

SOURCE: Final = Path(wsbus.__file__).parent


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield each module's path with its syntax tree."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield str(path.relative_to(SOURCE)), ast.parse(path.read_text(encoding="utf-8"))


def type_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names of all classes, and of all aliases of types, also of private ones."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name):
                yield name
            case (
                ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id="TypeAlias"))
                | ast.Assign(targets=[ast.Name(id=name)], value=ast.BinOp(op=ast.BitOr()))
            ):
                yield name


def homes() -> dict[str, list[str]]:
    """Return the modules that define each name of a type."""
    found = defaultdict(list)
    for path, tree in modules():
        for name in set(type_names(tree)):
            found[name].append(path)
    return found


def disguises(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield imported classes, each with the other name under which it is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for imported in node.names:
                alias = imported.asname or imported.name
                if alias != imported.name and alias.lstrip("_")[:1].isupper():
                    yield imported.name, alias


def test_no_type_shares_its_name_with_another() -> None:
    """No class and no alias of a type has the name of one in another module."""
    shared = {name: paths for name, paths in homes().items() if len(paths) > 1}

    assert shared == {}


def test_no_import_hides_a_class_behind_another_name() -> None:
    """A class is imported under its own name, or one that contains it and is no other's."""
    taken = homes()
    hidden = [
        f"{path}: {name} as {alias}"
        for path, tree in modules()
        for name, alias in disguises(tree)
        if name not in alias or alias in taken
    ]

    assert hidden == []
