"""What every test may ask for."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from wsbus.adapters import asgi

# HYPOTHESIS_PROFILE chooses: what a plain `pytest` tries, what one more interpreter tries after
# another one has done that, and what is worth a night.
settings.register_profile("ci", max_examples=40, stateful_step_count=40, deadline=None)
settings.register_profile("again", max_examples=12, stateful_step_count=25, deadline=None)
settings.register_profile("deep", max_examples=2_000, stateful_step_count=80, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "ci")


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("trio", {}), id="trio"),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Run every async test on both loops.

    A directory for what works on asyncio only overrides this with one that returns "asyncio".
    """
    backend: tuple[str, dict[str, object]] = request.param
    return backend


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests, so that at the end no worker waits for one of them alone."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass by what is there until the end: a seventh of a run's time."""
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """Interrupt what tests start: a shell has its background jobs ignore that, and theirs, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def find_command(name: str, apt_package: str) -> str:
    """Return the path of an installed program, or end the test.

    It is skipped with the install line as the reason; where ``WSBUS_REQUIRE_SERVICES`` is set it
    fails.
    """
    path = shutil.which(name)
    if path is not None:
        return path
    reason = f"needs {name}: apt-get install -y {apt_package}"
    if os.environ.get("WSBUS_REQUIRE_SERVICES"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def require_command() -> Callable[[str, str], str]:
    """Give ``require_command(name, apt_package)``: the path of a program; see find_command."""
    return find_command


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """Put the level of the root logger back, which programs of the documentation set."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def _no_word_on_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what is logged once a process, so that no test depends on those before it."""
    monkeypatch.setattr(asgi, "_warn_of_options", lambda **_: None)
