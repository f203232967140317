"""The catalogue: what adapters mount."""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from .._log import about, escaped
from ..bus import Bus, host_of
from ..core.choices import shown
from ..core.errors import UsageError
from ..schema import asyncapi
from ..web.pages import AssetResponse, PageFiles, redirect, response
from .contents import contents

__all__ = ["Catalogue"]

logger: Final = logging.getLogger("wsbus.catalogue")

_CANNOT_SHOW: Final = "the catalogue cannot show the bus: %s"
_URL: Final = re.compile(r"[\w.~:/?#\[\]@!$&()*+,;=%-]+", re.ASCII)
"""Printable ASCII without quotes, angle brackets and white space."""


class Catalogue:
    """A page of what a bus declares; mount it with ``catalogue_routes`` of an adapter.

    It lists the typed channels (:meth:`.Bus.channel`) and the commands (:meth:`.Bus.command`) with
    their types, and has a form for each: subscribe, publish, call. The forms use an ordinary
    connection to the application's endpoint, and may do what any client may.

    The page itself asks for no token: it shows the names and types of the application to everybody
    that reaches it. Mount it behind the middleware or dependencies of your other documentation.

    Args:
        bus: The bus; channels and commands may also be declared after this.
        url: Where the page connects to: a path, which may be relative to the page's, or a URL
            (``wss://app.example/ws``). By default ``/ws`` beside the catalogue's own path.
        title: The name of the application, on the page and in ``asyncapi.json``.
        version: The version of the application, in both.

    Raises:
        UsageError: It is not a bus, the URL is none, or another argument is no text.
    """

    def __init__(
        self, bus: Bus, *, url: str = "../ws", title: str = "wsbus", version: str = "1.0.0"
    ) -> None:
        if not isinstance(bus, Bus):
            raise UsageError(f"a catalogue shows a bus, not {shown(bus)}")
        for name, text in (("title", title), ("version", version)):
            if not isinstance(text, str):
                raise UsageError(f"{name} is a text, not {shown(text)}")
        self._bus: Final = bus
        self._url: Final = _checked(url)
        self._title: Final = title
        self._version: Final = version
        self._made: dict[str, tuple[int, bytes]] = {}

    # --- for adapters ----------------------------------------------------------------------------

    def page(self, name: str) -> AssetResponse:
        """Return the file of this name, the page itself for the empty one, or a 404.

        Args:
            name: The last segment of the path.
        """
        if name not in {"asyncapi.json", "contents.json"}:
            return _files().answer(name, self._url)
        try:
            return response(name, self._document(name))
        except UsageError as exc:  # A type has no schema; the text names types only.
            extra = about("catalogue_failed")
            logger.error(_CANNOT_SHOW, escaped(str(exc), 1000), extra=extra)  # noqa: TRY400  # says all
            return response("error.txt", f"{exc}\n".encode(), status=500)

    def redirect(self, prefix: str) -> AssetResponse:
        """Return the redirect from the page's path without a slash at the end to the page."""
        return redirect(prefix)

    def _document(self, name: str) -> bytes:
        """Return a document; it is made again only after something more was declared."""
        count = len(self._bus.channels) + len(host_of(self._bus).commands.all())
        known, body = self._made.get(name, (-1, b""))
        if known != count:
            body = msgspec.json.encode(self._describe(name))
            self._made[name] = count, body
        return body

    def _describe(self, name: str) -> dict[str, Any]:
        describe = asyncapi if name == "asyncapi.json" else contents
        return describe(self._bus, title=self._title, version=self._version)


def _checked(url: object) -> str:
    if isinstance(url, str) and _URL.fullmatch(url):
        return url
    raise UsageError(f"url is the path or URL of an endpoint, not {shown(url)}")


@cache
def _files() -> PageFiles:
    return PageFiles(Path(__file__).with_name("page"))
