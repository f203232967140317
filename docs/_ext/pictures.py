"""Pictures of the pages that wsbus brings, taken by the build.

The build starts ``wsbus demo``, opens its pages in Chromium, and puts a picture of each in light
and in dark into ``_pictures``, where it stays until it is removed. ``{picture} NAME`` shows the one
that fits the reader's theme. Where Chromium, playwright or the demo is missing, or with
``-D pictures=0``, the build says so and goes on without pictures.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from sphinx.application import Sphinx

PAGES: Final = {
    "demo": ("/", "Connected", ()),
    "console": ("/console/", "Live", ()),
    "catalogue": (
        "/catalogue/",
        "Commands",
        ('button:text-is("Connect")', 'summary:has-text("Answer with the sum.")'),
    ),
}
"""Each page's path in the demo, a text that it shows once it is alive, and what is clicked then."""
THEMES: Final = ("light", "dark")
PATIENCE: Final = 120_000
"""Milliseconds for a page to come alive, on a machine that does much else."""
LIFE: Final = 4000
"""Milliseconds in which charts and tables fill."""


def file_of(folder: Path, name: str, theme: str) -> Path:
    """Return the file of a picture."""
    return folder / "_pictures" / f"{name}-{theme}.png"


def missing() -> str:
    """Return what the pictures need and is not there."""
    packages = ("playwright", "uvicorn", "starlette", "click")
    absent = [name for name in packages if find_spec(name) is None]
    return ", ".join([*absent, *([] if chromium() else ["chromium"])])


def chromium() -> str | None:
    """Return the program: the shell is the same browser without windows."""
    return shutil.which("chromium-headless-shell") or shutil.which("chromium")


@contextmanager
def demo() -> Iterator[str]:
    """Run the demo; give its address."""
    command = [sys.executable, "-m", "wsbus", "demo", "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(  # noqa: S603  # a command of ours
        command, stdout=subprocess.PIPE, text=True, env=environment
    )
    with running as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://[\w.:]+", process.stdout.readline())
            assert found is not None, "the demo does not start"
            yield found[0]
        finally:
            process.terminate()


def photograph(browser: Browser, address: str, folder: Path, theme: str) -> None:
    """Take the pictures of one theme, while all pages are open."""
    with browser.new_context(
        viewport={"width": 1200, "height": 800}, color_scheme=theme
    ) as context:
        context.set_default_timeout(PATIENCE)
        tabs = {}
        for name, (path, text, clicks) in PAGES.items():
            tabs[name] = tab = context.new_page()
            tab.goto(address + path)
            tab.get_by_text(text, exact=True).first.wait_for()
            for click in clicks:
                tab.locator(click).click()
        for name, tab in tabs.items():
            tab.bring_to_front()
            tab.wait_for_timeout(LIFE)
            tab.screenshot(path=file_of(folder, name, theme))


def take(app: Sphinx) -> None:
    """Take the pictures that are not there yet."""
    folder = Path(app.srcdir)
    files = [file_of(folder, name, theme) for name in PAGES for theme in THEMES]
    if not app.config.pictures or all(file.exists() for file in files):
        return
    if absent := missing():
        sys.stderr.write(f"no pictures of the demo, the console and the catalogue: {absent}?\n")
        return
    from playwright.sync_api import sync_playwright

    with demo() as address, sync_playwright() as playwright:
        flags = ("--no-sandbox", "--disable-gpu", "--no-first-run")
        with playwright.chromium.launch(executable_path=chromium(), args=flags) as browser:
            for theme in THEMES:
                photograph(browser, address, folder, theme)


class Picture(SphinxDirective):
    """Shows a picture; its content is the text for readers who do not see it."""

    required_arguments = 1
    has_content: ClassVar = True

    def run(self) -> list[nodes.Node]:
        """Return an image for each theme, or nothing if there is no picture."""
        name = self.arguments[0]
        if name not in PAGES:
            raise self.error(f"{name} is none of {', '.join(PAGES)}")
        return [
            nodes.image(
                uri=f"/_pictures/{name}-{theme}.png",
                alt=" ".join(self.content),
                classes=[f"only-{theme}", "picture"],
            )
            for theme in THEMES
            if file_of(Path(self.env.srcdir), name, theme).exists()
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx call us."""
    app.add_config_value("pictures", default=True, rebuild="env")
    app.add_directive("picture", Picture)
    app.connect("builder-inited", take)
    return {"parallel_read_safe": True}
