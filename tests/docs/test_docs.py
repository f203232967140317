"""The Python in the documentation runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.docs.documents import DOCUMENTS, ROOT, needing, parsed, running

FENCES: Final = {"", "console", "html", "js", "json", "python", "sh", "text"} | {
    *("dockerfile", "ini", "nginx", "yaml")  # of other programs
}
"""Languages of blocks; there is one word for Python, whose blocks run."""


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in DOCUMENTS])
def test_examples_run(path: Path) -> None:
    """Each ```python block of a document runs, in the names that the blocks above it left."""
    with running(needing(path)):
        pass


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in DOCUMENTS])
def test_no_block_of_python_is_passed_over(path: Path) -> None:
    """What is Python says so, as the parser reads it; nothing turns a block off."""
    text = path.read_text(encoding="utf-8")
    fences = re.findall(r"^ *```([^`\n{]*|\{.*\}.*)$", text, re.MULTILINE)
    languages = {fence for fence in fences if not fence.startswith("{")}

    assert languages <= FENCES
    shown = sum(fence == "python" for fence in fences)
    hidden = text.count("<!--- invisible-code-block: python")
    assert len(list(parsed(path).examples())) == shown + hidden
