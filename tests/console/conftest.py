from __future__ import annotations

import pytest

from wsbus.console import observation


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample fifty times as often, so that no test waits for seconds."""
    monkeypatch.setattr(observation, "TICK_SECONDS", 0.005)
    monkeypatch.setattr(observation, "SAMPLE_SECONDS", 0.02)
    monkeypatch.setattr(observation, "MAX_SHARE", 1.0)
