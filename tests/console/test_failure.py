from __future__ import annotations

import pytest

from tests.console.operators import TOKEN, operators
from wsbus import Bus, CloseCode, Handshake, NotStarted
from wsbus.bus import host_of
from wsbus.console import Console, observation
from wsbus.endpoint import Admission
from wsbus.testing import DirectMemoryTransport


async def test_a_bus_that_stops_while_it_is_looked_at_ends_the_console(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bus may be gone between two steps of a sample; consoles are told so all the same."""
    bus = Bus()
    async with bus, operators(Console(bus, token=TOKEN)) as sign_in:
        operator = await sign_in()
        await operator.see()

        def gone() -> None:
            raise NotStarted

        monkeypatch.setattr(host_of(bus), "statistics", gone)
        ending = await operator.peer.wait_closed()

    assert ending.code == CloseCode.GOING_AWAY


async def test_a_bus_that_stops_before_a_console_is_served_turns_it_away() -> None:
    """Between the handshake and the first message the bus may be gone: then it is 1001."""
    bus, transport = Bus(), DirectMemoryTransport()
    console = Console(bus, token=TOKEN)
    async with bus:
        admission = await console.endpoint.admit(Handshake("/console/ws"))
    assert isinstance(admission, Admission)
    await console.endpoint.run(transport, admission)

    assert (await transport.peer.wait_closed()).code == CloseCode.GOING_AWAY
    assert not console.is_open


async def test_a_sample_that_fails_is_logged_and_ends_the_console(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of the console's harms nobody else, and does not leave a page that stands still."""

    async def fail(*_arguments: object) -> None:
        raise ZeroDivisionError

    bus = Bus()
    console = Console(bus, token=TOKEN)
    async with bus, operators(console) as sign_in:
        operator = await sign_in()
        monkeypatch.setattr(observation, "answer", fail)
        await operator.watch()
        ending = await operator.peer.wait_closed()
        monkeypatch.undo()
        again = await sign_in()
        sample = await again.see()

        assert ending.code == CloseCode.INTERNAL_ERROR
        assert "the console's sampling failed" in caplog.text
        assert sample["totals"]["is_running"]
        assert bus.is_running
