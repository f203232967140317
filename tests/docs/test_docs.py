"""The Python in the documentation runs, and has the types that it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

from tests.docs.documents import ROOT, running

DOCUMENTS: Final = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
]
UNTYPED: Final = {ROOT / "docs" / "how-to" / "shutdown.md"}
"""Calls what hypercorn and granian have no types for."""


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in DOCUMENTS])
def test_examples_run(path: Path) -> None:
    """Each ```python block of a document runs, in the names that the blocks above it left."""
    with running(path):
        pass


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_examples_have_their_types(tmp_path: Path) -> None:
    """Who copies an example into a program that mypy checks strictly gets no complaint."""
    pytest.importorskip("mypy", reason="pip install -e '.[lint]'")
    for path in DOCUMENTS:
        document = Sybil(parsers=[PythonCodeBlockParser()], encoding="utf-8").parse(path)
        blocks = [str(example.parsed) for example in document.examples()]
        if blocks and path not in UNTYPED:
            name = "_".join(path.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
            (tmp_path / f"{name}.py").write_text("\n".join(blocks), encoding="utf-8")
    outcome = subprocess.run(
        [sys.executable, "-m", "mypy", *map(str, tmp_path.glob("*.py"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
