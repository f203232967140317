"""The operator's console: a page, and the endpoint that feeds it.

::

    console = Console(bus, token=os.environ["CONSOLE_TOKEN"])
    app = Starlette(
        routes=[websocket_route("/ws", bus), *console_routes(console)], lifespan=lifespan(bus)
    )

Nothing of it runs, and nothing is counted for it, until an operator opens it.
"""

from __future__ import annotations

from .console import Console

__all__ = ["Console"]
