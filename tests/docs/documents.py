"""Documents as modules: what their ```python blocks define."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import uvicorn
from anyio import Event, create_task_group
from sybil import Document, Sybil
from sybil.parsers.myst import PythonCodeBlockParser

from wsbus import Bus, Endpoint
from wsbus.adapters.uvicorn import uvicorn_options

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
]
HOW_TO: Final = ROOT / "docs" / "how-to"
NEEDS: Final = {
    HOW_TO / "frameworks.md": ["django", "litestar", "quart"],
    HOW_TO / "migrate-broadcaster.md": ["broadcaster"],
    HOW_TO / "migrate-channels.md": ["channels", "django"],
    HOW_TO / "migrate-litestar.md": ["litestar"],
    HOW_TO / "migrate-sse.md": ["sse_starlette"],
    HOW_TO / "publish-from-anywhere.md": ["django"],
    HOW_TO / "testing.md": ["httpx2"],
    HOW_TO / "webrtc.md": ["aiortc"],
}
"""What some documents import beside the extra ``test``; it is in the extra ``servers``."""


def needing(path: Path) -> Path:
    """Return the document, or skip the test if a package that it needs is missing."""
    for name in NEEDS.get(path, []):
        if find_spec(name) is None:
            reason = f"needs {name}: pip install -e '.[servers]'"
            if os.environ.get("WSBUS_REQUIRE_SERVICES"):
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
    return path


def parsed(path: Path) -> Document:
    """Find the ```python blocks of a document."""
    return Sybil(parsers=[PythonCodeBlockParser()], encoding="utf-8").parse(path)


def rows_below(path: Path, header: str) -> list[list[str]]:
    """Return the rows of the document's table that begins so, without back quotes."""
    _, _, rest = path.read_text(encoding="utf-8").partition(f"| {header} |")
    lines = rest.split("\n")[2:]
    rows = lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    assert rows
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows]


@contextmanager
def running(path: Path) -> Iterator[Any]:
    """Run the blocks of a document in order, as one module that is not ``__main__``.

    What stands under ``if __name__ == "__main__":`` is shown but not run.
    """
    module = ModuleType("documented")
    # Annotations given as text are looked up in the module that holds them.
    sys.modules[module.__name__] = module
    try:
        document = parsed(path)
        document.namespace = vars(module)
        # In a thread of its own, where programs may run an event loop.
        with ThreadPoolExecutor(1) as thread:
            for example in document.examples():
                thread.submit(example.evaluate).result()
        yield module
    finally:
        del sys.modules[module.__name__]


@asynccontextmanager
async def served(
    app: Any, endpoint: Bus | Endpoint, kind: type[uvicorn.Server] = uvicorn.Server
) -> AsyncIterator[str]:
    """Serve an ASGI application; give ``127.0.0.1:port``."""
    up = Event()

    class Server(kind):  # type: ignore[misc,valid-type]  # of any kind
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            up.set()

    options = uvicorn_options(endpoint) | {"log_config": None, "port": 0}
    server = Server(uvicorn.Config(app, host="127.0.0.1", **options))
    async with create_task_group() as tasks:
        tasks.start_soon(server.serve)
        await up.wait()
        try:
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"127.0.0.1:{port}"
        finally:
            server.should_exit = True
