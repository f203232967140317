"""Links between the documents lead somewhere; Sphinx checks those within ``docs``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import wsbus
import wsbus.protocols
import wsbus.transport
from tests.docs.documents import ROOT

PAGES: Final = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
IMAGE_BYTES: Final = 150_000
"""A picture of the README is loaded by everybody who looks at the project."""


def without_code(path: Path) -> str:
    return re.sub(
        r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def anchors(path: Path) -> set[str]:
    """Return the names of a page's headings, as GitHub and Sphinx make them."""
    headings = re.findall(r"^#+ (.*)$", without_code(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    """Each link to a file of the repository is right, with its anchor."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(page))
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_the_picture_is_small_and_shown() -> None:
    """The first screen of the README shows the demo."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    picture = re.search(r'<img src="(.+?)".* alt="(.+)">', text)

    assert picture is not None
    assert text[: picture.start()].count("\n") < 10
    assert (ROOT / picture[1]).stat().st_size < IMAGE_BYTES


def test_every_guide_is_in_the_index() -> None:
    """The index of the guides lists each of them once."""
    folder = ROOT / "docs" / "how-to"
    listed = re.findall(r"^[a-z][a-z-]*$", (folder / "index.md").read_text(), re.MULTILINE)

    assert sorted(listed) == sorted(p.stem for p in folder.glob("*.md") if p.stem != "index")


def test_the_api_page_lists_what_one_imports() -> None:
    """Each name of the package stands in the tables of the page, once; then those for authors."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    users, dialects, adapters = re.split(
        "^## For dialects$|^## For adapters$", page, flags=re.MULTILINE
    )
    name = re.compile(r"{py:obj}`(\w+) <")

    assert sorted(name.findall(users)) == sorted(n for n in wsbus.__all__ if not n.startswith("_"))
    assert {"WireProtocol", "Instant", "MessageQueue"} <= set(name.findall(dialects))
    assert set(name.findall(dialects)) <= set(wsbus.protocols.__all__)
    assert {"Transport", "WriteNow"} == set(name.findall(adapters))
    assert {"Transport", "WriteNow"} <= set(wsbus.transport.__all__)
