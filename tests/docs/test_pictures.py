"""The documentation is built with pictures, and without what takes them."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Final

import pytest

from tests.docs.documents import ROOT

EXTENSION: Final = ROOT / "docs" / "_ext"
PIXEL: Final = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def build(folder: Path) -> tuple[str, list[str]]:
    """Build a page where no Chromium is found; return what is said, and the pictures shown."""
    (folder / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(EXTENSION)!r})\nextensions = ['pictures']\n"
    )
    (folder / "index.rst").write_text("Page\n====\n\n.. picture:: demo\n\n   The demo\n")
    outcome = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "-E", str(folder), str(folder / "html")],
        env={"PATH": "", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    page = (folder / "html" / "index.html").read_text(encoding="utf-8")
    return outcome.stderr, re.findall(r'<img alt="The demo" class="([\w -]+)"', page)


@pytest.mark.timeout(180)  # the documentation is built twice
def test_without_chromium_there_are_no_pictures(tmp_path: Path) -> None:
    """The build goes on, and says what is missing; pictures that are there are shown."""
    pytest.importorskip("sphinx", reason="pip install -e '.[docs]'")
    said, shown = build(tmp_path)

    assert re.search(r"no pictures of .*: .*chromium\?", said)
    assert shown == []

    (tmp_path / "_pictures").mkdir()
    for theme in ("light", "dark"):
        (tmp_path / "_pictures" / f"demo-{theme}.png").write_bytes(PIXEL)
    _, shown = build(tmp_path)

    assert [classes.split()[0] for classes in shown] == ["only-light", "only-dark"]
