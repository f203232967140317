"""The catalogue: a page of the typed channels and commands of a bus, to read and to try out.

::

    bus = Bus()
    app = FastAPI()
    mount(app, "/ws", bus)
    mount_catalogue(app, Catalogue(bus))

The page is at ``/catalogue/``, with ``asyncapi.json`` beside it.
"""

from __future__ import annotations

from .catalogue import Catalogue

__all__ = ["Catalogue"]
