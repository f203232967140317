"""A worker for `gunicorn <https://gunicorn.org>`_, which runs uvicorn with wsbus's options.

::

    gunicorn main:app --worker-class wsbus.adapters.gunicorn.UvicornWorker --workers 1

Each worker is a process, and so a bus, of its own: a publication reaches only the clients of its
own process. Run one.

Needs the extra ``starlette``, gunicorn, and ``uvicorn-worker`` (or a uvicorn that has a worker).
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any, Final

from .uvicorn import HTTPProtocol, WebSocketProtocol, redact

__all__ = ["UvicornWorker"]


def _base() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Available until uvicorn removes it.
        try:
            return import_module("uvicorn.workers").UvicornWorker
        except ImportError:
            try:
                return import_module("uvicorn_worker").UvicornWorker
            except ModuleNotFoundError as exc:
                raise ModuleNotFoundError(
                    f"wsbus.adapters.gunicorn needs {exc.name}, which is not installed: "
                    "pip install 'wsbus[starlette]' gunicorn uvicorn-worker",
                    name=exc.name,
                ) from None


def _worker() -> type[Any]:
    class UvicornWorker(_base()):  # type: ignore[misc]  # neither package has types
        CONFIG_KWARGS: Final = {
            "loop": "auto",
            "http": HTTPProtocol,
            "ws": WebSocketProtocol,
            "ws_per_message_deflate": False,
            "timeout_graceful_shutdown": 10,
        }

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            redact()

    return UvicornWorker


UvicornWorker: type[Any] = _worker()
"""uvicorn with the protocol classes of :mod:`wsbus.adapters.uvicorn`, and without compression.

Messages are bounded by the endpoint, and before it by uvicorn's 16 MiB. Tokens in query strings are
kept out of the log; see :class:`.RedactQuery`.
"""
