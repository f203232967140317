"""The servers that these adapters are for run on asyncio only; a test may choose otherwise."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run every async test here on asyncio."""
    return "asyncio"
