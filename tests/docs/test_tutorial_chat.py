"""The chat of the tutorial does what each of its steps says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
from anyio import fail_after

from tests.docs.documents import ROOT, running, served
from wsbus import Bus, Unauthenticated
from wsbus.client import CommandError, connect

SECONDS: Final = 20


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run on asyncio only, as uvicorn does."""
    return "asyncio"


@pytest.fixture
def guide() -> Iterator[Any]:
    with running(ROOT / "docs" / "tutorial" / "chat.md") as guide:
        yield guide


async def test_thirty_lines_are_a_chat(guide: Any) -> None:
    """A message reaches its own room, with the name of the identity; the rest is refused."""
    async with served(guide.first, Bus()) as host:
        url = f"ws://{host}/ws"
        with fail_after(SECONDS):
            async with (
                connect(url, token="Ada") as ada,
                connect(url, token="Bob") as bob,
                bob.subscribe("chat.lobby") as lobby,
                bob.subscribe("chat.help") as help_,
            ):
                await ada.command("say", {"room": "help", "text": "how?"})
                await ada.command("say", {"room": "lobby", "text": "hello"})
                assert (await anext(lobby)).data == {"name": "Ada", "text": "hello"}
                assert (await anext(help_)).data == {"name": "Ada", "text": "how?"}
                for room, text in [("Lobby", "hello"), ("lobby", ""), ("lobby", "x" * 501)]:
                    with pytest.raises(CommandError, match="params"):
                        await ada.command("say", {"room": room, "text": text})
                with pytest.raises(CommandError, match="grant"):
                    await ada.publish("chat.lobby", {"name": "Bob", "text": "forged"})
            with pytest.raises(Unauthenticated):
                async with connect(url, token="x" * 31) as stranger:
                    await stranger.command("say", {"room": "lobby", "text": "hello"})


async def test_at_the_end_rooms_have_people_and_their_last_messages(guide: Any) -> None:
    """The last 20 come with a position, and what is new comes after it; two tabs are two."""
    async with served(guide.app, Bus()) as host:
        url = f"ws://{host}/ws"
        with fail_after(SECONDS):
            async with connect(url, token="Ada") as ada, connect(url, token="Bob") as bob:
                for number in range(25):
                    await ada.command("say", {"room": "lobby", "text": f"{number}"})
                page = await bob.history("chat.lobby", limit=20)
                assert [e.data["text"] for e in page.events] == [str(n) for n in range(5, 25)]
                await ada.command("say", {"room": "lobby", "text": "between"})
                async with bob.subscribe("chat.lobby", since=page.head) as heard:
                    assert (await anext(heard)).data["text"] == "between"
                    async with (
                        connect(url, token="Bob") as tab,
                        tab.subscribe("chat.lobby"),
                        ada.watch_presence("chat.lobby") as watch,
                    ):
                        names: list[str | None] = []
                        while len(names) < 2:
                            names += [each.subject for each in (await anext(watch)).joined]
                        assert names == ["Bob", "Bob"]
