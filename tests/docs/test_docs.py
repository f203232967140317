"""The Python in the documentation runs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
]


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in DOCUMENTS])
def test_examples_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ```python block of a document runs, in the names that the blocks above it left.

    They are compiled as one module that is not ``__main__``: what stands under
    ``if __name__ == "__main__":`` is shown but not run.
    """
    module = ModuleType("documented")
    # Annotations given as text are looked up in the module that holds them.
    monkeypatch.setitem(sys.modules, module.__name__, module)
    document = Sybil(parsers=[PythonCodeBlockParser()], encoding="utf-8").parse(path)
    document.namespace = vars(module)

    for example in document.examples():
        example.evaluate()
