"""The Python in the documentation runs, and has the types that it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.docs.documents import DOCUMENTS, HOW_TO, ROOT, needing, parsed, running

FENCES: Final = {"", "console", "html", "js", "jsx", "ts", "json", "python", "sh", "text"} | {
    *("dockerfile", "ini", "nginx", "yaml")  # of other programs
}
"""Languages of blocks; there is one word for Python, whose blocks run."""


UNTYPED: Final = {
    HOW_TO / "frameworks.md",
    HOW_TO / "migrate-broadcaster.md",
    HOW_TO / "migrate-channels.md",
    HOW_TO / "migrate-litestar.md",
    HOW_TO / "migrate-sse.md",
    HOW_TO / "shutdown.md",
}
"""Call what other libraries have no types for, or what mypy is not to know."""


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


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_examples_have_their_types(tmp_path: Path) -> None:
    """Who copies an example into a program that mypy checks strictly gets no complaint."""
    pytest.importorskip("mypy", reason="pip install -e '.[lint]'")
    for path in DOCUMENTS:
        blocks = [str(example.parsed) for example in parsed(path).examples()]
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


INSIDE: Final = re.compile(r"wsbus\.(?:core|server)\b")
ROLE: Final = re.compile(r"\{py:\w+\}`[^`]*`")
DEVELOPERS: Final = {
    ROOT / "docs" / "explanation" / "architecture.md",
    ROOT / "docs" / "explanation" / "states.md",
    ROOT / "docs" / "reference" / "api.md",
}
"""Say what is private, and where."""


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=str(path.relative_to(ROOT)))
        for path in [*DOCUMENTS, *sorted((ROOT / "examples").glob("*.py"))]
        if path not in DEVELOPERS
    ],
)
def test_users_are_shown_what_they_may_import(path: Path) -> None:
    """Documents and examples name no module of ``wsbus.core`` or ``wsbus.server``: links may."""
    assert INSIDE.findall(ROLE.sub("", path.read_text(encoding="utf-8"))) == []
