from __future__ import annotations

import pytest

from tests.adapters.servers import ADAPTERS
from wsbus.testing import TRANSPORT_CHECKS, check_transport


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("check", TRANSPORT_CHECKS)
async def test_every_adapter_keeps_the_laws_of_transports(adapter: str, check: str) -> None:
    """The law is the docstring of the check, in wsbus.testing.checks."""
    await check_transport(ADAPTERS[adapter], check)
