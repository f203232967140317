"""Look at every page of the built documentation in Chromium.

::

    python -m tests.docs.look HTML [PAGE...]

Each page is opened at the width of a desk and of a phone, in light and in dark. What axe-core has
to say, what is wider than the phone, and what the browser complains of is printed; the exit status
is 1 if there is anything. Of the pages that are made from docstrings, which have one template,
every fiftieth is opened if none is named.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from playwright.sync_api import Page

FLAGS: Final = ("--no-sandbox", "--disable-gpu", "--no-first-run")
DESK: Final[Any] = {"width": 1280, "height": 900}
PHONE: Final[Any] = {"width": 360, "height": 740}
CONTRAST: Final = {"runOnly": ["color-contrast"]}
"""In the dark nothing but the colours differs."""
REST: Final = {"rules": {"color-contrast": {"enabled": False}}}
WIDTH: Final = {"runOnly": ["scrollable-region-focusable", "button-name", "link-name", "label"]}
"""Rules whose outcome differs on a phone."""
CHOOSE: Final = """(known) => {
  const seen = new Set(known);
  for (const each of document.querySelectorAll("body *")) {
    if (![...each.childNodes].some(({ nodeType, data }) => nodeType === 3 && data.trim())) continue;
    if (!each.checkVisibility({ visibilityProperty: true })) continue;
    const { color, fontSize, fontWeight } = getComputedStyle(each);
    const key = [color, fontSize, fontWeight];
    for (let up = each; up; up = up.parentElement) {
      const { backgroundColor, backgroundImage, opacity } = getComputedStyle(up);
      if (backgroundColor !== "rgba(0, 0, 0, 0)") key.push(backgroundColor);
      if (backgroundImage !== "none" || opacity !== "1") key.push(backgroundImage, opacity);
    }
    each.toggleAttribute("data-chosen", !seen.has(`${key}`));
    seen.add(`${key}`);
  }
  return [...seen];
}"""
"""Of texts with the same colours, size and weight, on any page, one has the contrast of all."""
TOO_WIDE: Final = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll("article *")]
    .filter((each) => each.getBoundingClientRect().right > width + 1)
    .map((each) => each.outerHTML.slice(0, 120)).slice(0, 3);
}"""
RUN: Final = """async ([where, options]) => {
  // What is observed of sizes is acted on after a frame.
  for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
  return (await axe.run(where, options)).violations.flatMap(
    ({ id, nodes }) => nodes.map(({ html, any }) =>
      `${id}: ${html.slice(0, 160)} ${any[0]?.message.slice(0, 120) ?? ""}`));
}"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Leave the line out."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the files of a folder; give the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def axe() -> str:
    """Return the source of axe-core."""
    spec = find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("axe.min.js").read_text(encoding="utf-8")


def findings(page: Page, url: str, script: str, kinds: list[str]) -> Iterator[str]:
    """Give what is wrong with a page; add the kinds of text on it to those that were judged."""
    page.set_viewport_size(DESK)
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.goto(url)
    page.evaluate(script)
    yield from (f"light: {each}" for each in page.evaluate(RUN, ["html", REST]))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        before = len(kinds)
        kinds[:] = page.evaluate(CHOOSE, kinds)
        if len(kinds) > before:
            found = page.evaluate(RUN, ["[data-chosen]", CONTRAST])
            yield from (f"{scheme}: {each}" for each in found)
    page.set_viewport_size(PHONE)
    yield from (f"phone: wider than the page: {each}" for each in page.evaluate(TOO_WIDE))
    yield from (f"phone: {each}" for each in page.evaluate(RUN, ["html", WIDTH]))


def look(folder: Path, names: list[str]) -> list[str]:
    """Open pages; return what is wrong, each with its page."""
    from playwright.sync_api import sync_playwright

    found: list[str] = []
    with serving(folder) as address, sync_playwright() as playwright:
        # The shell is the same browser without windows.
        chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
        with playwright.chromium.launch(executable_path=chromium, args=FLAGS) as browser:
            page = browser.new_page()
            page.set_default_timeout(120_000)  # It runs beside all tests, at the lowest priority.
            page.on("console", lambda message: found.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: found.append(f"script: {error}"))
            page.on("requestfailed", lambda request: found.append(f"request: {request.url}"))
            script, kinds = axe(), list[str]()
            for name in names:
                before = len(found)
                found += list(findings(page, f"{address}/{name}", script, kinds))
                found[before:] = [f"{name}: {each}" for each in found[before:]]
    return found


def pages(folder: Path) -> list[str]:
    """Return the names of the pages that are opened if none is named."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    made = [name for name in found if "/generated/" in name]
    return [name for name in found if name not in made or name in made[::50]]


def main(folder: Path, names: list[str]) -> int:
    """Look at the pages; return the exit status."""
    names = names or pages(folder)
    assert names
    found = look(folder, names)
    print("\n".join([*found, f"{len(names)} pages, {len(found)} findings"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
