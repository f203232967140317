"""The console of a remote application: finding its page, or serving the page on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from .assets import answer

__all__ = ["ConsoleNotFound", "PageServer", "find"]

_SECONDS: Final = 10
_MARK: Final = b'<meta name="wsbus-endpoint"'
_ENDPOINT: Final = re.compile(r"wss?://[\w.~:\[\]-]+(/[\w.~%/-]*)?", re.ASCII)


class ConsoleNotFound(Exception):
    """There is no console at an address; the text says what was found, or what failed."""


def find(url: str) -> str:
    """Return the address of the console's page of an application.

    Args:
        url: URL of the page, or of the application that has mounted it at ``/console``.

    Raises:
        ConsoleNotFound: There is no console at either.
    """
    if not _is_http(url):
        raise ConsoleNotFound(
            f"{_shown(url)} is no URL of an application: expected http:// or https://"
        )
    failures = []
    for candidate in _candidates(url.partition("?")[0].partition("#")[0]):
        try:
            return _page_at(candidate)
        except ConsoleNotFound as exc:
            failures.append(str(exc))
    raise ConsoleNotFound("; ".join(failures))


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.netloc)


def _shown(url: str) -> str:
    """Return a URL for a message: without its query and a password, which may be secrets."""
    return re.sub(r"(://[^/@:]*:)[^/@]*@", r"\1•••@", url.partition("?")[0])


def _candidates(url: str) -> Iterator[str]:
    url = url.rstrip("/") + "/"
    yield url
    if not url.endswith("/console/"):
        yield f"{url}console/"


def _page_at(url: str) -> str:
    request = Request(url, headers={"accept": "text/html"})  # noqa: S310  # its scheme is checked
    try:
        with urlopen(request, timeout=_SECONDS) as response:  # noqa: S310  # the same
            if _MARK in response.read(1 << 20):
                return str(response.geturl())
    except HTTPError as exc:
        raise ConsoleNotFound(f"{_shown(url)} answers {exc.code} {exc.reason}") from exc
    except (URLError, OSError, HTTPException, ValueError) as exc:  # What answers may be no HTTP.
        reason = getattr(exc, "reason", exc)
        raise ConsoleNotFound(f"{_shown(url)} cannot be reached: {reason}") from exc
    raise ConsoleNotFound(f"{_shown(url)} is some other page")


class PageServer(ThreadingHTTPServer):
    """Serves the page on this machine, for a console's endpoint that is mounted elsewhere.

    It is for endpoints whose server has no routes for pages. The application must allow the
    page's :attr:`origin`.

    Args:
        endpoint: URL of the endpoint, ``ws://…`` or ``wss://…``.
        port: Port to listen on, at 127.0.0.1; 0 takes a free one.

    Raises:
        ConsoleNotFound: The URL cannot be an endpoint's.
        OSError: The port is taken.
    """

    daemon_threads = True

    def __init__(self, endpoint: str, port: int) -> None:
        if not _ENDPOINT.fullmatch(endpoint):
            raise ConsoleNotFound(
                f"{_shown(endpoint)} is no URL of an endpoint: no query, plain ASCII"
            )
        self.endpoint: str = endpoint
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def origin(self) -> str:
        """The origin that the application must list in ``Console(…, origins=[…])``."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, PageServer)
        path = self.path.partition("?")[0]
        name = path.removeprefix("/")
        found = answer(name, self.server.endpoint if name == "" else None)
        self.send_response(found.status)
        for header, value in found.headers.items():
            self.send_header(header, value)
        self.send_header("content-length", str(len(found.body)))
        self.end_headers()
        self.wfile.write(found.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its base's name
        """Log nothing: the address was printed, and the page reports errors."""
