"""The list of pages for programs that read names each page once, with its title."""

from __future__ import annotations

import re
from typing import Final

from tests.docs.documents import ROOT

DOCS: Final = ROOT / "docs"
FOLDERS: Final = ("tutorial", "how-to", "explanation", "reference")


def test_every_page_has_one_line_with_its_title() -> None:
    """Each page is listed once, and by the title that it has."""
    text = (DOCS / "llms.txt").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[(.+?)\]\((.+?)\.html\): \S", text, re.MULTILINE)
    pages = [page for name in FOLDERS for page in (DOCS / name).glob("*.md")]
    wanted = [page for page in pages if page.stem != "index"]

    assert sorted(path for _, path in listed) == sorted(
        ["index", *(page.relative_to(DOCS).with_suffix("").as_posix() for page in wanted)]
    )
    for title, path in listed:
        page = (DOCS / f"{path}.md").read_text(encoding="utf-8").replace("`", "")
        assert path in {"index", "reference/changelog"} or f"# {title}\n" in page, path
