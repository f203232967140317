"""Checks of the places of endpoints in the routing tables of Starlette and FastAPI.

FastAPI applies ``dependencies=`` and ``APIRouter(prefix=…)`` to routes that are made by its own
methods. It serves a Starlette route in its tables without them. Such a route must not be open by
mistake, so it is refused, and the log says what to write.

Nothing here imports a framework: routing tables are recognized by their attributes.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from .._log import about

__all__ = ["MISPLACED", "Placed", "settle"]

logger: Final = logging.getLogger("wsbus.asgi")

MISPLACED: Final = "this route is not served here; the log of the server says why"
"""The answer to the client, with the status 500."""

_MAX_ROUTERS: Final = 64
"""Routers whose results are kept; an application may make a router for each request."""


class Placed:
    """An ASGI application of wsbus in the routing table of a framework."""

    __slots__ = ("_is_told", "_verdicts")

    speaks: ClassVar[str] = "http"
    """The kind of ASGI scope that it serves."""

    def __init__(self) -> None:
        # By the router's id; the router is kept so that its id is not reused. Routers have no hash.
        self._verdicts: Final[dict[int, tuple[object, bool]]] = {}
        self._is_told = False

    def is_refused(self, scope: Mapping[str, Any]) -> bool:
        """Tell whether dependencies of other routes do not guard this request; log the first."""
        root = scope.get("router")
        if root is None:  # Not in Starlette, or not in a router.
            return False
        if id(root) not in self._verdicts:  # Usually the lifespan has done it.
            settle(root)
        verdict = self._verdicts.get(id(root))
        if verdict is None:  # Not found; perhaps it is wrapped by middleware.
            if not _is_bypassing(scope):
                return False
            self.tell(_unguarded(self, str(scope.get("path"))))
            return True
        return verdict[1]

    def settle(self, root: object, problems: Sequence[str | None]) -> None:
        """Note the problem of each of its places below a router."""
        if len(self._verdicts) >= _MAX_ROUTERS:
            self._verdicts.clear()
        self._verdicts[id(root)] = (root, all(problems))
        for problem in problems:
            if problem is not None:
                self.tell(problem)

    def tell(self, problem: str) -> None:
        """Log a problem; only the first."""
        if not self._is_told:
            self._is_told = True
            logger.error("%s", problem, extra=about("misplaced"))


def settle(application: Any) -> None:
    """Look for endpoints of wsbus in an application's routing tables.

    Misplaced ones are noted and logged. Two things that Starlette lacks are added: a WebSocket at
    ``/ws`` where an endpoint is mounted at ``/ws`` (``Mount`` serves only paths below ``/ws/``),
    and the answer 426 to HTTP requests beside WebSockets.

    Args:
        application: A Starlette or FastAPI application, or a router; anything else is ignored.
    """
    router = getattr(application, "router", application)
    if not _has_table(router):
        return
    places: defaultdict[Placed, list[str | None]] = defaultdict(list)
    found = list(_walk(router, guards=_guards(router)))  # The tables grow during the loop.
    for place in found:
        if place.is_of_use:
            places[place.what].append(place.problem())
            place.complete()
    for place in found:
        if place.what not in places:
            place.what.tell(
                f"{place.path} is for HTTP only, as add_route has it, and takes no WebSocket; "
                f"write wsbus.adapters.starlette.websocket_route({place.path!r}, bus)"
            )
    for what, problems in places.items():
        what.settle(router, problems)


@dataclass(frozen=True, slots=True)
class _Place:
    what: Placed
    route: Any
    router: Any
    """The router whose table it stands in."""
    guards: bool
    """Whether there are dependencies around it, which do not apply."""
    outer: bool
    """Whether there are dependencies around the mounted application that it belongs to."""
    is_included: bool

    @property
    def path(self) -> str:
        return getattr(self.route, "path", "")  # A Host has no path.

    @property
    def is_of_use(self) -> bool:
        """Whether it serves requests of its kind; over HTTP, an endpoint only answers 426."""
        return self.what.speaks == "http" or not hasattr(self.route, "methods")

    def problem(self) -> str | None:
        path, prefix = self.path, getattr(self.router, "prefix", "")
        if hasattr(self.route, "dependant"):
            return (
                f"{path} is not served: FastAPI wants a function there, and this is an application "
                f"of ASGI; write wsbus.adapters.fastapi.mount(app_or_router, {path!r}, …)"
            )
        if self.guards:
            return _unguarded(self.what, path)
        if prefix and not path.startswith(prefix):
            return (
                f"{path} is not served: FastAPI adds the prefix {prefix!r} of a router only to "
                f"routes of its own; write wsbus.adapters.fastapi.mount(router, {path!r}, …)"
            )
        if self.outer:
            logger.warning(
                "%s belongs to an application that is mounted in another one, whose dependencies "
                "do not guard it (FastAPI applies them to its own routes only); give them to the "
                "inner application, and write wsbus.adapters.fastapi.mount(inner, …)",
                path,
                extra=about("unguarded", path=path),
            )
        return None

    def complete(self) -> None:
        if self.what.speaks != "websocket":
            return
        path = self.path
        if not path or hasattr(self.route, "dependant"):
            return
        if hasattr(self.route, "routes"):  # A mount, which serves the paths below its own.
            if not any(self._beside(path, has_methods=False)):
                self.router.add_websocket_route(path, self.what, name=f"wsbus:{path}")
        elif hasattr(self.route, "answers_http") and not self.is_included:
            return
        if not any(self._beside(path, has_methods=True)):
            self.router.add_route(path, self.what, name=f"wsbus:{path}", include_in_schema=False)

    def _beside(self, path: str, *, has_methods: bool) -> Iterator[bool]:
        for route in self.router.routes:
            if route is not self.route and getattr(route, "path", None) == path:
                yield hasattr(route, "methods") == has_methods


def _walk(
    router: Any, *, guards: bool, outer: bool = False, is_included: bool = False
) -> Iterator[_Place]:
    for route in router.routes:
        included = getattr(route, "original_router", None)
        if included is not None:  # Made by FastAPI's include_router.
            around = guards or _guards(route.include_context) or _guards(included)
            yield from _walk(included, guards=around, outer=outer, is_included=True)
            continue
        below = getattr(route, "_base_app", getattr(route, "app", None))
        what = below if isinstance(below, Placed) else getattr(route, "endpoint", None)
        if isinstance(what, Placed):
            yield _Place(what, route, router, guards, outer, is_included)
        elif _has_table(inner := getattr(below, "router", None)):
            # An application of its own: FastAPI's dependencies end at its border.
            yield from _walk(inner, guards=_guards(inner), outer=outer or guards)
        elif _has_table(below):
            yield from _walk(below, guards=guards or _guards(below), outer=outer)


def _has_table(router: Any) -> bool:
    return isinstance(getattr(router, "routes", None), list)


def _guards(router: Any) -> bool:
    return bool(getattr(router, "dependencies", None))


def _is_bypassing(scope: Mapping[str, Any]) -> bool:
    """Tell whether this request's route has dependencies around it; for wrapped endpoints, too."""
    application = scope.get("app")
    router = getattr(application, "router", None) or scope.get("router")
    included = (scope.get("fastapi") or {}).get("included_router")
    if included is None:
        return _guards(router)
    return _guards(included.include_context) or _guards(included.original_router)


def _unguarded(what: Placed, path: str) -> str:
    is_websocket = what.speaks == "websocket"
    arguments = f"{path!r}, …" if is_websocket else "…, status=…, client=…"
    return (
        f"{path} is not served: the dependencies of the application or router around it do not "
        "guard it, since FastAPI applies them only to routes of its own; write "
        f"wsbus.adapters.fastapi.mount(app_or_router, {arguments})"
        + ("" if is_websocket else ", and mount_console for a console")
    )
