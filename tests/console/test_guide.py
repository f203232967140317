from __future__ import annotations

import pytest

from tests.console.operators import operators
from tests.docs.documents import ROOT, running
from tests.server.clients import connecting

TOKEN = "change me: at least 16 characters"


@pytest.fixture
def anyio_backend() -> str:
    """The guide's applications are made for asyncio."""
    return "asyncio"


async def test_the_consoles_of_the_guide_look_at_one_bus() -> None:
    """The guide's console may only look, the night shift's may disconnect."""
    with running(ROOT / "docs" / "how-to" / "console.md") as guide:
        async with (
            guide.bus,
            connecting(guide.bus.default_endpoint) as connect,
            operators(guide.console) as sign_in,
            operators(guide.night_shift) as sign_in_at_night,
        ):
            await connect()
            day, night = await sign_in(TOKEN), await sign_in_at_night(TOKEN)
            (row,) = (await day.see(view="connections"))["rows"]
            which = {"connection_id": row["id"], "connected_at": row["connected_at"]}

            assert await day.is_refused("console.disconnect", **which) == "READ_ONLY"
            assert await night.is_refused("console.disconnect", **which) is None
