"""How the documentation is built: ``sphinx-build -W -n docs docs/_build/html``."""

from __future__ import annotations

import builtins
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import wsbus
import wsbus.client

if TYPE_CHECKING:
    from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "wsbus"
author = "wsbus contributors"
project_copyright = "2026, wsbus contributors"
version = release = wsbus.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "pictures",  # of _ext
]
exclude_patterns = [
    "_build",
    "_ext",
    "_templates",
    "explanation/performance/*",
]  # which is included
templates_path = ["_templates"]

html_theme = "furo"
html_title = f"wsbus {release}"
html_copy_source = False
html_static_path = ["_static"]
html_extra_path = ["llms.txt"]
html_css_files = ["landing.css"]
html_js_files = [("accessible.js", {"type": "module"})]
html_favicon = "../src/wsbus/catalogue/page/icon.svg"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [
    ("Guarantees", "notes_style"),
    ("Cost", "notes_style"),
    ("Cancellation", "notes_style"),
]

# The build never asks the network, so names of others cannot be links; ours must all be.
nitpicky = True
_OTHERS = (
    "aiohttp|aiortc|anyio|click|fastapi|jwt|msgspec|opentelemetry|prometheus_client|rich|starlette|trio|typing_extensions|uvicorn"
    "|websockets|" + "|".join(map(re.escape, sorted(sys.stdlib_module_names)))
)
_BUILTINS = "|".join(name for name in dir(builtins) if not name.startswith("_"))
nitpick_ignore_regex = [
    ("py:.*", rf"({_OTHERS})(\..*)?"),
    ("py:.*", rf"({_BUILTINS})(\W.*)?"),
    ("py:.*", r"(wsbus\..*\.)?_?[A-Z]"),  # type variables
    ("py:.*", r"wsbus\.(.*\.)?_\w+\..*"),  # private modules have no page
    ("py:.*", r"wsbus\.(.*\.)?_[A-Z]\w*"),  # nor have private classes
    ("py:exc", "Overdue"),  # of such a module, as a docstring names what is raised
    ("py:class", "BoundedLog"),  # of such a module, as a field's annotation has it
    ("py:class", "TokenSource"),  # imported for types only, as its module needs an extra
    ("py:class", "Path"),  # beside such a name: then a signature is read as text
]


def keep_first_words(
    _app: Sphinx, what: str, _name: str, _found: object, _options: object, lines: list[str]
) -> None:
    """Stop napoleon from reading ``Seconds; None: never`` at an attribute as a type and a text.

    It looks at the first line only, so that gets an empty comment of reStructuredText.
    """
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]


def name_the_import(
    _app: Sphinx, _what: str, name: str, found: object, _options: object, lines: list[str]
) -> None:
    """Say of every name that the package re-exports how to import it."""
    short = name.rpartition(".")[2]
    for package in (wsbus.client, wsbus):
        where = package.__name__
        if name != where and short in package.__all__ and getattr(package, short) is found:
            lines[:0] = [f"``from {where} import {short}``", ""]


_NO_HEADER = re.compile(r'<th class="head[^>]*>(?:<p></p>)?</th>')


def drop_empty_headers(
    _app: Sphinx, _page: str, _template: str, context: dict[str, object], _doctree: object
) -> None:
    """Make a cell of a header that says nothing, which readers aloud would announce."""
    if isinstance(body := context.get("body"), str):
        context["body"] = _NO_HEADER.sub("<td></td>", body)


def setup(app: Sphinx) -> None:
    """Let Sphinx call us."""
    app.connect("html-page-context", drop_empty_headers)
    app.connect("autodoc-process-docstring", keep_first_words, priority=400)
    app.connect("autodoc-process-docstring", name_the_import)
