"""The servers that these adapters are for run on asyncio only; a test may choose otherwise."""

from __future__ import annotations

import pytest

from wsbus.adapters import asgi


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run every async test here on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_word_on_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what is logged once a process, so that no test depends on those before it."""
    monkeypatch.setattr(asgi, "_warn_of_options", lambda **_: None)
