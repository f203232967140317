"""The guide to tuning repeats figures that were measured."""

from __future__ import annotations

import re
from typing import Final

from tests.docs.documents import HOW_TO, ROOT, rows_below

EXPLANATION: Final = ROOT / "docs" / "explanation"
PAGE: Final = HOW_TO / "tune.md"
MEASURED: Final = "".join(
    path.read_text(encoding="utf-8")
    for path in (EXPLANATION / "performance.md", EXPLANATION / "performance" / "table.md")
)
FIGURE: Final = re.compile(r"\d+(?:\.\d+)?(?= (?:µs|bytes|times|KiB)| instead)|(?<=of )\d+\.\d+")


def test_every_effect_was_measured() -> None:
    """Each figure of the page stands where it was measured."""
    rows = rows_below(PAGE, "what | set it to | effect, as measured")
    figures = [figure for row in rows for figure in FIGURE.findall(row[2])]

    assert len(figures) > 8
    for figure in figures:
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", MEASURED), figure
