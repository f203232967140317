"""What may be committed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TOP: Final = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "docs",
    "examples",
    "pyproject.toml",
    "src",
    "tests",
}
# In pieces, so that this file does not hold what it forbids.
FORBIDDEN: Final = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "npm" + "js.com",
    "deb." + "debian.org",
    "/wo" + "rk/",
    "/ro" + "ot/",
]
LEFTOVERS: Final = re.compile(
    r"(^|/)(uv\.lock|poetry\.lock|node_modules/|__pycache__/)",
)


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Return the paths under version control; skip where there is no repository to ask."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    listing = subprocess.run(
        [git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [path for path in listing.stdout.split("\0") if path and (ROOT / path).is_file()]


def test_the_top_level_is_tidy(tracked: list[str]) -> None:
    """The top level holds the rooms of the house, and names with a dot."""
    top = {path.split("/")[0] for path in tracked}

    assert {name for name in top if not name.startswith(".")} <= TOP


def test_no_leftovers_are_tracked(tracked: list[str]) -> None:
    """No lock file of a package manager and nothing that a tool made is under version control."""
    assert [path for path in tracked if LEFTOVERS.search(path)] == []


def test_no_file_names_a_registry_or_this_machine(tracked: list[str]) -> None:
    """Files work anywhere: they name no package registry and no directory of one machine."""
    found = [
        (path, word)
        for path in tracked
        for word in FORBIDDEN
        if word.encode() in (ROOT / path).read_bytes()
    ]

    assert found == []


def test_the_readme_names_every_extra() -> None:
    """Those for work on wsbus are in the guide for contributors."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    readme = (ROOT / "README.md").read_text("utf-8")
    table = readme.partition("| extra | brings |")[2].partition("\n\n")[0]
    first = [row.split("|")[1] for row in table.splitlines() if row.count("|") > 2]
    named = set(re.findall(r"`(\w+)`", " ".join(first)))
    ours = {"test", "browser", "servers", "benchmarks", "docs", "lint"}
    assert named == set(extras["optional-dependencies"]) - ours
