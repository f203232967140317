"""The arrows of the house, held by import-linter and by reading the import graph."""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import grimp
import pytest

ROOT: Final = Path(__file__).parents[2]
PURE: Final = ("core", "protocols")
SIDE_DOORS: Final = {"wsbus.__main__", "wsbus.cli", "wsbus.demo.app"}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("wsbus", cache_dir=None)


def test_imports_go_down_only() -> None:
    """All contracts of pyproject.toml hold."""
    program = Path(sysconfig.get_path("scripts")) / "lint-imports"
    outcome = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_no_modules_import_each_other(graph: grimp.ImportGraph) -> None:
    """No circle is left between modules, imports for types only included."""
    needs = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}

    assert len(list(TopologicalSorter(needs).static_order())) == len(needs)


def test_an_application_without_a_console_loads_none_of_it() -> None:
    """No adapter imports a module of a page, of schemas or for testing, and no bus does."""
    program = """
import importlib, pkgutil, sys
import wsbus.adapters
for module in pkgutil.iter_modules(wsbus.adapters.__path__, "wsbus.adapters."):
    importlib.import_module(module.name)
    wsbus.Bus().default_endpoint
    above = ("wsbus.catalogue", "wsbus.console", "wsbus.schema", "wsbus.testing")
    print(*[f"{module.name} loads {name}" for name in sys.modules if name.startswith(above)])
"""
    outcome = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert outcome.stdout.split() == []
    assert outcome.stdout.count("\n") >= 8


def test_the_front_door_is_for_users(graph: grimp.ImportGraph) -> None:
    """Nothing inside imports names from the package's own root, but the command line."""
    assert graph.find_modules_that_directly_import("wsbus") <= SIDE_DOORS


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=str(path.relative_to(ROOT / "src" / "wsbus")))
        for room in PURE
        for path in sorted((ROOT / "src" / "wsbus" / room).rglob("*.py"))
    ],
)
def test_the_pure_rooms_never_wait_and_know_msgspec_only(path: Path) -> None:
    """Core and dialects hold no coroutine, and import wsbus, msgspec and the standard library."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and node.level == 0
            else []
        )
    }
    waiting = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)

    assert imported <= {"wsbus", "msgspec", "typing_extensions", *sys.stdlib_module_names}
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, waiting)] == []


def names_of(path: Path, wanted: set[str]) -> list[str]:
    """Return where a file takes one of these attributes from something called a hub or a flusher.

    An attribute that is only looked at counts, too: it could be called by another name.
    """
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in wanted:
            owner = ast.unparse(node.value).rpartition(".")[2].lstrip("_")
            if owner in {"hub", "Hub", "flusher", "Flusher"}:
                found.append(f"{owner}.{node.attr}")
    return found


def test_publications_have_one_way() -> None:
    """Only ``server/post.py`` hands publications to the hub, at one place, and paces publishers."""
    source = ROOT / "src" / "wsbus"
    wanted = {"publish", "publish_to", "is_overdue", "flushed", "drained"}
    users = {
        str(path.relative_to(source)): found
        for path in sorted(source.rglob("*.py"))
        if (found := names_of(path, wanted))
    }

    assert list(users) == ["server/post.py"]
    calls = users["server/post.py"]
    assert sorted(call for call in calls if call.startswith("hub")) == [
        "hub.publish",
        "hub.publish_to",
    ]
