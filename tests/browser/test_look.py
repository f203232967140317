"""What looks at the documentation finds what is wrong with a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.docs import look

PAGE: Final = """<!doctype html><html lang="en"><head><title>A page</title>
<link rel="icon" href="data:,"><style>
  body {{ color: #111; background: #fff }}
  @media (prefers-color-scheme: dark) {{ body {{ color: {ink}; background: #111 }} }}
</style></head>
<body><main><h1>A page</h1><article>{body}</article></main></body></html>"""


FAULTS: Final = {
    "none": ("<p>Text.</p>", "#eee", ""),
    "image": ('<img src="data:,">', "#eee", "light: image-alt"),
    "dark": ("<p>Text.</p>", "#333", "dark: color-contrast"),
    "wide": ('<p style="width: 400px">Text.</p>', "#eee", "phone: wider than the page"),
    "script": ("<script>none()</script>", "#eee", "script: none is not defined"),
    "missing": ('<script src="none.js"></script>', "#eee", "console: Failed to load"),
}
"""By the name of a page: what is in it, its ink in the dark, and how the finding begins."""


def test_what_is_wrong_is_found(tmp_path: Path, require_command: Callable[[str, str], str]) -> None:
    """A fault of each kind is printed with its page, and a page without one is passed over."""
    require_command("chromium", "chromium")
    pytest.importorskip("playwright", reason="pip install -e '.[browser]'")
    for name, (body, ink, _) in FAULTS.items():
        (tmp_path / f"{name}.html").write_text(PAGE.format(body=body, ink=ink))

    found = look.look(tmp_path, look.pages(tmp_path))

    for name, (*_, begins) in FAULTS.items():
        said = [each for each in found if each.startswith(f"{name}.html: ")]
        assert bool(said) is bool(begins), name
        assert all(each.startswith(f"{name}.html: {begins}") for each in said[:1]), said
