"""A real browser, Debian's Chromium; nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser(require_command: Callable[[str, str], str]) -> Iterator[Browser]:
    """One for each module: while it is there, its thread can run no other event loop."""
    # The shell is the same browser without windows; it takes half of the processor's time.
    shell = shutil.which("chromium-headless-shell")
    chromium = shell or require_command("chromium", "chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        reason = "needs playwright: pip install -e '.[browser]'"
        if os.environ.get("WSBUS_REQUIRE_SERVICES"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser had to say: errors, warnings, requests that went elsewhere."""
    return []
