"""The Python in the documentation runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.docs.documents import ROOT, needing, running

DOCUMENTS: Final = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
]


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in DOCUMENTS])
def test_examples_run(path: Path) -> None:
    """Each ```python block of a document runs, in the names that the blocks above it left."""
    with running(needing(path)):
        pass
