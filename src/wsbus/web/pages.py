"""Pages of files with an endpoint beside them, such as the console, as adapters serve them.

The console stands above the adapters: applications without one load nothing of it.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..endpoint import Endpoint

__all__ = ["AssetResponse", "MountedPage"]


class AssetResponse(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class MountedPage(Protocol):
    """A page under a prefix; :class:`wsbus.console.console.Console` is one."""

    @property
    def endpoint(self) -> Endpoint:
        """The page's endpoint, at ``ws`` beside it."""
        ...

    def page(self, name: str) -> AssetResponse:
        """Return the file of this name, the page itself for the empty one, or a 404."""
        ...

    def redirect(self, prefix: str) -> AssetResponse:
        """Return the redirect from the prefix without a slash at the end to the page."""
        ...
